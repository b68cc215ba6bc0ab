# SPDX-License-Identifier: Apache-2.0
"""The files of an old run once more: an `Analysis` in, `report.html` and CSV out.

The analysis itself is left alone, and so is what was exported: new files join it, and its list of
check sums.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from analyzer.records import Analysis
from analyzer.report.files import EXPORT, SUMS
from analyzer.report.html import render_html
from analyzer.report.spreadsheets import render_csv, render_proposals_csv, render_sources_csv
from analyzer.store import write_files


def rewrite_reports(
    analysis: Analysis, folder: Path, exports: Mapping[str, str], baseline: Analysis | None = None
) -> Path:
    """Write all reports but the analysis into a folder, all or none.

    Args:
        analysis: what to report.
        folder: that the analysis lies in.
        exports: path below the folder `export` -> text.
        baseline: what the page holds the analysis against, if anything.

    Returns:
        path of the page.

    Raises:
        StoreError: if the folder or the disk refuses; previous reports are then untouched.
    """
    contents = {
        "report.html": render_html(analysis, baseline),
        "layers.csv": render_csv(analysis),
        "sources.csv": render_sources_csv(analysis),
        "proposals.csv": render_proposals_csv(analysis),
    }
    if exports:
        contents.update((f"{EXPORT}/{name}", text) for name, text in sorted(exports.items()))
        contents[f"{EXPORT}/{SUMS}"] = _sums(folder / EXPORT / SUMS, exports)
    write_files({folder / name: text for name, text in contents.items()})
    return folder / "report.html"


def _sums(path: Path, exports: Mapping[str, str]) -> str:
    """Return the list of check sums with those of the new files, as `sha256sum -c` reads it."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        lines = []
    known = {name: digest for digest, mark, name in (x.partition("  ") for x in lines) if mark}
    known.update((name, _digest(text)) for name, text in exports.items())
    return "".join(f"{known[name]}  {name}\n" for name in sorted(known))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()
