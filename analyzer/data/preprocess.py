# SPDX-License-Identifier: Apache-2.0
"""How a picture becomes an input array: the recipe, its named presets, and where it comes from.

Every recipe ends in `(x * scale - mean) / std` with x the 8-bit pixel value, 0..255; `mean` and
`std` are in the order in which the model takes its channels (so B, G, R for "bgr").
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from analyzer.errors import ConfigError, DataError, nearest
from analyzer.records import TensorSpec

Resize = Literal["stretch", "letterbox", "crop"]
Channels = Literal["rgb", "bgr", "gray", "y"]
Layout = Literal["nchw", "nhwc"]
Table = npt.NDArray[Any]  # Any: the dtype is the model's, known at run time only

TOML_NAME: Final = "qanalyze.toml"
_CHANNEL_COUNTS: Final = (1, 3, 4)
# torchvision, Keras and Caffe evaluate a crop of 224 out of a short side of 256.
_CROP_FRACTION: Final = 0.875


@dataclass(frozen=True, slots=True)
class Preprocess:
    """What is done to a picture before it is fed, in this order.

    Attributes:
        resize: "stretch" to `size`; "letterbox" keeps the aspect ratio and pads; "crop" resizes
            the short side and cuts the centre out; None: pictures have the right size already.
        size: (height, width) of the input; None: the model's own.
        short_side: of the resized picture before "crop"; None: `round(max(size) / 0.875)`.
        pad_value: 8-bit value that "letterbox" pads with.
        pad_side: "centre" pads on both sides, "bottom_right" on two.
        mean, std: one value, or one per channel in the order the model takes them.
        scale: multiplied before mean and std: 1/255 or 1.
        channels: order of the channels; "gray" and "y" (luma of YCbCr) are single channels.
        layout: None: told by the shape of the model's input.
        antialias: False samples four neighbours even when shrinking, as OpenCV's INTER_LINEAR
            does; True averages over the shrunk area, as Pillow and torchvision do.
    """

    resize: Resize | None = "stretch"
    size: tuple[int, int] | None = None
    short_side: int | None = None
    pad_value: int = 114
    pad_side: Literal["centre", "bottom_right"] = "centre"
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    scale: float = 1 / 255
    channels: Channels = "rgb"
    layout: Layout | None = None
    antialias: bool = True

    def __str__(self) -> str:
        """One line, as reports print it."""
        size = "" if self.size is None else f" to {self.size[0]}x{self.size[1]}"
        geometry = {
            None: "not resized",
            "stretch": f"stretched{size}",
            "letterbox": f"letterboxed{size} (pad {self.pad_value}, {self.pad_side})",
            "crop": f"short side {self.crop_side}, centre crop{size}",
        }[self.resize]
        formula = _scaled(self.scale)
        divides = set(self.std) != {1.0}
        if any(self.mean):
            formula += f" - {_values(self.mean)}"
            formula = f"({formula})" if divides else formula
        if divides:
            formula += f" / {_values(self.std)}"
        layout = f", {self.layout.upper()}" if self.layout else ""
        return f"{geometry}, {self.channels.upper()}, {formula}{layout}"

    @property
    def crop_side(self) -> int | None:
        """Pixels of the short side before a centre crop; None where nothing tells it."""
        if self.short_side is not None or self.size is None:
            return self.short_side
        return round(max(self.size) / _CROP_FRACTION)


PRESETS: Final[Mapping[str, Preprocess]] = MappingProxyType(
    {
        "imagenet": Preprocess(
            resize="crop",
            size=(224, 224),
            mean=(0.485, 0.456, 0.406),
            std=(0.229, 0.224, 0.225),
        ),
        "tf": Preprocess(resize="crop", size=(224, 224), scale=1 / 127.5, mean=(1.0,)),
        "caffe": Preprocess(
            resize="crop", size=(224, 224), scale=1, mean=(104.0, 117.0, 123.0), channels="bgr"
        ),
        "yolo": Preprocess(resize="letterbox", antialias=False),
        "yolox": Preprocess(
            resize="letterbox", pad_side="bottom_right", scale=1, channels="bgr", antialias=False
        ),
        "ultraface": Preprocess(scale=1, mean=(127.0,), std=(128.0,), antialias=False),
        "zero-one": Preprocess(),
        "minus-one-one": Preprocess(scale=1 / 127.5, mean=(1.0,)),
        "raw": Preprocess(scale=1),
    }
)


@dataclass(frozen=True, slots=True)
class Resolved:
    """A recipe with `size`, `layout` and `channels` filled in, and who asked for it."""

    preprocess: Preprocess
    origin: str
    is_guess: bool


def resolve_preprocess(
    spec: TensorSpec,
    metadata: Mapping[str, str],
    *,
    preset: str | None = None,
    overrides: Mapping[str, object] = MappingProxyType({}),
    toml: Path | None = None,
) -> tuple[Preprocess, str]:
    """Decide how pictures are prepared for `spec`.

    Flags beat `qanalyze.toml`, which beats the model's own metadata, which beats the default.  A
    preset replaces everything of lower rank; single fields are laid over it.

    Args:
        spec: the image input; axes that the user bound with `--shape` are ints already.
        metadata: `metadata_props` of the model.
        preset: a name out of `PRESETS`.
        overrides: field of `Preprocess` -> value, as text (from flags) or typed; None: not given.
        toml: a file with a table `[preprocess]`: `preset` and fields of `Preprocess`.

    Returns:
        The recipe with `size`, `layout` and `channels` known, and one line saying where it comes
        from.

    Raises:
        ConfigError: for an unknown preset or field, or a value that the input contradicts.
        DataError: if the input takes no pictures, or its size is not known.
    """
    resolved = resolve(spec, metadata, preset=preset, overrides=overrides, toml=toml)
    return resolved.preprocess, resolved.origin


def resolve(
    spec: TensorSpec,
    metadata: Mapping[str, str],
    *,
    preset: str | None,
    overrides: Mapping[str, object],
    toml: Path | None,
) -> Resolved:
    """Do as `resolve_preprocess`, and tell whether the answer is only a guess."""
    flags = _parse_fields(overrides, where="the command line")
    table = _read_toml(toml) if toml is not None else {}
    table_preset = table.pop("preset", None)
    below = _parse_fields(table, where=str(toml))

    if preset is not None:
        base, origin, known, below = _preset(preset), f"preset {preset!r}", True, {}
    elif table_preset is not None:
        base, origin, known = _preset(table_preset), f"{toml}", True
    elif is_ultralytics(metadata):
        base, known = _ultralytics(metadata), True
        task = metadata.get("task", "detect")
        origin = f"the model's own metadata (Ultralytics, task {task})"
    else:
        base, origin, known = _default(spec), "the default", False
    if below and table_preset is None:
        origin = f"{toml} over {origin}"
    if flags:
        origin += f", with {', '.join(sorted(flags))} from the command line"
    given = {**below, **flags}
    is_guess = not known and given.keys().isdisjoint({"scale", "mean", "std"})
    merged = replace(base, **given)  # type: ignore[arg-type]  # _parse_fields checked each type
    return Resolved(_complete(merged, spec, given), origin, is_guess)


def is_ultralytics(metadata: Mapping[str, str]) -> bool:
    """Tell whether an Ultralytics exporter wrote this model's `metadata_props`."""
    written = (metadata.get("author", "") + metadata.get("description", "")).lower()
    return "ultralytics" in written or {"stride", "task", "names"} <= metadata.keys()


