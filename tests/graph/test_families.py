# SPDX-License-Identifier: Apache-2.0
"""Sources of noise: every active quantizer in exactly one, and one grid for one value in one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from random_graphs import random_model

from analyzer.calibrate import calibrate
from analyzer.errors import TargetError
from analyzer.graph.families import sources_of
from analyzer.graph.view import GraphView
from analyzer.load import bind_shapes, load_model
from analyzer.place import place
from analyzer.records import Quantizer, QuantPlan, Setting, Source
from analyzer.targets import get_target

TARGETS = ["esp32p4", "onnxruntime", "openvino", "tensorrt", "tflite", "pytorch"]


def quantizer(node, slot, tensor, scale=1.0, **more):
    return Quantizer(
        node, slot, tensor, more.pop("role", "activation"), 8,
        scale=np.array([scale]), zero_point=np.array([0]), **more,
    )  # fmt: skip


def plan_of(*quantizers):
    layers = tuple(dict.fromkeys(q.node for q in quantizers))
    return QuantPlan("t", layers, frozenset(), dict.fromkeys(layers, "int8"), quantizers)


@pytest.fixture
def chain(bind):
    """Return a function: quantizers on Gemm -> Reshape -> Gemm -> their sources."""
    model = bind(
        """g (float[2,4] x) => (float[2,4] y) {
            [a] h = Gemm(x, w)  [flat] f = Reshape(h, shape)  [b] y = Gemm(f, w)
        }""",
        w=np.ones((4, 4), np.float32),
        shape=np.array([2, 4]),
    )
    view = GraphView(model.proto.graph)
    return lambda *quantizers: sources_of(view, plan_of(*quantizers))


def test_what_is_left_of_a_layer_is_one_source(chain):
    """Weights, and activations that no other layer holds."""
    weight, out = quantizer("a", "in1", "w", role="weight"), quantizer("a", "out0", "h")
    assert chain(weight, out, quantizer("b", "in1", "w", role="weight")) == (
        Source("a", "layer", ("a",), (("a", "in1"), ("a", "out0"))),
        Source("b", "layer", ("b",), (("b", "in1"),)),
    )


def test_inactive_quantizers_are_in_no_source(chain):
    """They make no noise."""
    assert chain(quantizer("a", "out0", "h", active=False)) == ()


def test_two_layers_on_one_tensor_share_a_source(chain):
    """Named after the tensor, and whatever their grids: the second rounds what is rounded."""
    found = chain(quantizer("a", "out0", "h"), quantizer("flat", "in0", "h", scale=3.0))
    assert found == (Source("h", "group", ("a", "flat"), (("a", "out0"), ("flat", "in0"))),)


def test_values_handed_on_with_one_grid_share_a_source(chain):
    """Behind a Reshape the same grid adds nothing."""
    (found,) = chain(quantizer("a", "out0", "h"), quantizer("flat", "out0", "f"))
    assert found.layers == ("a", "flat")


def test_values_handed_on_with_another_grid_are_another_source(chain):
    """Behind a Reshape another grid is noise of its own."""
    found = chain(quantizer("a", "out0", "h"), quantizer("flat", "out0", "f", scale=2.0))
    assert [source.layers for source in found] == [("a",), ("flat",)]


def test_a_grid_reaches_through_a_layer_without_quantizer(chain):
    """From the tensor before the Reshape to the reader behind it."""
    (found,) = chain(quantizer("a", "out0", "h"), quantizer("b", "in0", "f"))
    assert (found.name, found.layers) == ("h", ("a", "b"))


def test_members_of_a_group_share_a_source_named_like_it(chain):
    """On different tensors that no node hands on: they must have one scale."""
    one = quantizer("a", "in0", "x", group="g")
    two = quantizer("b", "out0", "y", group="g")
    assert chain(one, two) == (Source("g", "group", ("a", "b"), (("a", "in0"), ("b", "out0"))),)


def test_a_source_is_never_called_like_a_layer(bind):
    """A tensor may have the name of a node."""
    model = bind("g (float[4] x) => (float[4] y) { [a] a = Neg(x)  [b] y = Neg(a) }")
    plan = plan_of(quantizer("a", "out0", "a"), quantizer("b", "in0", "a"))
    (found,) = sources_of(GraphView(model.proto.graph), plan)
    assert found.name == "a (tensor)"


def placed(folder, seed, target_name, observer="minmax"):
    """Return graph and calibrated plan of a random network; None where nothing is quantized."""
    proto, samples = random_model(seed, more_ops=bool(seed % 2))
    path = folder / "net.onnx"
    path.write_bytes(proto.SerializeToString())
    target = get_target(target_name)
    model = load_model(path, rewrite=target.rewrite, fold_norms=target.folds_norms)
    shapes = {name: value.shape for name, value in samples[0].items()}
    bound = bind_shapes(model, shapes, sample=samples[0], fold_norms=target.folds_norms)
    try:
        graph, plan = place(bound, target, Setting(observer=observer))
    except TargetError:
        return None
    return graph, calibrate(graph, plan, target, samples)


RANDOM = settings(
    max_examples=12, deadline=None, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip


@pytest.mark.parametrize("target", TARGETS)
@RANDOM
@given(seed=st.integers(0, 10_000))
def test_sources_are_a_partition(tmp_path, target, seed):
    """Every active quantizer in exactly one source, names unique, order that of the plan."""
    found = placed(tmp_path, seed, target)
    if found is None:
        return
    graph, plan = found
    view = GraphView(graph.proto.graph)
    sources = sources_of(view, plan)
    active = [q.key for q in plan.quantizers if q.active]
    assert sorted(key for s in sources for key in s.quantizers) == sorted(active)
    assert len({s.name for s in sources}) == len(sources)
    for source in sources:
        assert source.layers == tuple(dict.fromkeys(node for node, _ in source.quantizers))
        assert (source.kind == "group") == (len(source.layers) > 1)
    # taking quantizers off changes nothing for what stays in one piece
    off = tuple(replace(q, active=q.active and q.role != "weight") for q in plan.quantizers)
    without = sources_of(view, replace(plan, quantizers=off))
    weights = {q.key for q in plan.quantizers if q.role == "weight"}
    left = [tuple(k for k in s.quantizers if k not in weights) for s in sources]
    assert sorted(filter(None, left)) == sorted(s.quantizers for s in without)


@pytest.mark.parametrize("target", TARGETS)
@RANDOM
@given(seed=st.integers(0, 10_000))
def test_one_grid_on_one_value_is_one_source(tmp_path, target, seed):
    """Two layers that round one tensor, or share a scale by the target's rules, are not two."""
    found = placed(tmp_path, seed, target)
    if found is None:
        return
    graph, plan = found
    view = GraphView(graph.proto.graph)
    sources = sources_of(view, plan)
    source_of = {key: s.name for s in sources for key in s.quantizers}
    moving = [q for q in plan.quantizers if q.active and not view.is_constant(q.tensor)]
    alike = {}
    for q in moving:
        for key in [("tensor", q.tensor), *([("group", q.group)] if q.group else [])]:
            alike.setdefault(key, []).append(q)
    for node in view.nodes.values():
        if node.op_type in ("Reshape", "Flatten", "Transpose", "MaxPool", "Concat"):
            for q in moving:
                before = list(node.input) if node.op_type == "Concat" else list(node.input[:1])
                if q.tensor in before or q.tensor in node.output:
                    grid = (float(q.scale[0]), int(q.zero_point[0]), q.qmin, q.qmax)
                    alike.setdefault((node.name, grid), []).append(q)
    for (what, _), members in alike.items():
        # the parts of a Concat may have one grid by chance, when nothing on its output has it
        by_chance = what in view.nodes and all(q.tensor in view.nodes[what].input for q in members)
        if len({q.node for q in members}) > 1 and not by_chance:
            assert len({source_of[q.key] for q in members}) == 1, [q.key for q in members]
