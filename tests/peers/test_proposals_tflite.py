# SPDX-License-Identifier: Apache-2.0
"""Exported recipes given to ai-edge-quantizer itself: its models have the simulated noise.

There is no TensorFlow here: the debugger's script is not run.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from exported import SHARED, deviations, exported, real_inputs, without_softmax  # noqa: E402
from tflite_cases import Case, write  # noqa: E402
from tflite_nets import NETS  # noqa: E402

from analyzer.records import Setting  # noqa: E402

LOGITS = "model/dense/BiasAdd:0"
CLOSE = 0.1  # share of the noise
# net -> settings; a range, a graph output in float, wide and float operators beside int8 ones
SMALL = {
    "silu": [Setting(table={"Sigmoid1": "fp32"}), Setting(ranges={"y": (-1.0, 2.0)})],
    "depthwise": [Setting(table={"Conv2": "fp32"}), Setting(table={"Conv0": "int16x8"})],
    "concat_of_pools": [Setting(table={"MaxPool1": "fp32"}, observer="minmax")],
    "slices": [Setting(precision="fp32", table={"Slice1": "int8"}), Setting(granularity="tensor")],
}
REAL = [
    Setting(
        observer="minmax", table={"model/conv2d_3/BiasAdd": "fp32", "model/dense/MatMul": "fp32"}
    ),
    Setting(observer="minmax", table={"model/conv2d_8/BiasAdd": "int16x8"}),
    Setting(precision="int16x8"),
]

pytestmark = [pytest.mark.peer, pytest.mark.filterwarnings("ignore")]


def ask(judge, folder, cases):
    """Let the tool follow plans: name -> (model, data, setting); return the answers by name."""
    orders = {}
    for name, (path, data, setting) in cases.items():
        order, _ = exported(folder, "tflite", path, data, "litert", setting)
        (folder / "tflite").rename(folder / f"{name}.exported")
        (folder / f"{name}.inputs.npz").write_bytes(Path(data).read_bytes())
        write(folder, Case(name, order.source, []))
        orders[name] = order
    (folder / "cases.json").write_text(json.dumps(list(orders)), encoding="utf-8")
    answers = judge("ai-edge-quantizer", "litert_exported", folder)
    return {name: (order, answers[name]) for name, order in orders.items()}


def test_a_real_model(judge, tmp_path):
    """The noise is within a tenth of what was simulated, and below that of the default."""
    data = real_inputs("resnet8_cifar10", tmp_path / "inputs.npz", 32)
    source = SHARED / "models" / "resnet8_cifar10" / "model.onnx"
    path = without_softmax(source, tmp_path / "resnet8.onnx")
    cases = {f"real{n}": (path, data, setting) for n, setting in enumerate(REAL)}
    for name, (order, answer) in ask(judge, tmp_path, cases).items():
        assert deviations(order, answer["nsr"])[LOGITS] < CLOSE, (name, answer)
        assert answer["nsr"][LOGITS] < order.proposal.outputs_before[LOGITS], name


def test_small_graphs(judge, tmp_path):
    """Rules match the operator that is meant, and nothing else."""
    cases = {}
    for name, settings in SMALL.items():
        path, data = small(name, tmp_path)
        cases.update({f"{name}{n}": (path, data, s) for n, s in enumerate(settings)})
    for name, (order, answer) in ask(judge, tmp_path, cases).items():
        assert max(deviations(order, answer["nsr"]).values()) < CLOSE, (name, answer)


def test_names_the_model_does_not_have_are_refused(judge, tmp_path):
    """A .tflite that calls a tensor otherwise ends the script, unless a table is given."""
    path, data = small("depthwise", tmp_path)
    order, _ = exported(tmp_path, "tflite", path, data, "litert", Setting(table={"Conv0": "fp32"}))
    script = tmp_path / "tflite" / "quantize.py"
    script.write_text(script.read_text("utf-8").replace("['r']", "['conv/Conv2D']"), "utf-8")
    (tmp_path / "tflite").rename(tmp_path / "a.exported")
    (tmp_path / "a.inputs.npz").write_bytes(data.read_bytes())
    write(tmp_path, Case("a", order.source, []))
    (tmp_path / "cases.json").write_text('["a"]', encoding="utf-8")
    answer = judge("ai-edge-quantizer", "litert_exported", tmp_path)["a"]
    assert "calls ['conv/Conv2D'] otherwise" in answer["error"]


def small(name, folder):
    """Save a small net whose nodes are called by op type and number; return it and data."""
    text, constants = NETS[name]
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 14]> {text}')
    for number, node in enumerate(proto.graph.node):
        node.name = f"{node.op_type}{number}"
    proto.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(v), n) for n, v in constants.items()
    )
    path = folder / f"{name}.onnx"
    onnx.save(proto, path)
    rng = np.random.default_rng(0)
    shapes = {
        i.name: [d.dim_value for d in i.type.tensor_type.shape.dim] for i in proto.graph.input
    }
    arrays = {n: rng.standard_normal((16, *s)).astype(np.float32) for n, s in shapes.items()}
    np.savez(folder / f"{name}.npz", **arrays)
    return path, folder / f"{name}.npz"
