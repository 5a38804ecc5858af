"""Sealed Parquet: files with a checksum of themselves, written by pieces and whole or not at all.

A Parquet parser handed a damaged file may return wrong numbers or even abort the process, so the checksum is compared
before anything is parsed. It stands in the file's metadata: blank while the file is written, and filled in at the end.
Equal tables give equal bytes under one version of Polars, for any number of threads: groups of rows are of fixed size.

This module knows files, not what their tables mean: it imports Polars, the errors and the files.
"""

from __future__ import annotations

import io
import os
import re
import zlib
from collections.abc import Iterator, Mapping
from typing import BinaryIO

import polars as pl

from skipscope.errors import InputError
from skipscope.files import write_whole

__all__ = ["check", "notes", "pieces", "write"]

_CHECKSUM = "skipscope checksum"
# How Parquet's footer (Thrift, compact protocol) stores that key with a value of eight characters. The control
# characters make the last of such strings unmistakable: after the columns' statistics, which may quote a name that
# somebody chose, the footer holds only these entries, and the others are JSON and base64, without control characters.
_SEAL = re.compile(rb"\x18\x12skipscope checksum\x18\x08([0-9a-f]{8})\x00")
_BLANK = b"00000000"
_ROW_GROUP = 1 << 14  # rows that are in memory at once; fixed, so that the bytes do not depend on the machine
_BLOCK = 1 << 20  # bytes read at once


def write(
    path: str | os.PathLike[str], table: pl.DataFrame, dtypes: Mapping[str, type[pl.DataType]], noted: Mapping[str, str]
) -> None:
    """Write a table and what is noted beside it.

    Args:
        path: the file; one that is there is replaced.
        table: what is written.
        dtypes: the types that its columns have in the file; only some rows at once are cast.
        noted: text by name.

    Raises:
        InputError: the operating system refuses.
    """

    def fill(stream: BinaryIO) -> None:
        metadata = {**noted, _CHECKSUM: _BLANK.decode()}
        # Polars takes what it is given as one table up to hundreds of thousands of rows at a time.
        groups = [group.lazy().cast(dict(dtypes)) for group in table.iter_slices(_ROW_GROUP)]  # type: ignore[arg-type]
        whole = pl.concat(groups or [table.lazy().cast(dict(dtypes))])  # type: ignore[arg-type]
        try:
            whole.sink_parquet(stream, metadata=metadata, row_group_size=_ROW_GROUP)
        except pl.exceptions.PolarsError:  # Polars writes by itself, and of a full disk it tells in words, if at all
            stream.seek(0, os.SEEK_END)
            stream.write(bytes(_BLOCK))  # where there is no room left, this is refused for that reason
            stream.flush()
            raise
        _seal(stream)

    write_whole(path, fill)


def check(name: str, data: bytes) -> None:
    """Refuse whatever is not, byte for byte, what `write` wrote; nothing is parsed.

    Raises:
        InputError: it is empty, damaged, cut off or something else.
    """
    if not data:
        raise InputError(f"{name!r} is empty: the readings were not saved, or a copy failed. Save or copy them again.")
    if seals := list(_SEAL.finditer(data)):
        seal = seals[-1]
        view = memoryview(data)
        checksum = zlib.crc32(view[seal.end(1) :], zlib.crc32(_BLANK, zlib.crc32(view[: seal.start(1)])))
        if int(seal[1], 16) == checksum:
            return
        raise InputError(f"{name!r} is damaged: its checksum does not match. Copy it again, or measure again.")
    if not data.startswith(b"PAR1"):
        raise InputError(f"{name!r} is not a Parquet file: load reads what Readings.save wrote.")
    if not data[4:].endswith(b"PAR1"):
        raise InputError(f"{name!r} is cut off or damaged: its end is missing. Copy it again, or measure again.")
    raise InputError(
        f"{name!r} is a Parquet file, but none that skipscope saved (or it is damaged): load reads what Readings.save "
        "wrote; open others with polars.read_parquet."
    )


def notes(data: bytes) -> dict[str, str]:
    """What is noted beside the table."""
    return pl.read_parquet_metadata(io.BytesIO(data))


def pieces(data: bytes) -> Iterator[pl.DataFrame]:
    """The table, some rows at a time; at least one piece, be it empty."""
    table = pl.scan_parquet(io.BytesIO(data))
    height = table.select(pl.len()).collect().item()
    return (table.slice(start, _ROW_GROUP).collect() for start in range(0, max(height, 1), _ROW_GROUP))


def _seal(stream: BinaryIO) -> None:
    """Fill in the checksum of a file whose checksum is blank: the CRC-32 of the file as it is."""
    size = stream.seek(0, os.SEEK_END)
    stream.seek(size - 8)
    footer = int.from_bytes(stream.read(4), "little") + 8  # before the mark at the end stands the footer's length
    stream.seek(size - footer)
    *_, blank = _SEAL.finditer(stream.read())
    stream.seek(0)
    checksum = 0
    while block := stream.read(_BLOCK):
        checksum = zlib.crc32(block, checksum)
    stream.seek(size - footer + blank.start(1))
    stream.write(b"%08x" % checksum)
