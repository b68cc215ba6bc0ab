# SPDX-License-Identifier: Apache-2.0
"""Which files an analysis can hand out by itself: those it carries, those made of it alone."""

from __future__ import annotations

from importlib import import_module

from analyzer.formats import FROM_ANALYSIS, SOURCE
from analyzer.records import Analysis


def carried(analysis: Analysis, name: str) -> dict[str, str]:
    """Return the files of one format, path below the export folder -> text.

    None of them where one is missing: it was too long to be carried (its text is empty), or they
    are for a model that the run wrote beside them.
    """
    files = {path: text for path, text in analysis.exports.items() if path.startswith(f"{name}/")}
    whole = all(text and SOURCE not in text for text in files.values())
    return files if whole else {}


def made(analysis: Analysis, name: str) -> dict[str, str] | None:
    """Return the files of a format that tells what was measured; None: it tells of a plan."""
    where = FROM_ANALYSIS.get(name)
    if where is None:
        return None
    module, function = where.split(":")
    return dict(getattr(import_module(module), function)(analysis))
