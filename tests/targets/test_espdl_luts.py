# SPDX-License-Identifier: Apache-2.0
"""16-bit functions as tables: entries, rounding and place, by hand."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest
from onnx import numpy_helper

from analyzer.calibrate import calibrate
from analyzer.place import place
from analyzer.records import Setting
from analyzer.simulate import simulate
from analyzer.targets import get_target

SIGMOID = "g (float[1,6] x) => (float[1,6] y) { [s] y = Sigmoid(x) }"
X = np.array([[-4.0, -0.0004, 0.0, 0.0021, 1.0, 3.9]], np.float32)


def completed(model, target="esp32p4", x=X, **setting):
    target = get_target(target)
    graph, plan = place(model, target, Setting(**setting))
    plan = calibrate(graph, plan, target, [{"x": x}] * 2)
    return target.complete(graph, plan, [{"x": x}] * 2)


def run(graph):
    return ort.InferenceSession(graph.proto.SerializeToString()).run(None, {"x": X})[0]


@pytest.mark.parametrize("target", ["esp32p4", "esp32s3"])
def test_the_nearest_of_2049_entries(bind, target):
    """|x| up to 4 has the step 2^-12 (the range formula allows for 32767.5), y up to 1 2^-15."""
    graph, plan = completed(bind(SIGMOID), target, precision="int16")
    found = {q.slot: float(q.scale[0]) for q in plan.quantizers}
    assert found == {"in0": 2.0**-12, "out0": 2.0**-15}
    place_of = X.astype(np.float64) * 4096 / 32
    near = np.rint(place_of) if target == "esp32p4" else np.floor(place_of + 0.5)
    exact = 1 / (1 + np.exp(-near * 32 / 4096))
    assert np.abs(run(graph) - np.rint(exact * 32768) / 32768).max() <= 2.0**-15
    assert any("tables" in note for note in plan.notes)


def test_names_and_tensors_stay(bind):
    """The node keeps its name, its tensors and the type that is printed."""
    before, plan = completed(bind(SIGMOID), precision="int8")
    graph, wide = completed(bind(SIGMOID), precision="int16")
    (node,) = graph.proto.graph.node
    (plain,) = before.proto.graph.node
    assert (node.name, node.input[0], node.output[0]) == ("s", "x", "y")
    assert plain.op_type == "Sigmoid"
    assert graph.op_types["s"] == "Sigmoid"
    assert [q.key for q in wide.quantizers] == [q.key for q in plan.quantizers]


def test_the_reference_reads_the_table_too(bind):
    """What is left of the error is the rounding of input and output."""
    graph, plan = completed(bind(SIGMOID), precision="int16")
    found = simulate(graph, plan, [{"x": X}])
    assert found.graphwise["y"].nsr < 1e-8
    assert np.abs(run(graph) - 1 / (1 + np.exp(-X))).max() > 1e-4


@pytest.mark.parametrize("setting", [{"table": {"s": "int16"}}, {"precision": "int8"}])
def test_an_8_bit_model_has_no_tables(bind, setting):
    """There a 16-bit layer is simulated with the exact function."""
    graph, _ = completed(bind(SIGMOID), observer="minmax", **setting)
    assert graph.proto.graph.node[0].op_type == "Sigmoid"


def test_the_logarithm_of_a_negative_level_is_the_lowest(bind):
    """The first half of the table stands for negative values: NaN and -inf are -32768 steps."""
    model = bind("g (float[1,6] x) => (float[1,6] y) { [l] y = Log(x) }")
    graph, _ = completed(model, x=np.abs(X) + 0.5, precision="int16", table={"l": "int16"})
    table = next(
        numpy_helper.to_array(t) for t in graph.proto.graph.initializer if t.name.endswith("table")
    )
    assert table.shape == (2049,)
    assert set(table[:1025].tolist()) == {-32768.0}
    assert table[-1] > 0
