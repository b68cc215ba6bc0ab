# SPDX-License-Identifier: Apache-2.0
"""Kernels of esp-ppq that compute something else than ONNX: the graph is made to compute theirs.

Imitates `executor/op/torch/default.py` of esp-ppq 1.3.12.  Every change is told to the user: what
esp-ppq calls the FP32 reference is not the user's model then.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper

from analyzer.graph.edit import GraphEditor
from analyzer.graph.view import attributes

Floats = npt.NDArray[np.floating[Any]]

OTHER_REFERENCE = "esp-ppq's own FP32 reference differs from the model:"
_NOT = "(not simulated here)"
_ROUNDINGS: dict[bytes, Callable[[Floats], Floats]] = {
    b"floor": np.floor,
    b"ceil": np.ceil,
    b"round_prefer_floor": lambda x: np.ceil(x - 0.5),
    b"round_prefer_ceil": lambda x: np.floor(x + 0.5),
}
KERNELS = frozenset(
    """
    Abs AdaptiveAvgPool2d Add And ArgMax Attention AveragePool BatchNormalization CaffeArgMax
    Cast ChannelShuffle Clip Concat Constant ConstantOfShape Conv ConvTranspose Cos
    DepthToSpace Div Elu Equal Erf Exp Expand Flatten Floor GRU Gather GatherElements GatherND
    Gelu Gemm GlobalAveragePool GlobalMaxPool Greater GreaterOrEqual HardSigmoid HardSwish
    Identity InsertZeros InstanceNormalization Interp LSTM LUT LayerNorm LayerNormalization
    LeakyRelu Less LessOrEqual Log LogSoftmax LpNormalization MMCVRoiAlign MatMul Max MaxPool
    Min Mod Mul MultiHeadAttention Neg NonMaxSuppression NonZero Not OneHot PPQBiasFusedMatMul
    PPQDeviceSwitch PRelu Pad Parameter Pow RMSNormalization Range Reciprocal ReduceL1 ReduceL2
    ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum
    ReduceSumSquare Relu Reshape Resize ReverseSequence RoiAlign Scale ScatterElements
    ScatterND Shape Sigmoid Sin Slice Softmax Softplus SpaceToDepth Split Sqrt Squeeze Sub Sum
    Swish Tan Tanh Tile TopK Transpose Unsqueeze Where grid_sampler skipLayerNormPlugin
    """.split()
)


def use_its_kernels(edit: GraphEditor) -> None:
    """Change nodes so that onnxruntime computes what esp-ppq's kernels do, and tell the user."""
    for kind, differs, what in _DIFFERENCES:
        names = [node.name for node in edit.of_type(kind) if differs(edit, node)]
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            edit.note(f"{OTHER_REFERENCE} {kind} '{names[0]}'{more} {what}.")
    missing = sorted({edit.kind(n) for n in edit.graph.node if not n.domain} - KERNELS)
    if missing:
        edit.note(f"esp-ppq stops at this model: it has no kernel for {', '.join(missing)}.")


def _pool(edit: GraphEditor, node: onnx.NodeProto) -> bool:
    given = attributes(node)
    if given.get("count_include_pad", 0) or not _pads(given):
        return False
    edit.set_attributes(node, count_include_pad=1)
    return True


def _pads(given: Mapping[str, Any]) -> bool:
    pads = given.get("pads", ())
    padded = any(pads) if isinstance(pads, list) else False
    return padded or given.get("auto_pad", b"NOTSET") in (b"SAME_UPPER", b"SAME_LOWER")


def _opset(edit: GraphEditor) -> int:
    return next(int(o.version) for o in edit.proto.opset_import if o.domain == "")


def _mode(node: onnx.NodeProto) -> bytes:
    mode: bytes = attributes(node).get("mode", b"nearest")
    return mode


def _interpolation(edit: GraphEditor, node: onnx.NodeProto) -> bool:
    if _mode(node) == b"nearest" or _opset(edit) < 11:
        return False
    coordinates = attributes(node).get("coordinate_transformation_mode", b"half_pixel")
    if coordinates in (b"half_pixel", b"align_corners"):
        return False
    if _same_size(edit, node):
        return False
    edit.set_attributes(node, coordinate_transformation_mode="half_pixel")
    return coordinates != b"pytorch_half_pixel" or _shrinks_to_one(edit, node)


def _nearest(edit: GraphEditor, node: onnx.NodeProto) -> bool:
    """PyTorch's nearest takes floor(index * in / out); for whole factors ONNX's modes agree."""
    if _mode(node) != b"nearest" or _opset(edit) < 11:
        return False
    given = attributes(node)
    before, after = edit.shapes[node.input[0]], edit.shapes[node.output[0]]
    coordinates = given.get("coordinate_transformation_mode", b"half_pixel")
    if all(
        _nearest_is_floor(i, o, coordinates, given) for i, o in zip(before, after, strict=True)
    ):
        return False
    edit.set_attributes(node, coordinate_transformation_mode="asymmetric", nearest_mode="floor")
    return True


