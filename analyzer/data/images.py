# SPDX-License-Identifier: Apache-2.0
"""Samples from image files: decoded, resized and normalized as a `Preprocess` says.

The orientation that a camera noted in EXIF is applied, as OpenCV and Ultralytics do.  Palettes,
transparency, CMYK and 16 bits per channel are reduced to 8-bit RGB or gray.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from analyzer.data.fitting import Array, Shape
from analyzer.data.preprocess import Preprocess, lookup_table
from analyzer.errors import DataError
from analyzer.records import TensorSpec

if TYPE_CHECKING:
    from PIL.Image import Image

Pixels = npt.NDArray[np.uint8]

SUFFIXES: Final = frozenset({".png", ".jpg", ".jpeg", ".bmp"})


def is_image(path: Path) -> bool:
    """Tell by its name whether a file is a picture."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def image_files(folder: Path) -> list[Path]:
    """Return the pictures right in a folder or, if there are none, below it; sorted by name."""
    here = [entry for entry in folder.iterdir() if is_image(entry) and entry.is_file()]
    if not here:
        here = [entry for entry in folder.rglob("*") if is_image(entry) and entry.is_file()]
    return sorted(here, key=lambda entry: entry.relative_to(folder).as_posix())


class ImageSource:
    """Samples out of image files, one run per picture, or per group of the model's batch size.

    Args:
        folder: that names in messages are relative to.
        files: in order.
        spec: the input, with every axis known but for the batch.
        preprocess: with `size` and `layout` known.
        preprocessing: one line for reports.
        limit: read no more runs than that; None: all.

    Raises:
        DataError: if no picture can be read, or fewer than a batch.
    """

    def __init__(
        self,
        folder: Path,
        files: Sequence[Path],
        spec: TensorSpec,
        preprocess: Preprocess,
        *,
        preprocessing: str,
        limit: int | None,
    ) -> None:
        assert preprocess.size is not None
        assert preprocess.layout is not None
        self._folder = folder
        self._spec = spec
        self._preprocess = preprocess
        self.preprocessing = preprocessing
        self._batch = spec.shape[0] or 1
        axis = spec.shape[1 if preprocess.layout == "nchw" else 3]
        self._channels = axis or (1 if preprocess.channels in ("gray", "y") else 3)
        self._table = lookup_table(preprocess, self._channels, spec.dtype)
        height, width = preprocess.size
        run = (
            (self._batch, self._channels, height, width)
            if preprocess.layout == "nchw"
            else (self._batch, height, width, self._channels)
        )
        self.shapes: dict[str, Shape] = {spec.name: run}
        self._files, broken, seen = self._sift(files, limit)
        self.available = (len(files) - len(broken)) // self._batch
        self.skipped = tuple(self._relative(path) for path in broken)
        self.warnings = tuple(_warnings(self.skipped, seen, len(self._files), self._batch))

    def __len__(self) -> int:
        return len(self._files) // self._batch

    def read(self, index: int) -> dict[str, Array]:
        """Return run `index`, of the shape and type that the model takes."""
        files = self._files[index * self._batch : (index + 1) * self._batch]
        array = np.empty(self.shapes[self._spec.name], dtype=self._table.dtype)
        for row, path in zip(array, files, strict=True):
            self._fill(row, path)
        return {self._spec.name: array}

    def label(self, index: int) -> str:
        """Name the picture, or the first and the last one of a batch."""
        names = [self._relative(self._files[index * self._batch])]
        if self._batch > 1:
            names.append(self._relative(self._files[(index + 1) * self._batch - 1]))
        return " to ".join(names)

    def close(self) -> None:
        """Do nothing: no file stays open."""

    def _fill(self, row: Array, path: Path) -> None:
        label = self._relative(path)
        try:
            pixels = _decode(path, self._preprocess, self._channels, label)
        except (OSError, ValueError, SyntaxError) as error:
            raise DataError(
                f"{label} could be read before, but not any more: {error}.",
                "Leave the data alone while an analysis runs.",
            ) from error
        for channel in range(self._channels):
            plane = row[channel] if self._preprocess.layout == "nchw" else row[..., channel]
            plane[...] = self._table[channel].take(pixels[..., channel])

    def _sift(
        self, files: Sequence[Path], limit: int | None
    ) -> tuple[list[Path], list[Path], int]:
        """Return readable and unreadable pictures, and how many were looked at."""
        wanted = len(files) if limit is None else limit * self._batch
        good: list[Path] = []
        broken: list[Path] = []
        for path in files:
            if len(good) == wanted:
                break
            (good if _is_readable(path) else broken).append(path)
        seen = len(good) + len(broken)
        if len(good) < self._batch:
            if broken:
                raise DataError(
                    f"{len(broken)} of {seen} images cannot be read, the first is"
                    f" {self._relative(broken[0])}; at least {self._batch} must be readable.",
                    "Check that they are complete PNG, JPEG or BMP files.",
                )
            raise DataError(
                f"{seen} image{'s are' if seen != 1 else ' is'} less than the model's batch of"
                f" {self._batch}.",
                "Give more images, or a model with batch size 1.",
            )
        return good, broken, seen

    def _relative(self, path: Path) -> str:
        return path.relative_to(self._folder).as_posix()


def _warnings(skipped: tuple[str, ...], seen: int, good: int, batch: int) -> list[str]:
    lines = []
    if skipped:
        named = ", ".join(skipped[:5]) + (
            f" and {len(skipped) - 5} more" if len(skipped) > 5 else ""
        )
        verb = "was" if len(skipped) == 1 else "were"
        lines.append(
            f"{len(skipped)} of {seen} images could not be read and {verb} skipped: {named}."
        )
    if left := good % batch:
        lines.append(
            f"{left} of {good} images {'was' if left == 1 else 'were'} dropped, as the model takes"
            f" batches of {batch}."
        )
    return lines


