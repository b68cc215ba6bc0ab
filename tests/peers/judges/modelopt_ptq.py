# SPDX-License-Identifier: Apache-2.0
"""Ask NVIDIA ModelOpt: quantize a model on given inputs, then run it and the model it came from.

    modelopt_ptq.py MODEL.onnx INPUTS.npz SETTINGS.json PRODUCED.onnx ANSWER.json

INPUTS.npz holds an array per graph input, one run per entry of its first axis, each a whole input.
SETTINGS.json has "method" ("max" or "entropy"), "precision" (what the rest of the network becomes:
"fp16", ModelOpt's default, or "fp32"), "exclude" (patterns of node names) and "analysed" (how many
samples are run afterwards).

The quantized model is written to PRODUCED.onnx.  The answer has "nsr" (output -> noise-to-signal
ratio, mean over samples), the seconds that quantizing took and the versions of what was used.
"""

import json
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import modelopt
import numpy as np
import onnx
import onnxruntime as ort
from modelopt.onnx.quantization import quantize
from onnxruntime.quantization.calibrate import CalibrationDataReader


class Reader(CalibrationDataReader):
    """Hands out one run after the other, as a user's own reader does."""

    def __init__(self, runs):
        self.runs = runs
        self.next = 0

    def get_next(self):
        self.next += 1
        return self.runs[self.next - 1] if self.next <= len(self.runs) else None

    def get_first(self):
        return self.runs[0]

    def rewind(self):
        self.next = 0


def outputs(path, runs):
    """Run a model as it stands, Q/DQ pairs as pairs: name -> array per run."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    found = [session.run(None, run) for run in runs]
    return {name: [np.float64(values[i]) for values in found] for i, name in enumerate(names)}


def widened(path):
    """Write a copy whose FP16 tensors are FP32, values unchanged; return its path.

    onnxruntime's CPU kernel of QuantizeLinear cuts FP16 values towards zero instead of rounding
    them, which costs some 10 dB that no device loses.
    """
    model = onnx.load(path)
    half, single = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT
    del model.graph.value_info[:]
    tensors = list(model.graph.initializer)
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.name == "to" and attribute.i == half:
                attribute.i = single
            if attribute.type == onnx.AttributeProto.TENSOR:
                tensors.append(attribute.t)
    for tensor in tensors:
        if tensor.data_type == half:
            wide = onnx.numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(wide, tensor.name))
    copy = Path(path).with_suffix(".wide.onnx")
    onnx.save(model, copy)
    return copy


def nsr(noisy, clean):
    """Noise power over signal power of one output of one run."""
    noise, signal = np.sum((noisy - clean) ** 2), np.sum(clean**2)
    return float(noise / signal) if signal else 0.0


def main():
    model, inputs, settings, produced, answer = sys.argv[1:]
    settings = json.loads(Path(settings).read_text(encoding="utf-8"))
    arrays = np.load(inputs)
    names = list(arrays)
    runs = [{n: arrays[n][i] for n in names} for i in range(len(arrays[names[0]]))]
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        onnx.save(onnx.load(model), path)
        start = time.perf_counter()
        quantize(
            str(path), quantize_mode="int8", calibration_data_reader=Reader(runs),
            calibration_method=settings["method"], calibration_eps=["cpu"], output_path=produced,
            high_precision_dtype=settings["precision"], log_level="ERROR",
            nodes_to_exclude=settings.get("exclude", []),
        )  # fmt: skip
        seconds = time.perf_counter() - start
        runs = runs[: settings["analysed"]]
        clean, noisy = outputs(path, runs), outputs(widened(produced), runs)
    found = {
        "nsr": {o: float(np.mean(list(map(nsr, noisy[o], clean[o])))) for o in clean},
        "seconds": seconds,
        "versions": {"modelopt": modelopt.__version__, "onnxruntime": ort.__version__},
    }
    Path(answer).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
