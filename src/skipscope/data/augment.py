"""The paper's augmentation: every image is padded, a random window of its own size is cut out, and it may be mirrored.

"4 pixels are padded on each side, and a 32 x 32 crop is randomly sampled from the padded image or its horizontal flip"
(He et al. 2015, arXiv:1512.03385, section 4.2). What a step does to its images is a function of seed and step alone, as
their order is. An image is standardised before it is padded: the border is 0, the mean, and the mean of a pixel is
subtracted at the place where that pixel was. Imports NumPy and the generators of seeds.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from skipscope.draws import are_several, require_seeds, stream
from skipscope.errors import InputError, quoted, require_int

__all__ = ["Augmentation", "Crops"]

_PIECE = 32  # images at once: a core keeps them near it, and memory for them is not asked of the system every time
_MOST = 1 << 24  # images of a step, and pixels of a border


class Crops(NamedTuple):
    """What is done to the images of a step; each array is of shape (b,), or (s, b).

    Attributes:
        top: the first row of the window, of the padded image.
        left: its first column.
        mirrored: whether left and right are exchanged then.
    """

    top: NDArray[np.int64]
    left: NDArray[np.int64]
    mirrored: NDArray[np.bool_]

    def flat(self) -> Crops:
        """Those of all seeds in a row, of shape (s * b,)."""
        return Crops(self.top.reshape(-1), self.left.reshape(-1), self.mirrored.reshape(-1))


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """How images are varied while they are trained on; the paper's is `Augmentation(padding=4, mirror=True)`.

    Attributes:
        padding: pixels on each side; every one of (2 padding + 1)^2 windows is as probable.
        mirror: whether every other image, by chance, is mirrored.
    """

    padding: int = 0
    mirror: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "padding", require_int("padding", self.padding, least=0))
        if self.padding > _MOST:
            raise InputError(f"padding must be at most {_MOST:,} pixels; got {self.padding}.")
        if not isinstance(self.mirror, bool):
            raise InputError(f"mirror must be True or False; got {quoted(self.mirror)}.")

    def crops(self, seeds: int | Iterable[int], step: int, *, size: int) -> Crops:
        """What is done to the images of one step.

        Args:
            seeds: a seed, for arrays of shape (b,); or several, for shape (s, b).
            step: which, from 0.
            size: of the mini-batch, b.

        Raises:
            InputError: a number is out of range.
        """
        several, known = are_several(seeds), require_seeds(seeds)
        number, count = require_int("step", step, least=0), require_int("size", size, least=1)
        if count > _MOST:
            raise InputError(f"size must be at most {_MOST:,} images; got {count}.")
        drawn = [self._drawn(stream(seed, "augmentation", number), count) for seed in known]
        stacked = Crops(*(np.stack(each) for each in zip(*drawn, strict=True)))
        return stacked if several else Crops(*(each[0] for each in stacked))

    def _drawn(self, generator: np.random.Generator, size: int) -> Crops:
        top, left = generator.integers(2 * self.padding + 1, size=(2, size))
        mirrored = generator.integers(2, size=size) == 1  # drawn in any case: the windows of a seed stay what they are
        return Crops(top, left, mirrored & self.mirror)


def shown(
    pixels: NDArray[np.uint8], centre: NDArray[Any], scale: NDArray[Any], crops: Crops | None = None, padding: int = 0
) -> NDArray[np.float32]:
    """Images as networks are given them: standardised, padded with 0, cut out and mirrored; float32.

    Args:
        pixels: of shape (b, c, h, w).
        centre: what is subtracted, of shape (c, h, w), float32.
        scale: what is divided by then, likewise.
        crops: what is done to each, of shape (b,).
        padding: pixels on each side, where there are crops.
    """
    number, channels, height, width = pixels.shape
    images = np.empty(pixels.shape, np.float32)
    if crops is None or not (padding or crops.mirrored.any()):
        for start in range(0, number, _PIECE):
            _standardised(images[start : start + _PIECE], pixels[start : start + _PIECE], centre, scale)
        return images
    standard = np.empty((_PIECE, channels, height, width), np.float32)
    padded = np.zeros((_PIECE, channels, height + 2 * padding, width + 2 * padding), np.float32)
    inner = padded[:, :, padding : padding + height, padding : padding + width]
    windows = sliding_window_view(padded, (height, width), axis=(2, 3))  # (b, c, 2p + 1, 2p + 1, h, w), without a copy
    for start in range(0, number, _PIECE):
        top, left, mirrored = (each[start : start + _PIECE] for each in crops)
        rows = np.arange(len(top))
        inner[rows] = _standardised(standard[: len(rows)], pixels[start : start + _PIECE], centre, scale)
        cut = windows[rows, :, top, left]
        cut[mirrored] = cut[mirrored][..., ::-1]
        images[start : start + _PIECE] = cut
    return images


def _standardised(
    out: NDArray[np.float32], pixels: NDArray[np.uint8], centre: NDArray[Any], scale: NDArray[Any]
) -> NDArray[np.float32]:
    np.copyto(out, pixels)
    out -= centre
    out /= scale
    return out
