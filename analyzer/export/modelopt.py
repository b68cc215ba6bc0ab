# SPDX-License-Identifier: Apache-2.0
"""ModelOpt: a script that calls `modelopt.onnx.quantization.quantize` with the plan's exclusions.

Its lists of nodes are regular expressions that need not match to the end of a name (`re.match`):
names are escaped and closed with `$`, so that `conv1` does not take `conv10` along.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from analyzer.errors import ExportError
from analyzer.export.asked import Asked, Layer, asked, is_own, left_out, several
from analyzer.export.header import header
from analyzer.export.order import Files, Order
from analyzer.export.script import SAMPLES, assigned, filled, inputs, listed, model_argument
from analyzer.targets.tensorrt import TensorRt

_TOOL = "modelopt"
_METHODS = {"entropy": "entropy", "minmax": "max"}  # observer -> calibration method


def write(order: Order) -> Files:
    """Return `modelopt/quantize.py`.

    Raises:
        ExportError: where the plan quantizes nothing.
    """
    found = asked(order)
    chosen = found.of("int8") if found.base == "float" else ()
    if found.base == "float" and not chosen:
        raise ExportError(
            f"The plan leaves all of {order.source.name!r} in float, expected layers at int8.",
            "Give ModelOpt a plan that quantizes something.",
        )
    dtype = _dtype(order)
    not_said = [
        *left_out(order, found, tool=_TOOL, observers=_METHODS),
        *_granularity(order),
        *_other_floats(order, found, dtype),
    ]
    script = filled(
        _TEXT,
        header=header(order, left_out=not_said, tool=_TOOL),
        model=model_argument(order, found),
        samples=SAMPLES.strip("\n"),
        inputs=assigned("INPUTS", inputs(order)),
        floats=assigned("FLOAT", _patterns(found.of("float"))),
        chosen=assigned("INT8", _patterns(chosen)),
        method=_METHODS.get(order.proposal.setting.observer or "", "entropy"),
        dtype=dtype,
    )
    return {"modelopt/quantize.py": script}


def _patterns(layers: tuple[Layer, ...]) -> dict[str, str]:
    """Return node -> the expression that only its name matches."""
    names = listed([node for layer in layers for node in layer.nodes])
    return {name: f"{re.escape(name)}$" for name in names}


def _dtype(order: Order) -> str:
    target = order.target
    return "fp32" if isinstance(target, TensorRt) and not target.fp16_scales else "fp16"


def _granularity(order: Order) -> Iterator[str]:
    if order.proposal.setting.granularity == "tensor":
        yield "ModelOpt gives weights a scale per output channel; in the plan they have one."


def _other_floats(order: Order, found: Asked, dtype: str) -> Iterator[str]:
    """Yield a sentence on layers that shall be float of another kind than the rest."""
    others = [layer.name for layer in found.of("float") if layer.precision != dtype]
    if others and is_own(order, _TOOL):
        yield (
            f"Whatever is not INT8 becomes {dtype.upper()}, {several(others)} too; the simulation "
            "computed all of that in FP32. See `high_precision_dtype`."
        )


_TEXT = '''\
$header"""Quantize with NVIDIA ModelOpt: python quantize.py MODEL.onnx INPUTS [OUT.onnx].

$model
INPUTS (.npz, .npy, or a folder of these) holds an array per input, prepared as the model wants
it, runs along the first axis.
OUT.onnx gets explicit Q/DQ nodes, for TensorRT.
"""

import argparse
import math
from pathlib import Path

import numpy as np
import onnx
from modelopt.onnx.quantization import quantize
from onnxruntime.quantization.calibrate import CalibrationDataReader

# input -> type and shape of a run
$inputs
# node that stays in float -> the expression that only its name matches
$floats
# nodes that become int8, where not all do; empty: ModelOpt chooses
$chosen


class Runs(CalibrationDataReader):
    """Hands out one run after the other."""

    def __init__(self, runs):
        self.runs = runs
        self.rewind()

    def get_next(self):
        """Return the next run, None behind the last."""
        return next(self.left, None)

    def get_first(self):
        """Return the first run."""
        return self.runs[0]

    def rewind(self):
        """Start again."""
        self.left = iter(self.runs)


$samples


def check_names(path):
    """Refuse a model without these nodes: ModelOpt passes over what matches nothing."""
    names = {node.name for node in onnx.load(path, load_external_data=False).graph.node}
    missing = sorted({*FLOAT, *INT8} - names)
    if missing:
        raise SystemExit(f"{path} has no nodes {missing}: is it the right file?")


def main():
    """Answer the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("inputs")
    parser.add_argument("out", nargs="?", default="model.int8.onnx")
    parser.add_argument("--device", default="cpu", help="that calibrates: cpu, cuda:0 or trt")
    parser.add_argument("--float", default="$dtype", help="what the rest becomes: fp16 or fp32")
    given = parser.parse_args()
    check_names(given.model)
    quantize(
        given.model,
        quantize_mode="int8",
        calibration_data_reader=Runs(samples_of(given.inputs)),
        calibration_method="$method",
        calibration_eps=[given.device],
        nodes_to_quantize=list(INT8.values()),
        nodes_to_exclude=list(FLOAT.values()),
        high_precision_dtype=given.float,
        output_path=given.out,
    )


if __name__ == "__main__":
    main()
'''
