# SPDX-License-Identifier: Apache-2.0
"""TensorRT: a model with explicit Q/DQ, and what releases before 11 can be told besides.

Those quantize a float model by a calibration cache, and take the precision of layers as flags.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

import numpy as np

from analyzer.export.asked import Asked, Layer, asked, several
from analyzer.export.header import header
from analyzer.export.names import NameMap, known_tensors
from analyzer.export.order import Files, Order
from analyzer.export.qdq import serialized
from analyzer.export.qdq_graph import write_qdq
from analyzer.export.sidecar import readme
from analyzer.export.tensorrt_grids import Fitted, fitted
from analyzer.formats import SOURCE
from analyzer.quant.fake import calibrated

# The number is that of the release that wrote the file.
_FIRST_LINE = "TRT-8600-EntropyCalibration2"
_EXPLICIT = (
    "model.onnx: give it to the builder as it is, trtexec --onnx=model.onnx --int8 --fp16. Layers "
    "without Q/DQ in front of them run in float."
)
_IMPLICIT = (
    "calibration.cache and flags.txt: for releases before 11 and the float model, {file}, in "
    "place of the one with Q/DQ. TensorRT then chooses by itself which tensors it quantizes, so "
    "that the noise is not what was measured. The first line of the cache names a release: put "
    "your own there if yours refuses it."
)
_UNWRITABLE = frozenset(",:'\"")


def write(order: Order) -> Files:
    """Return model, calibration cache, flags, and what is to be said about them."""
    found = fitted(order.graph, order.plan.quantizers)
    written = write_qdq(order.graph, found.quantizers)
    left_out = [*found.left_out(), *written.left_out]
    wanted = asked(order)
    layers = (*wanted.of("float"), *wanted.of("wide"))
    scales = _scales(order, found, wanted)
    if any("32" in layer.precision for layer in layers):
        left_out.append("FP32 layers: built with FP16, they may run in that as well.")
    use = [_EXPLICIT, _IMPLICIT.format(file=_file(order, wanted))]
    return {
        "tensorrt/model.onnx": serialized(written.proto, order, left_out, tool="tensorrt"),
        "tensorrt/README.txt": readme(order, left_out, use, tool="tensorrt"),
        "tensorrt/calibration.cache": _cache(scales),
        "tensorrt/flags.txt": _flags(order, wanted, layers),
    }


def _file(order: Order, wanted: Asked) -> str:
    if wanted.file == "ours":
        return f"{SOURCE} beside this folder"
    return f"your own {order.original.name}"


def _scales(order: Order, found: Fitted, wanted: Asked) -> dict[str, float]:
    """Return activation -> scale, by the names of the file; of several, the widest."""
    named = NameMap(order).tensor if wanted.file == "original" else str
    known = known_tensors(order, wanted.file)
    scales: dict[str, float] = {}
    for quantizer in found.quantizers:
        name = named(quantizer.tensor)
        if name is not None and name in known and quantizer.role in ("input", "activation"):
            scale = float(calibrated(quantizer)[0].max())
            scales[name] = max(scales.get(name, 0.0), scale)
    return scales


def _cache(scales: Mapping[str, float]) -> str:
    """Write float32 scales as eight hex digits, the first byte first."""
    lines = [
        f"{name}: {struct.pack('>f', np.float32(scale)).hex()}" for name, scale in scales.items()
    ]
    return "\n".join([_FIRST_LINE, *lines, ""])


def _flags(order: Order, wanted: Asked, layers: tuple[Layer, ...]) -> str:
    precisions: dict[str, str] = {}
    left_out = []
    for layer in layers:
        for node in layer.nodes:
            # 16-bit integers: FP16 is the nearest that there is
            precisions[node] = "fp32" if "32" in layer.precision else "fp16"
    if odd := [name for name in precisions if _UNWRITABLE & set(name)]:
        left_out.append(
            f"Layers whose names hold a comma, colon or quote, which these flags cannot carry: "
            f"{several(odd)}."
        )
        precisions = {n: p for n, p in precisions.items() if n not in odd}
    if wanted.base != "int8":
        left_out.append("That all other layers are in float: the flags below would quantize them.")
    left_out.append("Which tensors are quantized: the builder chooses that by time.")
    lines = [
        header(order, left_out=left_out, tool="tensorrt"),
        "# Arguments of trtexec of releases before 11, one per line.\n",
        f"--onnx={_path(order, wanted)}\n--int8\n--fp16\n--calib=calibration.cache\n",
    ]
    if precisions:
        told = ",".join(f"{name}:{precision}" for name, precision in precisions.items())
        lines.append(
            f"--precisionConstraints=obey\n--layerPrecisions={told}\n--layerOutputTypes={told}\n"
        )
    return "".join(lines)


def _path(order: Order, wanted: Asked) -> str:
    return f"../{SOURCE}" if wanted.file == "ours" else order.original.name