def _is_readable(path: Path) -> bool:
    """Decode a picture once, the cheapest way, as a header does not tell that it is cut off."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            # Pillow only warns of pictures over its limit of pixels, and refuses twice as many.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                image.draft("L", (1, 1))  # JPEG: all data is parsed, an eighth is transformed
                image.load()
    except (
        OSError,
        ValueError,
        SyntaxError,  # Pillow's answer to a broken PNG
        Image.DecompressionBombWarning,
        Image.DecompressionBombError,
    ):
        return False
    return True


def _decode(path: Path, preprocess: Preprocess, channels: int, label: str) -> Pixels:
    """Return uint8 (H, W, C): the picture resized, channels in the model's order."""
    from PIL import Image, ImageOps

    with Image.open(path) as opened:
        image = ImageOps.exif_transpose(opened)
        image = _convert(image, preprocess, channels)
    resized = _resize(image, preprocess, label)
    pixels = np.asarray(resized) if not isinstance(resized, np.ndarray) else resized
    if pixels.ndim == 2:
        return pixels[..., None]
    if preprocess.channels == "bgr":
        return pixels[..., [2, 1, 0, 3][:channels]]
    return pixels


def _convert(image: Image, preprocess: Preprocess, channels: int) -> Image:
    """Return the picture in mode L, RGB or RGBA, 8 bits per channel."""
    from PIL import Image

    if image.mode.startswith("I"):
        # 16-bit gray: Pillow would clip it; the high byte is what OpenCV keeps.
        image = Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8))
    if preprocess.channels == "y":
        return image.convert("RGB").convert("YCbCr").getchannel(0)
    if preprocess.channels == "gray":
        return image.convert("L")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # the straight way to RGB warns about the palette
    mode = "RGBA" if channels == 4 else "RGB"
    return image if image.mode == mode else image.convert(mode)


def _resize(image: Image, preprocess: Preprocess, label: str) -> Image | Pixels:
    assert preprocess.size is not None
    height, width = preprocess.size
    if preprocess.resize == "letterbox":
        return _letterbox(image, preprocess)
    if preprocess.resize == "crop":
        return _crop(image, preprocess)
    if preprocess.resize is None and (image.width, image.height) != (width, height):
        raise DataError(
            f"{label} is {image.height}x{image.width} (height x width), expected"
            f" {height}x{width}, as resize is none.",
            "Choose resize stretch, letterbox or crop.",
        )
    return _scale(image, (width, height), antialias=preprocess.antialias)


def _letterbox(image: Image, preprocess: Preprocess) -> Pixels:
    """Scale to fit and pad.  Source: LetterBox in ultralytics/data/augment.py."""
    assert preprocess.size is not None
    height, width = preprocess.size
    ratio = min(height / image.height, width / image.width)
    new = max(1, round(image.width * ratio)), max(1, round(image.height * ratio))
    inner = np.asarray(_scale(image, new, antialias=preprocess.antialias))
    centred = preprocess.pad_side == "centre"
    left = (width - new[0]) // 2 if centred else 0
    top = (height - new[1]) // 2 if centred else 0
    canvas = np.full((height, width, *inner.shape[2:]), preprocess.pad_value, dtype=np.uint8)
    canvas[top : top + new[1], left : left + new[0]] = inner
    return canvas


def _crop(image: Image, preprocess: Preprocess) -> Pixels:
    """Resize the short side and cut the centre out.

    Source: Resize and CenterCrop in torchvision/transforms/functional.py, rounding included.
    """
    assert preprocess.size is not None
    assert preprocess.crop_side is not None
    height, width = preprocess.size
    side = preprocess.crop_side
    if image.width < image.height:
        new = side, int(side * image.height / image.width)
    else:
        new = int(side * image.width / image.height), side
    pixels = np.asarray(_scale(image, new, antialias=preprocess.antialias))
    top, left = round((new[1] - height) / 2), round((new[0] - width) / 2)
    return pixels[top : top + height, left : left + width]


def _scale(image: Image, size: tuple[int, int], *, antialias: bool) -> Image | Pixels:
    """Resize bilinearly to (width, height)."""
    from PIL import Image

    if image.size == size:
        return image
    if antialias:
        return image.resize(size, Image.Resampling.BILINEAR)
    return _interpolate(np.asarray(image), size)


def _interpolate(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    """Sample bilinearly at pixel centres, as OpenCV's INTER_LINEAR does, without averaging.

    Pillow's own point sampling (`Image.transform`) cuts decimals off, half a step too dark.
    """
    rows = _lerp(pixels, size[1], axis=0)
    both = _lerp(rows, size[0], axis=1)
    both += 0.5
    return both.astype(np.uint8)


def _lerp(
    values: Pixels | npt.NDArray[np.float32], count: int, axis: int
) -> npt.NDArray[np.float32]:
    """Interpolate `count` samples along an axis; beyond the outermost centres, repeat them."""
    length = values.shape[axis]
    position = (np.arange(count) + 0.5) * (length / count) - 0.5
    position = position.clip(0, length - 1)
    low = position.astype(np.intp)
    high = np.minimum(low + 1, length - 1)
    shape = [1] * values.ndim
    shape[axis] = count
    weight = (position - low).astype(np.float32).reshape(shape)
    first: npt.NDArray[np.float32] = values.take(low, axis=axis).astype(np.float32, copy=False)
    step = values.take(high, axis=axis).astype(np.float32, copy=False)
    step -= first
    step *= weight
    first += step
    return first
