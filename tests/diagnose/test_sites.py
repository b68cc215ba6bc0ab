# SPDX-License-Identifier: Apache-2.0
"""Sites are grids: the quantizers of a source that share one, and what it is called."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from analyzer.diagnose import sites as module
from analyzer.records import Source


@pytest.fixture
def net(bind):
    return bind(
        """g (float[1,2] x, float[1,2] z) => (float[1,4] y) {
            [a] s = Relu(x)  [b] t = Relu(z)  [c] j = Concat<axis=1>(s, t)  [o] y = Mul(j, k)
        }""",
        k=np.ones((1, 4), np.float32),
    )


@pytest.fixture
def grid(quantizer):
    return [
        quantizer("a", "out0", "s", 1.0),
        quantizer("b", "out0", "t", 0.5),
        quantizer("c", "out0", "j", 1.0),
        quantizer("o", "in1", "k", 1.0, role="constant"),
        quantizer("o", "out0", "y", [1.0, 1.0, 1.0, 1.0], axis=1),
    ]


SAMPLES = [{"x": np.float32([[1, 2]]), "z": np.float32([[3, 4]])}]


def test_a_grid_is_one_site(net, grid, case_of):
    """Equal scales belong together; constants and scales per channel are no sites."""
    first, second = case_of(net, grid, SAMPLES).sites
    assert (first.tensors, [q.key for q in first.quantizers], first.scale) == (
        ("s", "j"), [("a", "out0"), ("c", "out0")], 1.0,
    )  # fmt: skip
    assert (second.tensors, second.scale) == (("t",), 0.5)


def test_what_is_joined_is_looked_at_as_well(net, grid, case_of):
    """The Concat's other member is on another grid, but its range is known."""
    first, _ = case_of(net, grid, SAMPLES).sites
    assert {t: f.reach for t, f in first.facts.items()} == {"s": 2.0, "t": 4.0, "j": 4.0}


def test_a_site_is_called_after_what_joins_or_makes_it(net, grid, case_of):
    """The Concat as a whole, the maker of a tensor, its reader where no layer makes it."""
    case = case_of(net, grid, SAMPLES)
    first, second = case.sites
    assert first.layer(case.view, case.plan.layers) == "c"
    assert first.layer(case.view, case.plan.layers, "s") == "a"
    assert second.layer(case.view, case.plan.layers) == "b"
    assert second.layer(case.view, ()) == "b"
    fed = case_of(net, [replace(grid[0], slot="in0", tensor="x")], SAMPLES)
    (only,) = fed.sites
    assert only.layer(case.view, case.plan.layers) == "a"


def test_the_worst_sources_come_first_and_quiet_ones_not_at_all(net, grid, case_of):
    """By isolated noise; what was not probed, or has less than a hundredth, is left out."""
    keys = [q.key for q in grid]
    sources = {
        "quiet": Source("quiet", "layer", ("o",), (keys[4],), nsr=0.001),
        "mild": Source("mild", "layer", ("a",), (keys[0],), nsr=0.1),
        "loud": Source("loud", "layer", ("b",), (keys[1],), nsr=0.3),
        "unknown": Source("unknown", "layer", ("c",), (keys[2],)),
    }
    found = case_of(net, grid, SAMPLES, **sources).sites
    assert [(s.source, round(s.share, 2)) for s in found] == [("loud", 0.75), ("mild", 0.25)]


def test_memory_is_bounded_but_the_worst_is_always_looked_at(net, grid, case_of, monkeypatch):
    """Tensors that do not fit any more are left out with their sites."""
    monkeypatch.setattr(module, "MOST_VALUES", 1)
    assert [site.tensors for site in case_of(net, grid, SAMPLES).sites] == [("s", "j")]
