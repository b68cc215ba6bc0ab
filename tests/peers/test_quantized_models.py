# SPDX-License-Identifier: Apache-2.0
"""Files that real quantizers write, read into plans: every grid, every layer, the same outputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from analyzer.graph.build import GraphBuilder, emit, slots_by_node
from analyzer.graph.session import open_session
from analyzer.graph.view import GraphView
from analyzer.load import bind_shapes, load_model
from analyzer.quantized import load_float_form, read_quantized

SHARED = Path(__file__).resolve().parents[3] / "shared"
PICTURES = {"resnet8_cifar10": ("cifar10/images", 8), "yolo11n_heads": ("coco/calib", 2)}
QAT = ("qat", "qat_fake", "qat_qnnpack", "qat_int8")

pytestmark = [pytest.mark.peer, pytest.mark.filterwarnings("ignore")]


def inputs_of(name):
    """Real pictures, prepared as the model's notes tell: (samples, 1, ...)."""
    image = pytest.importorskip("PIL.Image")
    folder, count = PICTURES[name]
    files = sorted((SHARED / "data" / folder).rglob("*.jpg"))
    if not files or not (SHARED / "models" / name).is_dir():
        pytest.skip(f"the shared model {name} or its data is not here")
    chosen = files[:: max(1, len(files) // count)][:count]
    side = 32 if name == "resnet8_cifar10" else 640
    arrays = [
        np.asarray(image.open(f).convert("RGB").resize((side, side)), np.float32) for f in chosen
    ]
    if name == "yolo11n_heads":
        arrays = [x.transpose(2, 0, 1) / np.float32(255) for x in arrays]
    return np.stack(arrays)[:, None]


def bound(path, *, quantized=False):
    model = load_float_form(path) if quantized else load_model(path)
    return bind_shapes(model, {s.name: tuple(d or 1 for d in s.shape) for s in model.inputs})


def simulated(result, x):
    """Run the plan's graph with all its quantizers, node by node as it stands."""
    graph = result.graph
    builder = GraphBuilder(graph, GraphView(graph.proto.graph))
    made = emit(
        builder, graph.proto.graph.node, prefix="", outside=lambda t: builder.input(t, t),
        slots=slots_by_node(result.plan.quantizers),
    )  # fmt: skip
    for spec in graph.outputs:
        builder.output(made[spec.name], spec.name)
    session = open_session(builder.serialize(), optimize=False)
    return session.run([made[spec.name] for spec in graph.outputs], {graph.inputs[0].name: x})


def as_onnxruntime(path, x):
    """Run the file without fusion, on one thread: other kernels sum in another order."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = ort.InferenceSession(str(path), options)
    return session.run(None, {session.get_inputs()[0].name: x})


def nsr(ours, theirs):
    noise = sum(
        float(((a - b).astype(np.float64) ** 2).sum()) for a, b in zip(ours, theirs, strict=True)
    )
    return noise / sum(float((b.astype(np.float64) ** 2).sum()) for b in theirs)


@pytest.mark.parametrize("name", PICTURES)
@pytest.mark.parametrize("tool", ["nncf", "modelopt"])
def test_files_are_read_whole(tool, name, judge, tmp_path):
    """As many grids as pairs, all layers found, and the outputs of onnxruntime to 1e-9."""
    source = SHARED / "models" / name / "model.onnx"
    samples = inputs_of(name)
    np.save(tmp_path / "data.npy", samples)
    path = tmp_path / "int8.onnx"
    model = bound(source)
    given = model.inputs[0].name
    kinds = judge(tool, "quantize_file", tool, source, given, tmp_path / "data.npy", path)
    result = read_quantized(model, path)
    constants = {t.name for t in onnx.load(path).graph.initializer}
    integers = sum(
        n.op_type == "DequantizeLinear" and n.input[0] in constants
        for n in onnx.load(path).graph.node
    )
    assert sum(result.grids.values()) == kinds["QuantizeLinear"] + integers
    assert (result.matched, result.findings, result.retrained) == (1.0, (), False)
    gridded = [q for q in result.plan.quantizers if q.bits == 8]
    assert len(gridded) == sum(result.grids.values())
    x = samples[0]
    assert nsr(simulated(result, x), as_onnxruntime(path, x)) <= 1e-9


@pytest.fixture(scope="module")
def trained(judge, tmp_path_factory):
    """A folder of what torch exports of a model trained with fake-quantization."""
    folder = tmp_path_factory.mktemp("qat")
    judge("pytorch", "torch_qat_export", folder)
    return folder


@pytest.mark.parametrize("name", QAT)
def test_models_trained_with_fake_quantization_are_recognised(trained, name):
    """Said so, held against their own float form, and simulated as onnxruntime runs them."""
    path = trained / f"{name}.onnx"
    result = read_quantized(bound(trained / "float.onnx"), path)
    assert result.retrained
    assert result.matched == 1.0
    assert [f.code for f in result.findings] == ["QA301"]
    assert len(result.plan.quantizers) == sum(result.grids.values())
    for x in np.load(trained / "samples.npz")["x"]:
        assert nsr(simulated(result, x[None]), as_onnxruntime(path, x[None])) <= 1e-9


@pytest.mark.parametrize("name", QAT)
def test_the_float_form_is_the_trained_network_and_not_the_one_before(trained, name):
    """Within the range of the output, it is nearer to torch's outputs than the float model is."""
    path = trained / f"{name}.onnx"
    samples = np.load(trained / "samples.npz")
    own = bound(path, quantized=True)
    session = open_session(own.proto.SerializeToString())
    before = ort.InferenceSession(str(trained / "float.onnx"))
    near = [session.run(None, {own.inputs[0].name: x[None]})[0] for x in samples["x"]]
    far = [before.run(None, {"x": x[None]})[0] for x in samples["x"]]
    torch_says = samples[name]
    low, high = torch_says.min(), torch_says.max()
    ours, others = (np.clip(np.concatenate(rows), low, high) for rows in (near, far))
    assert nsr([ours], [torch_says]) < nsr([others], [torch_says])