def image_layout(spec: TensorSpec) -> Layout | None:
    """Return where the channels of an image input are, None if it takes no pictures.

    1, 3 or 4 channels on axis 1 mean NCHW, on axis 3 NHWC; NCHW where both would do.
    """
    if len(spec.shape) != 4:
        return None
    if spec.shape[1] in _CHANNEL_COUNTS:
        return "nchw"
    return "nhwc" if spec.shape[3] in _CHANNEL_COUNTS else None


def lookup_table(preprocess: Preprocess, channel_count: int, dtype: str) -> Table:
    """Tabulate `(x * scale - mean) / std` for every pixel value.

    Computed in float64 and rounded once: a table of 256 values is both the fastest and the most
    exact way from 8-bit pixels to floats.

    Returns:
        (channel_count, 256) of `dtype`; integers are rounded half to even.

    Raises:
        ConfigError: if an integer input cannot hold the values.
    """
    pixels = np.arange(256, dtype=np.float64)
    mean = np.broadcast_to(preprocess.mean, channel_count).reshape(-1, 1)
    std = np.broadcast_to(preprocess.std, channel_count).reshape(-1, 1)
    table = (pixels * preprocess.scale - mean) / std
    target = np.dtype(dtype)
    if target.kind in "iu":
        table = np.rint(table)
        limits = np.iinfo(target)
        if table.min() < limits.min or table.max() > limits.max:
            raise ConfigError(
                f"Prepared pixels range {table.min():g} to {table.max():g}, but the input is"
                f" {dtype} and holds {limits.min} to {limits.max}.",
                f"Choose scale and mean to fit: {preprocess} does not.",
            )
    finished: Table = table.astype(target)
    return finished