def _nearest_is_floor(
    size: int, wanted: int, coordinates: bytes, given: Mapping[str, Any]
) -> bool:
    index = np.arange(wanted)
    factor = wanted / size
    x: Floats
    match coordinates:
        case b"asymmetric":
            x = index / factor
        case b"align_corners":
            x = index * (size - 1) / (wanted - 1) if wanted > 1 else index * 0.0
        case b"half_pixel" | b"pytorch_half_pixel":
            x = (index + 0.5) / factor - 0.5
        case _:
            return False
    found = _ROUNDINGS[given.get("nearest_mode", b"round_prefer_floor")](x)
    theirs = np.floor(index * (size / wanted))
    return bool(np.array_equal(np.clip(found, 0, size - 1), np.clip(theirs, 0, size - 1)))


def _same_size(edit: GraphEditor, node: onnx.NodeProto) -> bool:
    return edit.shapes[node.input[0]] == edit.shapes[node.output[0]]


def _shrinks_to_one(edit: GraphEditor, node: onnx.NodeProto) -> bool:
    before, after = edit.shapes[node.input[0]], edit.shapes[node.output[0]]
    return any(o == 1 and i > 1 for i, o in zip(before, after, strict=True))


def _gelu(edit: GraphEditor, node: onnx.NodeProto) -> bool:
    if attributes(node).get("approximate", b"none") != b"tanh":
        return False
    edit.set_attributes(node, approximate="none")
    return True


def _zero_pads(edit: GraphEditor, node: onnx.NodeProto) -> bool:
    """Tell whether torch pads a 1-D or 3-D pool with zeros, which is not imitated."""
    pads = attributes(node).get("pads", [])
    spatial = len(edit.shapes[node.input[0]]) - 2
    return spatial != 2 and pads[:spatial] != pads[spatial:]


def _lacks_strides(_: GraphEditor, node: onnx.NodeProto) -> bool:
    given = attributes(node)
    return "strides" not in given and any(size > 1 for size in given.get("kernel_shape", ()))


def _old_linear(edit: GraphEditor, node: onnx.NodeProto) -> bool:
    """Before opset 11 Resize had no coordinates but asymmetric ones."""
    return _opset(edit) < 11 and _mode(node) != b"nearest" and not _same_size(edit, node)


def _old_pad(edit: GraphEditor, node: onnx.NodeProto) -> bool:
    """Drop what esp-ppq drops when it turns the attribute `pads` into an input."""
    given = attributes(node)
    if "pads" not in given:
        return False
    edit.set_attributes(node, value=None, mode=None)
    return bool(given.get("value", 0)) or given.get("mode", b"constant") != b"constant"


def _old_softmax(edit: GraphEditor, node: onnx.NodeProto) -> bool:
    """Before opset 13 Softmax ran over all axes from the given one on."""
    shape = edit.shapes[node.input[0]]
    axis = attributes(node).get("axis", 1) % max(len(shape), 1)
    return _opset(edit) < 13 and any(size > 1 for size in shape[axis + 1 :])


def _unshuffle(edit: GraphEditor, node: onnx.NodeProto) -> bool:
    """Order channels as torch's pixel_unshuffle: a strided Conv that picks one value each."""
    size = attributes(node)["blocksize"]
    channels = edit.shapes[node.input[0]][1]
    picks = np.eye(size * size, dtype=np.float32).reshape(-1, 1, size, size)
    weight = edit.constant(f"{node.name}//picks", np.tile(picks, (channels, 1, 1, 1)))
    conv = helper.make_node(
        "Conv",
        [node.input[0], weight],
        list(node.output),
        name=node.name,
        kernel_shape=[size, size],
        strides=[size, size],
        group=channels,
    )
    edit.fuse([node.name], conv, kind="SpaceToDepth")
    return channels > 1 and size > 1


# op type, whether a node of it differs (which is changed then), and how it does
_DIFFERENCES: tuple[tuple[str, Callable[[GraphEditor, onnx.NodeProto], bool], str], ...] = (
    ("AveragePool", _pool, "counts the padding in every average, which moves values at borders"),
    ("AveragePool", _lacks_strides, f"moves by its kernel size, for it names no strides {_NOT}"),
    ("MaxPool", _lacks_strides, f"moves by its kernel size, for it names no strides {_NOT}"),
    ("MaxPool", _zero_pads, f"is padded with 0 {_NOT}"),
    ("Resize", _nearest, "takes the value below instead of the one the model asks for"),
    ("Resize", _interpolation, "interpolates with half_pixel coordinates"),
    ("Resize", _old_linear, f"interpolates with half_pixel coordinates {_NOT}"),
    ("Gelu", _gelu, "computes the exact function instead of the tanh approximation"),
    ("SpaceToDepth", _unshuffle, "orders channels as torch's pixel_unshuffle"),
    ("Pad", _old_pad, "pads with 0, for its attributes are dropped"),
    ("Softmax", _old_softmax, f"runs over one axis only {_NOT}"),
    ("LogSoftmax", _old_softmax, f"runs over one axis only {_NOT}"),
)
