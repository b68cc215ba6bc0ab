# SPDX-License-Identifier: Apache-2.0
"""An analysis.json in, its reports once more: nothing is measured, and no runtime is needed."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from analyzer import formats
from analyzer.cli.carried import carried, made
from analyzer.cli.gate import failures, read_old
from analyzer.cli.output import Format, say, say_timing, show
from analyzer.config import GATE, check_environment, resolve
from analyzer.errors import ConfigError, ExportError, nearest
from analyzer.records import Analysis
from analyzer.report.advice import recommended
from analyzer.report.files import EXPORT, rewrite_reports, write_reports
from analyzer.store import load_analysis
from analyzer.values import ALL, parse_formats

# What still has a meaning when everything is measured already.
_KEPT = frozenset({"export", *GATE})


def rerender(
    path: Path,
    given: Mapping[str, object],
    flags: Sequence[str],
    out: Path | None,
    format_: Format,
    *,
    show_all: bool,
    quiet: bool,
    verbose: bool,
) -> int:
    """Render an old analysis again and return the exit code.

    Args:
        path: of the analysis.
        given: value of every option that belongs to `Config`, None where not given.
        flags: options of the command line itself, as they are written there; what environment and
            pyproject.toml say of runs does not concern an analysis.
        out: folder for the reports; None: the analysis' own, which itself is then left alone.
        format_: what stdout carries.
        show_all: show every layer.
        quiet: show verdicts only.
        verbose: show the time of every stage of the run.
    """
    check_environment(os.environ)
    _check_flags(flags)
    config = resolve({key: given[key] for key in GATE}, only=GATE)
    analysis = load_analysis(path)
    old = read_old(config, several=False)
    wanted = parse_formats(given["export"]) if "--export" in flags else ()
    files = _exports(analysis, wanted, path)
    folder = path.parent if out is None else out
    if folder.resolve() == path.parent.resolve():
        report, file = rewrite_reports(analysis, folder, files, old.on_page), path
    else:
        written = write_reports(analysis, folder, files, old.on_page)
        report, file = written["report.html"], written["analysis.json"]
    export = folder / EXPORT if files else None
    show(
        analysis, format_, report, export, file, old.baseline, show_all=show_all, quiet=quiet
    )  # fmt: skip
    if wanted and not files:
        say("Nothing exported: no proposal is recommended.")
    if verbose:
        say_timing(analysis)
    failed = failures(analysis, config, old)
    say(*failed)
    return 1 if failed else 0


def _check_flags(flags: Sequence[str]) -> None:
    """Refuse options that only a run could follow.

    Raises:
        ConfigError: naming them.
    """
    idle = [flag for flag in flags if flag[2:].replace("-", "_") not in _KEPT]
    if idle:
        verb = "has" if len(idle) == 1 else "have"
        raise ConfigError(
            f"{' and '.join(idle)} {verb} no effect on an analysis: everything is measured "
            "already.",
            "Leave that out, or give the ONNX model.",
        )


def _exports(analysis: Analysis, wanted: tuple[str, ...], path: Path) -> dict[str, str]:
    """Return the files of formats that the analysis carries, or that need nothing but it.

    Raises:
        ExportError: if a format is unknown, or takes another run.
    """
    known = list(formats.TOOLS)
    for name in wanted:
        if name != ALL and name not in known:
            raise ExportError(f"There is no export format {name!r}.", nearest(name, [*known, ALL]))
    files: dict[str, str] = {}
    for name in known if wanted == (ALL,) else wanted:
        found = made(analysis, name)
        if found is None:
            found = carried(analysis, name)
        files.update(found)
        if not found and wanted != (ALL,) and recommended(analysis) is not None:
            raise ExportError(
                f"{str(path)!r} does not carry the files of {name}, which takes another run.",
                f"Run: {analysis.provenance.command} --export {name}",
            )
    return files
