# SPDX-License-Identifier: Apache-2.0
"""What every target promises, whatever quantizer it imitates, checked on one net."""

from __future__ import annotations

import itertools

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from analyzer.calibrate import calibrate
from analyzer.load import bind_shapes, load_model
from analyzer.place import place
from analyzer.records import Setting
from analyzer.simulate import simulate
from analyzer.targets import get_target, target_names
from analyzer.targets.fidelity import fidelity_of

NET = """<ir_version: 8, opset_import: ["": 13]>
net (float[1,3,8,8] x) => (float[1,16,8,8] map, float[1,5] y) {
    [stem] h0 = Conv<pads = [1,1,1,1]>(x, w0, b0)
    [act] a0 = Relu(h0)
    [depthwise] h1 = Conv<pads = [1,1,1,1], group = 16>(a0, w1, b1)
    [clip] c1 = Clip(h1, zero, six)
    [point] map = Conv(c1, w2)
    [gate] s = Sigmoid(map)
    [silu] m = Mul(map, s)
    [skip] r = Add(m, a0)
    [cat] k = Concat<axis = 1>(r, a0)
    [pool] p = MaxPool<kernel_shape = [2,2], strides = [2,2]>(k)
    [mean] g = GlobalAveragePool(p)
    [flat] f = Flatten(g)
    [fc] z = Gemm<transB = 1>(f, w3, b3)
    [soft] y = Softmax<axis = 1>(z)
}"""
RNG = np.random.default_rng(7)
WEIGHTS = {
    "w0": RNG.standard_normal((16, 3, 3, 3)) / 5, "b0": RNG.standard_normal(16),
    "w1": RNG.standard_normal((16, 1, 3, 3)) / 3, "b1": RNG.standard_normal(16),
    "w2": RNG.standard_normal((16, 16, 1, 1)) / 4, "w3": RNG.standard_normal((5, 32)) / 6,
    "b3": RNG.standard_normal(5), "zero": np.array(0.0), "six": np.array(6.0),
}  # fmt: skip
SAMPLES = [{"x": RNG.standard_normal((1, 3, 8, 8)).astype(np.float32)} for _ in range(4)]
NAMES = target_names()


@pytest.fixture
def path(tmp_path):
    proto = onnx.parser.parse_model(NET)
    proto.graph.initializer.extend(
        numpy_helper.from_array(value.astype(np.float32), name) for name, value in WEIGHTS.items()
    )
    onnx.save(proto, tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


def planned(path, target, setting):
    """Return graph and completed plan, as the pipeline makes them."""
    model = load_model(path, rewrite=target.rewrite)
    graph, plan = place(bind_shapes(model, {"x": (1, 3, 8, 8)}), target, setting)
    plan = calibrate(graph, plan, target, SAMPLES)
    return target.complete(graph, plan, SAMPLES)


def settings(target):
    """Every choice a target offers, one at a time."""
    yield Setting()
    yield from (Setting(observer=o) for o in target.observers)
    yield from (Setting(precision=p) for p in target.precisions if not p.startswith("fp"))
    yield from (Setting(granularity=g) for g in target.granularities)


@pytest.mark.parametrize("name", NAMES)
def test_a_plan_is_complete_for_every_choice(path, name):
    """Slots exist, are unique and calibrated; scales are positive, zero points on the grid."""
    target = get_target(name)
    for setting in settings(target):
        graph, plan = planned(path, target, setting)
        slots = {
            (node.name, f"{side}{i}"): tensor
            for node in graph.proto.graph.node
            for side, tensors in (("in", node.input), ("out", node.output))
            for i, tensor in enumerate(tensors)
        }
        keys = [q.key for q in plan.quantizers]
        assert len(set(keys)) == len(keys)
        assert all(slots[q.key] == q.tensor for q in plan.quantizers)
        assert {q.follows for q in plan.quantizers if q.follows} <= set(keys)
        for q in plan.quantizers:
            if q.active:
                assert np.all(np.isfinite(q.scale) & (q.scale > 0)), q
                assert np.all((q.zero_point >= q.qmin) & (q.zero_point <= q.qmax)), q
        assert plan.computing <= set(plan.layers) == set(plan.precision)
        assert set(plan.precision.values()) <= {*target.precisions, "fp32"}


@pytest.mark.parametrize("name", NAMES)
def test_the_simulated_network_still_computes_it(path, name):
    """Every quantizer's default keeps both outputs above 10 dB on this net."""
    graph, plan = planned(path, get_target(name), Setting())
    result = simulate(graph, plan, SAMPLES)
    assert 10 < result.graphwise["y"].sqnr_db < 100
    assert 10 < result.graphwise["map"].sqnr_db < 100


@pytest.mark.parametrize("name", NAMES)
def test_a_run_repeats_to_the_bit(path, name):
    """Nothing about a plan is random, and threads do not show."""
    target = get_target(name)
    model = load_model(path, rewrite=target.rewrite)
    graph, placed = place(bind_shapes(model, {"x": (1, 3, 8, 8)}), target)
    one, two = (calibrate(graph, placed, target, SAMPLES, workers=k) for k in (1, 3))
    for a, b in zip(one.quantizers, two.quantizers, strict=True):
        assert np.array_equal(a.scale, b.scale)
        assert np.array_equal(a.zero_point, b.zero_point)


@pytest.mark.parametrize("name", NAMES)
def test_a_layer_can_be_left_in_float(path, name):
    """A dispatch table that names `point` leaves its weight and bias alone, and only there."""
    target = get_target(name)
    precision = next((p for p in ("fp32", "fp16") if p in target.precisions), None)
    if precision is None:
        pytest.skip(f"{name} leaves no layer in float")
    _, plan = planned(path, target, Setting(table={"point": precision}))
    active = {q.key for q in plan.quantizers if q.active}
    assert plan.precision.get("point", "fp32") in ("fp32", "fp16")
    assert not {("point", "in1"), ("point", "in2")} & active
    assert ("stem", "in1") in active


@pytest.mark.parametrize(("one", "two"), list(itertools.combinations(NAMES, 2)))
def test_no_two_targets_say_the_same(one, two):
    """Name and summary tell targets apart."""
    assert get_target(one).summary != get_target(two).summary


@pytest.mark.parametrize("name", NAMES)
def test_fidelity_was_measured(name):
    """Every target of ours says how near it is to its quantizer, and by which script."""
    found = fidelity_of(name)
    assert found is not None
    assert 0.9 <= found.placed <= 1
    assert found.script.startswith("tests/benchmarks/fidelity")
    assert found.peer.split()[0] in found.sentence()
