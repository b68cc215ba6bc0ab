# SPDX-License-Identifier: Apache-2.0
"""How much memory this process has used."""

from __future__ import annotations

import sys


def peak_rss_bytes() -> int:
    """Return the largest resident size so far; 0 where the system does not tell (Windows)."""
    try:
        import resource
    except ImportError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # kilobytes, but on macOS bytes
    return peak if sys.platform == "darwin" else peak * 1024