def _complete(wanted: Preprocess, spec: TensorSpec, given: Mapping[str, object]) -> Preprocess:
    """Fill in what the model's input tells, and check the rest against it."""
    layout = wanted.layout or image_layout(spec)
    if len(spec.shape) != 4 or layout is None:
        shape = tuple(spec.shape)
        raise DataError(
            f"Input {spec.name!r} has shape {shape}, which takes no pictures: expected four axes,"
            " 1, 3 or 4 channels.",
            "Give .npy or .npz files, or module:function, instead of images.",
        )
    height, width, channel_count = (
        (spec.shape[2], spec.shape[3], spec.shape[1])
        if layout == "nchw"
        else (spec.shape[1], spec.shape[2], spec.shape[3])
    )
    if channel_count not in (None, *_CHANNEL_COUNTS):
        raise ConfigError(
            f"layout is {layout!r}, but input {spec.name!r} has {channel_count} on its channel"
            " axis, expected 1, 3 or 4.",
            "Leave layout out to have it told by the shape.",
        )
    size = _size(wanted, spec, (height, width), explicit="size" in given)
    channels = _channels(wanted, spec, channel_count, explicit="channels" in given)
    count = channel_count or (1 if channels in ("gray", "y") else 3)
    for name, values in (("mean", wanted.mean), ("std", wanted.std)):
        if len(values) not in (1, count):
            raise ConfigError(
                f"{name} has {len(values)} values, but input {spec.name!r} takes {count}"
                " channels.",
                f"Give 1 or {count} values for {name}.",
            )
    complete = replace(wanted, layout=layout, size=size, channels=channels)
    if complete.resize == "crop" and (complete.crop_side or 0) < max(size):
        raise ConfigError(
            f"short_side {complete.crop_side} is smaller than the crop {size[0]}x{size[1]}.",
            f"Give at least {max(size)}.",
        )
    return complete


def _size(
    wanted: Preprocess,
    spec: TensorSpec,
    model: tuple[int | None, int | None],
    *,
    explicit: bool,
) -> tuple[int, int]:
    """Return (height, width): the model's where it is fixed, else the recipe's."""
    fallback = wanted.size or (None, None)
    size = (model[0] or fallback[0], model[1] or fallback[1])
    if explicit and wanted.size is not None and size != wanted.size:
        raise ConfigError(
            f"size is {wanted.size[0]}x{wanted.size[1]} (height x width), but input"
            f" {spec.name!r} takes {size[0]}x{size[1]}.",
            "Leave size out, or pass a --shape that agrees with it.",
        )
    if size[0] is None or size[1] is None:
        example = ",".join(str(axis or 640) for axis in (spec.shape[0] or 1, *spec.shape[1:]))
        raise DataError(
            f"Input {spec.name!r} leaves its height and width free, so images cannot be resized"
            " for it.",
            f"Pass --shape {spec.name}={example}, or give size in the preprocessing.",
        )
    return size[0], size[1]


def _channels(
    wanted: Preprocess, spec: TensorSpec, count: int | None, *, explicit: bool
) -> Channels:
    """Return the channel order that gives `count` channels."""
    single = wanted.channels in ("gray", "y")
    if count is None or single == (count == 1):
        return wanted.channels
    if count == 1 and not explicit:
        return "gray"  # a preset made for colour, on a model for one channel
    raise ConfigError(
        f"channels is {wanted.channels!r}, but input {spec.name!r} takes {count}"
        f" channel{'s' if count != 1 else ''}.",
        "Use 'gray' or 'y' for one channel, 'rgb' or 'bgr' for more.",
    )


def _default(spec: TensorSpec) -> Preprocess:
    """Guess from the input's type: 0..1 for floats, the pixels themselves for 8-bit integers."""
    if spec.dtype == "uint8":
        return PRESETS["raw"]
    if spec.dtype == "int8":
        return replace(PRESETS["raw"], mean=(128.0,))
    return PRESETS["zero-one"]


def _ultralytics(metadata: Mapping[str, str]) -> Preprocess:
    """Return what Ultralytics models are trained with.

    Source: ultralytics/data/augment.py, LetterBox and classify_transforms (whose mean is 0 and
    whose deviation is 1).
    """
    if metadata.get("task") != "classify":
        return PRESETS["yolo"]
    side = metadata.get("imgsz", "").strip("[]() ").split(",")[0]
    return Preprocess(resize="crop", short_side=int(side) if side.isdigit() else 224)


def check_settings(preset: str | None, overrides: Mapping[str, object]) -> None:
    """Refuse an unknown preset, field or value.

    Raises:
        ConfigError: naming it and what was expected.
    """
    if preset is not None:
        _preset(preset)
    _parse_fields(overrides, where="the command line")


def _preset(name: object) -> Preprocess:
    if not isinstance(name, str) or name not in PRESETS:
        raise ConfigError(f"Unknown preprocessing preset {name!r}.", nearest(str(name), PRESETS))
    return PRESETS[name]


