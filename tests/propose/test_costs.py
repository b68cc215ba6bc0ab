# SPDX-License-Identifier: Apache-2.0
"""Costs of plans, by hand: shares of multiply-accumulates and elements, bytes, nodes, times."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from analyzer.errors import ConfigError
from analyzer.graph.slices import with_slices
from analyzer.place import place
from analyzer.propose.costs import BYTE, cost_of, read_latency
from analyzer.records import Cost, Edit, Setting
from analyzer.targets import get_target, target_names
from analyzer.targets.espdl import ESP32P4
from analyzer.targets.onnxruntime import ONNXRUNTIME

# a: 16 channels of 8x8, 3x3x8 each: 73728; b: 1x1x16 to 8 channels: 8192; d: depthwise 3x3: 4608
MACS = {"a": 73728, "b": 8192, "d": 4608}
ELEMENTS = {"a": 1024, "r": 1024, "b": 512, "d": 512, "s": 512}
TOTAL, WRITTEN = sum(MACS.values()), sum(ELEMENTS.values())


@pytest.fixture
def net(bind):
    rng = np.random.default_rng(0)
    return bind(
        """g (float[1,8,8,8] x) => (float[1,8,8,8] y) {
            [a] h = Conv<pads=[1,1,1,1]>(x, wa, ba)  [r] k = Relu(h)  [b] l = Conv(k, wb)
            [d] m = Conv<pads=[1,1,1,1], group=8>(l, wd)  [s] y = Add(l, m)
        }""",
        wa=rng.standard_normal((16, 8, 3, 3)).astype(np.float32),
        ba=np.ones(16, np.float32),
        wb=rng.standard_normal((8, 16, 1, 1)).astype(np.float32),
        wd=rng.standard_normal((8, 1, 3, 3)).astype(np.float32),
    )


def compared(model, target, **table):
    before = place(model, target)
    return cost_of(before, place(model, target, Setting(table=table)), target)


def test_nothing_costs_nothing(net):
    """A plan held against itself, for every target."""
    for name in target_names():
        target = get_target(name)
        plan = place(net, target)
        assert cost_of(plan, plan, target) == Cost()


def test_a_layer_at_int16_counts_by_its_multiply_accumulates(net):
    """Its share of MACs, weights twice as long, a bias of 40 bits in 64; esp-ppq takes the Relu
    behind it along.
    """
    cost = compared(net, ESP32P4, a="int16")
    assert cost.macs == pytest.approx(73728 / TOTAL)
    assert cost.elements == pytest.approx(2 * 1024 / WRITTEN)
    # int8 weights of 1152, 128 and 72 and a bias of 16 32-bit integers
    assert cost.weight_bytes == pytest.approx((1152 + 16 * 4) / (1152 + 128 + 72 + 16 * 4))
    assert cost.nodes == 0
    assert cost.milliseconds is None
    plain = TOTAL + BYTE * WRITTEN
    assert cost.time == pytest.approx((plain + 73728 + BYTE * 2 * 1024) / plain)


def test_eight_bit_weights_are_moved_and_keep_their_bytes(net):
    """w8a16 is wider, whatever its weights are; only the bias gets longer."""
    cost = compared(net, ESP32P4, a="w8a16")
    assert cost.macs == pytest.approx(73728 / TOTAL)
    assert cost.weight_bytes == pytest.approx(64 / (1152 + 128 + 72 + 64))


@pytest.mark.parametrize(
    ("name", "precision", "grown"),
    [
        # weights are four times as long in float; all of them: 1352, and 16 floats of a bias
        ("esp32p4", "fp32", 3 * 1152 / 1416),
        ("onnxruntime", "fp32", 3 * 1152 / 1416),
        ("onnxruntime", "s16s8", 0),
        ("qnn", "a16w8", 0),
        # the depthwise layer is left in float from the start
        ("tensorrt", "fp16", 3 * 1152 / (1416 + 3 * 72)),
        ("pytorch", "fp32", 3 * 1152 / 1416),
        ("openvino", "fp32", 3 * 1152 / 1416),
        ("tflite", "int16x8", 64 / 1416),  # biases have 64 bits there
        ("litert", "fp32", 3 * 1152 / 1416),
    ],
)
def test_wider_and_float_layers_are_found_for_every_target(net, name, precision, grown):
    """However a target tells it: a label, a missing layer, weights without a quantizer."""
    cost = compared(net, get_target(name), a=precision)
    assert cost.macs == pytest.approx(73728 / TOTAL)
    assert cost.weight_bytes == pytest.approx(grown)
    assert cost.time > 1.05


def test_float_neighbours_of_float_layers_stay_what_they_are(net):
    """An int8 layer that reads what a float layer wrote is not moved by that."""
    cost = compared(net, ONNXRUNTIME, a="fp32", r="fp32")
    assert cost.macs == pytest.approx(73728 / TOTAL)


def test_narrower_layers_are_not_moved(net):
    """Held against a plan in 16 bits, the one in 8 costs less than nothing."""
    wide, narrow = place(net, ESP32P4, Setting(precision="int16")), place(net, ESP32P4)
    cost = cost_of(wide, narrow, ESP32P4)
    assert (cost.macs, cost.elements) == (0, 0)
    assert cost.weight_bytes < 0
    assert cost.time < 1


def test_what_an_edit_adds_counts_as_moved(net):
    """A split weight: as many multiply-accumulates and elements again, and a sum of both."""
    before = place(net, ESP32P4)
    edit = Edit("weight_split", ("a",), method="balance", threshold=0.5)
    cost = cost_of(before, place(net, ESP32P4, Setting(edits=(edit,))), ESP32P4)
    assert cost.macs == pytest.approx(73728 / TOTAL)
    assert cost.elements == pytest.approx(2 * 1024 / WRITTEN)
    assert cost.nodes == 2
    assert cost.time > 1.4


def test_slices_of_outputs_are_no_nodes(net):
    """Nodes that only cut out what is looked at cost nothing, on either side."""
    sample = {"x": np.ones((1, 8, 8, 8), np.float32)}
    graph, plan = place(net, ESP32P4)
    sliced = with_slices(graph, {"half": "y[:, :4]"}, sample)
    assert len(sliced.proto.graph.node) > len(graph.proto.graph.node)
    assert cost_of((sliced, plan), (graph, plan), ESP32P4) == Cost()
    assert cost_of((graph, plan), (sliced, plan), ESP32P4) == Cost()


def test_a_model_without_multiplications_has_costs_too(bind):
    """No MACs: shares are 0, and time is that of what is written."""
    model = bind("g (float[1,8] x) => (float[1,8] y) { [r] h = Relu(x) [s] y = Sigmoid(h) }")
    cost = compared(model, ESP32P4, s="int16")
    assert (cost.macs, cost.weight_bytes) == (0, 0)
    assert cost.elements == pytest.approx(0.5)
    assert cost.time == pytest.approx(1.5)


def test_every_precision_of_every_target_has_a_factor():
    """The default one's is 1."""
    for target in map(get_target, target_names()):
        assert set(target.cost_factors) == set(target.precisions)
        assert target.cost_factors[target.precisions[0]] == 1
        assert all(factor > 0 for factor in target.cost_factors.values())


