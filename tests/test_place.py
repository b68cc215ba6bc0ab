# SPDX-License-Identifier: Apache-2.0
"""Placing: the target's own graph, a plan in execution order, and a refusal where nothing fits."""

from __future__ import annotations

import pytest

from analyzer.errors import TargetError
from analyzer.place import place
from analyzer.records import Setting
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
