# SPDX-License-Identifier: Apache-2.0
"""Placing: the target's own graph, a plan in execution order, and a refusal where nothing fits."""

from __future__ import annotations

import numpy as np
import pytest

from analyzer.errors import QAnalyzeError, TargetError
from analyzer.place import place, prepare
from analyzer.records import Edit, Setting
from analyzer.targets import get_target, target_names
from analyzer.targets.espdl import ESP32P4
from analyzer.targets.onnxruntime import ONNXRUNTIME

SILU = """g (float[1,8] x) => (float[1,8] y) {
    [first] h = Tanh(x)  [gate] s = Sigmoid(h)  [times] m = Mul(h, s)  [last] y = Relu(m)
}"""


@pytest.mark.parametrize("target", [ESP32P4, ONNXRUNTIME], ids=lambda t: t.name)
def test_quantizers_come_in_execution_order(bind, target):
    """By node, inputs before outputs; each slot once; without a scale."""
    graph, plan = place(bind(SILU), target)
    order = [node.name for node in graph.proto.graph.node]
    keys = [(order.index(q.node), q.slot) for q in plan.quantizers]
    assert keys == sorted(set(keys))
    assert all(q.scale is None for q in plan.quantizers)
    assert [name for name in order if name in plan.layers] == list(plan.layers)


def test_the_graph_is_the_one_that_the_target_quantizes(bind):
    """esp-ppq fuses the SiLU, onnxruntime takes the graph as it is."""
    model = bind(SILU)
    assert [n.name for n in place(model, ESP32P4)[0].proto.graph.node] == [
        "first", "first/Swish", "last"
    ]  # fmt: skip
    assert place(model, ONNXRUNTIME)[0] is model


def test_a_model_without_a_quantizable_layer_is_refused(bind):
    """The message names the target and the op types."""
    model = bind("g (float[1,8] x) => (float[1,8] y) { s = Sqrt(x)  y = Erf(s) }")
    with pytest.raises(TargetError, match=r"'esp32p4' quantizes no.*Erf, Sqrt"):
        place(model, ESP32P4)


def test_targets_are_found_by_name():
    """Both of ours are listed and loaded."""
    assert {"esp32p4", "onnxruntime"} <= set(target_names())
    assert get_target("esp32p4") is ESP32P4
    assert get_target("onnxruntime") is ONNXRUNTIME


def test_an_unknown_target_names_the_nearest():
    """A typo is answered with the name that was meant."""
    with pytest.raises(TargetError, match=r"no target 'esp32p5'. Did you mean 'esp32p4'\?"):
        get_target("esp32p5")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (Setting(observer="mnmax"), "no calibration 'mnmax'. Did you mean 'minmax'"),
        (Setting(precision="int9"), "no precision 'int9'. Did you mean 'int8'"),
        (Setting(granularity="row"), "no granularity 'row'"),
        (Setting(table={"last": "int9"}), "no precision 'int9'"),
        (Setting(table={"lst": "int8"}), "no layer 'lst'.* Did you mean 'last'"),
    ],
)
def test_what_a_target_does_not_offer_is_refused(bind, setting, message):
    """Above all names of layers: quantizers ignore unknown ones silently."""
    with pytest.raises(TargetError, match=message):
        place(bind(SILU), ESP32P4, setting)


def test_a_range_is_that_of_its_tensor_alone(bind):
    """Quantizers with an own scale on the tensor get it; those that follow, and others, do not."""
    model = bind(SILU)
    plain = place(model, ONNXRUNTIME)[1]
    ranged = place(model, ONNXRUNTIME, Setting(ranges={"h": (-0.5, 0.25)}))[1]
    for old, new in zip(plain.quantizers, ranged.quantizers, strict=True):
        if old.tensor == "h" and old.follows is None and old.role != "weight":
            assert new.fixed_range == (-0.5, 0.25)
        else:
            assert new == old
    assert sum(q.fixed_range == (-0.5, 0.25) for q in ranged.quantizers) >= 1


@pytest.mark.parametrize("target", [ESP32P4, ONNXRUNTIME], ids=lambda t: t.name)
def test_a_range_of_a_tensor_that_is_not_there(bind, target):
    """The nearest name is told."""
    model = bind(SILU.replace(" m ", " middle ").replace("(m)", "(middle)"))
    with pytest.raises(TargetError, match=r"no tensor 'midle'.* Did you mean 'middle'"):
        place(model, target, Setting(ranges={"midle": (-1.0, 1.0)}))


def test_a_range_inside_of_what_was_fused_is_refused(bind):
    """esp-ppq's graph has no output of the Sigmoid any more."""
    setting = Setting(ranges={"s": (0.0, 1.0)})
    with pytest.raises(TargetError, match="no tensor 's'"):
        place(bind(SILU), ESP32P4, setting)
    assert place(bind(SILU), ONNXRUNTIME, setting)[1].layers


CONVS = """g (float[1,2,4,4] x) => (float[1,2,4,4] y) {
    [first] h = Conv(x, w0)  [gate] s = Sigmoid(h)  [times] m = Mul(h, s)  [last] y = Conv(m, w1)
}"""


@pytest.fixture
def convs(bind):
    rng = np.random.default_rng(0)
    shape = (2, 2, 1, 1)
    return bind(CONVS, **{f"w{n}": rng.standard_normal(shape).astype("f4") for n in range(2)})


def names(model):
    return [node.name for node in model.proto.graph.node]


def test_edits_before_and_after_the_target_prepares_the_graph(convs, monkeypatch):
    """esp-ppq splits weights itself, in the graph it has fused; biases are corrected before."""
    seen = []
    real = type(ESP32P4).prepare

    def spied(self, model):
        seen.append(model)
        return real(self, model)

    monkeypatch.setattr(type(ESP32P4), "prepare", spied)
    split = Edit("weight_split", ("last",), "balance", 0.1)
    shift = Edit("bias_correction", ("first",), values={"first": (0.5, -0.5)})
    prepared = prepare(convs, ESP32P4, [split, shift])
    (before,) = seen
    assert names(before) == names(convs)  # not split yet
    assert before.proto.graph.node[0].input[2]  # but with a bias
    assert not convs.proto.graph.node[0].input[2:]
    assert len(names(prepared)) > len(names(real(ESP32P4, convs)))
    assert "first/Swish" in " ".join(names(prepared))


def test_a_target_that_does_not_split_gets_a_split_model(convs):
    """onnxruntime is given the model with both halves."""
    split = Edit("weight_split", ("last",), "balance", 0.1)
    prepared = prepare(convs, ONNXRUNTIME, [split])
    assert len(names(prepared)) == len(names(convs)) + 2  # the other half, and an Add


def test_without_edits_nothing_is_edited(convs):
    """The graph is what `prepare` of the target returns."""
    assert prepare(convs, ONNXRUNTIME) is convs
    assert prepare(convs, ESP32P4).proto == ESP32P4.prepare(convs).proto


def test_an_edited_layer_that_is_not_there(convs):
    """Refused by name, whoever does the edit."""
    for target in (ESP32P4, ONNXRUNTIME):
        with pytest.raises(QAnalyzeError, match="nope"):
            prepare(convs, target, [Edit("weight_split", ("nope",), "balance", 0.1)])
