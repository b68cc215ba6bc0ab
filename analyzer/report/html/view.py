# SPDX-License-Identifier: Apache-2.0
"""What the page shows, ready to be written down: an `Analysis` in, records of texts out."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from analyzer.codes import CODES
from analyzer.formats import TOOLS
from analyzer.records import Analysis, DataInfo, Finding
from analyzer.report import ledger, tables, wording

_CONTRIBUTORS = 12
_CARDS = 6
_RISES = 5
_DIGEST = 12  # characters of a check sum that tell models apart


@dataclass(frozen=True, slots=True)
class Card:
    """One finding.

    Attributes:
        gain: share of the noise that goes, in words; empty where it could not be tried.
        width: of the bar of the gain in percent, None for no bar.
        places: layers where it was found, one where it was tried out.
        evidence: (what, number or name).
    """

    code: str
    title: str
    why: str
    advice: str
    gain: str
    width: str | None
    places: tuple[str, ...]
    evidence: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Ledger:
    """The balance of one output.

    Attributes:
        shown: contributors with a bar: (contributor, width in percent).
        rest: one line on the others, empty where there are none.
        together: one line per interaction.
    """

    account: ledger.Account
    shown: tuple[tuple[ledger.Contributor, str], ...]
    rest: str
    together: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class File:
    """One exported text."""

    path: str
    size: str
    text: str


@dataclass(frozen=True, slots=True)
class Exported:
    """What a tool is given.

    Attributes:
        use: what the files are for.
        command: that writes them; empty where none is known.
    """

    title: str
    use: str
    command: str
    files: tuple[File, ...]


def cards(analysis: Analysis) -> tuple[list[Card], list[Card]]:
    """Return the findings, the largest gain first: those to show at once, and the others."""
    found = [_card(entry) for entry in wording.grouped(analysis.findings)]
    return found[:_CARDS], found[_CARDS:]


def _card(alike: Sequence[Finding]) -> Card:
    first = alike[0]
    known = CODES.get(first.code)
    gain = first.gain if first.gain is not None and math.isfinite(first.gain) else None
    return Card(
        code=first.code,
        title=known.title if known else "",
        why=known.why if known else "",
        advice=first.advice,
        gain=wording.gain(first),
        width=None if gain is None else f"{100 * min(max(gain, 0.0), 1.0):.0f}",
        places=tuple(dict.fromkeys(finding.layer for finding in alike if finding.layer)),
        evidence=tuple(wording.evidence(first.evidence)),
    )


def ledgers(analysis: Analysis) -> list[Ledger]:
    """Return the balance of every output, slices behind theirs; none where nothing was booked."""
    if analysis.balance is None:
        return []
    titles = ledger.titles(analysis)
    return [
        _ledger(analysis, ledger.account(output), titles)
        for output in ledger.in_families(analysis.outputs)
    ]


def _ledger(analysis: Analysis, account: ledger.Account, titles: dict[str, str]) -> Ledger:
    name = account.output.name
    found = ledger.contributors(analysis, name)
    heard = [row for row in found if row.nsr][:_CONTRIBUTORS]
    largest = max((row.share for row in heard if row.share is not None), default=0.0)
    others = len(found) - len(heard)
    left = sum(row.share or 0.0 for row in found if row not in heard)
    unprobed = sum(row.nsr is None for row in found)
    rest = f"{tables.plural(others, 'other source')}: {tables.share(left)}" if others else ""
    if rest and unprobed:
        rest += f" ({unprobed:,} not probed: their noise is expected to be small)"
    together = [wording.interaction(i, titles) for i in ledger.interactions(analysis, name)]
    widths = [100 * (row.share or 0.0) / largest if largest else 0.0 for row in heard]
    shown = tuple((row, f"{width:.1f}") for row, width in zip(heard, widths, strict=True))
    return Ledger(account, shown, rest, tuple(together))


def rises(analysis: Analysis) -> list[ledger.Rise]:
    """Return the largest steps of the worst output along the graph."""
    return ledger.largest(ledger.rises(analysis, analysis.worst_output.name), _RISES)


def provenance(analysis: Analysis) -> list[str]:
    """Return in one line what the numbers stand on."""
    found = analysis.provenance
    digest = str(found.model.get("sha256", ""))[:_DIGEST]
    seconds = sum(analysis.timing.values())
    memory = f"{analysis.peak_rss_bytes / 1e9:.1f} GB" if analysis.peak_rss_bytes else ""
    return [
        part
        for part in (
            "How it was measured",
            f"sha256 {tables.printable(digest)}" if digest else "",
            f"qanalyze {tables.printable(found.tool_version)}",
            f"seed {found.seed}",
            tables.duration(seconds) if seconds else "",
            memory,
        )
        if part
    ]


def tools(analysis: Analysis) -> list[Exported]:
    """Return the exported texts by the tool they are for, as their paths begin."""
    found: dict[str, list[File]] = {}
    for path, text in analysis.exports.items():
        if not text:
            continue  # the run wrote a file there that is too long to be shown, or no text
        size = f"{len(text.encode('utf-8', 'backslashreplace')) / 1000:.1f} kB"
        file = File(tables.printable(path), size, _showable(text))
        found.setdefault(path.partition("/")[0], []).append(file)
    return [_exported(analysis, name, tuple(files)) for name, files in found.items()]


def _exported(analysis: Analysis, name: str, files: tuple[File, ...]) -> Exported:
    tool, command = TOOLS.get(name), analysis.provenance.command
    if tool is None:
        return Exported(tables.printable(name), "", "", files)
    line = f"{command} --export {name}" if command and "--export" not in command else command
    return Exported(tool.title, tool.use, tables.printable(line), files)


def _showable(text: str) -> str:
    """Return a text with its lines and tabs; what else a browser would obey is escaped."""
    lines = (line.rstrip("\r").split("\t") for line in text.split("\n"))
    return "\n".join("\t".join(map(tables.printable, cells)) for cells in lines)


def notes(analysis: Analysis) -> list[str]:
    """Return what was done to the model and to the data."""
    found = analysis.provenance.model.get("notes", ())
    loading = [str(note) for note in found] if isinstance(found, list | tuple) else [str(found)]
    return [*loading, *analysis.plan.notes, *_skipped(analysis.provenance.data)]


def _skipped(data: Iterable[DataInfo]) -> list[str]:
    return [f"{info.role} data skipped: {entry}" for info in data for entry in info.skipped]


def value(item: object) -> str:
    """A configuration value for reading: text as it is, numbers grouped, the rest as JSON."""
    if isinstance(item, str):
        return tables.printable(item)
    if isinstance(item, int) and not isinstance(item, bool):
        return f"{item:,}"
    if isinstance(item, float):
        return f"{item:.4g}"
    return tables.printable(json.dumps(item, ensure_ascii=False, default=str))
