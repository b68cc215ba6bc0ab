# SPDX-License-Identifier: Apache-2.0
"""The simulation against a double run node by node, with numpy's fake-quantization."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from analyzer import simulate as stage
from analyzer.calibrate import calibrate
from analyzer.place import place
from analyzer.records import Setting
from analyzer.simulate import simulate, simulate_all
from analyzer.targets.espdl import ESP32P4
from analyzer.targets.onnxruntime import ONNXRUNTIME


def conv(rng, *shape):
    return (rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)


@pytest.fixture
def net(bind):
    """Skip connection, Split, Concat, a Softmax head and an output that is read inside."""
    rng = np.random.default_rng(0)
    return bind(
        """g (float[1,3,6,6] x) => (float[1,4,6,6] s, float[1,5] y) {
            [c0] h0 = Conv(x, w0, b0)  [r0] a0 = Relu(h0)
            [c1] h1 = Conv<pads = [1,1,1,1]>(a0, w1)
            [add] s = Add(h1, a0)
            [split] p, q = Split<axis = 1>(s, halves)
            [cat] k = Concat<axis = 1>(q, p, a0)
            [pool] m = MaxPool<kernel_shape = [2,2], strides = [2,2]>(k)
            [flat] f = Flatten(m)
            [fc] g0 = Gemm<transB = 1>(f, w2, b2)
            [soft] y = Softmax<axis = 1>(g0)
        }""",
        halves=np.array([1, 3]), w0=conv(rng, 4, 3, 1, 1), b0=conv(rng, 4),
        w1=conv(rng, 4, 4, 3, 3), w2=conv(rng, 5, 72), b2=conv(rng, 5),
    )  # fmt: skip


def samples_of(count, seed=0):
    rng = np.random.default_rng(seed)
    return [{"x": rng.standard_normal((1, 3, 6, 6)).astype(np.float32)} for _ in range(count)]


def calibrated(model, target):
    graph, plan = place(model, target, Setting(observer="minmax"))
    return graph, calibrate(graph, plan, target, samples_of(3))


def grid(x, q):
    """Fake-quantize by the definition, in float32, written for this test."""
    shape = [1] * x.ndim
    if q.axis is not None:
        shape[q.axis] = -1
    scale = q.scale.astype(np.float32).reshape(shape if q.scale.size > 1 else ())
    zero = q.zero_point.reshape(shape if q.scale.size > 1 else ())
    steps = np.rint((x / scale).astype(np.float64)) + zero
    return ((np.clip(steps, q.qmin, q.qmax) - zero) * scale).astype(np.float32)


def by_node(model, quantizers, feeds):
    """Run node by node with onnx's reference implementation."""
    slots = {(q.node, q.slot): q for q in quantizers if q.active}
    values = {t.name: onnx.numpy_helper.to_array(t) for t in model.proto.graph.initializer}
    values.update(feeds)
    for node in model.proto.graph.node:
        inputs = {}
        for index, tensor in enumerate(node.input):
            q = slots.get((node.name, f"in{index}"))
            inputs[f"i{index}"] = grid(values[tensor], q) if q else values[tensor]
        for tensor, made in zip(node.output, one_node(model, node, inputs), strict=True):
            q = slots.get((node.name, f"out{list(node.output).index(tensor)}"))
            values[tensor] = grid(made, q) if q else made
    return values


def one_node(model, node, inputs):
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    copy.input[:] = list(inputs)
    kind, number = onnx.helper.make_tensor_value_info, onnx.helper.np_dtype_to_tensor_dtype
    graph = onnx.helper.make_graph(
        [copy], "one",
        [kind(n, number(a.dtype), a.shape) for n, a in inputs.items()],
        [kind(t, 1, None) for t in node.output],
    )  # fmt: skip
    proto = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)])
    return ReferenceEvaluator(proto).run(None, inputs)


def measures(noisy, plain):
    """NSR, cosine and largest error of one sample, by numpy."""
    noisy, plain = noisy.astype(np.float64), plain.astype(np.float64)
    noise = noisy - plain
    return (
        (noise**2).sum() / (plain**2).sum(),
        (noisy * plain).sum() / math.sqrt((noisy**2).sum() * (plain**2).sum()),
        np.abs(noise).max(),
    )


@pytest.mark.parametrize("allowance", [1 << 26, 600, 0], ids=["whole", "parts", "every node"])
@pytest.mark.parametrize("target", [ESP32P4, ONNXRUNTIME], ids=lambda t: t.name)
def test_graphwise_errors_equal_a_double_run(net, monkeypatch, target, allowance):
    """NSR, cosine and largest error of every layer and output, means over samples."""
    monkeypatch.setattr(stage, "SEGMENT_BYTES", allowance)
    graph, plan = calibrated(net, target)
    samples = samples_of(3, seed=5)
    result = simulate(graph, plan, samples)
    expected = {}
    for feeds in samples:
        plain = by_node(graph, (), feeds)
        noisy = by_node(graph, plan.quantizers, feeds)
        for tensor in [*result.layer_tensor.values(), *graph.proto.graph.output]:
            name = tensor if isinstance(tensor, str) else tensor.name
            expected.setdefault(name, {})[id(feeds)] = measures(noisy[name], plain[name])
    assert set(result.graphwise) == set(expected)
    for name, rows in expected.items():
        nsr, cosine, _ = np.mean(list(rows.values()), axis=0)
        top = max(row[2] for row in rows.values())
        sums = result.graphwise[name]
        assert sums.count == 3
        assert sums.nsr == pytest.approx(nsr, rel=1e-4), name
        assert sums.cosine == pytest.approx(cosine, abs=1e-5), name
        assert sums.max_abs == pytest.approx(top, rel=1e-4), name
        assert sums.sqnr_db == pytest.approx(-10 * math.log10(nsr), abs=1e-3), name


