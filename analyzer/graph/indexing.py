# SPDX-License-Identifier: Apache-2.0
"""Basic indices as numpy has them: their text and a shape go in, what is kept of it comes out."""

from __future__ import annotations

import re
from collections.abc import Sequence

from analyzer.errors import ConfigError

_FORM = "Expected whole numbers, ranges such as 4: or :4 or ::2, and at most one '...'."
Kept = tuple[int, int, int]  # start, stop and step, as `slice.indices` gives them


def parse_index(text: str, shape: Sequence[int]) -> dict[int, Kept]:
    """Parse a basic index: whole numbers, ranges and `...`, by commas.

    Args:
        text: such as `:, 4:`.
        shape: of what is indexed.

    Returns:
        axis -> start, stop and step, as `slice.indices` gives them; axes kept whole are left out.

    Raises:
        ConfigError: if it does not parse, reaches beyond the shape, or leaves nothing.

    >>> parse_index("..., 4:", (1, 80, 84))
    {2: (4, 84, 1)}
    """
    entries = [entry.strip() for entry in text.split(",")]
    if len(entries) > 1 and not entries[-1]:
        entries.pop()
    dots = entries.count("...")
    if len(entries) - dots > len(shape):
        raise ConfigError(
            f"[{text}] has {len(entries) - dots} axes, but the output has {len(shape)}: "
            f"{_shown(shape)}.",
            "Leave out what is too much.",
        )
    if dots > 1:
        raise ConfigError(f"[{text}] has {dots} times '...'.", _FORM)
    if dots:
        at = entries.index("...")
        entries[at : at + 1] = [":"] * (len(shape) - len(entries) + 1)
    found = {}
    for axis, entry in enumerate(entries):
        kept = _kept(entry, axis, shape)
        if kept != (0, shape[axis], 1):
            found[axis] = kept
    return found


def _kept(entry: str, axis: int, shape: Sequence[int]) -> Kept:
    size = shape[axis]
    pieces = [piece.strip() for piece in entry.split(":")]
    if len(pieces) > 3 or not all(re.fullmatch(r"[+-]?\d{1,18}|", p, re.ASCII) for p in pieces):
        raise ConfigError(f"{entry!r} is no index.", _FORM)
    bounds = [int(piece) if piece else None for piece in pieces]
    if len(bounds) == 1:
        if bounds[0] is None:
            raise ConfigError(f"{entry!r} is no index.", _FORM)
        if not -size <= bounds[0] < size:
            raise ConfigError(_beyond(entry, axis, shape), _within(size, -size, size - 1))
        start = bounds[0] % size
        return start, start + 1, 1
    for bound in bounds[:2]:
        if bound is not None and not -size <= bound <= size:
            raise ConfigError(_beyond(entry, axis, shape), _within(size, -size, size))
    if bounds[2:] == [0]:
        raise ConfigError(f"{entry!r} has the step 0.", "Give a step other than 0.")
    kept = slice(*bounds).indices(size)
    if not range(*kept):
        raise ConfigError(
            f"{entry!r} leaves nothing of axis {axis} of {_shown(shape)}.",
            "Let the range end behind its start.",
        )
    return kept


def _beyond(entry: str, axis: int, shape: Sequence[int]) -> str:
    return f"{entry!r} reaches beyond axis {axis} of {_shown(shape)}."


def _within(size: int, low: int, high: int) -> str:
    return f"The axis has {size} values: give numbers from {low} to {high}."


def _shown(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape)) or "a scalar"
