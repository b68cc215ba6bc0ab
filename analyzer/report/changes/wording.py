# SPDX-License-Identifier: Apache-2.0
"""What got better or worse, in sentences and lines that every report shares."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence

from analyzer.records import Source
from analyzer.report import ledger, wording
from analyzer.report.changes import (
    Changes,
    FindingChange,
    LayerChange,
    OutputChange,
    Pair,
    ScoreChange,
    Verdict,
)
from analyzer.report.tables import percent, plural, printable, share, shorten

OTHER_DATA = (
    "They were measured on different samples, which alone makes a difference: give both the same "
    "--eval to compare two plans."
)
OTHER_MODEL = (
    "No layer of one is a layer of the other: these are two different networks, so only their "
    "outputs are compared."
)
_VERDICTS: tuple[Verdict, ...] = ("worse", "better", "within chance", "unchanged", "not measured")
_NAME = 48  # characters of a name in a sentence


def times(pair: Pair) -> str:
    """Say by which factor an NSR changed; empty where one was not measured.

    >>> [times(Pair(a, b)) for a, b in ((0.206, 0.00591), (0.01, 0.013), (0.01, 0.0), (1.0, 1.0))]
    ['35 times less', '30 % more', 'none left', 'unchanged']
    """
    if pair.old is None or pair.new is None:
        return ""
    if pair.is_same:
        return "unchanged"
    if not math.isfinite(pair.new):
        return "no longer finite"
    if not math.isfinite(pair.old):
        return "finite again"
    if pair.new == 0:
        return "none left"
    factor = pair.factor
    if factor is None:
        return "was none"
    way = "more" if factor > 1 else "less"
    if 1 / 1.5 < factor < 1.5:
        return f"{share(abs(factor - 1))} {way}"
    return f"{_multiple(max(factor, 1 / factor))} times {way}"


def _multiple(factor: float) -> str:
    """Write a factor with two significant digits."""
    if factor >= 1e6:
        return "over a million"
    if factor < 9.95:
        return f"{factor:.1f}"
    digits = len(str(int(factor)))
    return f"{round(factor, 2 - digits):,.0f}"


def moved(pair: Pair) -> str:
    """Write an NSR in the baseline and now.

    >>> moved(Pair(0.2, 0.01)), moved(Pair(0.2, 0.2))
    ('20.0 % → 1.00 %', '20.0 %')
    """
    return arrow(percent(pair.old), percent(pair.new))


def arrow(old: str, new: str) -> str:
    """Write two texts with an arrow between, equal ones once."""
    return old if old == new else f"{old} → {new}"


def held_against(changes: Changes) -> str:
    """Say what the baseline is."""
    return f"Baseline: {' · '.join(wording.headline(changes.old))}"


def verdicts(changes: Changes) -> list[str]:
    """Say in one line for every whole output what became of its noise.

    Those that got worse come first, then the loudest, then or now.
    """
    whole = [c for c in changes.outputs if c.new.slice_of is None]
    whole.sort(key=lambda c: (c.verdict != "worse", -c.nsr.loudest))
    lines = [_verdict(change) for change in whole]
    if not lines:
        return ["No output of one is an output of the other"]
    return [*lines, *(f"Output {printable(name)} is gone" for name in changes.outputs_gone)]


def _verdict(change: OutputChange) -> str:
    how = times(change.nsr)
    noise = f"{how} noise" if how.endswith(("more", "less")) else how
    lost = {(False, True): "; always 0 now", (True, False): "; no longer always 0"}
    end = lost.get((change.old.lost, change.new.lost), "")
    return f"Output {named(change)}: NSR {moved(change.nsr)}, {noise}{end}"


def named(change: OutputChange) -> str:
    """Call an output by its name, and by its old one where that was another."""
    name, old = printable(change.new.name), printable(change.old.name)
    return name if name == old else f"{name} (was {old})"


def answer(change: ScoreChange) -> str:
    """Say what became of a score."""
    name = printable(change.new.name)
    held = "FP32" if change.new.against == "fp32" else "labels"
    values = (wording.scored(of.name, of.value) for of in (change.old, change.new))
    return f"{name} against {held} {arrow(*values)}"


def layer_verdict(change: LayerChange) -> str:
    """Say by which factor the isolated error of a layer changed, and whether that can be told."""
    if change.verdict == "within chance":
        return f"{times(change.isolated)}, within chance"
    return times(change.isolated) or "not measured"


def counts(changes: Changes) -> str:
    """Count the layers by what became of them, by their isolated errors; empty for none."""
    found = Counter(change.verdict for change in changes.layers)
    parts = [f"{found[verdict]:,} {verdict}" for verdict in _VERDICTS if found[verdict]]
    return f"{plural(len(changes.layers), 'layer')}: {', '.join(parts)}" if parts else ""


def matching(changes: Changes, limit: int | None = 3) -> list[str]:
    """Say how layers were matched and which were not.

    Args:
        changes: of two analyses.
        limit: how many names to list of each kind; None: all.
    """
    if not changes.same_network:
        return [OTHER_MODEL]
    lines = []
    by_nodes = sum(change.by == "nodes" for change in changes.layers)
    if by_nodes:
        whose = "its nodes" if by_nodes == 1 else "their nodes"
        lines.append(f"{plural(by_nodes, 'layer')} matched by {whose}, the names differ.")
    sides = (("here", changes.layers_new), ("in the baseline", changes.layers_gone))
    for where, names in sides:
        if names:
            count = plural(len(names), "layer")
            lines.append(f"{count} only {where}: {listed(names, limit)}")
    return lines


def other_outputs(changes: Changes) -> list[str]:
    """Say which outputs and scores only one of the two has."""
    sides = (
        ("output", "only here", changes.outputs_new),
        ("output", "only in the baseline", changes.outputs_gone),
        ("score", "only here", changes.scores_new),
        ("score", "only in the baseline", changes.scores_gone),
    )
    return [
        f"{plural(len(names), what)} {where}: {listed(names, None)}"
        for what, where, names in sides
        if names
    ]


def listed(names: Sequence[str], limit: int | None) -> str:
    """List names, with how many more there are."""
    # "and 1 more" would be no shorter than the name
    shown = names if limit is None or len(names) <= limit + 1 else names[:limit]
    text = ", ".join(shorten(printable(n), _NAME) if limit else printable(n) for n in shown)
    rest = len(names) - len(shown)
    return f"{text} and {rest:,} more" if rest else text


def cause(change: FindingChange) -> str:
    """Say in one line what a finding was about and what its cause made or makes up."""
    found = change.finding
    where = f" at {printable(found.layer)}" if found.layer else ""
    text = f"{wording.title(found)}{where}"
    gains = [None if of is None else of.gain for of in (change.old, change.new)]
    if change.state == "still there" and None not in gains:
        before, now = (share(gain) for gain in gains)
        if before == now:
            return f"{text} ({now} of the noise)"
        return f"{text} ({before} of the noise → {now})"
    gain = gains[0] if change.new is None else gains[1]
    verb = "was " if change.new is None else ""
    return f"{text} ({verb}{share(gain)} of the noise)" if gain is not None else text


def sources(changes: Changes) -> list[tuple[str, str]]:
    """Return (state, line) for the loud sources of noise that only one of the two has."""
    lines = []
    sides = (
        ("gone", changes.old, changes.sources_gone),
        ("new", changes.new, changes.sources_new),
    )
    for state, analysis, found in sides:
        types = {layer.name: layer.op_type for layer in analysis.layers}
        lines += [(state, _source(source, types)) for source in found]
    return lines


def _source(source: Source, types: dict[str, str]) -> str:
    return f"{printable(ledger.title(source, types))}: {percent(source.nsr)} by itself"


def remarks(changes: Changes) -> list[str]:
    """Say what a reader has to know before the numbers; empty where nothing stands in the way."""
    return [OTHER_DATA] if changes.same_network and not changes.same_data else []


def differences(changes: Changes) -> list[tuple[str, str]]:
    """Return (what, old → new) for everything the two do not stand on alike."""
    return [
        (printable(d.what), f"{printable(d.old)} → {printable(d.new)}")
        for d in changes.differences
    ]


def states(changes: Iterable[FindingChange]) -> dict[str, list[FindingChange]]:
    """Put findings of one fate together: gone, new, still there."""
    found: dict[str, list[FindingChange]] = {}
    for change in changes:
        found.setdefault(change.state, []).append(change)
    return found
