# SPDX-License-Identifier: Apache-2.0
"""Ask ai-edge-quantizer: python litert_plans.py FOLDER ANSWER.json.

FOLDER holds `cases.json`, a list of {"name", "recipe": int8 | int16x8, "average": bool, "floats":
[node], "evaluate": n}, and for each case NAME.json (the ONNX graph) and NAME.npz (its constants as
`c:<tensor>` and samples as `s:<number>:<input>`).  The answer has {"unwritten": why} where the
graph cannot be written as .tflite, else for every case

    edges: [[node, index, bits, scales, zero points] ...], floats left out; node "" is an output
    outputs: per evaluated sample {output: {"float", "quantized"}}, flattened, NCHW; null where
        the interpreter cannot run the quantized model
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from ai_edge_litert.tools import flatbuffer_utils
from ai_edge_quantizer import quantizer, recipe_manager
from ai_edge_quantizer.calibrator import Calibrator
from ai_edge_quantizer.qtyping import TFLOperationName
from ai_edge_quantizer.utils import qsv_utils
from tflite_writer import NCHW, NHWC, Writer

BITS = {9: 8, 7: 16, 2: 32, 4: 64}  # tensor types INT8, INT16, INT32, INT64
SIGNATURE = "serving_default"


def laid_out(array, perm=NHWC):
    return np.ascontiguousarray(array.transpose(perm)) if array.ndim == 4 else array


def recipe_of(case, writer):
    manager = recipe_manager.RecipeManager()
    manager.add_static_config(
        ".*", TFLOperationName.ALL_SUPPORTED, 16 if case["recipe"] == "int16x8" else 8, 8
    )
    for output in case.get("floats", []):  # outputs of the operators that stay in float
        manager.add_quantization_config(
            f"^{re.escape(output)};?$", TFLOperationName.ALL_SUPPORTED, algorithm_key="no_quantize"
        )
    return manager.get_quantization_recipe()


def quantized(path, case, recipe, samples):
    manager = recipe_manager.RecipeManager()
    manager.load_quantization_recipe(recipe)
    tool = quantizer.Quantizer(str(path), recipe)
    more = {} if case["average"] else {"qsv_update_func": qsv_utils.min_max_update}
    calibrator = Calibrator(str(path), **more)
    calibrator.calibrate({SIGNATURE: samples}, manager)
    return bytes(tool.quantize(calibrator.get_model_qsvs()).quantized_model)


def edges(content, writer):
    model = flatbuffer_utils.read_model_from_bytearray(bytearray(content))
    graph = model.subgraphs[0]
    kept = [
        o
        for o in graph.operators
        if flatbuffer_utils.opcode_to_name(model, o.opcodeIndex) not in ("QUANTIZE", "DEQUANTIZE")
    ]
    assert len(kept) == len(writer.slots), "operators were added or removed"

    behind = {  # what a float operator reads of a quantized tensor is on its grid, too
        o.outputs[0]: o.inputs[0]
        for o in graph.operators
        if flatbuffer_utils.opcode_to_name(model, o.opcodeIndex) == "DEQUANTIZE"
    }

    def entry(node, index, at):
        tensor = graph.tensors[behind.get(at, at)]
        params = tensor.quantization
        if tensor.type not in BITS or params is None or params.scale is None:
            return []
        zero = np.ravel(params.zeroPoint).tolist()
        return [[node, index, BITS[tensor.type], np.ravel(params.scale).tolist(), zero]]

    found = []
    for operator, slots in zip(kept, writer.slots, strict=True):
        for at, slot in zip(operator.inputs, slots, strict=True):
            if slot is not None:
                found += entry(*slot, at)
    for name, at in zip(writer.graph["outputs"], graph.outputs, strict=True):
        found += entry("", name, at)
    return found


def run(content, names, outputs, sample):
    interpreter = Interpreter(model_content=content, num_threads=1)
    runner = interpreter.get_signature_runner(SIGNATURE)
    details = runner.get_input_details()
    feeds = {}
    for name in names:
        scale, zero = details[name]["quantization"]
        kind = details[name]["dtype"]
        x = sample[name]
        if scale:
            limits = np.iinfo(kind)
            x = np.clip(np.rint(x / np.float32(scale)) + zero, limits.min, limits.max)
        feeds[name] = x.astype(kind)
    made = runner(**feeds)
    back = {}
    for name in outputs:
        scale, zero = runner.get_output_details()[name]["quantization"]
        y = made[name].astype(np.float32)
        back[name] = laid_out((y - zero) * scale if scale else y, NCHW).ravel().tolist()
    return back


def answer(folder, case):
    graph = json.loads((folder / f"{case['name']}.json").read_text(encoding="utf-8"))
    data = np.load(folder / f"{case['name']}.npz")
    arrays = {k[2:]: data[k] for k in data.files if k.startswith("c:")}
    samples = []
    while f"s:{len(samples)}:{graph['inputs'][0]}" in data.files:
        number = len(samples)
        samples.append({n: laid_out(data[f"s:{number}:{n}"]) for n in graph["inputs"]})
    writer = Writer(graph, arrays)
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "float.tflite"
        path.write_bytes(writer.write())
        content = quantized(path, case, recipe_of(case, writer), samples)
        names, outputs = graph["inputs"], graph["outputs"]
        runs = []
        for sample in samples[: case["evaluate"]]:
            plain = run(path.read_bytes(), names, outputs, sample)
            try:
                rounded = run(content, names, outputs, sample)
            except (RuntimeError, ValueError):  # no kernel for these types
                rounded = dict.fromkeys(outputs)
            runs.append({n: {"float": plain[n], "quantized": rounded[n]} for n in outputs})
    return {"edges": edges(content, writer), "outputs": runs}


def main():
    folder, out = Path(sys.argv[1]), Path(sys.argv[2])
    cases = json.loads((folder / "cases.json").read_text(encoding="utf-8"))
    found = {}
    for case in cases:
        try:
            found[case["name"]] = answer(folder, case)
        except (NotImplementedError, RuntimeError) as error:  # or the interpreter refuses it
            found[case["name"]] = {"unwritten": str(error)}
    out.write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
