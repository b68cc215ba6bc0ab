# SPDX-License-Identifier: Apache-2.0
"""Numbers and names as text, and the order of the rows.

Every report takes its numbers from here, so that the terminal, the page and a gate agree on what
is printed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from analyzer.records import LayerError, loudness

NOT_MEASURED = "\N{EN DASH}"


def percent(nsr: float | None) -> str:
    """Write an NSR as a percentage of the signal power, with three significant digits.

    Below 0.01 % two digits are left: more would claim a precision that few samples do not give.

    >>> [percent(x) for x in (0.031, 0.000042, 12.3456, 0.0)]
    ['3.10 %', '0.0042 %', '1235 %', '0 %']
    """
    if nsr is None:
        return NOT_MEASURED
    if not math.isfinite(nsr):
        return f"{nsr}"
    value = 100 * nsr
    if value == 0:
        return "0 %"
    if 99.95 <= value < 1e6:
        return f"{value:.0f} %"
    return f"{value:#.3g} %" if value >= 0.01 else f"{value:#.2g} %"


def share(part: float | None) -> str:
    """Write a share of something as a whole percentage; a share that is there is never "0 %".

    >>> [share(x) for x in (0.634, 0.002, 0.0, 1.04)]
    ['63 %', '<1 %', '0 %', '104 %']
    """
    if part is None or not math.isfinite(part):
        return NOT_MEASURED
    if 0 < part < 0.005:
        return "<1 %"
    return f"{100 * part:.0f} %".replace("-", "\N{MINUS SIGN}")


def remainder(left: float | None) -> str:
    """Write a share of the noise that is left: two significant digits, small ones differ too.

    >>> [remainder(x) for x in (0.634, 0.0409, 0.00996, 0.0996, 1.3)]
    ['63 %', '4.1 %', '1.0 %', '10 %', '130 %']
    """
    if left is None:
        return NOT_MEASURED
    if not math.isfinite(left):
        return f"{left}"
    value = 100 * left
    if value == 0 or value >= 9.95:
        return f"{value:.0f} %"
    return f"{value:#.2g} %"


def signed(nsr: float) -> str:
    """Write a change of an NSR with its sign.

    >>> signed(0.02), signed(0.0)
    ('+2.00 %', '+0 %')
    """
    return f"{'+' if nsr >= 0 else chr(0x2212)}{percent(abs(nsr))}"


def interval(bounds: tuple[float, float] | None) -> str:
    """Write the two ends of an interval of NSRs, the unit once.

    >>> interval((0.028, 0.034))
    '2.80 .. 3.40 %'
    """
    if bounds is None:
        return ""
    low, high = (percent(bound) for bound in bounds)
    return f"{low.removesuffix(' %')} .. {high}"


def decibel(value: float | None) -> str:
    """Write a ratio in dB with one decimal, "inf dB" for no noise at all."""
    return NOT_MEASURED if value is None else f"{value:.1f} dB"


def cosine(value: float | None) -> str:
    """Write a cosine similarity with six decimals: 0.999 and 0.99999 are far apart here."""
    return NOT_MEASURED if value is None else f"{value:.6f}"


def number(value: float | None) -> str:
    """Write a number in the unit of its tensor with three significant digits."""
    return NOT_MEASURED if value is None else f"{value:.3g}"


def ratio(value: float | None) -> str:
    """Write a plain ratio with two decimals."""
    return NOT_MEASURED if value is None else f"{value:.2f}"


def plural(count: int, unit: str) -> str:
    """Write a count with its unit.

    >>> plural(1, "sample"), plural(1234, "layer")
    ('1 sample', '1,234 layers')
    """
    return f"{count:,} {unit}" if count == 1 else f"{count:,} {unit}s"


def duration(seconds: float) -> str:
    """Write a time span.

    >>> duration(4.08), duration(125.0)
    ('4.1 s', '2 min 5 s')
    """
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s"


def printable(text: str) -> str:
    r"""Show every character that a terminal or a browser would obey as an escape.

    Control codes, line breaks and direction overrides in a model's names could otherwise clear
    the screen or reorder the line.

    >>> printable("a\x1b[2Jb\n")
    'a\\x1b[2Jb\\n'
    """
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text
    )


def shorten(text: str, width: int) -> str:
    """Cut the middle out of a name: both its path and its end tell layers apart.

    >>> shorten("/model.10/m/m.0/attn/MatMul", 15)
    '/model.…/MatMul'
    """
    from rich.cells import cell_len

    if cell_len(text) <= width:
        return text
    head, tail = text, text
    while cell_len(head) > (width - 1) // 2:
        head = head[:-1]
    while cell_len(tail) > width - 1 - cell_len(head):
        tail = tail[1:]
    return f"{head}…{tail}"


def rank(layers: Iterable[LayerError]) -> list[LayerError]:
    """Order layers by the damage they do, the worst first.

    By isolated error; layers where it was not measured follow, by graphwise and then by local
    error, because these are no measure of the same thing.  Ties keep execution order.
    """
    return sorted(layers, key=_damage, reverse=True)


def _damage(layer: LayerError) -> tuple[tuple[bool, float], ...]:
    return tuple(
        (value is not None, math.inf if value is None else loudness(value))
        for value in (layer.isolated_nsr, layer.graphwise_nsr, layer.local_nsr)
    )
