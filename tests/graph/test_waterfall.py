# SPDX-License-Identifier: Apache-2.0
"""Steps along a graph: each is the full run of its part of the quantizers, the last one of all."""

from __future__ import annotations

import numpy as np
import pytest
from full_runs import FullRuns
from random_graphs import random_model

from analyzer.calibrate import calibrate
from analyzer.errors import TargetError
from analyzer.graph.segments import depth_first_order
from analyzer.graph.view import GraphView
from analyzer.graph.waterfall import waterfall
from analyzer.load import bind_shapes, load_model
from analyzer.place import place
from analyzer.records import Setting
from analyzer.targets.espdl import ESP32P4


def quantized(model, samples):
    graph, plan = place(model, ESP32P4, Setting(observer="minmax"))
    plan = calibrate(graph, plan, ESP32P4, samples)
    return graph, [q for q in plan.quantizers if q.active]


@pytest.fixture
def net(bind):
    """A Concat of two branches, two outputs; the side output reads only the graph input."""
    rng = np.random.default_rng(0)
    model = bind(
        """g (float[1,4,5,5] x) => (float[1,4,5,5] y, float[1,4,1,1] side) {
            [c0] a = Conv(x, w0)  [r0] b = Relu(a)
            [c1] c = Conv(b, w1)  [c2] d = Conv(b, w2)
            [cat] e = Concat<axis = 1>(c, d)
            [c3] f = Conv(e, w3)  [add] y = Add(f, a)
            [pool] p = GlobalAveragePool(x)  [c4] side = Conv(p, w0)
        }""",
        w0=conv(rng, 4, 4), w1=conv(rng, 2, 4), w2=conv(rng, 2, 4), w3=conv(rng, 4, 4),
    )  # fmt: skip
    samples = [{"x": rng.standard_normal((1, 4, 5, 5)).astype(np.float32)} for _ in range(2)]
    return *quantized(model, samples), samples


def conv(rng, *shape):
    return (rng.standard_normal((*shape, 1, 1)) / 2).astype(np.float32)


def expected_steps(graph, quantizers, samples, steps):
    """Full runs with the quantizers of the first so many quantized layers of the order."""
    nodes = depth_first_order(GraphView(graph.proto.graph))
    carrying = {q.node for q in quantizers}
    names = [node.name for node in nodes if node.name in carrying]
    runs = FullRuns(graph, samples)
    for found in steps:
        assert names[found.layers - 1] == found.layer
        inside = set(names[: found.layers])
        yield runs.nsr([q for q in quantizers if q.node in inside])


@pytest.mark.parametrize("most", [1, 2, 3, 100])
def test_a_step_is_the_full_run_of_the_layers_up_to_it(net, most):
    """However many cuts: the NSR of whole-model runs, and all is quantized behind the last."""
    graph, quantizers, samples = net
    steps = waterfall(graph, quantizers, samples, steps=most)
    assert len(steps) == min(most, 9)
    expected = expected_steps(graph, quantizers, samples, steps)
    for found, nsr in zip(steps, expected, strict=True):
        assert found.by_output == pytest.approx(nsr, rel=1e-5, abs=1e-12)
    everything = FullRuns(graph, samples).nsr(quantizers)
    assert steps[-1].by_output == pytest.approx(everything, rel=1e-5)


@pytest.mark.parametrize("seed", range(12))
def test_steps_of_random_networks_are_full_runs(tmp_path, seed):
    """Also with Split, Resize, unnamed nodes and whatever else the seed brings."""
    proto, samples = random_model(seed)
    path = tmp_path / "net.onnx"
    path.write_bytes(proto.SerializeToString())
    model = bind_shapes(load_model(path), {n: v.shape for n, v in samples[0].items()})
    try:
        graph, quantizers = quantized(model, samples)
    except TargetError:
        pytest.skip("nothing to quantize")
    steps = waterfall(graph, quantizers, samples[:1], steps=6)
    for found, nsr in zip(
        steps, expected_steps(graph, quantizers, samples[:1], steps), strict=True
    ):
        # a value that float32 leaves on either side of a tie moves by a whole step
        assert found.by_output == pytest.approx(nsr, rel=1e-3, abs=1e-9)


def test_what_no_quantized_layer_reaches_is_exactly_zero(net):
    """Noise of the main branch does not leak into the side output, nor back."""
    graph, quantizers, samples = net
    side = [q for q in quantizers if q.node in ("pool", "c4")]
    main = [q for q in quantizers if q.node not in ("pool", "c4")]
    assert {s.by_output["side"] for s in waterfall(graph, main, samples)} == {0.0}
    assert {s.by_output["y"] for s in waterfall(graph, side, samples)} == {0.0}


def test_two_workers_give_the_same_bits_as_one(net):
    """Whole records are equal, whatever thread was faster; all runs are told."""
    graph, quantizers, samples = net
    told = []
    one = waterfall(graph, quantizers, samples, workers=1, step=told.append)
    assert waterfall(graph, quantizers, samples, workers=2) == one
    assert sum(told) == len(one) * len(samples)


def test_nothing_to_step_over(net):
    """Without quantizers or samples there is no step."""
    graph, quantizers, samples = net
    assert waterfall(graph, [], samples) == ()
    assert waterfall(graph, quantizers, []) == ()
