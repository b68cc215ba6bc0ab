# SPDX-License-Identifier: Apache-2.0
"""One quantizer at a time: the noise each tensor of a model alone puts on its output.

A plain stand-in for the program under test, so that the planted faults are proven by other code:
symmetric INT8 with a power-of-two scale from the largest magnitude, half to even.
Run `python sample_models/isolated_noise.py MODEL.onnx` for the ten largest of both kinds.
"""

import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

HERE = Path(__file__).parent
SAMPLES = 16
FUSED = ("Relu", "Clip")


def calibration(name: str) -> np.ndarray:
    """Return the calibration samples of `digits_dw` or `blobs_det`, float32 NCHW in 0..1."""
    archive = HERE / name / "inputs.npz"
    if archive.exists():
        return np.load(archive)["input"]
    return read_images(HERE / name)


def evaluation(name: str) -> np.ndarray:
    """Return the held-out samples of `digits_dw` or `blobs_det`, like `calibration`."""
    return calibration(f"{name}_eval")


def read_images(folder: Path) -> np.ndarray:
    """Return the PNG files of a folder, by name, as float32 NCHW in 0..1."""
    images = [np.asarray(Image.open(path)) for path in sorted(folder.glob("*.png"))]
    return np.stack(images).transpose(0, 3, 1, 2).astype(np.float32) / 255


def run(
    model: onnx.ModelProto, samples: np.ndarray, outputs: list[str] | None = None
) -> list[np.ndarray]:
    """Run the samples one by one; return each output with the samples stacked in front."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    name = session.get_inputs()[0].name
    results = [session.run(outputs, {name: sample[None]}) for sample in samples]
    return [np.stack(column) for column in zip(*results, strict=True)]


def nsr(noisy: np.ndarray, clean: np.ndarray) -> float:
    """Return the noise-to-signal power ratio, averaged over the samples on axis 0."""
    axes = tuple(range(1, clean.ndim))
    signal = (clean.astype(np.float64) ** 2).sum(axes)
    noise = ((noisy.astype(np.float64) - clean) ** 2).sum(axes)
    return float((noise / signal).mean())


def power_of_two_scale(largest: np.ndarray) -> np.ndarray:
    """Return the smallest power of two whose 255 steps span -largest..largest."""
    return 2.0 ** np.ceil(np.log2(np.maximum(2 * largest / 255, 1e-8)))


def quantized_tensors(model: onnx.ModelProto) -> dict[str, str]:
    """Return node name -> the activation tensor it quantizes.

    A convolution followed by one Relu or Clip is fused with it: the row is that of the Relu or
    Clip. Nodes that only move values have no row.
    """
    consumers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            consumers.setdefault(name, []).append(node)
    rows = {}
    for node in model.graph.node:
        if node.op_type in ("Constant", "Reshape", "Flatten", "Transpose", "Split"):
            continue
        following = consumers.get(node.output[0], [])
        if node.op_type == "Conv" and len(following) == 1 and following[0].op_type in FUSED:
            continue
        rows[node.name] = node.output[0]
    return rows


def with_outputs(model: onnx.ModelProto, names: list[str]) -> onnx.ModelProto:
    """Return a copy that also outputs the named tensors."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    present = {output.name for output in copy.graph.output}
    copy.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        for name in names
        if name not in present
    )
    return copy


