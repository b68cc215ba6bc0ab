# SPDX-License-Identifier: Apache-2.0
"""The Python scripts of `tflite`: templates, see `script.filled`."""

from __future__ import annotations

# How both find what a .tflite calls the tensors of an ONNX file.
_NAMES = '''
def names_in(content, tensors, given, onnx_file, samples):
    """Return ONNX tensor -> its name in a float .tflite; refuse where there is none.

    By a table, by the same name, or by the same values when both models run on a sample.
    """
    interpreter = Interpreter(model_content=content, experimental_preserve_all_tensors=True)
    known = {detail["name"] for detail in interpreter.get_tensor_details()}
    found = json.loads(Path(given).read_text(encoding="utf-8")) if given else {}
    found = {**{tensor: tensor for tensor in tensors if tensor in known}, **found}
    wrong = sorted(found[t] for t in tensors if t in found and found[t] not in known)
    if wrong:
        raise SystemExit(f"The .tflite has no tensors {wrong}: correct {given}.")
    left = [tensor for tensor in tensors if tensor not in found]
    if left and onnx_file:
        found.update(by_values(interpreter, onnx_file, left, samples))
    missing = [tensor for tensor in left if tensor not in found]
    if missing:
        raise SystemExit(
            f"The .tflite calls {missing} otherwise. Give the ONNX file it was made of with "
            "--onnx, or a table {ONNX name: .tflite name} with --names."
        )
    return {tensor: found[tensor] for tensor in tensors}


def by_values(interpreter, onnx_file, tensors, samples):
    """Return ONNX tensor -> the one tensor of the .tflite with its values on two samples."""
    import onnx
    import onnxruntime

    model = onnx.load(onnx_file)
    outputs = {value.name for value in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=t) for t in tensors if t not in outputs)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    alike = {}
    for sample in samples[:2]:
        wanted = dict(zip(tensors, session.run(tensors, sample), strict=True))
        made = values_of(interpreter, sample)
        for tensor, value in wanted.items():
            names = {name for name, other in made.items() if same(value, other)}
            alike[tensor] = alike.get(tensor, names) & names
    unclear = {tensor: sorted(names) for tensor, names in alike.items() if len(names) > 1}
    if unclear:
        raise SystemExit(f"Several tensors have the same values, give --names: {unclear}.")
    return {tensor: next(iter(names)) for tensor, names in alike.items() if names}


def values_of(interpreter, sample):
    """Return name -> value of every tensor that an operator makes."""
    interpreter.allocate_tensors()
    details = interpreter.get_input_details()
    for detail, value in zip(details, fed(interpreter, sample), strict=True):
        interpreter.set_tensor(detail["index"], value)
    interpreter.invoke()
    made = {index for op in interpreter._get_ops_details() for index in op["outputs"]}
    details = interpreter.get_tensor_details()
    return {d["name"]: interpreter.get_tensor(d["index"]) for d in details if d["index"] in made}


def same(x, y):
    """Tell whether two tensors hold the same values, in this layout or with channels last."""
    layouts = [x] + ([np.moveaxis(x, 1, -1)] if x.ndim > 2 else [])
    return any(
        a.shape == y.shape and np.abs(a - y).max(initial=0) <= 1e-4 * np.abs(a).max(initial=1e-9)
        for a in layouts
    )


def fed(interpreter, sample):
    """Return the arrays of one run in the order and the layout of the model's inputs."""
    details = interpreter.get_input_details()
    return [laid_out(sample, detail, len(details)) for detail in details]


def laid_out(sample, detail, count, also=""):
    """Return the array of one input, channels last where the model wants them there."""
    plain = detail["name"].removeprefix("serving_default_").partition(":")[0]
    name = next((n for n in sample if n in (also, detail["name"], plain)), None)
    if name is None and count == len(sample) == 1:
        (name,) = sample
    if name is None:
        raise SystemExit(f"Input {detail['name']!r} of the .tflite is none of {sorted(sample)}.")
    array, shape = sample[name], tuple(detail["shape"])
    for candidate in (array, np.moveaxis(array, 1, -1) if array.ndim > 2 else array):
        if candidate.shape == shape:
            return np.ascontiguousarray(candidate.astype(detail["dtype"]))
    raise SystemExit(f"Input {name!r} is {array.shape}, the .tflite wants {shape}.")
'''

