# SPDX-License-Identifier: Apache-2.0
"""Names of modules out of an ONNX file, and what is said where there is none."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[1])]

from plans import constants_of, ordered, said  # noqa: E402

from analyzer.errors import ExportError  # noqa: E402
from analyzer.export.pytorch import module_of_parameter, module_of_path, write  # noqa: E402
from analyzer.records import Setting  # noqa: E402

NET = """g (float[1,2,4,4] x) => (float[1,2,4,4] y) {
    ["/stem/stem.0/Conv"] a = Conv(x, "stem.0.weight", "stem.0.bias")
    ["/stem/stem.1/Relu"] b = Relu(a)
    ["/tail.1/conv/Conv"] c = Conv(b, "onnx::Conv_7")
    ["/tail.1/Add"] d = Add(c, b)
    ["/tail.1/act/Sigmoid"] e = Sigmoid(d)
    ["/tail.1/act_1/Sigmoid"] f = Sigmoid(e)
    ["node_of_dynamo"] y = Conv(f, "head.weight")
}"""
WEIGHTS = {
    "stem.0.weight": (2, 2, 1, 1), "stem.0.bias": (2,), "onnx::Conv_7": (2, 2, 1, 1),
    "head.weight": (2, 2, 1, 1),
}  # fmt: skip
QCONFIG, TORCHAO = "pytorch/qconfig.py", "pytorch/torchao_config.py"


def order(folder, target="pytorch", **setting):
    return ordered(folder, NET, target, Setting(**setting), **WEIGHTS)


@pytest.mark.parametrize(
    ("node", "module"),
    [
        ("/layer3/layer3.0/conv1/Conv", "layer3.0.conv1"),
        ("/model.23/cv2.0/cv2.0.2/Conv", "model.23.cv2.0.2"),
        ("/model.10/m/m.0/attn/qkv/conv/Conv_1", "model.10.m.0.attn.qkv.conv"),
        ("/stem.1/stem.10/Conv", "stem.1.stem.10"),
        ("/Add_2", None),
        ("model/conv2d_3/BiasAdd", None),
    ],
)
def test_paths(node, module):
    """Scopes repeat the part of a name that the scope above has already."""
    assert module_of_path(node) == module


def test_parameters():
    """Names that an exporter invents lead nowhere."""
    assert module_of_parameter("features.0.0.weight") == "features.0.0"
    assert module_of_parameter("fc.bias") == "fc"
    for invented in ("onnx::MatMul_12", "conv/kernel", "weight", "a b.weight"):
        assert module_of_parameter(invented) is None


def test_every_name_comes_with_its_rule(tmp_path):
    """Parameters go before paths; what has no module is said, and nothing around it is named."""
    layers = [
        "/stem/stem.0/Conv", "/tail.1/conv/Conv", "/tail.1/Add", "/tail.1/act/Sigmoid",
        "/tail.1/act_1/Sigmoid", "node_of_dynamo",
    ]  # fmt: skip
    files = write(order(tmp_path, table=dict.fromkeys(layers, "fp32")))
    told = constants_of(files[QCONFIG])
    assert told["FLOAT"] == {
        "stem.0": "parameter stem.0.weight",
        "tail.1.conv": "path of /tail.1/conv/Conv",
        "tail.1.act": "path of /tail.1/act/Sigmoid",
        "head": "parameter head.weight",
    }
    text = said(files[QCONFIG])
    assert "/tail.1/Add, /tail.1/act_1/Sigmoid: calls of functions" in text
    assert constants_of(files[TORCHAO])["FLOAT"] == told["FLOAT"]
    for path, content in files.items():
        compile(content, path, "exec")


def test_settings_of_the_engine(tmp_path):
    """Engine, observer and granularity are those that were simulated."""
    told = constants_of(write(order(tmp_path))[QCONFIG])
    assert [told[n] for n in ("ENGINE", "OBSERVER", "GRANULARITY", "EVERY")] == [
        "x86", "histogram", "channel", True,
    ]  # fmt: skip
    found = order(tmp_path, "pytorch-qnnpack", observer="minmax")
    told = constants_of(write(found)[QCONFIG])
    assert [told[n] for n in ("ENGINE", "OBSERVER", "GRANULARITY")] == [
        "qnnpack", "minmax", "tensor",
    ]  # fmt: skip


def test_single_int8_modules(tmp_path):
    """Where the network stays in float, the modules that do not are named."""
    found = order(tmp_path, precision="fp32", table={"node_of_dynamo": "int8"})
    told = constants_of(write(found)[QCONFIG])
    assert told["EVERY"] is False
    assert told["INT8"] == {"head": "parameter head.weight"}
    found = order(tmp_path, precision="fp32", table={"/tail.1/Add": "int8"})
    with pytest.raises(ExportError, match="expected modules at int8"):
        write(found)


def test_what_pytorch_cannot_do_is_said(tmp_path):
    """16 bits, ranges and calibrations of other targets."""
    found = order(
        tmp_path, "esp32p4", observer="mse", table={"node_of_dynamo": "int16"},
        ranges={"b": (0.0, 1.0)},
    )  # fmt: skip
    text = said(write(found)[QCONFIG])
    assert "no 16-bit activations: node_of_dynamo" in text
    assert "no ranges of single tensors: b" in text
    assert "'mse' of esp32p4 has no counterpart" in text
