# SPDX-License-Identifier: Apache-2.0
"""The script that comes with `onnxruntime/arguments.json`; nothing in it depends on the plan."""

from __future__ import annotations

SCRIPT = '''"""Quantize as planned: python quantize.py CALIBRATION [--model M] [--output Q].

CALIBRATION: a folder of .npy files (model of one input) or of .npz files (one array per input,
named like it), one such file, or module:function, which returns or yields one dict per run:
input name -> array.  Arrays are fed as they are: prepare them as the model wants them.
"""

import argparse
import difflib
import importlib
import json
import sys
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize,
    quantize_static,
)
from onnxruntime.quantization.execution_providers.qnn import get_qnn_qdq_config

HERE = Path(__file__).resolve().parent
DTYPES = {"QInt8": np.int8, "QUInt8": np.uint8, "QInt16": np.int16, "QUInt16": np.uint16}


def main():
    """Read the arguments, check them against the model, quantize."""
    parser = argparse.ArgumentParser(description="Quantize as planned.")
    parser.add_argument("calibration", help="folder, file, or module:function")
    parser.add_argument("--arguments", type=Path, default=HERE / "arguments.json")
    parser.add_argument("--model", type=Path, help="another FP32 model with the same names")
    parser.add_argument("--output", type=Path, default=Path("model.quantized.onnx"))
    parser.add_argument("--samples", type=int, help="use the first N only")
    given = parser.parse_args()
    plan = json.loads(given.arguments.read_text(encoding="utf-8"))
    model = given.model or given.arguments.parent / plan["model"]
    proto = onnx.load(model)
    check_names(proto.graph, plan)
    reader = Reader(proto.graph, given.calibration, given.samples)
    run(plan, model, given.output, reader)
    print(f"{given.output}: calibrated on {reader.used} samples")


def run(plan, model, output, reader):
    """Call onnxruntime."""
    method = CalibrationMethod[plan["calibrate_method"]]
    types = {key: QuantType[plan[key]] for key in ("activation_type", "weight_type")}
    options = dict(plan["extra_options"])
    overrides = {
        tensor: [typed(entry, plan["activation_type"]) for entry in entries]
        for tensor, entries in options.pop("TensorQuantOverrides").items()
    }
    if plan["quantizer"] == "qnn":
        config = get_qnn_qdq_config(
            model,
            reader,
            calibrate_method=method,
            per_channel=plan["per_channel"],
            init_overrides=overrides or None,
            add_qtype_converts=False,
            nodes_to_exclude=plan["nodes_to_exclude"] or None,
            **types,
        )
        config.extra_options.update(options)
        quantize(model, output, config)
        return
    if overrides:
        options["TensorQuantOverrides"] = overrides
    quantize_static(
        model,
        output,
        reader,
        quant_format=QuantFormat[plan["quant_format"]],
        op_types_to_quantize=plan["op_types_to_quantize"],
        per_channel=plan["per_channel"],
        nodes_to_exclude=plan["nodes_to_exclude"],
        calibrate_method=method,
        extra_options=options,
        **types,
    )


def typed(entry, default):
    """Give the values of one override the types that onnxruntime wants."""
    made = dict(entry)
    kind = DTYPES[entry.get("quant_type", default)]
    if "quant_type" in made:
        made["quant_type"] = QuantType[made["quant_type"]]
    for key in ("rmin", "rmax", "scale"):
        if key in made:
            made[key] = np.array(made[key], np.float32)
    if "zero_point" in made:
        made["zero_point"] = np.array(made["zero_point"], kind)
    if "convert" in made:
        made["convert"] = typed(made["convert"], default)
        made["convert"]["recv_nodes"] = set(made["convert"]["recv_nodes"])
    return made


def check_names(graph, plan):
    """Stop at a name that the model does not have: onnxruntime ignores most of them."""
    nodes = {node.name for node in graph.node}
    tensors = {value.name for values in (graph.input, graph.initializer) for value in values}
    tensors.update(name for node in graph.node for name in node.output)
    overrides = plan["extra_options"]["TensorQuantOverrides"]
    receivers = [
        name
        for entries in overrides.values()
        for entry in entries
        for name in entry.get("convert", {}).get("recv_nodes", ())
    ]
    for what, names, known in (
        ("node", [*plan["nodes_to_exclude"], *receivers], nodes),
        ("tensor", overrides, tensors),
    ):
        for name in names:
            if name not in known:
                near = difflib.get_close_matches(name, known, 1, 0.0)
                sys.exit(f"The model has no {what} {name!r}. The nearest is {near[0]!r}.")


class Reader(CalibrationDataReader):
    """Hands out the samples one by one."""

    def __init__(self, graph, source, limit):
        constants = {tensor.name for tensor in graph.initializer}
        self.inputs = {
            value.name: (
                [dim.dim_value or None for dim in value.type.tensor_type.shape.dim],
                onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type),
            )
            for value in graph.input
            if value.name not in constants
        }
        self.source, self.limit, self.used = source, limit, 0
        self.rewind()

    def rewind(self):
        """Start again."""
        self.used, self.samples = 0, self.read()

    def get_next(self):
        """Return the next sample, None at the end."""
        if self.limit is not None and self.used >= self.limit:
            return None
        sample = next(self.samples, None)
        self.used += sample is not None
        return sample

    def read(self):
        """Yield samples."""
        path = Path(self.source)
        if not path.exists() and ":" in self.source:
            module, _, function = self.source.partition(":")
            sys.path.insert(0, str(Path.cwd()))
            for sample in getattr(importlib.import_module(module), function)():
                yield from self.runs(sample, self.source)
            return
        files = sorted(f for f in path.iterdir()) if path.is_dir() else [path]
        files = [file for file in files if file.suffix in (".npy", ".npz")]
        if not files or not files[0].exists():
            sys.exit(f"{self.source} holds no .npy or .npz file, and is no module:function.")
        for file in files:
            arrays = np.load(file)
            if file.suffix == ".npy":
                arrays = {next(iter(self.inputs)): arrays}
            yield from self.runs(dict(arrays), file.name)

    def runs(self, arrays, label):
        """Cut arrays of several runs into single ones."""
        cut = {}
        for name, (shape, dtype) in self.inputs.items():
            if name not in arrays and len(arrays) == len(self.inputs) == 1:
                arrays = {name: next(iter(arrays.values()))}
            if name not in arrays:
                sys.exit(f"{label} has no array for input {name!r}, only {sorted(arrays)}.")
            cut[name] = pieces(np.asarray(arrays[name]).astype(dtype), shape)
            if cut[name] is None:
                found = np.asarray(arrays[name]).shape
                sys.exit(f"{label}: input {name!r} has shape {found}, expected {shape}.")
        count = max(len(found) for found in cut.values())
        for index in range(count):
            yield {name: found[index % len(found)] for name, found in cut.items()}


def pieces(array, shape):
    """Return the runs in an array: one, one per row, or one without its batch axis."""

    def fits(candidate):
        return len(candidate) == len(shape) and all(
            want in (None, size) for want, size in zip(shape, candidate)
        )

    if fits(array.shape):
        return [array]
    if array.ndim == len(shape) + 1 and fits(array.shape[1:]):
        return list(array)
    if shape and shape[0] in (1, None):
        if array.ndim == len(shape) and fits((1, *array.shape[1:])):
            return [array[i : i + 1] for i in range(len(array))]
        if fits((1, *array.shape)):
            return [array[None]]
    return None


if __name__ == "__main__":
    main()
'''
