# SPDX-License-Identifier: Apache-2.0
"""Weight splits: the same function, the names of esp-ppq, and which ones are worth trying."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from analyzer.calibrate import calibrate
from analyzer.errors import ModelError
from analyzer.fixes.situation import Situation
from analyzer.fixes.weight_split import split_weights, weight_split_remedies
from analyzer.graph.ends import EndRuns
from analyzer.graph.view import GraphView
from analyzer.place import place
from analyzer.records import Balance, Edit, Finding, LayerError, Setting, Source
from analyzer.targets import get_target

RNG = np.random.default_rng(3)
GRAPHS = {
    "Conv": (
        """(float[1,2,6,6] x) => (float[1,4,6,6] y) {
            [l] h = Conv<pads=[1,1,1,1]>(x, w, b) [r] y = Relu(h)
        }""", (4, 2, 3, 3), 4, 2592,
    ),
    "ConvTranspose": (
        """(float[1,2,4,4] x) => (float[1,4,8,8] y) {
            [l] y = ConvTranspose<strides=[2,2], kernel_shape=[2,2], group=2>(x, w, b)
        }""", (2, 2, 2, 2), 4, 256,
    ),
    "Gemm": (
        """(float[3,5] x) => (float[3,4] y) {
            [l] y = Gemm<alpha=0.5, beta=2.0, transB=1>(x, w, b)
        }""", (4, 5), 4, 60,
    ),
    "MatMul": ("(float[3,5] x) => (float[3,4] y) { [l] y = MatMul(x, w) }", (5, 4), 0, 60),
}  # fmt: skip


def split(*layers, threshold=0.5, method="balance"):
    return Edit("weight_split", layers, method, threshold)


@pytest.mark.parametrize("kind", GRAPHS)
def test_the_sum_of_both_parts_is_the_layer(bind, kind):
    """Outputs agree to float32 rounding; MACs and shapes are those of two layers and an Add."""
    text, shape, biases, macs = GRAPHS[kind]
    weights = {"w": RNG.standard_normal(shape).astype("f4")}
    if biases:
        weights["b"] = RNG.standard_normal(biases).astype("f4")
    model = bind(f"g {text}", **weights)
    made = split_weights(model, split("l"))
    sample = {"x": RNG.standard_normal(model.shapes["x"]).astype("f4")}
    before, after = EndRuns(model).outputs(sample)["y"], EndRuns(made).outputs(sample)["y"]
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-5)
    assert model.macs == {"l": macs}
    assert made.macs == {"l": macs, "l/split": macs}
    view = GraphView(made.proto.graph)
    add = view.nodes["l/sum"]
    inner = view.nodes["l"].output[0]
    assert list(add.input) == [inner, view.nodes["l/split"].output[0]]
    assert made.shapes[inner] == made.shapes[add.output[0]] == made.shapes[add.input[1]]
    assert made.source_nodes["l"] == model.source_nodes["l"]
    assert made.source_nodes["l/split"] == made.source_nodes["l/sum"] == ()


def test_weights_above_the_threshold_are_halved_and_the_first_part_keeps_the_bias(bind):
    """Those at the threshold stay whole: 0.5 is not above 0.5."""
    model = bind(
        "g (float[1,4] x) => (float[1,1] y) { [l] y = Gemm(x, w, b) }",
        w=np.float32([[0.5], [-0.75], [3.0], [-0.25]]), b=np.float32([1.5]),
    )  # fmt: skip
    view = GraphView(split_weights(model, split("l")).proto.graph)
    first, second = view.nodes["l"], view.nodes["l/split"]
    assert view.array(first.input[1]).ravel().tolist() == [0.5, -0.375, 1.5, -0.25]
    assert view.array(second.input[1]).ravel().tolist() == [0.0, -0.375, 1.5, 0.0]
    assert first.input[2] == "b"
    assert len(second.input) == 2


def test_old_gemms_get_a_bias_of_zero(bind):
    """Before opset 11 the third input has to be there."""
    model = bind(
        "g (float[1,2] x) => (float[1,2] y) { [l] y = Gemm(x, w, b) }",
        opset=9, w=np.eye(2, dtype="f4"), b=np.float32([1, 2]),
    )  # fmt: skip
    made = split_weights(model, split("l"))
    y = EndRuns(made).outputs({"x": np.float32([[3, 4]])})["y"]
    assert y.tolist() == [[4, 6]]


def test_another_reader_of_the_weight_keeps_it(bind):
    """Only the layer that is named gets other weights."""
    model = bind(
        "g (float[1,2] x) => (float[1,2] y) { [a] h = MatMul(x, w) [b] y = MatMul(h, w) }",
        w=np.float32([[2, 0], [0, 2]]),
    )
    view = GraphView(split_weights(model, split("a", threshold=1.0)).proto.graph)
    assert view.array(view.nodes["b"].input[1]).tolist() == [[2, 0], [0, 2]]
    assert view.array(view.nodes["a"].input[1]).tolist() == [[1, 0], [0, 1]]


def test_a_layer_without_large_weights_is_left_alone(bind):
    """As esp-ppq does; a note tells."""
    model = bind(
        "g (float[1,2] x) => (float[1,2] y) { [a] y = MatMul(x, w) }", w=np.eye(2, dtype="f4")
    )
    made = split_weights(model, split("a", threshold=1.0))
    assert made.proto == model.proto
    assert made.notes[-1] == "'a' was not split: its largest weight is 1, and the threshold 1."


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (split("conv"), r"no layer 'conv' to split. Did you mean 'conv1'\?"),
        (split("act"), "Relu 'act' cannot be split"),
        (split("inner"), "MatMul 'inner' cannot be split: it has no constant weight"),
        (split("conv1", method="random"), "no weight split 'random'"),
        (split("conv1", threshold=None), "threshold of a weight split is None"),
        (split("conv1", threshold=float("nan")), "threshold of a weight split is nan"),
    ],
)
def test_what_cannot_be_split_is_refused(bind, edit, message):
    """With the value, what was expected, and the nearest name."""
    model = bind(
        "g (float[2,2] x) => (float[2,2] y) "
        "{ [conv1] h = MatMul(x, w) [act] k = Relu(h) [inner] y = MatMul(k, h) }",
        w=np.eye(2, dtype="f4"),
    )
    with pytest.raises(ModelError, match=message):
        split_weights(model, edit)


def test_esp_ppq_numbers_what_it_makes(bind):
    """Splits first, in the order of the list, then zeros, those of split layers twice."""
    text = """g (float[1,2,4,4] x) => (float[1,2,16,16] y) {
        [t] h = ConvTranspose<strides=[2,2], kernel_shape=[2,2]>(x, w)
        [c] k = Conv(h, v)
        [u] y = ConvTranspose<strides=[2,2], kernel_shape=[2,2]>(k, w)
    }"""
    w, v = (RNG.standard_normal(s).astype("f4") for s in ((2, 2, 2, 2), (2, 2, 1, 1)))
    target = get_target("esp32p4")
    model = bind(text, w=w, v=v)
    plain = target.prepare(model)
    assert [n.name for n in plain.proto.graph.node if "PPQ" in n.name] == [
        "PPQ_Operation_0", "PPQ_Operation_1"
    ]  # fmt: skip
    made = target.edit(plain, split("c", "u", threshold=0.1))
    kinds = {
        n.name: made.op_types.get(n.name, n.op_type)
        for n in made.proto.graph.node
        if n.name.startswith("PPQ")
    }
    assert kinds == {
        "PPQ_Operation_0": "Conv",  # of c
        "PPQ_Operation_1": "Add",
        "PPQ_Operation_2": "Conv",  # of u
        "PPQ_Operation_3": "Add",
        "PPQ_Operation_4": "InsertZeros",  # of t
        "PPQ_Operation_5": "InsertZeros",  # of u
        "PPQ_Operation_6": "InsertZeros",  # of the part of u
    }
    view = GraphView(made.proto.graph)
    assert view.parents(view.nodes["t"]) == ["PPQ_Operation_4"]
    assert view.parents(view.nodes["u"]) == ["PPQ_Operation_5"]
    assert view.parents(view.nodes["PPQ_Operation_2"]) == ["PPQ_Operation_6"]
    sample = {"x": RNG.standard_normal((1, 2, 4, 4)).astype("f4")}
    before, after = EndRuns(model).outputs(sample)["y"], EndRuns(made).outputs(sample)["y"]
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-5)
    # one edit after the other makes the same graph
    twice = target.edit(target.edit(plain, split("c", threshold=0.1)), split("u", threshold=0.1))
    assert sorted(n.name for n in twice.proto.graph.node) == sorted(view.nodes)


def test_the_parts_run_in_the_precision_of_the_layer(bind):
    """esp-ppq hands the platform of the layer on to what it makes of it."""
    model = bind(
        "g (float[1,2,4,4] x) => (float[1,2,4,4] y) { [c] h = Conv(x, w) [d] y = Conv(h, w) }",
        w=RNG.standard_normal((2, 2, 1, 1)).astype("f4"),
    )
    setting = Setting(table={"c": "int16"}, edits=(split("c", "d", threshold=0.1),))
    _, plan = place(model, get_target("esp32s3"), setting)
    assert plan.precision == {
        "c": "int16", "PPQ_Operation_0": "int16", "PPQ_Operation_1": "int16",
        "d": "int8", "PPQ_Operation_2": "int8", "PPQ_Operation_3": "int8",
    }  # fmt: skip


@pytest.fixture
def situation(bind):
    """Return a function: weights of two layers, target -> a situation, all noise in weights."""

    def make(first, second, target, *, setting=Setting(), parts=None):  # noqa: B008
        model = bind(
            "g (float[1,64] x) => (float[1,64] y) { [a] h = Gemm(x, v) [b] y = Gemm(h, w) }",
            v=np.asarray(first, "f4"), w=np.asarray(second, "f4"),
        )  # fmt: skip
        found = get_target(target)
        graph, plan = place(model, found, setting)
        samples = [{"x": RNG.standard_normal((1, 64)).astype("f4")}]
        plan = calibrate(graph, plan, found, samples)
        parts = parts or {"weight": 1.0}
        rows = tuple(
            LayerError(name, "Gemm", computing=True, isolated_nsr=nsr, parts=parts)
            for name, nsr in (("a", 0.03), ("b", 0.01))
        )
        sources = tuple(Source(r.name, "layer", (r.name,), (), nsr=r.isolated_nsr) for r in rows)
        return Situation(
            model, graph, plan, found, setting, rows, Balance(sources), (), samples, {}
        )

    return make


def even():
    """Weights of about the same magnitude."""
    return RNG.uniform(0.6, 0.9, (64, 64)) * RNG.choice([-1, 1], (64, 64))


def spiked(value=1.9):
    """The same, but for one."""
    w = even()
    w[3, 5] = value
    return w


def test_the_threshold_is_the_reach_of_the_finer_power_of_two(situation):
    """1.9 needs steps of 2^-6; 127.5 steps of 2^-7 are 0.99609375.  Three quarters vanish.

    But for the one weight, whose halves are as coarse as it was.  Layer a has 3/4 of the noise.
    """
    (only,) = weight_split_remedies(situation(spiked(), even(), "esp32s3"))
    assert only.edit == Edit("weight_split", ("a",), "balance", 0.99609375)
    assert only.layers == ("a",)
    assert only.expected == pytest.approx(0.75 * 0.75, abs=0.02)


def test_other_grids_are_best_at_half_of_the_range(situation):
    """There the step follows the largest weight: halved, the error has a quarter of the power."""
    setting = Setting(granularity="tensor")
    found = situation(spiked(), even(), "onnxruntime", setting=setting)
    (only,) = weight_split_remedies(found)
    assert only.edit.threshold == pytest.approx(1.9 / 2, rel=1e-3)
    assert only.expected == pytest.approx(0.75 * 0.75, abs=0.03)


def test_two_layers_with_one_threshold_are_tried_as_well(situation):
    """esp-ppq's setting has one threshold for all layers; the pair is the most promising."""
    first, *others = weight_split_remedies(situation(spiked(), spiked(3.7), "esp32s3"))
    assert first.layers == ("a", "b")
    assert [r.layers for r in others] == [("a",), ("b",)]
    expected = [r.expected for r in (first, *others)]
    assert expected == sorted(expected, reverse=True)


