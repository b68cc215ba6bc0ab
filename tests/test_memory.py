# SPDX-License-Identifier: Apache-2.0
"""Peak memory: in bytes, and it only grows."""

from __future__ import annotations

import resource
import sys

import numpy as np
import pytest

from analyzer.memory import peak_rss_bytes


def test_the_peak_is_in_bytes_and_holds_what_was_touched():
    """Touching 64 MB once leaves a peak of at least that, also after it is freed."""
    block = np.ones(1 << 23)
    del block
    assert 64 << 20 <= peak_rss_bytes() < 1 << 44
    assert peak_rss_bytes() >= peak_rss_bytes() - 1


@pytest.mark.parametrize(("platform", "expected"), [("linux", 5 << 10), ("darwin", 5)])
def test_the_unit_of_the_system(monkeypatch, platform, expected):
    """Linux tells kilobytes, macOS bytes."""

    class Usage:
        ru_maxrss = 5

    monkeypatch.setattr(resource, "getrusage", lambda who: Usage)
    monkeypatch.setattr(sys, "platform", platform)
    assert peak_rss_bytes() == expected


def test_a_system_that_does_not_tell(monkeypatch):
    """Windows has no such module: 0 is "unknown"."""
    monkeypatch.setitem(sys.modules, "resource", None)
    assert peak_rss_bytes() == 0
