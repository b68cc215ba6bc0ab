# SPDX-License-Identifier: Apache-2.0
"""The network drawn as a graph: an `Analysis` in, what its template reads out."""

from __future__ import annotations

from typing import Any

from analyzer.records import Analysis


def context(analysis: Analysis) -> dict[str, Any]:  # Any: what the template reads
    """Return what `templates/network.html.j2` reads."""
    return {}