def test_with_a_scale_per_channel_an_outlier_alone_is_no_reason(situation):
    """The other 63 channels have fine steps already."""
    assert weight_split_remedies(situation(spiked(), even(), "esp32p4")) == []


@pytest.mark.parametrize(
    "change",
    [{"parts": {"input": 1.0}}, {"setting": Setting(precision="int16")}],
    ids=["noise of the input", "16 bits"],
)
def test_layers_whose_weights_are_quiet_are_left_out(situation, change):
    """There is nothing to be gained."""
    assert not weight_split_remedies(situation(spiked(), even(), "esp32s3", **change))


def test_a_finding_about_the_weight_counts_where_the_row_was_not_taken_apart(situation):
    """Its gain is what went away with a finer grid; a finding about another tensor is none."""
    found = situation(spiked(), even(), "esp32s3", parts={"input": 0.5})
    mine = Finding("QA104", "a", {"tensor": "v"}, "", gain=0.4)
    (only,) = weight_split_remedies(replace(found, findings=(mine,)))
    assert only.expected == pytest.approx(0.4 * 0.75, abs=0.01)
    other = replace(mine, evidence={"tensor": "h"})
    assert not weight_split_remedies(replace(found, findings=(other,)))


def test_the_second_rounding_of_the_output_is_held_against_it(situation):
    """As much noise as the output makes comes on top."""
    plain = situation(spiked(), even(), "esp32s3")
    rows = tuple(replace(r, parts={"weight": 0.7, "output": 0.3}) for r in plain.rows)
    (only,) = weight_split_remedies(replace(plain, rows=rows))
    assert only.expected == pytest.approx(0.75 * (0.7 * 0.75 - 0.3), abs=0.02)
