# SPDX-License-Identifier: Apache-2.0
"""What cannot be analyzed is refused here, with a sentence: a model goes in, errors come out."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import onnx
import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as state

from analyzer.errors import ModelError
from analyzer.graph.read import all_nodes

OLDEST_OPSET = 7

# the domains onnxruntime brings kernels for; what it lacks in them it says itself
_KNOWN_DOMAINS = frozenset(
    {
        "",
        "ai.onnx",
        "ai.onnx.ml",
        "ai.onnx.training",
        "ai.onnx.preview",
        "ai.onnx.preview.training",
        "com.microsoft",
        "com.microsoft.nchwc",
        "com.microsoft.experimental",
        "com.ms.internal.nhwc",
        "org.pytorch.aten",
    }
)
_QUANTIZED = re.compile(
    r"QuantizeLinear|DequantizeLinear|DynamicQuantize\w+|QLinear\w+|ConvInteger\w*"
    r"|MatMulInteger\w*|MatMulNBits|MatMulBnb4|QGemm|QMoE|QAttention|QOrdered\w+"
    r"|QEmbedLayerNormalization|QuantizeWithOrder|DequantizeWithOrder|DequantizeBFP|QuantizeBFP"
)

# every exception of onnxruntime; they have no common base below Exception
RUNTIME_ERRORS: tuple[type[Exception], ...] = (
    RuntimeError,
    ValueError,
    *(
        kind
        for kind in vars(state).values()
        if isinstance(kind, type) and issubclass(kind, Exception)
    ),
)


def refuse_unsupported(proto: onnx.ModelProto, *, quantized_too: bool = True) -> None:
    """Refuse operators nobody here can run, and, if asked to, models that are quantized already.

    Raises:
        ModelError: naming the operators and their number.
    """
    local = {(f.domain, f.name) for f in proto.functions}
    custom: Counter[str] = Counter()
    quantized: Counter[str] = Counter()
    for node in all_nodes(proto):
        if (node.domain, node.op_type) in local:
            continue
        if node.domain not in _KNOWN_DOMAINS:
            custom[f"{node.domain}.{node.op_type}"] += 1
        elif _QUANTIZED.fullmatch(node.op_type):
            quantized[node.op_type] += 1
    if custom:
        raise ModelError(
            f"The model has operators that onnxruntime does not know ({_counted(custom)}), "
            "expected standard ONNX ones.",
            "Export it without them, or with the standard operators they stand for.",
        )
    if quantized and quantized_too:
        raise ModelError(
            f"The model is already quantized ({_counted(quantized)}), expected an FP32 one.",
            "Give the FP32 model it was made from, and this one with --quantized; without an FP32 "
            "one, give this file as both.",
        )


def open_plain(model: bytes | Path) -> ort.InferenceSession:
    """Open a session that runs every node as it is, once, on the calling thread.

    It has an arena of its own, so that nothing of it outlives it.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4  # what goes wrong is raised, and need not be printed as well
    options.add_session_config_entry("session.disable_prepacking", "1")
    source = str(model) if isinstance(model, Path) else model
    # without the fallback, which prints, and tries the same provider again
    return ort.InferenceSession(
        source, options, providers=["CPUExecutionProvider"], enable_fallback=0
    )


def check_loads(proto: onnx.ModelProto, path: Path | None) -> None:
    """Let onnxruntime load the model, and drop it again.

    `path` is the file of `proto`, where that holds the same nodes, and quicker to load.  An IR
    version newer than onnxruntime takes is lowered in `proto`: what it adds are types that
    onnxruntime would refuse by themselves.

    Raises:
        ModelError: with the first line of what onnxruntime says.
    """
    try:
        open_plain(path or proto.SerializeToString())
    except RUNTIME_ERRORS as error:
        newest = _newest_ir(error)
        if newest is None or newest >= proto.ir_version:
            raise _refused(error) from error
        proto.ir_version = newest
        check_loads(proto, None)


def first_line(error: Exception) -> str:
    """Return the sentence in an onnxruntime message, without the places in its source."""
    text = str(error).strip()
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", text)
    text = re.sub(r"^Load model from .*? failed:\s*", "", text)
    # "/file.cc:12 void function(types) message": the message starts behind the signature
    text = re.sub(r"^/\S+:\d+ .*\) (?=[A-Z])", "", text.split("\n")[0])
    return f"{text.strip().rstrip('.')}."


def _refused(error: Exception) -> ModelError:
    line = first_line(error)
    if opset := re.search(r"Opset (\d+) is under.*till opset (\d+)", line):
        return ModelError(
            f"The model uses ONNX opset {opset[1]}, expected {OLDEST_OPSET} to {opset[2]}, the "
            "newest that this onnxruntime runs.",
            f"Export it with opset {opset[2]} or older, or install a newer onnxruntime.",
        )
    if "not acyclic" in line:
        return ModelError("The graph has a cycle, expected none.", "Export the model again.")
    return ModelError(
        f"onnxruntime {ort.__version__} cannot load the model, expected one it runs: {line}",
        "Make onnxruntime run the model first; onnx.checker.check_model may say more.",
    )


def _newest_ir(error: Exception) -> int | None:
    """Return the newest IR version onnxruntime takes, if that is what it complains about."""
    found = re.search(r"Unsupported model IR version.*max supported IR version: (\d+)", str(error))
    return int(found[1]) if found else None


def _counted(found: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in _by_count(found))


def _by_count(found: Counter[str]) -> Iterable[tuple[str, int]]:
    return sorted(found.items(), key=lambda item: (-item[1], item[0]))
