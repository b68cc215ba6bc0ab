# SPDX-License-Identifier: Apache-2.0
"""Cuts: every node once, in order, and no tensor lost at a border."""

from __future__ import annotations

import random

import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from analyzer.graph.segments import by_size, cut, depth_first_order, for_probes
from analyzer.graph.view import GraphView, reads
from analyzer.records import Model

BRANCHY = """g (float[1,4] x) => (float[1,4] a3, float[1,4] y) {
    [stem] h = Relu(x)
    [a1] a1 = Neg(h)
    [b1] b1 = Abs(h)
    [a2] a2 = Neg(a1)
    [b2] b2 = Abs(b1)
    [a3] a3 = Neg(a2)
    [b3] b3 = Abs(b2)
    [join] y = Add(b3, h)
}"""


def names(nodes):
    return [node.name for node in nodes]


def random_model(seed, size):
    """A model of `size` nodes of random wiring, some of whose tensors are outputs."""
    rng = random.Random(seed)
    tensors, lines = ["x"], []
    for k in range(size):
        left, right = rng.choice(tensors), rng.choice(tensors[-3:])
        lines.append(f"[n{k}] t{k} = Add({left}, {right})")
        tensors.append(f"t{k}")
    outputs = sorted({f"t{size - 1}", *(t for t in tensors[1:] if rng.random() < 0.2)})
    outs = ", ".join(f"float[1,{4}] {t}" for t in outputs)
    proto = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 13]> '
        f"g (float[1,4] x) => ({outs}) {{ {' '.join(lines)} }}"
    )
    shapes = {t: (1, rng.choice([1, 4, 1000])) for t in tensors}
    return Model(proto, None, "m", "", 13, (), (), {}, shapes=shapes), GraphView(proto.graph)


def check_cut(view, segments):
    """Check every promise a cut makes."""
    flat = [node for segment in segments for node in segment.nodes]
    assert sorted(names(flat)) == sorted(view.nodes)
    assert [segment.index for segment in segments] == list(range(len(segments)))
    known = {*view.inputs, *view.initializers}
    for node in flat:
        assert known.issuperset(reads(node))
        known.update(node.output)
    for segment in segments:
        made = {t for node in segment.nodes for t in node.output}
        needed = {t for node in segment.nodes for t in reads(node)}
        elsewhere = {
            t for other in segments if other is not segment for n in other.nodes for t in reads(n)
        }
        assert set(segment.live_in) == needed - made - set(view.initializers)
        assert set(segment.live_out) == made & (elsewhere | set(view.outputs))
        assert len(set(segment.live_in)) == len(segment.live_in)
        assert len(set(segment.live_out)) == len(segment.live_out)


def test_depth_first_stays_on_a_branch():
    """The file interleaves two branches; the order takes one to its end, then the other."""
    view = GraphView(onnx.parser.parse_graph(BRANCHY))
    assert names(depth_first_order(view)) == [
        "stem", "a1", "a2", "a3", "b1", "b2", "b3", "join"
    ]  # fmt: skip


def test_live_tensors_of_a_branchy_net():
    """A skip connection lives across segments, a graph output also when it is read inside."""
    view = GraphView(onnx.parser.parse_graph(BRANCHY))
    segments = cut(view, depth_first_order(view), [2, 4, 8])
    assert [(names(s.nodes), s.live_in, s.live_out) for s in segments] == [
        (["stem", "a1"], ("x",), ("h", "a1")),
        (["a2", "a3"], ("a1",), ("a3",)),
        (["b1", "b2", "b3", "join"], ("h",), ("y",)),
    ]


def test_captured_tensors_are_live():
    """What the body of an If reads must cross the border to its segment."""
    view = GraphView(
        onnx.parser.parse_graph(
            """g (float[2] x, bool c) => (float[2] y) {
                [first] h = Relu(x)
                [pick] y = If (c) <
                    then_branch = t () => (float[2] a) { a = Neg(h) },
                    else_branch = e () => (float[2] b) { b = Abs(h) }
                >
            }"""
        )
    )
    first, second = cut(view, depth_first_order(view), [1, 2])
    assert (first.live_out, second.live_in) == (("h",), ("c", "h"))


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 10**6), st.integers(1, 30), st.integers(0, 20000))
def test_cuts_by_size_lose_nothing(seed, size, allowance):
    """Random graphs: every node once, in order, borders complete, segments below the allowance."""
    model, view = random_model(seed, size)
    segments = by_size(model, view, max_bytes=allowance)
    check_cut(view, segments)
    for segment in segments:
        made = sum(4 * model.shapes[t][1] for node in segment.nodes for t in node.output)
        assert made <= allowance or len(segment.nodes) == 1


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 10**6), st.integers(1, 40), st.integers(1, 8), st.integers(1, 100))
def test_cuts_for_probes_lose_nothing(seed, size, count, samples):
    """Random graphs and units: every node once, in order, borders complete."""
    model, view = random_model(seed, size)
    rng = random.Random(seed)
    units = [rng.sample(list(view.nodes), min(size, rng.randint(1, 3))) for _ in range(count)]
    check_cut(view, for_probes(model, view, units, samples=samples))


@pytest.mark.parametrize("name", ["resnet8_cifar10", "espdet_pico_cat"])
def test_cuts_of_real_models_lose_nothing(shared, name):
    """Detector heads and skip connections, cut both ways."""
    model = shared(name)
    view = GraphView(model.proto.graph)
    check_cut(view, by_size(model, view, max_bytes=1 << 20))
    units = [[n] for n, node in view.nodes.items() if node.op_type == "Conv"]
    check_cut(view, for_probes(model, view, units, samples=2))