def with_quantizer(model: onnx.ModelProto, tensor: str, scale: float) -> onnx.ModelProto:
    """Return a copy in which every reader of `tensor` sees it as INT8."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    raw = f"{tensor}/raw"
    for node in copy.graph.node:
        node.output[:] = [raw if name == tensor else name for name in node.output]
    copy.graph.initializer.extend(
        [
            numpy_helper.from_array(np.float32(scale), "probe/scale"),
            numpy_helper.from_array(np.int8(0), "probe/zero"),
        ]
    )
    at = 1 + next(i for i, node in enumerate(copy.graph.node) if raw in node.output)
    qdq = ["probe/scale", "probe/zero"]
    copy.graph.node.insert(at, helper.make_node("QuantizeLinear", [raw, *qdq], ["probe/int8"]))
    copy.graph.node.insert(
        at + 1, helper.make_node("DequantizeLinear", ["probe/int8", *qdq], [tensor])
    )
    return copy


def activation_noise(
    model: onnx.ModelProto,
    samples: np.ndarray,
    *,
    calibrated: np.ndarray | None = None,
    probabilities: float | None = None,
) -> dict[str, float]:
    """Return node name -> output NSR with only this node's activation quantized, worst first.

    Args:
        model: its first output counts.
        samples: what the noise is measured on.
        calibrated: samples whose largest magnitudes give the scales, if others.
        probabilities: scale of every Softmax, if not by its largest value.
    """
    rows = quantized_tensors(model)
    clean = run(model, samples)[0]
    tensors = list(dict.fromkeys(rows.values()))
    seen = run(
        with_outputs(model, tensors), samples if calibrated is None else calibrated, tensors
    )
    scales = {
        name: float(power_of_two_scale(np.abs(value).max()))
        for name, value in zip(tensors, seen, strict=True)
    }
    if probabilities:
        softmaxes = [node.output[0] for node in model.graph.node if node.op_type == "Softmax"]
        scales |= dict.fromkeys(softmaxes, probabilities)
    noise = {
        node: nsr(run(with_quantizer(model, name, scales[name]), samples)[0], clean)
        for node, name in rows.items()
    }
    return dict(sorted(noise.items(), key=lambda row: -row[1]))


def weight_noise(
    model: onnx.ModelProto, samples: np.ndarray, *, per_tensor: bool = False
) -> dict[str, float]:
    """Return node name -> output NSR with only this Conv's weights quantized, worst first.

    Args:
        model: its first output counts.
        samples: what the noise is measured on.
        per_tensor: one scale for all weights of a Conv; else one for each output channel.
    """
    noise = {}
    for node in model.graph.node:
        if node.op_type == "Conv":
            value = constant(model, node.input[1])
            largest = np.abs(value).max(axis=None if per_tensor else (1, 2, 3), keepdims=True)
            scale = power_of_two_scale(largest).astype(np.float32)
            value = np.clip(np.round(value / scale), -128, 127) * scale
            noise[node.name] = nsr_with(model, samples, node.input[1], value)
    return dict(sorted(noise.items(), key=lambda row: -row[1]))


def bias_noise(model: onnx.ModelProto, samples: np.ndarray, bits: int) -> dict[str, float]:
    """Return node name -> output NSR with only this Conv's bias quantized, worst first.

    Args:
        model: its first output counts.
        samples: what the noise is measured on, and what the inputs' scales stand on.
        bits: of a bias, in steps of input scale times weight scale, both per tensor.
    """
    convs = [node for node in model.graph.node if node.op_type == "Conv"]
    tensors = list(dict.fromkeys(node.input[0] for node in convs))
    seen = run(with_outputs(model, tensors), samples, tensors)
    largest = {name: np.abs(value).max() for name, value in zip(tensors, seen, strict=True)}
    noise = {}
    for node in convs:
        reach = np.abs(constant(model, node.input[1])).max()
        step = power_of_two_scale(largest[node.input[0]]) * power_of_two_scale(reach)
        limit = 2 ** (bits - 1)
        value = np.clip(np.round(constant(model, node.input[2]) / step), -limit, limit - 1) * step
        noise[node.name] = nsr_with(model, samples, node.input[2], value.astype(np.float32))
    return dict(sorted(noise.items(), key=lambda row: -row[1]))


def constant(model: onnx.ModelProto, name: str) -> np.ndarray:
    """Return the value of an initializer."""
    return numpy_helper.to_array(next(i for i in model.graph.initializer if i.name == name))


def nsr_with(model: onnx.ModelProto, samples: np.ndarray, name: str, value: np.ndarray) -> float:
    """Return the output NSR with another value of one initializer."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    changed = next(item for item in copy.graph.initializer if item.name == name)
    changed.CopyFrom(numpy_helper.from_array(value, name))
    return nsr(run(copy, samples)[0], run(model, samples)[0])


def main() -> None:
    """Print the ten noisiest activations and weights of the model on the command line."""
    path = Path(sys.argv[1])
    base = next(name for name in ("digits_dw", "blobs_det") if path.stem.startswith(name))
    model, samples = onnx.load(path), calibration(base)[:SAMPLES]
    for title, noise in (("activation", activation_noise), ("weight", weight_noise)):
        for node, value in list(noise(model, samples).items())[:10]:
            print(f"{title:10}  {value:9.2e}  {node}")


if __name__ == "__main__":
    main()
