# SPDX-License-Identifier: Apache-2.0
"""Values of options: text of flags, environment and files goes in, what it means comes out."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Literal

from analyzer.errors import ConfigError, nearest

Budget = tuple[float, Literal["share", "ms"]]
Goal = tuple[str, float]

ALL = "all"  # every target, every format
NSR = "nsr"  # the goal that is no score


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


def parse_agreement(text: object) -> float:
    """Parse a share that is at most the whole: "99%" or 0.99.

    Raises:
        ConfigError: if it is none.
    """
    try:
        value = parse_share(text)
    except ConfigError:
        value = math.inf
    if value > 1:
        raise ConfigError(
            f"{str(text)!r} is no agreement.", "Expected a share up to 100%, such as 99% or 0.99."
        )
    return value


def parse_budget(text: object) -> Budget:
    """Parse a share of the multiply-accumulates, or a time: "5%", 0.05 or "12ms".

    Raises:
        ConfigError: if it is neither.
    """
    match = re.fullmatch(r"\s*([0-9.]+)\s*ms\s*", str(text))
    try:
        budget: Budget = (float(match[1]), "ms") if match else (parse_share(text), "share")
    except (ConfigError, ValueError):
        budget = (math.inf, "share")
    if budget[1] == "share" and not budget[0] <= 1:
        raise ConfigError(
            f"{str(text)!r} is no budget.",
            "Expected a share of the multiply-accumulates such as 5%, or a time such as 12ms.",
        )
    return budget


def parse_goal(text: object) -> Goal:
    """Parse `score=value`; a value alone is an NSR.

    Raises:
        ConfigError: if the value is none.
    """
    name, _, value = (part.strip() for part in str(text).rpartition("="))
    if "=" in str(text) and not name:
        value = ""
    try:
        wanted = parse_share(value)
    except ConfigError:
        wanted = math.inf
    if not math.isfinite(wanted):
        raise ConfigError(
            f"{str(text)!r} is no goal.",
            'Expected an NSR such as 1%, or a score with a value such as "top-1=98%".',
        )
    return name if name and name.lower() != NSR else NSR, wanted


def parse_seconds(text: object) -> float:
    """Parse a time span: "60s", "2m", "1h" or a number of seconds.

    Raises:
        ConfigError: if it is none, or not above 0.
    """
    match = re.fullmatch(r"\s*([0-9]+\.?[0-9]*|\.[0-9]+)\s*(s|m|min|h|)\s*", str(text))
    factors = {"": 1, "s": 1, "m": 60, "min": 60, "h": 3600}
    seconds = float(match[1]) * factors[match[2]] if match else 0.0
    if not 0 < seconds < math.inf:
        raise ConfigError(f"{str(text)!r} is no time span.", "Expected one such as 60s or 2m.")
    return seconds


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


def joined_names(value: object) -> str:
    """Write several names as one text with commas."""
    return ",".join(map(str, _list(value)))


def parse_formats(value: object) -> tuple[str, ...]:
    """Read names of formats, each once; `all` among them stands for all of them.

    Raises:
        ConfigError: if there is none.
    """
    names = (name.strip() for text in _list(value) for name in str(text).split(","))
    found = tuple(dict.fromkeys(name for name in names if name))
    if not found and value != []:
        raise ConfigError(f"{str(value)!r} names no format.", "Expected names, or all.")
    return (ALL,) if ALL in found else found


def parse_truth(value: object) -> bool:
    """Parse true or false.

    Raises:
        ConfigError: if it is neither.
    """
    known = {"true": True, "false": False}
    if str(value).lower() not in known:
        raise ConfigError(f"{str(value)!r} is neither.", "Expected true or false.")
    return known[str(value).lower()]


def parse_count(value: object) -> int:
    """Parse a whole number from 1 on.

    Raises:
        ConfigError: if it is none.
    """
    if not re.fullmatch(r"[1-9][0-9]*", str(value)):
        raise ConfigError(f"{str(value)!r} is no count.", "Expected a whole number from 1 on.")
    return int(str(value))


def parse_seed(value: object) -> int:
    """Parse a whole number from 0 on.

    Raises:
        ConfigError: if it is none.
    """
    if not re.fullmatch(r"[0-9]+", str(value)):
        raise ConfigError(f"{str(value)!r} is no seed.", "Expected a whole number from 0 on.")
    return int(str(value))


def parse_samples(value: object) -> int | None:
    """Parse a count, or `auto`, which is None."""
    return None if str(value) == "auto" else parse_count(value)


def parse_choice(values: tuple[str, ...], value: object) -> str:
    """Return a text that is one of `values`.

    Raises:
        ConfigError: naming the nearest one.
    """
    if str(value) not in values:
        raise ConfigError(f"{str(value)!r} is unknown.", nearest(str(value), values))
    return str(value)


def _list(value: object) -> list[object]:
    return list(value) if isinstance(value, list | tuple) else [value]
