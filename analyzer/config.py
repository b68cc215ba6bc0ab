# SPDX-License-Identifier: Apache-2.0
"""What a run is asked to do: defaults < [tool.qanalyze] in pyproject.toml < QANALYZE_* < flags.

The command line hands over what flags and environment say; this module adds the file and the
defaults, and refuses what it does not know.
"""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

from analyzer.errors import ConfigError, nearest
from analyzer.formats import FROM_ANALYSIS
from analyzer.records import Granularity, Observer, Setting
from analyzer.values import (
    Budget,
    Goal,
    joined_names,
    parse_agreement,
    parse_budget,
    parse_choice,
    parse_count,
    parse_dispatch,
    parse_formats,
    parse_goal,
    parse_samples,
    parse_seconds,
    parse_seed,
    parse_shapes,
    parse_share,
    parse_slices,
    parse_truth,
)

Task = Literal["auto", "none", "classification", "detection", "embedding", "tokens"]
Preprocessing = Mapping[str, object]

PREPROCESSING = (
    "resize", "size", "short_side", "pad_value", "pad_side", "mean", "std", "scale", "channels",
    "layout", "antialias",
)  # fmt: skip

# What is asked of the numbers, not of the run that measures them.
GATE = ("max_nsr", "min_agreement", "no_worse_than", "baseline")

ENVIRONMENT = frozenset(
    f"QANALYZE_{name}"
    for name in (
        "CALIB EVAL CALIB_SAMPLES PRESET TARGET CALIBRATION PRECISION GRANULARITY SAMPLES LABELS "
        "TASK METRIC THREADS BUDGET GOAL TIME_LIMIT LATENCY EXPORT MAX_NSR MIN_AGREEMENT "
        "NO_WORSE_THAN BASELINE".split()
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
        propose: look for remedies.
        budget: most that the recommended proposal may cost: share of the multiply-accumulates
            moved to more bits or to float, or milliseconds of a whole run by `latency`.
        goal: what is good enough: "nsr" with the highest NSR allowed at any output, or the name
            of a score with the lowest allowed.
        time_limit: seconds for the whole run; the search for proposals stops there.
        latency: path of the user's own measurements, see `analyzer.propose.costs`.
        export: names of formats, see `analyzer.export`; ("all",): every one.
        max_nsr: gate: highest NSR allowed at any output.
        min_agreement: gate: lowest value allowed for the first score against FP32.
        no_worse_than: gate: path of an older analysis that no output may be worse than.
        baseline: path of an older analysis to show the changes since.
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
    propose: bool = True
    budget: Budget = (0.05, "share")
    goal: Goal | None = None
    time_limit: float | None = None
    latency: str | None = None
    export: tuple[str, ...] = ()
    max_nsr: float | None = None
    min_agreement: float | None = None
    no_worse_than: str | None = None
    baseline: str | None = None
    threads: int | None = None
    seed: int = 0

    @property
    def setting(self) -> Setting:
        """What of this concerns the target."""
        return Setting(self.calibration, self.precision, self.dispatch, self.granularity)


def resolve(
    given: Mapping[str, Any], *, folder: Path = Path(), only: Collection[str] | None = None
) -> Config:
    """Build the configuration of a run.

    Args:
        given: what flags and environment say, as text or numbers, by field name (preprocessing
            fields flat); None means not given.
        folder: where to look for pyproject.toml.
        only: the keys of that file that matter; None: all of them.

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
    if only is not None:
        return Config(**{key: _parse(key, merged[key]) for key in only if key in merged})
    if stated.get("quantized"):
        _check_alone(stated)
    parsed = {key: _parse(key, value) for key, value in merged.items()}
    return _checked(Config(**parsed, preprocessing=preprocessing), stated)


def _check_alone(stated: Mapping[str, Any]) -> None:
    """Refuse what a quantized file has decided already.

    Raises:
        ConfigError: naming the option.
    """
    decided = ("target", "calibration", "precision", "dispatch", "granularity", "calib_samples")
    for key in decided:
        if key in stated:
            raise ConfigError(
                f"{_flag(key)} has no effect on --quantized, whose file holds all scales.",
                f"Leave out one of the two: {_flag(key)} or --quantized.",
            )


def _checked(config: Config, stated: Mapping[str, Any]) -> Config:
    """Hold what is said of proposals together.

    Raises:
        ConfigError: if a budget lacks its table, or nothing would be proposed.
    """
    if config.quantized or not config.propose:
        other = "quantized" if config.quantized else "no_propose"
        needing = {f for f in config.export if f not in FROM_ANALYSIS}
        for key in _ADVICE:
            if key in stated and (key != "export" or needing):
                raise ConfigError(
                    f"{_flag(key)} needs proposals, which there are none of with {_flag(other)}.",
                    f"Leave out one of the two: {_flag(key)} or {_flag(other)}.",
                )
        # what a file asks of every run does not concern one without proposals
        exports = tuple(name for name in config.export if name in FROM_ANALYSIS)
        return replace(config, propose=False, export=exports)
    amount, unit = config.budget
    if unit == "ms" and config.latency is None:
        raise ConfigError(
            f"budget: {amount:g} ms cannot be held against anything.",
            "Give --latency TABLE.csv, or a share of the multiply-accumulates such as 5%.",
        )
    return config


def _flag(key: str) -> str:
    return f"--{key.replace('_', '-')}"


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
    if isinstance(value, list | dict) and key not in _SEVERAL:
        raise ConfigError(f"{key} is {value!r}, expected one value.", "Give a text or a number.")
    try:
        return _PARSERS.get(key, str)(value)
    except ConfigError as error:
        raise ConfigError(f"{key}: {error.message}", error.remedy) from error


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


_PARSERS: dict[str, Any] = {
    "calib_samples": parse_count,
    "samples": parse_samples,
    "threads": parse_count,
    "seed": parse_seed,
    "target": joined_names,
    "dispatch": parse_dispatch,
    "granularity": lambda v: parse_choice(get_args(Granularity), v),
    "slices": parse_slices,
    "task": lambda v: parse_choice(get_args(Task), v),
    "shapes": parse_shapes,
    "max_nsr": parse_share,
    "min_agreement": parse_agreement,
    "propose": parse_truth,
    "budget": parse_budget,
    "goal": parse_goal,
    "time_limit": parse_seconds,
    "export": parse_formats,
}
_SEVERAL = ("shapes", "dispatch", "slices", "target", "export")  # may be a list or a table
_ADVICE = ("export", "budget", "goal", "latency")  # what only proposals are made by
