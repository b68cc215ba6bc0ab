# SPDX-License-Identifier: Apache-2.0
"""QA106 and QA116: an output that looks perfect while every class score in it is 0."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from analyzer.config import resolve
from analyzer.diagnose import diagnose
from analyzer.diagnose.outputs import joins_at_outputs, lost_outputs, shared_outputs
from analyzer.graph.view import GraphView
from analyzer.pipeline import run
from analyzer.records import OutputError

HEAD = """
    [box] pixels = Mul(b, size)   [sig] scores = Sigmoid(s)
    [join] both = Concat<axis=1>(pixels, scores)   [turn] out = Transpose<perm=[0,2,1]>(both)
"""
TEXT = f"g (float[1,4,8] b, float[1,3,8] s) => (float[1,8,7] out) {{ {HEAD} }}"


@pytest.fixture
def net(bind):
    return bind(TEXT, size=np.float32(640))


def sample():
    rng = np.random.default_rng(0)
    return {
        "b": rng.random((1, 4, 8), np.float32),
        "s": rng.standard_normal((1, 3, 8)).astype(np.float32),
    }


def test_a_join_is_found_through_what_only_rearranges(net):
    """The Concat is the output but for a Transpose."""
    assert joins_at_outputs(GraphView(net.proto.graph)) == {"join": "out"}


def test_parts_of_very_different_ranges(net, case_of, quantizer):
    """Boxes up to 640, scores up to 1: with steps of 5 every score is 0, an NSR of 1."""
    quantizers = [quantizer("join", "out0", "both", 5), quantizer("turn", "out0", "out", 5)]
    given = sample()
    (found,) = shared_outputs(case_of(net, quantizers, [given]))
    assert (found.code, found.layer) == ("QA106", "join")
    boxes = 640 * given["b"].max()
    scores = 1 / (1 + np.exp(-given["s"].max()))
    assert found.evidence == {
        "output": "out",
        "step": 5.0,
        "small_part": "scores",
        "small_range": pytest.approx(scores, rel=1e-6),
        "large_part": "pixels",
        "large_range": pytest.approx(boxes, rel=1e-6),
        "ratio": pytest.approx(boxes / scores, rel=1e-6),
        "nsr_of_small_part": 1.0,
    }
    assert found.changes["join", "out0"] is None
    assert found.changes["turn", "out0"] is None
    own = {slot: found.changes["join", slot] for slot in ("in0", "in1")}
    steps = {slot: q.scale.item() for slot, q in own.items()}
    assert steps == pytest.approx({"in0": boxes / 127, "in1": scores / 127}, rel=1e-5)


def test_parts_that_are_alike_share_well(net, case_of, quantizer):
    """Boxes of up to 1 beside scores of up to 1 lose nothing by it."""
    given = sample()
    alike = {**given, "b": given["b"] / 640}
    q = quantizer("join", "out0", "both", 1 / 127)
    assert not list(shared_outputs(case_of(net, [q], [alike])))


def test_an_output_that_is_lost_as_a_whole(bind, case_of, quantizer):
    """Without a join it is the layer that makes it, and its quantizer is taken out."""
    net = bind("g (float[1,4] x) => (float[1,4] y) { [a] y = Tanh(x) }")
    case = case_of(net, [quantizer("a", "out0", "y", 10)], [{"x": np.ones((1, 4), np.float32)}])
    case = replace(case, outputs=[OutputError("y", 1.0, 0.0, 0.0, 1.0, lost=True)])
    (found,) = lost_outputs(case)
    assert (found.layer, found.changes) == ("a", {("a", "out0"): None})
    (finding,) = (f for f in diagnose(case) if f.code == "QA116")
    assert finding.gain == pytest.approx(1.0)


@pytest.mark.parametrize("target", ["onnxruntime", "esp32p4"])
def test_a_perfect_output_whose_scores_are_all_zero(tmp_path, target):
    """End to end: cosine 0.999 or more, every score 0, and both findings say so."""
    proto = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["": 13]>
        g (float[1,7,8] x) => (float[1,8,7] out) {
            [feat] f = MatMul(x, w)  [act] h = Relu(f)  [cut] b, s = Split<axis=1>(h, parts)
            [box] pixels = Mul(b, size)  [low] t = Sub(s, far)  [sig] scores = Sigmoid(t)
            [join] both = Concat<axis=1>(pixels, scores)
            [turn] out = Transpose<perm=[0,2,1]>(both)
        }"""
    )
    constants = {
        "w": np.eye(8, dtype=np.float32),
        "parts": np.array([4, 3]),
        "size": np.float32(640),
        "far": np.float32(3),
    }
    proto.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()
    )
    path, data = tmp_path / "head.onnx", tmp_path / "x.npy"
    path.write_bytes(proto.SerializeToString())
    np.save(data, np.random.default_rng(0).random((6, 7, 8), np.float32))
    config = {"calib": str(data), "target": target, "calibration": "minmax"}
    analysis = run(path, resolve({**config, "propose": False}))
    (whole,) = (o for o in analysis.outputs if o.slice_of is None)
    (lost,) = (o for o in analysis.outputs if o.lost)
    assert whole.cosine > 0.999
    assert lost.slice_of == "out"
    about = {f.code: f for f in analysis.findings}
    assert about["QA116"].layer == about["QA106"].layer == "join"
    assert about["QA116"].evidence["slice"] == lost.name
    assert about["QA116"].evidence["low"] > 0
