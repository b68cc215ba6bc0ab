# SPDX-License-Identifier: Apache-2.0
"""What got better or worse: two analyses in, their layers and outputs side by side out."""

from __future__ import annotations

from typing import Any

from analyzer.records import Analysis


def context(analysis: Analysis, baseline: Analysis | None) -> dict[str, Any]:  # Any: for Jinja2
    """Return what `templates/changes.html.j2` reads."""
    return {}