def test_a_precision_without_a_factor_takes_its_bytes(net):
    """A plug-in that says nothing: 16 bits take twice as long as 8."""
    told = replace(ESP32P4, cost_factors={})
    assert compared(net, told, a="int16") == compared(net, ESP32P4, a="int16")


TABLE = """layer,precision,milliseconds
a,int8,10
a,int16,25
b,int8,4
d,int8,3
r,int8,1
s,int8,2
"""


@pytest.fixture
def table(tmp_path):
    def make(text):
        path = tmp_path / "times.csv"
        path.write_text(text, encoding="utf-8")
        return path

    return make


def known(model):
    return place(model, ESP32P4)[1].precision


def test_times_come_from_the_table(net, table):
    """The whole run, layer by layer, and its ratio to the run before."""
    latency = read_latency(table(TABLE), known(net))
    before = place(net, ESP32P4)
    after = place(net, ESP32P4, Setting(table={"a": "int16"}))
    cost = cost_of(before, after, ESP32P4, latency)
    # the Relu behind a goes along, and was not measured at int16
    assert cost.milliseconds == pytest.approx(25 + 4 + 3 + 2 * 1 + 2)
    assert cost.time == pytest.approx(36 / 20)
    assert cost_of(before, before, ESP32P4, latency).milliseconds == pytest.approx(20)


