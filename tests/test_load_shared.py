# SPDX-License-Identifier: Apache-2.0
"""Canonical models compute what the files compute, on real models (absent in a release)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from analyzer.errors import ModelError
from analyzer.graph.check import open_plain
from analyzer.load import bind_shapes, load_model

MODELS = Path(__file__).resolve().parents[2] / "shared" / "models"

pytestmark = pytest.mark.skipif(not MODELS.is_dir(), reason="the shared models are not here")

# free axes are 1 where nothing is said here
SHAPES = {
    "ppocrv3_det": {"x": (1, 3, 64, 96)},
    "silero_vad_16k": {"input": (2, 576), "state": (2, 2, 128), "sr": ()},
}
RUN = [
    "ad_autoencoder",
    "espdet_pico_cat",
    "face_rfb320",
    "mnist_cntk",
    "mobilenet_v1_025_imagenet",
    "ppocrv3_det",
    "resnet8_cifar10",
    "silero_vad_16k",
    "squeezenet_fp16",
    "squeezenet_imagenet",
    "stories260k",
    "superres_subpixel",
    "vww_mobilenet",
    "yolo11n",
    "yolo11n_heads",
    "yolox_nano",
]
REFUSED = {
    "brevitas_tfc_mnist": "4 onnx.brevitas.BipolarQuant, 4 onnx.brevitas.Quant",
    "ad_autoencoder_qdq": "already quantized (30 DequantizeLinear, 10 QuantizeLinear)",
    "resnet8_cifar10_qdq": "already quantized (35 DequantizeLinear, 15 QuantizeLinear)",
    "vww_mobilenet_qdq": "already quantized (86 DequantizeLinear, 30 QuantizeLinear)",
    "shufflenet_v2_int8_qop": "already quantized (56 QLinearConv, 34 DequantizeLinear, ",
}


def feeds_of(model, shapes):
    rng = np.random.default_rng(0)
    feeds = {}
    for spec in model.inputs:
        if spec.dtype == "float32":
            feeds[spec.name] = rng.standard_normal(shapes[spec.name]).astype(np.float32)
        else:  # token ids below 512, or the sample rate
            low, high = (16000, 16001) if spec.name == "sr" else (0, 512)
            feeds[spec.name] = np.asarray(rng.integers(low, high, shapes[spec.name]))
    return feeds


def run(proto, feeds, names):
    """Run a model and fetch any of its tensors."""
    have = {o.name for o in proto.graph.output}
    proto.graph.output.extend(onnx.ValueInfoProto(name=n) for n in names if n not in have)
    session = open_plain(proto.SerializeToString())
    half = {i.name for i in session.get_inputs() if i.type == "tensor(float16)"}
    given = {k: v.astype(np.float16) if k in half else v for k, v in feeds.items()}
    return dict(zip(names, session.run(names, given), strict=True))


@pytest.mark.parametrize("name", RUN)
def test_the_canonical_model_computes_the_same(name):
    """Every output is that of the file, and every tensor has the shape and type recorded."""
    path = MODELS / name / "model.onnx"
    model = load_model(path)
    shapes = SHAPES.get(name) or {
        spec.name: tuple(1 if d is None else d for d in spec.shape) for spec in model.inputs
    }
    feeds = feeds_of(model, shapes)
    bound = bind_shapes(model, shapes, sample=feeds)
    graph = bound.proto.graph
    made = [tensor for node in graph.node for tensor in node.output if tensor]
    found = run(bound.proto, feeds, made)
    actual = {k: (v.shape, v.dtype.name) for k, v in found.items()}
    assert actual == {k: (bound.shapes[k], bound.dtypes[k]) for k in made}
    assert set(bound.macs) <= set(bound.source_nodes) == {n.name for n in graph.node}

    original = onnx.load(path)
    outputs = [o.name for o in original.graph.output]
    # one step before the outputs as well: a sigmoid of noise is all zeros
    last = [i for n in original.graph.node if set(n.output) & set(outputs) for i in n.input]
    expected = run(original, feeds, list(dict.fromkeys([*outputs, *set(last) & set(made)])))
    tolerance = 5e-3 if name == "squeezenet_fp16" else 1e-5
    for tensor, value in expected.items():
        scale = np.abs(value).max()
        np.testing.assert_allclose(found[tensor], value, rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize("name", REFUSED)
def test_quantized_and_foreign_models_are_refused(name):
    """The message counts the operators that stand in the way."""
    with pytest.raises(ModelError) as error:
        load_model(MODELS / name / "model.onnx")
    assert REFUSED[name] in error.value.message
