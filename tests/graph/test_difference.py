# SPDX-License-Identifier: Apache-2.0
"""The difference of two plans: what makes one of the other, and nothing that is alike."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from analyzer.calibrate import calibrate
from analyzer.graph.ends import run_ends
from analyzer.graph.suffix import SuffixRuns, difference, grid_of
from analyzer.place import place_on, prepare
from analyzer.records import Quantizer, Setting
from analyzer.targets.espdl import ESP32P4

NET = """g (float[1,3,6,6] x) => (float[1,4,6,6] y, float[1,4,1,1] z) {
    [c0] h0 = Conv(x, w0)  [r0] a0 = Relu(h0)
    [c1] h1 = Conv<pads = [1,1,1,1]>(a0, w1)  [add] s = Add(h1, a0)
    [c2] y = Conv(s, w2)  [t] u = Tanh(h1)  [pool] z = GlobalAveragePool(u)
}"""
VARIANTS = {
    "int16 table": Setting("minmax", table={"c0": "int16", "r0": "int16"}),
    "16-bit activations": Setting("minmax", table={"c2": "w8a16"}),
    "another observer": Setting("percentile"),
    "a float layer": Setting("minmax", table={"c1": "fp32"}),
    "a range": Setting("minmax", ranges={"s": (-0.5, 0.5)}),
    "all at once": Setting(
        "percentile", table={"c0": "fp32", "c2": "int16"}, ranges={"u": (-0.2, 0.2)}
    ),
}


@pytest.fixture
def net(bind):
    rng = np.random.default_rng(3)
    weights = {
        f"w{n}": (rng.standard_normal(shape) / 3).astype(np.float32)
        for n, shape in enumerate([(4, 3, 1, 1), (4, 4, 3, 3), (4, 4, 1, 1)])
    }
    samples = [{"x": rng.standard_normal((1, 3, 6, 6)).astype(np.float32)} for _ in range(2)]
    graph = prepare(bind(NET, **weights), ESP32P4)

    def plan(setting):
        return calibrate(graph, place_on(graph, ESP32P4, setting), ESP32P4, samples)

    return graph, plan, samples


@pytest.mark.parametrize("base", ["as it is", "int16 table", "all at once"])
def test_the_unit_makes_one_plan_of_another(net, base):
    """Base and unit, run from the layers that differ on, are the other plan's whole runs."""
    graph, plan, samples = net
    before = plan(VARIANTS.get(base, Setting("minmax")))
    others = {name: plan(setting) for name, setting in VARIANTS.items() if name != base}
    units = [
        difference(name, before.quantizers, other.quantizers) for name, other in others.items()
    ]
    active = [q for q in before.quantizers if q.active]
    runs = SuffixRuns(graph, units, samples=len(samples), base=active)
    expected = run_ends(graph, [(graph, other) for other in others.values()], samples)
    for number, sample in enumerate(samples):
        plain = runs.plain(sample)
        for name, rows in zip(others, expected, strict=True):
            assert runs.nsr(name, plain) == pytest.approx(rows[number], rel=1e-4), name


def test_a_plan_and_itself_do_not_differ(net):
    """Calibrated twice: no layer, no quantizer."""
    _, plan, _ = net
    one, other = plan(Setting("minmax")), plan(Setting("minmax"))
    unit = difference("same", one.quantizers, other.quantizers)
    assert (unit.quantizers, unit.bare, unit.nodes) == ((), (), ())


def test_only_what_differs_is_in_it(net):
    """c2's activations in 16 bits: c2, with all it has; nothing of others."""
    _, plan, _ = net
    base, other = (plan(s) for s in (Setting("minmax"), VARIANTS["16-bit activations"]))
    unit = difference("c2", base.quantizers, other.quantizers)
    assert unit.nodes == ("c2",)
    own = [q for q in other.quantizers if q.node == "c2" and q.active]
    assert [id(q) for q in unit.quantizers] == [id(q) for q in own]


def test_a_layer_in_float_is_bare(net):
    """It has no quantizer left."""
    _, plan, _ = net
    base, other = (plan(s) for s in (Setting("minmax"), VARIANTS["a float layer"]))
    assert "c1" in difference("c1", base.quantizers, other.quantizers).bare
    back = difference("back", other.quantizers, base.quantizers)
    assert "c1" in back.nodes
    assert "c1" not in back.bare


ONE = Quantizer("n", "out0", "t", "activation", 8, scale=np.array([0.5]), zero_point=np.array([0]))


@pytest.mark.parametrize(
    "change",
    [
        {"scale": np.array([0.25])},
        {"zero_point": np.array([1])},
        {"qmin": -127},
        {"qmax": 32767},
        {"rounding": "half_up"},
        {"axis": 0},
        {"tensor": "u"},
        {"replaces_node": True},
        {"stored": np.float32([1.0])},
    ],
)
def test_what_makes_another_grid(change):
    """Whatever changes what the quantizer makes of a value."""
    other = replace(ONE, **change)
    assert grid_of(other) != grid_of(ONE)
    assert difference("d", [ONE], [other]).quantizers == (other,)


def test_what_makes_no_other_grid():
    """Where the range came from, whom the scale follows, and what was seen."""
    other = replace(
        ONE, scale=np.array([0.5]), observer="kl", range=(-1.0, 1.0), follows=("m", "out0"),
        group="g", fixed_range=(-64.0, 63.5), bits=9,
    )  # fmt: skip
    assert grid_of(other) == grid_of(ONE)
    assert difference("d", [ONE], [other]).nodes == ()


def test_a_quantizer_that_is_off_is_none():
    """Off in both, off in one of them."""
    off = replace(ONE, active=False)
    assert difference("d", [off], [replace(off, qmax=7)]).nodes == ()
    assert difference("d", [ONE], [off]).bare == ("n",)
    assert difference("d", [off], [ONE]).quantizers == (ONE,)