def test_local_errors_are_those_of_a_layer_alone(net):
    """Every layer quantized with its own slots only, its inputs those of the FP32 run."""
    graph, plan = calibrated(net, ESP32P4)
    samples = samples_of(2, seed=6)
    result = simulate(graph, plan, samples)
    nodes = {node.name: node for node in graph.proto.graph.node}
    carrying = {q.node for q in plan.quantizers if q.active}
    assert set(result.local) == {name for name in plan.layers if name in carrying}
    for name in result.local:
        own = [q for q in plan.quantizers if q.node == name]
        rows = []
        for feeds in samples:
            plain = by_node(graph, (), feeds)
            slots = {q.slot: q for q in own if q.active}
            inputs = {
                f"i{k}": grid(plain[t], slots[f"in{k}"]) if f"in{k}" in slots else plain[t]
                for k, t in enumerate(nodes[name].input)
            }
            made = one_node(graph, nodes[name], inputs)[0]
            made = grid(made, slots["out0"]) if "out0" in slots else made
            rows.append(measures(made, plain[nodes[name].output[0]])[0])
        assert result.local[name].nsr == pytest.approx(np.mean(rows), rel=1e-4, abs=1e-14), name


def test_layers_are_found_by_their_first_output(net):
    """A Split is measured at its first part."""
    graph, plan = calibrated(net, ESP32P4)
    tensors = simulate(graph, plan, samples_of(1)).layer_tensor
    assert tensors["split"] == "p"
    assert list(tensors) == list(plan.layers)


@pytest.mark.parametrize("target", [ESP32P4, ONNXRUNTIME], ids=lambda t: t.name)
def test_two_workers_give_the_same_bits_as_one(net, target):
    """Whole records are equal, whatever thread was faster."""
    graph, plan = calibrated(net, target)
    samples = samples_of(9, seed=7)
    one, two = (simulate(graph, plan, samples, workers=k) for k in (1, 2))
    assert repr(two) == repr(one)  # every digit; NaN (a cosine that is not measured) equals NaN


def test_progress_counts_the_samples(net):
    """Every sample is told once."""
    graph, plan = calibrated(net, ESP32P4)
    told = []
    simulate(graph, plan, samples_of(4), workers=2, step=told.append)
    assert told == [1, 1, 1, 1]


def test_without_quantizers_nothing_is_lost(net):
    """A plan of no active quantizer has no error anywhere."""
    graph, plan = place(net, ESP32P4)
    result = simulate(graph, replace(plan, quantizers=()), samples_of(2))
    assert {sums.nsr for sums in result.graphwise.values()} == {0.0}
    assert result.local == {}


@pytest.mark.parametrize("allowance", [1 << 26, 600, 0], ids=["whole", "parts", "every node"])
def test_outputs_are_shown_as_they_are_made(net, monkeypatch, allowance):
    """Every sample in order: FP32 outputs, those of every plan; one is read inside."""
    monkeypatch.setattr(stage, "SEGMENT_BYTES", allowance)
    graph, plan = calibrated(net, ESP32P4)
    plans, samples, shown = [replace(plan, quantizers=()), plan], samples_of(3, seed=8), []

    def watch(*seen):
        shown.append(seen)

    simulate_all(graph, plans, samples, workers=2, watch=watch)
    assert [index for index, _, _ in shown] == [0, 1, 2]
    for index, plain, noisy in shown:
        assert len(noisy) == 2
        for found, quantizers in ((plain, ()), (noisy[0], ()), (noisy[1], plan.quantizers)):
            expected = by_node(graph, quantizers, samples[index])
            assert list(found) == ["s", "y"]
            for name, values in found.items():
                np.testing.assert_allclose(values, expected[name], rtol=1e-4, atol=1e-6)


def test_errors_of_every_sample_are_kept_for_outputs(net):
    """Their mean is the accumulated error; inner tensors keep their sums only."""
    graph, plan = calibrated(net, ESP32P4)
    samples = samples_of(3, seed=9)
    result = simulate(graph, plan, samples)
    assert set(result.output_by_sample) == {"s", "y"}
    for name, rows in result.output_by_sample.items():
        alone = [simulate(graph, plan, [sample]).graphwise[name].nsr for sample in samples]
        assert rows == alone
        assert result.graphwise[name].nsr == pytest.approx(np.mean(rows), rel=1e-12)
