# SPDX-License-Identifier: Apache-2.0
"""AIMET: encodings in the format of version 2.0.0, and in that of 1.0.0 for older releases."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from analyzer.export.encodings import Encoding, Encodings, encodings, file_line
from analyzer.export.order import Files, Order
from analyzer.export.sidecar import readme

_USE = (
    "encodings.json has format 2.0.0, which aimet-onnx loads since release 2.22; "
    "encodings_1.0.0.json is for older releases. Format 2.0.0 has no entries for float tensors: "
    "switch the quantizers of tensors without an entry off."
)


def write(order: Order) -> Files:
    """Return the encodings, and what is to be said about them."""
    found = encodings(order)
    floats = [*found.floats, *found.float_parameters]
    kept = ["Tensors that stay in float by plan:", "\n".join(f"  {name}" for name in floats)]
    use = [file_line(order, found), _USE, *(kept if floats else ())]
    return {
        "aimet/encodings.json": _text(_latest(found)),
        "aimet/encodings_1.0.0.json": _text(_first(found)),
        "aimet/README.txt": readme(order, found.left_out, use, tool="aimet"),
    }


def _text(content: dict[str, Any]) -> str:  # Any: a JSON object
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def _latest(found: Encodings) -> dict[str, Any]:
    # AIMET counts the levels of activations from 0
    activations = {name: replace(e, signed=False) for name, e in found.activations.items()}
    entries = []
    for name, encoding in (*activations.items(), *found.parameters.items()):
        one = encoding.axis is None
        entry = {
            "name": name,
            "output_dtype": f"{'int' if encoding.signed else 'uint'}{encoding.bits}",
            "y_scale": encoding.scale[0] if one else list(encoding.scale),
            "y_zero_point": encoding.zero_point[0] if one else list(encoding.zero_point),
        }
        entries.append(entry if one else {**entry, "axis": encoding.axis})
    return {"version": "2.0.0", "encodings": entries}


def _first(found: Encodings) -> dict[str, Any]:
    return {
        "version": "1.0.0",
        "activation_encodings": [
            *(_entry(name, encoding) for name, encoding in found.activations.items()),
            *(_float(name, bits) for name, bits in found.floats.items()),
        ],
        "param_encodings": [
            *(_entry(name, encoding) for name, encoding in found.parameters.items()),
            *(_float(name, bits) for name, bits in found.float_parameters.items()),
        ],
        "excluded_layers": [],
    }


def _entry(name: str, encoding: Encoding) -> dict[str, Any]:
    return {
        "name": name,
        "enc_type": "PER_TENSOR" if encoding.axis is None else "PER_CHANNEL",
        "dtype": "INT",
        "bw": encoding.bits,
        "is_sym": encoding.symmetric,
        "scale": list(encoding.scale),
        "offset": list(encoding.offset),
    }


def _float(name: str, bits: int) -> dict[str, Any]:
    return {"name": name, "enc_type": "PER_TENSOR", "dtype": "FLOAT", "bw": bits}
