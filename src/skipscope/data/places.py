"""Where files of data are looked for, and how they are read without trusting what they say of themselves.

They are looked for in the folder that the user names; where none is named, in that of the environment variable
`SKIPSCOPE_DATA`, then where a distribution puts them. Nothing is ever downloaded. What is compressed is decompressed up
to the number of bytes that there ought to be and no further, so that a file that would fill the memory cannot. Imports
the errors and the standard library.
"""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO

from skipscope.errors import InputError
from skipscope.files import as_path

VARIABLE = "SKIPSCOPE_DATA"
"""The environment variable that names a folder of data."""

Folder = str | os.PathLike[str] | None


@dataclass(frozen=True)
class Lookup:
    """Where a data set may be.

    Attributes:
        name: of the data set.
        get: how one comes by its files; ends messages.
        inside: folders within a folder of data that may hold it.
        usual: folders where a distribution puts it.
    """

    name: str
    get: str
    inside: tuple[str, ...] = ()
    usual: tuple[str, ...] = ()

    def places(self, folder: Folder) -> list[str]:
        """The files or folders to look at, in this order.

        Raises:
            InputError: the user names what is not there.
        """
        named = self._named(folder)
        held = [os.path.join(named, each) for each in self.inside] if named else []
        usual = [] if folder is not None else self.usual
        return [*([named] if named else []), *held, *usual]

    def _named(self, folder: Folder) -> str | None:
        """What the user names, by the argument or else by the environment variable."""
        what, given = ("data folder", folder) if folder is not None else (VARIABLE, os.environ.get(VARIABLE) or None)
        if given is None:
            return None
        path = str(as_path(given))
        if not os.path.exists(path):
            raise InputError(f"{what} {path!r}: there is no such file or folder, or it may not be read; {self.get}.")
        return path

    def nowhere(self, places: Sequence[str]) -> InputError:
        """The files are in none of these places."""
        looked = (
            f"looked in {', '.join(map(repr, places))}" if places else "no folder is named, and there is no usual one"
        )
        return InputError(f"{self.name} was not found ({looked}); {self.get}.")

    def refused(self, path: str, reason: str) -> InputError:
        """A file is not what it should be."""
        return InputError(f"cannot read {path!r} as {self.name}: {reason}; {self.get}.")

    @contextmanager
    def opened(self, path: str) -> Iterator[IO[bytes] | gzip.GzipFile]:
        """A file to read, decompressed if it is compressed, whatever its name says; what fails is an `InputError`."""
        try:
            with open(path, "rb") as raw:
                zipped = raw.read(2) == b"\x1f\x8b"
                raw.seek(0)
                if zipped:
                    with gzip.GzipFile(fileobj=raw) as stream:
                        yield stream
                else:
                    yield raw
        except EOFError:
            raise self.refused(path, "its compressed data end too early: it is not whole") from None
        except (gzip.BadGzipFile, zlib.error) as error:
            raise self.refused(path, f"its compressed data are damaged ({error})") from None
        except OSError as error:
            raise self.refused(path, (error.strerror or str(error)).lower()) from None
