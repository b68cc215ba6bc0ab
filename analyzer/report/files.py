# SPDX-License-Identifier: Apache-2.0
"""The files of a run: an `Analysis` in, `report.html`, `analysis.json` and CSV out.

What was exported for quantizers goes into `export/` beside them, with a list of check sums: by it
the next export knows which files of the last one nobody has changed since, and removes those that
it does not write again.  Where an old analysis is rendered in its own folder, the analysis itself
is left alone, and so is what was exported: new files join it, and its list of check sums.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from analyzer.records import Analysis
from analyzer.report.html import render_html
from analyzer.report.spreadsheets import render_csv, render_proposals_csv, render_sources_csv
from analyzer.store import to_json, write_files

EXPORT = "export"
SUMS = "SHA256SUMS"  # as `sha256sum -c` reads it

Content = str | bytes


def write_reports(
    analysis: Analysis,
    out: Path,
    exports: Mapping[str, Content] | None = None,
    baseline: Analysis | None = None,
) -> dict[str, Path]:
    """Write all reports into the folder `out`, all or none; it is created where missing.

    Args:
        analysis: what to report.
        out: the folder.
        exports: path below the folder `export` -> content; none: that folder is left as it is.
        baseline: what the page holds the analysis against, if anything.

    Returns:
        File name -> path of what was written.

    Raises:
        StoreError: if the folder or the disk refuses; previous reports are then untouched.
    """
    contents = {**_reports(analysis, baseline), "analysis.json": to_json(analysis)}
    folder = Path(out) / EXPORT
    old = _unchanged(folder) if exports else set()
    if exports:
        sums = {name: _digest(content) for name, content in exports.items()}
        contents.update(_exported(exports, sums))
    paths = {name: Path(out) / name for name in contents}
    write_files({paths[name]: content for name, content in contents.items()})
    for stale in old - set(paths.values()):
        _remove(stale, folder)
    return paths


def rewrite_reports(
    analysis: Analysis,
    folder: Path,
    exports: Mapping[str, Content],
    baseline: Analysis | None = None,
) -> Path:
    """Write all reports but the analysis into its own folder, all or none.

    Args:
        analysis: what to report.
        folder: that the analysis lies in.
        exports: path below the folder `export` -> content.
        baseline: what the page holds the analysis against, if anything.

    Returns:
        path of the page.

    Raises:
        StoreError: if the folder or the disk refuses; previous reports are then untouched.
    """
    contents = _reports(analysis, baseline)
    if exports:
        sums = _sums(folder / EXPORT)
        sums.update((name, _digest(content)) for name, content in exports.items())
        contents.update(_exported(exports, sums))
    write_files({folder / name: content for name, content in contents.items()})
    return folder / "report.html"


def _reports(analysis: Analysis, baseline: Analysis | None) -> dict[str, Content]:
    return {
        "report.html": render_html(analysis, baseline),
        "layers.csv": render_csv(analysis),
        "sources.csv": render_sources_csv(analysis),
        "proposals.csv": render_proposals_csv(analysis),
    }


def _exported(exports: Mapping[str, Content], sums: Mapping[str, str]) -> dict[str, Content]:
    """Return what goes into the export folder: files in order, then the check sums of all."""
    files = {f"{EXPORT}/{name}": exports[name] for name in sorted(exports)}
    lines = (f"{sums[name]}  {name}\n" for name in sorted(sums))
    return {**files, f"{EXPORT}/{SUMS}": "".join(lines)}


def _sums(folder: Path) -> dict[str, str]:
    """Return name -> check sum of what an export listed; nothing where the list is not there."""
    try:
        lines = (folder / SUMS).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return {}
    return {name: digest for digest, _, name in (x.partition("  ") for x in lines) if name}


def _digest(content: Content) -> str:
    data = content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content
    return hashlib.sha256(data).hexdigest()


def _unchanged(folder: Path) -> set[Path]:
    """Return the files of the last export that are still as they were written."""
    found: set[Path] = set()
    for name, digest in _sums(folder).items():
        place = PurePosixPath(name)
        if place.is_absolute() or ".." in place.parts:
            continue
        path = folder / place
        with contextlib.suppress(OSError):
            if not path.is_symlink() and _digest(path.read_bytes()) == digest:
                found.add(path)
    return found


def _remove(path: Path, folder: Path) -> None:
    """Remove a file, and the folders in `folder` that it leaves empty."""
    with contextlib.suppress(OSError):  # a file that stays is no failure of the run
        path.unlink()
        for parent in path.relative_to(folder).parents:
            if parent.parts:
                (folder / parent).rmdir()
