# SPDX-License-Identifier: Apache-2.0
"""QNN and SNPE: encodings for `--quantization_overrides` of their converters, version 0.6.1."""

from __future__ import annotations

import json
from typing import Any

from analyzer.export.encodings import Encoding, encodings, file_line
from analyzer.export.order import Files, Order
from analyzer.export.sidecar import readme

_USE = "Give quantization_overrides.json to the converter:"
_COMMAND = """\
  qnn-onnx-converter --input_network MODEL --input_list LIST --bias_bitwidth 32
    --quantization_overrides quantization_overrides.json"""
_REST = (
    "Tensors without an entry are quantized by the converter itself, or stay in float with "
    "--float_fallback."
)


def write(order: Order) -> Files:
    """Return the encodings, and what is to be said about them."""
    found = encodings(order)
    content = {
        "version": "0.6.1",
        "activation_encodings": {
            **{name: _entries(encoding) for name, encoding in found.activations.items()},
            **{name: [_float(bits)] for name, bits in found.floats.items()},
        },
        "param_encodings": {
            **{name: _entries(encoding) for name, encoding in found.parameters.items()},
            **{name: [_float(bits)] for name, bits in found.float_parameters.items()},
        },
    }
    text = json.dumps(content, indent=1, ensure_ascii=False)
    return {
        "qnn/quantization_overrides.json": f"{text}\n",
        "qnn/README.txt": readme(
            order, found.left_out, [file_line(order, found), _USE, _COMMAND, _REST], tool="qnn"
        ),
    }


# Any: a JSON object


def _entries(encoding: Encoding) -> list[dict[str, Any]]:
    """Return one entry per channel."""
    levels = 2**encoding.bits - 1
    return [
        {
            "bitwidth": encoding.bits,
            "dtype": "int",
            "is_symmetric": str(encoding.symmetric),
            "max": (levels + offset) * scale,
            "min": offset * scale,
            "offset": offset,
            "scale": scale,
        }
        for scale, offset in zip(encoding.scale, encoding.offset, strict=True)
    ]


def _float(bits: int) -> dict[str, Any]:
    return {"bitwidth": bits, "dtype": "float"}
