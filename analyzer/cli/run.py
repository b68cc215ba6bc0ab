# SPDX-License-Identifier: Apache-2.0
"""One call of the command: options in, reports written, a result shown, an exit code out."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from analyzer.cli.gate import failures, read_old
from analyzer.cli.output import Format, compare, say, say_timing, show
from analyzer.config import Config, check_environment, resolve
from analyzer.errors import ConfigError, StoreError, TargetError, nearest
from analyzer.pipeline import Outcome, label, run_quantized, run_targets
from analyzer.report.comparison import Comparison
from analyzer.report.files import EXPORT, write_reports
from analyzer.report.progress import Progress
from analyzer.targets import target_names
from analyzer.values import ALL


def run(
    model: Path,
    given: Mapping[str, object],
    out: Path | None,
    format_: Format,
    *,
    show_all: bool,
    quiet: bool,
    verbose: bool,
) -> int:
    """Do what the command line asks for and return the exit code.

    Args:
        model: path of the model.
        given: value of every option that belongs to `Config`, None where not given.
        out: folder for the reports.
        format_: what stdout carries.
        show_all: show every layer.
        quiet: show verdicts only.
        verbose: show the time of every stage.
    """
    check_environment(os.environ)
    config = resolve(given)
    if not config.calib:
        raise ConfigError(
            "There is no calibration data.",
            "Give --calib a folder of inputs, see qanalyze --help.",
        )
    names = _names(model, config)
    config = replace(config, export=_formats(config))
    _check_latency(config)
    several = len(names) > 1
    old = read_old(config, several=several)
    folders = {name: _folder(out, model, name, of_several=several) for name in names}
    for folder in folders.values():
        _check_folder(folder)
    outcome = _outcome(model, config, names, Progress(quiet=quiet))
    files = outcome.exports
    reports, exports = {}, {}
    for analysis in outcome.analyses:
        target = analysis.provenance.target
        written = write_reports(analysis, folders[target], files.get(target), old.on_page)
        reports[target] = written["report.html"]
        if files.get(target):
            exports[target] = folders[target] / EXPORT
    if several:
        comparison = Comparison(outcome.analyses, outcome.refused, reports, exports)
        file = _comparison_file(out, model)
        compare(comparison, format_, file, show_all=show_all, quiet=quiet)
    else:
        (analysis,), (report,) = outcome.analyses, reports.values()
        export = next(iter(exports.values()), None)
        show(
            analysis, format_, report, export, report.with_name("analysis.json"), old.baseline,
            show_all=show_all, quiet=quiet,
        )  # fmt: skip
    say(*_not_exported(config, outcome, exports))
    if verbose:
        say_timing(outcome.analyses[-1])
    failed = [line for analysis in outcome.analyses for line in failures(analysis, config, old)]
    say(*failed)
    return 1 if failed else 0


def _outcome(model: Path, config: Config, names: list[str], progress: Progress) -> Outcome:
    command = shlex.join(["qanalyze", *sys.argv[1:]])
    if config.quantized:
        quantized = Path(config.quantized)
        return run_quantized(model, quantized, config, progress=progress, command=command)
    every = config.target == ALL
    outcome = run_targets(
        model, config, names, progress=progress, command=command, leave_out_unfit=every
    )
    if not outcome.analyses:
        name, reason = next(iter(outcome.refused.items()))
        raise TargetError(
            f"No target can be analysed; {name}: {reason}",
            "See --list-targets for what each offers.",
        )
    return outcome


def _formats(config: Config) -> tuple[str, ...]:
    """Return the formats to export, by name; "all" stays what it is.

    Raises:
        ExportError: naming the nearest one.
    """
    if not config.export:
        return ()
    from analyzer.export import check_formats

    return check_formats(config.export)


def _check_latency(config: Config) -> None:
    """Refuse a table that is not there, before the model is even loaded."""
    if config.latency is not None and not Path(config.latency).is_file():
        raise ConfigError(
            f"There is no table {config.latency!r}.",
            "Give --latency a CSV file of layers, precisions and milliseconds.",
        )


def _not_exported(config: Config, outcome: Outcome, exports: Mapping[str, Path]) -> list[str]:
    """Say for which targets nothing was exported although that was asked for."""
    if not config.export:
        return []
    names = [a.provenance.target for a in outcome.analyses if a.provenance.target not in exports]
    return [f"Nothing exported for {name}: no proposal is recommended." for name in names]


def _names(model: Path, config: Config) -> list[str]:
    """Return what is analysed, by name: targets, or the quantized file."""
    if config.quantized:
        return [label(model, Path(config.quantized))]
    if config.target == ALL:
        return target_names()
    names = list(dict.fromkeys(name.strip() for name in config.target.split(",")))
    for name in names:
        if name not in target_names():
            known = [*target_names(), ALL]
            raise ConfigError(f"There is no target {name!r}.", nearest(name, known))
    return names


def _folder(out: Path | None, model: Path, target: str, *, of_several: bool) -> Path:
    if out is None:
        name = target.removesuffix(".onnx").replace("/", ".")
        return Path("reports") / f"{model.stem}.{name}"
    return out / target if of_several else out


def _comparison_file(out: Path | None, model: Path) -> Path:
    return Path("reports") / f"{model.stem}.targets.csv" if out is None else out / "targets.csv"


def _check_folder(folder: Path) -> None:
    """Refuse a folder that cannot be made, before minutes are spent on what goes into it."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise StoreError(
            f"{str(folder)!r} cannot be a folder: {str(existing)!r} is a file.",
            "Choose another folder with --out.",
        )
    if not os.access(existing, os.W_OK | os.X_OK):
        raise StoreError(
            f"{str(existing)!r} does not let you write into it.",
            "Choose another folder with --out.",
        )
