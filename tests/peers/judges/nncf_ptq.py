# SPDX-License-Identifier: Apache-2.0
"""Quantize an ONNX model with NNCF and tell which grid every input of every operation arrives on.

    python nncf_ptq.py MODEL.onnx INPUTS.npz SETTINGS.json-text ANSWER.json

MODEL may be a folder of models, each with its inputs beside it; the answer then holds one entry
per model, and the errors of those that failed.  INPUTS holds one array per graph input, samples
along a new first axis.  SETTINGS: "backend" (openvino or onnx), "preset" (performance or mixed),
"bias_correction" (bool), "analysed" (how many samples to run the result on), "integer" (run
integer kernels, not their emulation).

The answer of the OpenVINO backend lists operations, each with the grid of each input (null where
no FakeQuantize stands before it) and the names of its outputs; that of the ONNX backend names the
Q/DQ file.  Both give the noise at each output, averaged over samples.
"""

import json
import os
import sys
import time

import nncf
import numpy as np
import onnx
from nncf.common.quantization.structs import QuantizationPreset
from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters


def main():
    model, inputs, settings, answer = sys.argv[1:]
    settings = json.loads(settings)
    if os.path.isdir(model):
        found = {}
        for name in sorted(os.listdir(model)):
            stem, kind = os.path.splitext(name)
            if kind == ".onnx":
                found[stem] = tried(os.path.join(model, stem), settings)
    else:
        found = quantized(model, inputs, settings, answer)
    with open(answer, "w", encoding="utf-8") as file:
        json.dump(found, file)


def tried(path, settings):
    """The answer for one of many models, or what went wrong."""
    try:
        return quantized(f"{path}.onnx", f"{path}.npz", settings, f"{path}.json")
    except Exception as error:  # whatever NNCF trips over is an answer
        return {"error": f"{type(error).__name__}: {error}"[:500]}


def quantized(model, inputs, settings, answer):
    with np.load(inputs) as arrays:
        stacked = dict(arrays)
    count = len(next(iter(stacked.values())))
    samples = [{name: array[i] for name, array in stacked.items()} for i in range(count)]
    backend = onnx_backend if settings.get("backend") == "onnx" else openvino_backend
    return backend(model, samples, settings, answer)


def quantize(model, samples, settings):
    dataset = nncf.Dataset(samples)
    advanced = AdvancedQuantizationParameters(
        disable_bias_correction=not settings.get("bias_correction", True),
        # 3.4.0 ends with a KeyError there whenever it finds something to align
        disable_channel_alignment=not settings.get("channel_alignment", False),
        backend_params={"compress_weights": False},
    )
    return nncf.quantize(
        model,
        dataset,
        preset=QuantizationPreset(settings.get("preset", "performance")),
        subset_size=settings.get("subset_size", 300),
        advanced_parameters=advanced,
    )


def openvino_backend(path, samples, settings, answer):
    import openvino as ov

    model = ov.convert_model(path)
    model.reshape({name: list(array.shape) for name, array in samples[0].items()})
    started = time.perf_counter()
    quantized = quantize(model, samples, settings)
    seconds = time.perf_counter() - started
    core = ov.Core()
    config = {"INFERENCE_PRECISION_HINT": "f32"}
    if not settings.get("integer"):
        config["LP_TRANSFORMS_MODE"] = "NO"  # float32 all through, as the simulation computes
    plain, other = (core.compile_model(m, "CPU", config) for m in (model, quantized))

    def results(compiled, sample):
        return {out.get_any_name(): np.array(v) for out, v in compiled(sample).items()}

    some = samples[: settings.get("analysed", 4)]
    return {
        "operations": [operation(op) for op in quantized.get_ordered_ops() if seen(op)],
        "biases": dict(filter(None, map(bias, quantized.get_ordered_ops()))),
        "nsr": noise(results, plain, other, some),
        "seconds": seconds,
    }


def seen(op):
    return op.get_type_name() not in ("Constant", "FakeQuantize", "Convert")


def operation(op):
    return {
        "name": op.get_friendly_name(),
        "type": op.get_type_name(),
        "inputs": [arriving(port.get_source_output().get_node()) for port in op.inputs()],
        "sources": [activation(port.get_source_output().get_node()) for port in op.inputs()],
        "outputs": [sorted(out.get_names()) for out in op.outputs()],
    }


def arriving(node):
    """The grid behind a FakeQuantize, looking through what only rearranges a weight."""
    while node.get_type_name() in ("Reshape", "Convert") and constant(node):
        node = node.input_value(0).get_node()
    if node.get_type_name() != "FakeQuantize":
        return None
    low, high = (node.input_value(i).get_node().data.astype(np.float64) for i in (1, 2))
    return {
        "levels": int(node.get_attributes()["levels"]),
        "low": low.ravel().tolist(),
        "high": high.ravel().tolist(),
        "shape": list(low.shape),
    }


def activation(node):
    """The name of the operation that an activation comes from, None for a constant."""
    while node.get_type_name() in ("FakeQuantize", "Convert"):
        node = node.input_value(0).get_node()
    return None if constant(node) else node.get_friendly_name()


def constant(node):
    """Tell whether a few steps up from here there is nothing but constants."""
    waiting = [node]
    for here in waiting:
        if here.get_type_name() == "Parameter" or len(waiting) > 40:
            return False
        waiting.extend(port.get_source_output().get_node() for port in here.inputs())
    return True


def bias(op):
    """(name, bias) of an addition of constants to what a layer computes."""
    if op.get_type_name() != "Add":
        return None
    layer, added = (op.input_value(i).get_node() for i in (0, 1))
    if layer.get_type_name() not in ("Convolution", "GroupConvolution", "MatMul"):
        return None
    if added.get_type_name() != "Constant":
        return None
    return op.get_friendly_name(), added.data.astype(np.float64).ravel().tolist()


def onnx_backend(path, samples, settings, answer):
    import onnxruntime as ort

    model = onnx.load(path)
    started = time.perf_counter()
    quantized = quantize(model, samples, settings)
    seconds = time.perf_counter() - started
    file = answer.replace(".json", ".onnx")
    onnx.save(quantized, file)
    options = ort.SessionOptions()
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    plain, other = (
        ort.InferenceSession(m.SerializeToString(), options, providers=["CPUExecutionProvider"])
        for m in (model, quantized)
    )
    names = [out.name for out in plain.get_outputs()]

    def results(session, sample):
        return dict(zip(names, session.run(names, sample), strict=True))

    some = samples[: settings.get("analysed", 4)]
    return {"file": file, "nsr": noise(results, plain, other, some), "seconds": seconds}


def noise(results, plain, other, samples):
    found = {}
    for sample in samples:
        clean, noisy = results(plain, sample), results(other, sample)
        for name, wanted in clean.items():
            wanted = wanted.astype(np.float64)
            got = noisy[name].astype(np.float64)
            signal = float((wanted**2).sum())
            ratio = float(((got - wanted) ** 2).sum()) / signal if signal else 0.0
            found.setdefault(name, []).append(ratio)
    return {name: float(np.mean(ratios)) for name, ratios in found.items()}


if __name__ == "__main__":
    main()