def test_a_missing_pair_takes_the_usual_one_times_the_factor(net, table):
    """b at int16 was not measured: twice its 4 ms."""
    latency = read_latency(table(TABLE), known(net))
    after = place(net, ESP32P4, Setting(table={"b": "int16"}))
    cost = cost_of(place(net, ESP32P4), after, ESP32P4, latency)
    assert cost.milliseconds == pytest.approx(10 + 2 * 4 + 3 + 1 + 2)


def test_a_layer_without_a_row_runs_at_the_rate_of_the_others(net, table):
    """With one row, all others are estimated from it."""
    latency = read_latency(table("layer,precision,milliseconds\na,int8,10\n"), known(net))
    before = place(net, ESP32P4)
    rate = 10 / (73728 + BYTE * 1024)
    cost = cost_of(before, before, ESP32P4, latency)
    assert cost.milliseconds == pytest.approx(rate * (TOTAL + BYTE * WRITTEN))


def test_a_layer_that_grew_takes_longer_by_as_much(net, table):
    """The two halves of a split weight: the first by its row, the others by the rate."""
    latency = read_latency(table(TABLE), known(net))
    before = place(net, ESP32P4)
    edit = Edit("weight_split", ("a",), method="balance", threshold=0.5)
    after = place(net, ESP32P4, Setting(edits=(edit,)))
    rate = 20 / (TOTAL + BYTE * WRITTEN)
    cost = cost_of(before, after, ESP32P4, latency)
    assert cost.milliseconds == pytest.approx(20 + rate * (73728 + BYTE * 2 * 1024))


def test_a_table_may_come_out_of_a_spreadsheet(net, table):
    """A byte order mark, other columns in between, empty lines, spaces."""
    text = "\ufeffLayer,op,Precision, milliseconds\r\na,Conv,int8, 1.5\r\n\r\n,,,\r\nb,,int8,2\r\n"
    found = read_latency(table(text), known(net), ("int8", "int16"))
    assert found == {("a", "int8"): 1.5, ("b", "int8"): 2.0}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("layer,ms\na,1\n", "times.csv has no column 'precision'"),
        ("", "times.csv has no column 'layer'"),
        ("layer,precision,milliseconds\n", "times.csv holds no measurement"),
        (f"{TABLE}aa,int8,1\n", "line 8: there is no layer 'aa'. Did you mean 'a'?"),
        (f"{TABLE}b,int61,1\n", "there is no precision 'int61'. Did you mean 'int16'?"),
        (f"{TABLE}a,int8,1\n", "layer 'a' at 'int8' was given before"),
        (f"{TABLE}b,int16,fast\n", "'fast' is no time in milliseconds"),
        (f"{TABLE}b,int16,-1\n", "'-1' is no time in milliseconds"),
        (f"{TABLE}b,int16,nan\n", "'nan' is no time in milliseconds"),
        (f"{TABLE}b,int16\n", "'' is no time in milliseconds"),
    ],
)
def test_a_wrong_table_is_refused_in_one_sentence(net, table, text, message):
    """With the line, the value and what was expected."""
    with pytest.raises(ConfigError) as caught:
        read_latency(table(text), known(net), ESP32P4.precisions)
    assert message in str(caught.value)


def test_a_table_that_is_not_there_is_refused(tmp_path):
    """So is one that is no text."""
    with pytest.raises(ConfigError, match="cannot be read"):
        read_latency(tmp_path / "none.csv", {"a": "int8"})
    (tmp_path / "bytes.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_latency(tmp_path / "bytes.csv", {"a": "int8"})
