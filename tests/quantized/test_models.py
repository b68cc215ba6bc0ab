# SPDX-License-Identifier: Apache-2.0
"""Real quantized models, and what onnxruntime's quantizer makes of one: the whole way."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from analyzer.errors import ModelError
from analyzer.probe import probe, units_of
from analyzer.quantized import read_quantized
from analyzer.quantized.read import read_float_form
from analyzer.simulate import simulate

SHARED = Path(__file__).resolve().parents[3] / "shared"
SIBLINGS = ("ad_autoencoder", "resnet8_cifar10", "vww_mobilenet")


def file_of(name):
    path = SHARED / "models" / name / "model.onnx"
    if not path.is_file():
        pytest.skip(f"the shared model {name} is not here")
    return path


def inputs_of(name, count=3):
    """Real inputs, as the models' notes tell."""
    if name == "ad_autoencoder":
        rows = np.load(SHARED / "data" / "toycar" / "normal_id_01_features.npy")
        return [row[None].astype(np.float32) for row in rows[:count]]
    image = pytest.importorskip("PIL.Image")
    if name == "resnet8_cifar10":
        folder, size, last = "cifar10/images", 32, 1.0
    else:
        folder, size, last = "coco/val", 96, 255.0
    files = sorted(
        f for f in (SHARED / "data" / folder).rglob("*") if f.suffix in (".jpg", ".png")
    )
    return [
        np.asarray(image.open(f).convert("RGB").resize((size, size)), np.float32)[None]
        / np.float32(last)
        for f in files[:: max(1, len(files) // count)][:count]
    ]


def grid_of_input(form):
    """The grid the file's integer input is read on: behind its Transpose, if it has one."""
    name = form.proto.graph.input[0].name
    while True:
        node = next(n for n in form.proto.graph.node if n.input and n.input[0] == name)
        if (node.name, 0) in form.edges:
            return form.edges[node.name, 0][0]
        name = node.output[0]


@pytest.mark.parametrize("name", SIBLINGS)
def test_tflite_models_are_read_into_their_float_siblings(
    name, bound, simulated, as_onnxruntime, told
):
    """Every grid has its slot, every layer is found, and the outputs agree to the bit."""
    path = file_of(f"{name}_qdq")
    result = read_quantized(bound(file_of(name)), path)
    assert (result.matched, result.findings, result.retrained) == (1.0, (), False)
    assert (result.grids["activation"], result.grids["constant"]) == told(path)
    assert len([q for q in result.plan.quantizers if q.active]) == sum(told(path))
    form = read_float_form(path)
    into, (out,) = grid_of_input(form), next(iter(form.outputs.values()))
    for x in inputs_of(name):
        levels = np.rint(x / into.scale.astype(np.float32)) + into.zero_point
        levels = np.clip(levels, -128, 127).astype(np.int8)
        theirs = as_onnxruntime(path, {form.proto.graph.input[0].name: levels})[0]
        ours = simulated(result, {result.graph.inputs[0].name: x})[0]
        np.testing.assert_array_equal(ours, out.dequantize(theirs))


def test_a_model_without_sibling_is_held_against_its_own_float_form(bound, told):
    """ShuffleNet of integer operators: every grid has its slot, and the noise is that of int8."""
    path = file_of("shufflenet_v2_int8_qop")
    model = bound(path, quantized=True)
    result = read_quantized(model, path)
    assert (result.grids["activation"], result.grids["constant"]) == told(path)
    assert len(result.plan.quantizers) == sum(told(path))
    assert set(result.plan.precision.values()) == {"int8"}
    x = np.random.default_rng(0).normal(0, 1, (1, 3, 224, 224)).astype(np.float32)
    errors = simulate(result.graph, result.plan, [{"input": x}])
    assert 1e-4 < errors.graphwise["output"].nsr < 0.05
    worst = max(row.nsr for row in errors.local.values())
    assert worst < 0.02  # without the Relus that its quantizers stand in for, it is above 1


def test_levels_of_integer_kernels_are_those_of_the_simulation(bound, simulated, tmp_path):
    """ShuffleNet's first layers: one level in ten thousand at most is rounded the other way."""
    path = file_of("shufflenet_v2_int8_qop")
    proto = onnx.load(path)
    ends = ["341_quantized", "344_quantized", "347_quantized"]
    kind = onnx.TensorProto.UINT8
    proto.graph.value_info.extend(
        onnx.helper.make_tensor_value_info(name, kind, None) for name in ends
    )
    part = onnx.utils.Extractor(proto).extract_model(["input"], ends)
    cut = tmp_path / "part.onnx"
    onnx.save(part, cut)
    x = {"input": np.random.default_rng(0).normal(0, 1, (1, 3, 224, 224)).astype(np.float32)}
    theirs = ort.InferenceSession(str(cut)).run(None, x)
    result = read_quantized(bound(cut, quantized=True), cut)
    outputs = read_float_form(cut).outputs
    for ours, levels, end in zip(simulated(result, x), theirs, ends, strict=True):
        (grid,) = outputs[end]
        off = np.abs(ours - grid.dequantize(levels)) / grid.scale[0]
        assert off.max() < 1.01
        assert np.mean(off > 0.5) < 1e-4


def test_foreign_operators_are_refused():
    """Brevitas' own operators run nowhere else."""
    with pytest.raises(ModelError, match=r"onnx\.brevitas\.Quant"):
        read_float_form(file_of("brevitas_tfc_mnist"))


FORMATS = {
    "QDQ, int8, per channel": ("QDQ", "QInt8", "QInt8", True),
    "QDQ, uint8, per tensor": ("QDQ", "QUInt8", "QInt8", False),
    "QDQ, int16 activations": ("QDQ", "QInt16", "QInt8", True),
    "QDQ, uint16 activations": ("QDQ", "QUInt16", "QInt8", True),
    "QDQ, int4 weights": ("QDQ", "QInt8", "QInt4", True),
    "QOperator, uint8 and int8": ("QOperator", "QUInt8", "QInt8", True),
    "QOperator, uint8": ("QOperator", "QUInt8", "QUInt8", False),
}


@pytest.fixture(params=FORMATS)
def made(request, tmp_path):
    """ResNet-8 out of `quantize_static`: path of the file, real inputs."""
    quantization = pytest.importorskip("onnxruntime.quantization")
    kind, activation, weight, per_channel = FORMATS[request.param]
    samples = inputs_of("resnet8_cifar10")

    class Reader(quantization.CalibrationDataReader):
        def __init__(self):
            self.left = iter([{"input_1": x} for x in samples])

        def get_next(self):
            return next(self.left, None)

    path = tmp_path / "int8.onnx"
    logging.disable(logging.WARNING)
    quantization.quantize_static(
        str(file_of("resnet8_cifar10")), str(path), Reader(),
        quant_format=quantization.QuantFormat[kind], per_channel=per_channel,
        activation_type=quantization.QuantType[activation],
        weight_type=quantization.QuantType[weight],
    )  # fmt: skip
    logging.disable(logging.NOTSET)
    return path, samples


def test_what_onnxruntime_quantizes_is_simulated_as_it_runs(
    made, bound, simulated, as_onnxruntime, told
):
    """All formats and widths: every grid placed, every layer found, the same outputs.

    Both sides run without fusion: a fused kernel rounds a tie to the other side now and then.
    """
    path, samples = made
    result = read_quantized(bound(file_of("resnet8_cifar10")), path)
    assert (result.matched, result.findings, result.retrained) == (1.0, (), False)
    assert (result.grids["activation"], result.grids["constant"]) == told(path)
    assert len(result.plan.quantizers) == sum(told(path))
    kinds = {node.op_type for node in onnx.load(path).graph.node}
    for x in samples:
        theirs = as_onnxruntime(path, {"input_1": x})[0]
        ours = simulated(result, {"input_1": x})[0]
        # integer kernels round now and then to the level beside; the grid of the output is 1/256
        near = 1.01 / 256 if any("QLinear" in op for op in kinds) else 1e-6
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=near)


@pytest.mark.parametrize("kind", ["qdq", "own"])
def test_the_whole_analysis_runs_on_a_plan_that_was_read(kind, bound):
    """Graphwise, local and isolated errors of every layer that carries a quantizer."""
    path = file_of("resnet8_cifar10_qdq")
    model = bound(path, quantized=True) if kind == "own" else bound(file_of("resnet8_cifar10"))
    result = read_quantized(model, path)
    name = result.graph.inputs[0].name
    samples = [{name: x} for x in inputs_of("resnet8_cifar10")]
    errors = simulate(result.graph, result.plan, samples)
    units = units_of(result.plan, result.plan.layers)
    isolated = probe(result.graph, units, samples, every_sample=True)
    assert set(isolated) == set(errors.local) == {q.node for q in result.plan.quantizers}
    output = result.graph.outputs[0].name
    assert 0 < errors.graphwise[output].nsr < 0.2
    assert all(np.isfinite(row.nsr) for row in isolated.values())
    assert max(row.nsr for row in isolated.values()) < 0.2
