# SPDX-License-Identifier: Apache-2.0
"""AMD Quark for ONNX: a script that builds the QConfig of a plan and quantizes with it.

Quark's quantizer is made from onnxruntime's and takes the same `TensorQuantOverrides`, but for
`convert`, which it refuses (0.13).  Layers are not given by `specific_layer_config`: a weight that
is named there gets one scale for all its channels.  A name that the model does not have is ignored
there, one that begins with "^" is a regular expression.
"""

from __future__ import annotations

from collections.abc import Iterator

from analyzer.errors import ExportError
from analyzer.export.asked import several
from analyzer.export.header import header
from analyzer.export.names import check, known_nodes, known_tensors
from analyzer.export.order import Files, Order
from analyzer.export.ort_call import Call, Entry, call_for
from analyzer.export.script import SAMPLES, assigned, filled, inputs
from analyzer.formats import SOURCE

# options of onnxruntime's quantizer that Quark has as well
_OPTIONS = frozenset({"QuantizeBias"})


def write(order: Order) -> Files:
    """Return the script.

    Raises:
        ExportError: for a plan without quantized layers, or a name that Quark would misread.
    """
    call = call_for(order)
    if not any(q.active for q in order.plan.quantizers):
        raise ExportError(
            "The plan leaves the network in float.", "Choose a plan that is mostly int8."
        )
    _check(order, call)
    script = filled(
        _SCRIPT,
        source=SOURCE,
        inputs=assigned("INPUTS", inputs(order)),
        activation=_spec(call.activation_type, call.calibrate_method, weight=False),
        weight=_spec(call.weight_type, "MinMax", weight=True, channel=call.per_channel),
        exclude=assigned("EXCLUDE", list(call.nodes_to_exclude)),
        overrides=assigned("OVERRIDES", _overrides(call)),
        options=repr({k: v for k, v in call.options.items() if k in _OPTIONS}),
        samples=SAMPLES.strip(),
    )
    left_out = list(_left_out(call))
    return {"quark/config.py": header(order, left_out=left_out, tool="quark") + script}


def _check(order: Order, call: Call) -> None:
    check(call.nodes_to_exclude, known_nodes(order, "ours"), "node")
    check(call.overrides, known_tensors(order, "ours"), "tensor")
    for name in call.nodes_to_exclude:
        if name.startswith("^"):
            raise ExportError(
                f"The node name {name!r} begins with '^', which Quark takes for a regular "
                "expression.",
                "Rename the node.",
            )


def _overrides(call: Call) -> dict[str, list[Entry]]:
    """Return the overrides; a tensor that some readers want in 16 bits has them for all."""
    found = {}
    for tensor, entries in call.overrides.items():
        found[tensor] = [dict(entry) for entry in entries]
        for entry in found[tensor]:
            if converted := entry.pop("convert", None):
                kinds = [converted["quant_type"], entry.get("quant_type", call.activation_type)]
                entry["quant_type"] = next((k for k in kinds if k.endswith("16")), kinds[1])
    return found


def _spec(kind: str, method: str, *, weight: bool, channel: bool = False) -> str:
    """Return the call that makes a `QTensorConfig` with the symmetry onnxruntime has by default.

    Args:
        kind: `QInt8`, `QUInt8` and so on.
        method: of `CalibMethod`.
        weight: signed weights are symmetric, activations are not.
        channel: whether there is a scale per channel.
    """
    arguments = [
        f"symmetric={weight and kind.startswith('QInt')}",
        f"calibration_method=CalibMethod.{method}",
        *(["quant_granularity=QuantGranularity.Channel"] if channel else []),
    ]
    return f"{kind.removeprefix('Q')}Spec({', '.join(arguments)})"


def _left_out(call: Call) -> Iterator[str]:
    yield from call.left_out
    converted = [
        t for t, entries in call.overrides.items() if any("convert" in e for e in entries)
    ]
    if converted:
        yield (
            "Quark converts no tensor for single readers: all that read one of "
            f"{several(converted)} read 16 bits."
        )
    if call.calibrate_method != "MinMax":
        yield f"Ranges are found by Quark's own {call.calibrate_method}, which is another one."
    if call.options.keys() - _OPTIONS:
        yield (
            "Quark drops quantizers in front of a Relu or Clip, and between operations that it "
            "fuses, whether the plan has them or not."
        )


_SCRIPT = r'''"""Quantize with AMD Quark as this plan asks for.

    python config.py SAMPLES QUANTIZED.onnx [--model ../$source]

SAMPLES: an .npz (one array per input), an .npy, or a folder of these, prepared as for the model;
runs along the first axis.
"""

import argparse
import math
import sys
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantType
from quark.onnx import (
    CalibMethod,
    Int8Spec,
    Int16Spec,
    ModelQuantizer,
    QConfig,
    QLayerConfig,
    QuantGranularity,
    UInt8Spec,
    UInt16Spec,
)

MODEL = Path(__file__).resolve().parent.parent / "$source"

$inputs

# nodes that stay in float
$exclude

# tensor -> TensorQuantOverrides, types by name
$overrides


$samples


class Reader(CalibrationDataReader):
    """Hand out one run after the other."""

    def __init__(self, samples):
        self.samples = samples
        self.rewind()

    def get_next(self):
        return next(self.left, None)

    def rewind(self):
        self.left = iter(self.samples)


def typed(entry):
    """Return an entry with the types that Quark works with."""
    found = dict(entry)
    if "quant_type" in entry:
        found["quant_type"] = getattr(QuantType, entry["quant_type"])
    for key in ("rmin", "rmax", "scale"):
        if key in entry:
            found[key] = np.array(entry[key], np.float32)
    return found


def quant_config():
    """Return the configuration."""
    overrides = {t: [typed(entry) for entry in entries] for t, entries in OVERRIDES.items()}
    return QConfig(
        global_config=QLayerConfig(
            input_tensors=$activation,
            weight=$weight,
        ),
        exclude=EXCLUDE,
        # "OptimizeModel" and "SimplifyModel" rename nodes before any is looked up
        extra_options={
            "OptimizeModel": False,
            "SimplifyModel": False,
            "TensorQuantOverrides": overrides,
            **$options,
        },
    )


def check_names(model):
    """Leave where the model lacks a name: Quark would go on without it."""
    nodes = {node.name for node in model.graph.node}
    tensors = {name for node in model.graph.node for name in [*node.input, *node.output]}
    missing = sorted(set(EXCLUDE) - nodes) + sorted(set(OVERRIDES) - tensors)
    if missing:
        sys.exit(f"Not in the model: {', '.join(missing)}.")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("samples", metavar="SAMPLES")
    parser.add_argument("quantized", metavar="QUANTIZED.onnx")
    parser.add_argument("--model", default=str(MODEL))
    given = parser.parse_args()
    check_names(onnx.load(given.model, load_external_data=False))
    quantizer = ModelQuantizer(quant_config())
    quantizer.quantize_model(given.model, given.quantized, Reader(samples_of(given.samples)))


if __name__ == "__main__":
    main()
'''