QUANTIZE = (
    '''\
$header"""Quantize with ai-edge-quantizer: python quantize.py MODEL.tflite INPUTS [OUT.tflite].

MODEL.tflite is the float model that was made of $model.
INPUTS (.npz, .npy, or a folder of these) holds an array per input, prepared and laid out as the
ONNX model wants it, runs along the first axis.
The rules of recipe.json call operators by the tensors they make in the ONNX file.  Where the
.tflite calls these otherwise, give --onnx (found by their values) or --names (a JSON table).
"""

import argparse
import json
import math
import re
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from ai_edge_quantizer import quantizer, recipe_manager
from ai_edge_quantizer.calibrator import Calibrator
from ai_edge_quantizer.utils import qsv_utils

RECIPE = Path(__file__).with_name("recipe.json")
# input -> type and shape of a run
$inputs
# tensors that the rules of the recipe are about, from its second rule on
$tensors
# tensor -> smallest and largest value that its grid covers
$ranges
# keep the extremes of all runs; False: their moving average, as by default
EXTREMES = $extremes


$samples


'''
    + _NAMES.strip("\n")
    + '''


def recipe_for(names):
    """Return the recipe by the names of the .tflite."""
    recipe = json.loads(RECIPE.read_text(encoding="utf-8"))
    for rule, tensor in zip(recipe[1:], TENSORS, strict=False):
        rule["regex"] = f"(^|;){re.escape(names[tensor])};"
    return recipe


def calibrated(path, recipe, samples, names):
    """Return tensor -> its smallest and largest value."""
    interpreter = Interpreter(model_path=path)
    signature = next(iter(interpreter.get_signature_list()), None)
    runner = interpreter.get_signature_runner(signature)
    details = runner.get_input_details()
    runs = [
        {n: laid_out(sample, detail, len(details), n) for n, detail in details.items()}
        for sample in samples
    ]
    rules = recipe_manager.RecipeManager()
    rules.load_quantization_recipe(recipe)
    options = {"qsv_update_func": qsv_utils.min_max_update} if EXTREMES else {}
    calibrator = Calibrator(path, **options)
    calibrator.calibrate({signature: runs}, rules)
    found = calibrator.get_model_qsvs()
    for tensor, ends in RANGES.items():
        seen = found[names[tensor]]
        for key, value in zip(("min", "max"), ends, strict=True):
            seen[key] = np.full_like(seen[key], value)
    return found


def main():
    """Answer the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("inputs")
    parser.add_argument("out", nargs="?", default="model.int8.tflite")
    parser.add_argument("--onnx", help="the file that the model was made of")
    parser.add_argument("--names", help="JSON: ONNX tensor -> tensor of the model")
    given = parser.parse_args()
    samples = samples_of(given.inputs)
    content = Path(given.model).read_bytes()
    names = names_in(content, [*TENSORS, *RANGES], given.names, given.onnx, samples)
    recipe = recipe_for(names)
    tool = quantizer.Quantizer(given.model, recipe)
    result = tool.quantize(calibrated(given.model, recipe, samples, names))
    Path(given.out).write_bytes(result.quantized_model)


if __name__ == "__main__":
    main()
'''
)

DEBUGGER = (
    '''\
$header"""Quantize with the TFLite converter: python debugger.py SAVED_MODEL INPUTS [OUT.tflite].

SAVED_MODEL is the folder that was made of $model (by onnx2tf, say).
INPUTS (.npz, .npy, or a folder of these) holds an array per input, prepared and laid out as the
ONNX model wants it, runs along the first axis.
The converter leaves in float what denylist.txt names.  It knows tensors by the names in the
.tflite; where these are not the ONNX names, give --onnx (found by their values) or --names (a
JSON table).
"""

import argparse
import json
import math
from pathlib import Path

import numpy as np
import tensorflow as tf

Interpreter = tf.lite.Interpreter
DENYLIST = Path(__file__).with_name("denylist.txt")
# input -> type and shape of a run
$inputs


$samples


'''
    + _NAMES.strip("\n")
    + '''


def denied():
    """Return the ONNX tensors whose operators stay in float."""
    lines = DENYLIST.read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines if line and not line.startswith("#")]


def main():
    """Answer the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("inputs")
    parser.add_argument("out", nargs="?", default="model.int8.tflite")
    parser.add_argument("--onnx", help="the file that the model was made of")
    parser.add_argument("--names", help="JSON: ONNX tensor -> tensor of the .tflite")
    parser.add_argument("--statistics", help="CSV: also run the debugger and write what it finds")
    given = parser.parse_args()
    samples = samples_of(given.inputs)
    content = tf.lite.TFLiteConverter.from_saved_model(given.model).convert()
    names = names_in(content, denied(), given.names, given.onnx, samples)
    plain = Interpreter(model_content=content)

    def runs():
        for sample in samples:
            yield fed(plain, sample)

    converter = tf.lite.TFLiteConverter.from_saved_model(given.model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = runs
    debugger = tf.lite.experimental.QuantizationDebugger(
        converter=converter,
        debug_dataset=runs,
        debug_options=tf.lite.experimental.QuantizationDebugOptions(
            denylisted_nodes=list(names.values())
        ),
    )
    Path(given.out).write_bytes(debugger.get_nondebug_quantized_model())
    if given.statistics:
        debugger.run()
        with open(given.statistics, "w", encoding="utf-8") as file:
            debugger.layer_statistics_dump(file)


if __name__ == "__main__":
    main()
'''
)
