# SPDX-License-Identifier: Apache-2.0
"""Exported plans given to NNCF itself: what it quantizes has the noise that was simulated."""

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

from analyzer.records import Setting  # noqa: E402

LOGITS = "model/dense/BiasAdd:0"
CLOSE = 0.1  # share of the noise

pytestmark = [pytest.mark.peer, pytest.mark.filterwarnings("ignore")]


@pytest.fixture
def quantized(judge, tmp_path):
    """Return a function: path, data, setting -> (order, NSRs of NNCF's model)."""

    def ask(path, data, setting=None, *, target="openvino", backend="openvino"):
        order, model = exported(tmp_path, "nncf", path, data, target, setting)
        script = tmp_path / "nncf" / "quantize.py"
        answer = judge("nncf", "nncf_exported", script, model, data, backend)
        assert "error" not in answer, answer
        return order, answer["nsr"]

    return ask


@pytest.fixture
def resnet8(tmp_path):
    data = real_inputs("resnet8_cifar10", tmp_path / "inputs.npz", 32)
    source = SHARED / "models" / "resnet8_cifar10" / "model.onnx"
    return without_softmax(source, tmp_path / "resnet8.onnx"), data


@pytest.mark.parametrize(
    "setting",
    [
        Setting(table={"model/conv2d_3/BiasAdd": "fp32", "model/dense/MatMul": "fp32"}),
        Setting(precision="int8-mixed", observer="minmax"),
    ],
    ids=["two layers in float", "mixed preset, minmax"],
)
def test_a_real_model(quantized, resnet8, setting):
    """The noise is within a tenth of what was simulated, and below that of the default."""
    order, nsr = quantized(*resnet8, setting)
    assert deviations(order, nsr)[LOGITS] < CLOSE
    assert nsr[LOGITS] < order.proposal.outputs_before[LOGITS]


def test_names_of_operations_are_found(quantized, tmp_path):
    """Layers of several operations, merged ones and a folded norm are left in float whole."""
    path, data = several_operations(tmp_path)
    floats = ["ct", "ln", "conv", "silu", "gem", "gap"]
    order, nsr = quantized(path, data, Setting(table=dict.fromkeys(floats, "fp32")))
    assert max(deviations(order, nsr).values()) < CLOSE
    scope = json.loads((tmp_path / "nncf" / "ignored_scope.json").read_text("utf-8"))
    assert {"gem/WithoutBiases", "gem", "silu"} <= set(scope["openvino"]["names"])
    assert {"ct", "ln"} <= set(scope["openvino_by_quantize.py_only"])


def test_the_other_backend_takes_the_same_plan(quantized, resnet8):
    """With ONNX, names are those of nodes; its rules differ, its noise falls likewise."""
    table = {"model/conv2d_3/BiasAdd": "fp32", "model/dense/MatMul": "fp32"}
    order, nsr = quantized(*resnet8, Setting(table=table), backend="onnx")
    assert nsr[LOGITS] < order.proposal.outputs_before[LOGITS]


def test_plans_of_other_targets_run(quantized, resnet8):
    """NNCF takes a plan of onnxruntime's; its noise is its own, of the same size."""
    setting = Setting(table={"model/conv2d_3/BiasAdd": "fp32"})
    order, nsr = quantized(*resnet8, setting, target="onnxruntime")
    assert 0 < nsr[LOGITS] < 10 * order.proposal.outputs_after[LOGITS]


def test_another_model_is_refused(judge, resnet8, tmp_path):
    """Names that OpenVINO's model does not have end the script."""
    path, data = resnet8
    exported(
        tmp_path, "nncf", path, data, "openvino", Setting(table={"model/dense/MatMul": "fp32"})
    )
    proto = onnx.load(path)
    for node in proto.graph.node:
        node.name = f"other_{node.name}"
        for names in (node.input, node.output):
            for i, name in enumerate(names):
                names[i] = name.replace("model/dense", "another")
    for value in proto.graph.output:
        value.name = value.name.replace("model/dense", "another")
    for tensor in proto.graph.initializer:
        tensor.name = tensor.name.replace("model/dense", "another")
    onnx.save(proto, tmp_path / "other.onnx")
    script = tmp_path / "nncf" / "quantize.py"
    answer = judge("nncf", "nncf_exported", script, tmp_path / "other.onnx", data, "openvino")
    assert "no operation of 'model/dense/MatMul'" in answer["error"]


def several_operations(folder):
    """Save a model whose layers are more than one operation in OpenVINO; return it and data."""
    proto = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["": 17]>
    several (float[1,8,12,12] x) => (float[1,8,12,12] y, float[4,16] z) {
        [conv] a = Conv<pads = [1,1,1,1]>(x, w1)
        [bn] b = BatchNormalization(a, s8, t8, m8, v8)
        [act] c = Relu(b)
        [ct] d = ConvTranspose(c, w2, t8)
        [gate] e = Sigmoid(d)
        [silu] f = Mul(d, e)
        [next] g = Conv<pads = [1,1,1,1]>(f, w1, t8)
        [gap] h = GlobalAveragePool(g)
        [last] y = Mul(g, h)
        [shape] i = Reshape(h, rows)
        [wide] j = MatMul(i, w3)
        [gem] k = Gemm(j, w4, b16)
        [ln] l = LayerNormalization(k, s16, b16)
        [out] z = Gemm(l, w4, b16)
    }""")
    rng = np.random.default_rng(0)
    shapes = {
        "w1": (8, 8, 3, 3), "w2": (8, 8, 1, 1), "w3": (2, 16), "w4": (16, 16), "s8": (8,),
        "t8": (8,), "m8": (8,), "v8": (8,), "s16": (16,), "b16": (16,),
    }  # fmt: skip
    values = {name: rng.standard_normal(shape) * 0.3 for name, shape in shapes.items()}
    for name in ("s8", "v8", "s16"):
        values[name] = np.abs(values[name]) + 0.5
    proto.graph.initializer.extend(
        numpy_helper.from_array(value.astype(np.float32), name) for name, value in values.items()
    )
    proto.graph.initializer.append(numpy_helper.from_array(np.array([4, 2]), "rows"))
    onnx.save(proto, folder / "several.onnx")
    x = rng.standard_normal((8, 1, 8, 12, 12)).astype(np.float32)
    np.savez(folder / "inputs.npz", x=x)
    return folder / "several.onnx", folder / "inputs.npz"