def _read_toml(path: Path) -> dict[str, object]:
    """Return the table [preprocess]; empty if there is none."""
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(
            f"{path} cannot be read as TOML: {error}.", "Correct the file, or remove it."
        ) from error
    for name in document:
        if name != "preprocess":
            raise ConfigError(f"Unknown table {name!r} in {path}.", nearest(name, ["preprocess"]))
    table = document.get("preprocess", {})
    if not isinstance(table, dict):
        raise ConfigError(
            f"'preprocess' in {path} is {table!r}, expected a table.", "Write [preprocess]."
        )
    return dict(table)


def _parse_fields(given: Mapping[str, object], *, where: str) -> dict[str, object]:
    """Check names and values; leave out what is None (a flag that was not given)."""
    parsed: dict[str, object] = {}
    for name, value in given.items():
        if name not in _PARSERS:
            raise ConfigError(
                f"Unknown preprocessing key {name!r} in {where}.",
                nearest(name, [*_PARSERS, "preset"]),
            )
        if value is None:
            continue
        parse, expected = _PARSERS[name]
        try:
            parsed[name] = parse(value)
        except (TypeError, ValueError, ZeroDivisionError) as error:
            raise ConfigError(
                f"{name} is {value!r} in {where}.", f"Expected {expected}."
            ) from error
    return parsed


def _choice(*allowed: str, none: bool = False) -> Callable[[object], str | None]:
    def parse(value: object) -> str | None:
        text = str(value).lower()
        if none and text == "none":
            return None
        if text not in allowed:
            raise ValueError
        return text

    return parse


def _parse_pad_side(value: object) -> str | None:
    spelled = "centre" if value == "center" else value
    return _choice("centre", "bottom_right")(spelled)


def _parse_number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise TypeError
    number = float(Fraction(value)) if isinstance(value, str) and "/" in value else float(value)
    if not np.isfinite(number):
        raise ValueError
    return number


def _parse_scale(value: object) -> float:
    scale = _parse_number(value)
    if scale == 0:
        raise ValueError
    return scale


def _parse_positive(value: object) -> int:
    number = _parse_number(value)
    if number < 1 or number != int(number):
        raise ValueError
    return int(number)


def _parse_byte(value: object) -> int:
    number = _parse_number(value)
    if not 0 <= number <= 255 or number != int(number):
        raise ValueError
    return int(number)


def _parse_bool(value: object) -> bool:
    text = str(value).lower()
    if text not in ("true", "false"):
        raise ValueError
    return text == "true"


def _parse_values(value: object) -> tuple[float, ...]:
    if isinstance(value, str):
        value = value.split(",")
    items = list(value) if isinstance(value, list | tuple) else [value]
    if not items:
        raise ValueError
    return tuple(_parse_number(item) for item in items)


def _parse_std(value: object) -> tuple[float, ...]:
    values = _parse_values(value)
    if 0 in values:
        raise ValueError
    return values


def _parse_size(value: object) -> tuple[int, int]:
    if isinstance(value, str):
        value = value.lower().replace(",", "x").split("x")
    items = list(value) if isinstance(value, list | tuple) else [value]
    if len(items) == 1:
        items *= 2
    height, width = (_parse_positive(item) for item in items)
    return height, width


_NUMBERS: Final = 'one number or one per channel, like "0.485,0.456,0.406"'
_PARSERS: Final[Mapping[str, tuple[Callable[[object], object], str]]] = {
    "resize": (
        _choice("stretch", "letterbox", "crop", none=True),
        "stretch, letterbox, crop or none",
    ),
    "size": (_parse_size, "height x width, like 480x640"),
    "short_side": (_parse_positive, "a number of pixels, like 256"),
    "pad_value": (_parse_byte, "a pixel value, 0 to 255"),
    "pad_side": (_parse_pad_side, "centre or bottom_right"),
    "mean": (_parse_values, _NUMBERS),
    "std": (_parse_std, _NUMBERS + ", none of them 0"),
    "scale": (_parse_scale, "a number other than 0, like 1/255"),
    "channels": (_choice("rgb", "bgr", "gray", "y"), "rgb, bgr, gray or y"),
    "layout": (_choice("nchw", "nhwc"), "nchw or nhwc"),
    "antialias": (_parse_bool, "true or false"),
}
assert set(_PARSERS) == {field.name for field in fields(Preprocess)}


def _scaled(scale: float) -> str:
    """Write the scaled pixel as it usually is: `x/255`."""
    if scale == 1:
        return "x"
    return f"x/{1 / scale:.6g}" if 0 < scale < 1 else f"x*{scale:g}"


def _values(values: tuple[float, ...]) -> str:
    text = ", ".join(f"{value:g}" for value in values)
    return text if len(values) == 1 else f"({text})"
