# SPDX-License-Identifier: Apache-2.0
"""What the worst layers look like: an `Analysis` in, a section per layer with plots out."""

from __future__ import annotations

from typing import Any

from analyzer.records import Analysis


def context(analysis: Analysis) -> dict[str, Any]:  # Any: what the template reads
    """Return what `templates/profiles.html.j2` reads."""
    return {}
