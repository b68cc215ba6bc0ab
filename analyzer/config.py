# SPDX-License-Identifier: Apache-2.0
"""What a run is asked to do: defaults < [tool.qanalyze] in pyproject.toml < QANALYZE_* < flags.

The command line hands over what flags and environment say; this module adds the file and the
defaults, and refuses what it does not know.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

from analyzer.errors import ConfigError, nearest
from analyzer.records import Granularity, Observer, Setting

Task = Literal["auto", "none", "classification", "detection", "embedding", "tokens"]
Preprocessing = Mapping[str, object]

PREPROCESSING = (
    "resize", "size", "short_side", "pad_value", "pad_side", "mean", "std", "scale", "channels",
    "layout", "antialias",
)  # fmt: skip


ENVIRONMENT = frozenset(
    f"QANALYZE_{name}"
    for name in (
        "CALIB EVAL CALIB_SAMPLES PRESET TARGET CALIBRATION PRECISION GRANULARITY SAMPLES LABELS "
        "TASK METRIC THREADS MAX_NSR".split()
    )
)


@dataclass(frozen=True, slots=True)
class Config:
    """A resolved configuration.

    Attributes:
        calib: where calibration data comes from: a path or `module:function`.
        eval: data for the analysis; None: the calibration data.
        quantized: path of a model somebody's quantizer made; placing and calibrating are read
            from it.
        calib_samples: calibrate on the first so many samples; None: all.
        samples: analyse so many samples, every layer on all of them; None: choose.
        calibration: range observer of activations; None: the target's own.
        precision: of every layer that `dispatch` does not name; None: the target's own.
        dispatch: layer -> precision.
        granularity: of weight scales; None: the target's own.
        slices: name -> part of an output to look at by itself, such as `output0[:, :4]`.
        labels: path of the true answers.
        task: what the outputs mean; "auto": told from them.
        metric: the user's own, `module:function`.
        shapes: input name -> shape of one run.
        preset, preprocessing: how images become inputs, see `analyzer.data`.
        max_nsr: gate: highest NSR allowed at any output.
        threads: how many cores to use; None: all of this process.
        seed: kept for provenance; nothing is random so far.
    """

    calib: str = ""
    eval: str | None = None
    target: str = "esp32p4"
    quantized: str | None = None
    calib_samples: int | None = None
    samples: int | None = None
    calibration: Observer | None = None
    precision: str | None = None
    dispatch: Mapping[str, str] = field(default_factory=dict)
    granularity: Granularity | None = None
    slices: Mapping[str, str] = field(default_factory=dict)
    labels: str | None = None
    task: Task = "auto"
    metric: str | None = None
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    preset: str | None = None
    preprocessing: Preprocessing = field(default_factory=dict)
    max_nsr: float | None = None
    threads: int | None = None
    seed: int = 0

    @property
    def setting(self) -> Setting:
        """What of this concerns the target."""
        return Setting(self.calibration, self.precision, self.dispatch, self.granularity)


def resolve(given: Mapping[str, Any], *, folder: Path = Path()) -> Config:
    """Build the configuration of a run.

    Args:
        given: what flags and environment say, as text or numbers, by field name (preprocessing
            fields flat); None means not given.
        folder: where to look for pyproject.toml.

    Raises:
        ConfigError: for an unknown key or a value that does not parse.
    """
    stated = {key: value for key, value in given.items() if value is not None}
    merged = {**_from_pyproject(folder / "pyproject.toml"), **stated}
    preprocessing = {key: merged.pop(key) for key in PREPROCESSING if key in merged}
    known = {f.name for f in fields(Config)} - {"preprocessing"}
    for key in merged:
        if key not in known:
            raise ConfigError(
                f"There is no option {key!r}.", nearest(key, [*known, *PREPROCESSING])
            )
    if stated.get("quantized"):
        _check_alone(stated)
    parsed = {key: _parse(key, value) for key, value in merged.items()}
    return Config(**parsed, preprocessing=preprocessing)


def _check_alone(stated: Mapping[str, Any]) -> None:
    """Refuse what a quantized file has decided already.

    Raises:
        ConfigError: naming the option.
    """
    decided = ("target", "calibration", "precision", "dispatch", "granularity", "calib_samples")
    for key in decided:
        if key in stated:
            flag = f"--{key.replace('_', '-')}"
            raise ConfigError(
                f"{flag} has no effect on --quantized, whose file holds all scales.",
                f"Leave out one of the two: {flag} or --quantized.",
            )


def check_environment(environment: Mapping[str, str]) -> None:
    """Refuse QANALYZE_* variables that mean nothing: a misspelt one would be ignored.

    Raises:
        ConfigError: naming the variable and the nearest known one.
    """
    for name in environment:
        if name.startswith("QANALYZE_") and name not in ENVIRONMENT:
            raise ConfigError(f"There is no variable {name!r}.", nearest(name, ENVIRONMENT))


def _parse(key: str, value: object) -> Any:  # Any: each key has a type of its own
    """Parse one value; an error says which option it belongs to."""
    if isinstance(value, list | dict) and key not in ("shapes", "dispatch", "slices", "target"):
        raise ConfigError(f"{key} is {value!r}, expected one value.", "Give a text or a number.")
    try:
        return _PARSERS.get(key, str)(value)
    except ConfigError as error:
        raise ConfigError(f"{key}: {error.message}", error.remedy) from error


def parse_share(text: object) -> float:
    """Parse a ratio: "10%" or 0.1.

    Raises:
        ConfigError: if it is neither, or negative.
    """
    match = re.fullmatch(r"\s*([0-9.eE+-]+)\s*(%?)\s*", str(text))
    try:
        value = float(match[1]) / (100 if match[2] else 1) if match else -1.0
    except ValueError:
        value = -1.0
    if not value >= 0:
        raise ConfigError(f"{str(text)!r} is no share.", "Expected a number such as 10% or 0.1.")
    return value


def parse_shapes(texts: object) -> dict[str, tuple[int, ...]]:
    """Parse `name=1,3,640,640` entries.

    Raises:
        ConfigError: if one has another form or an axis below 1.
    """
    if isinstance(texts, Mapping):
        texts = [
            f"{name}={dims if isinstance(dims, str) else ','.join(map(str, _list(dims)))}"
            for name, dims in texts.items()
        ]
    entries = (
        [texts]
        if isinstance(texts, str)
        else list(texts)
        if isinstance(texts, list | tuple)
        else []
    )
    shapes = {}
    for text in entries:
        name, separator, dims = str(text).rpartition("=")
        axes = re.split(r"[,x]", dims.strip()) if dims.strip() else []
        if not separator or not name or not all(re.fullmatch(r"[1-9][0-9]*", a) for a in axes):
            raise ConfigError(
                f"{text!r} is no shape.", "Expected NAME=DIMS such as images=1,3,640,640."
            )
        shapes[name] = tuple(int(a) for a in axes)
    return shapes


def parse_dispatch(entries: object) -> dict[str, str]:
    """Parse `layer=precision` entries, or take a table of them.

    Raises:
        ConfigError: if one has another form.
    """
    if isinstance(entries, Mapping):
        return {str(layer): str(precision) for layer, precision in entries.items()}
    table = {}
    for text in map(str, _list(entries)):
        layer, _, precision = text.rpartition("=")
        if not layer or not precision:
            raise ConfigError(
                f"{text!r} dispatches nothing.",
                "Expected LAYER=PRECISION such as /conv/Conv=int16.",
            )
        table[layer] = precision
    return table


def parse_slices(entries: object) -> dict[str, str]:
    """Parse `name=expression` entries, or take a table of them.

    Raises:
        ConfigError: if one has another form, or a name comes twice.
    """
    if isinstance(entries, Mapping):
        return {str(name): str(expression) for name, expression in entries.items()}
    slices: dict[str, str] = {}
    for text in map(str, _list(entries)):
        name, _, expression = (part.strip() for part in text.partition("="))
        if not name or not expression:
            raise ConfigError(
                f"{text!r} is no slice.", "Expected NAME=EXPRESSION such as boxes=output0[:, :4]."
            )
        if name in slices:
            raise ConfigError(f"Two slices are called {name!r}.", "Give one another name.")
        slices[name] = expression
    return slices


def _from_pyproject(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}.", "Correct the file.") from error
    tool = table.get("tool", {})
    found = tool.get("qanalyze", {}) if isinstance(tool, dict) else {}
    if not isinstance(found, dict):
        raise ConfigError(
            f"tool.qanalyze in {path} is {found!r}, expected a table.",
            "Write [tool.qanalyze] with one key per line.",
        )
    return {key.replace("-", "_"): value for key, value in found.items()}


def _list(value: object) -> list[object]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _names(value: object) -> str:
    return ",".join(map(str, _list(value)))


def _count(value: object) -> int:
    if not re.fullmatch(r"[1-9][0-9]*", str(value)):
        raise ConfigError(f"{str(value)!r} is no count.", "Expected a whole number from 1 on.")
    return int(str(value))


def _seed(value: object) -> int:
    if not re.fullmatch(r"[0-9]+", str(value)):
        raise ConfigError(f"{str(value)!r} is no seed.", "Expected a whole number from 0 on.")
    return int(str(value))


def _samples(value: object) -> int | None:
    return None if str(value) == "auto" else _count(value)


def _choice(values: tuple[str, ...], value: object) -> str:
    if str(value) not in values:
        raise ConfigError(f"{str(value)!r} is unknown.", nearest(str(value), values))
    return str(value)


_PARSERS: dict[str, Any] = {
    "calib_samples": _count,
    "samples": _samples,
    "threads": _count,
    "seed": _seed,
    "target": _names,
    "dispatch": parse_dispatch,
    "granularity": lambda v: _choice(get_args(Granularity), v),
    "slices": parse_slices,
    "task": lambda v: _choice(get_args(Task), v),
    "shapes": parse_shapes,
    "max_nsr": parse_share,
}
