# SPDX-License-Identifier: Apache-2.0
"""The first state of every slot: which ops are quantized, at how many bits, and what stays float.

Imitates `create_espdl_quant_config` of `quantizer/EspdlQuantizer.py`, the sockets of
`IR/base/opdef.py` and `scheduler/allin.py` of esp-ppq 1.3.12.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx

from analyzer.errors import TargetError
from analyzer.graph.build import is_float
from analyzer.graph.view import GraphView
from analyzer.records import Model, Observer, Setting
from analyzer.targets.base import last_axis
from analyzer.targets.espdl.configs import BIASED, BITS, COMPARE, QUANTIZED, Config
from analyzer.targets.espdl.splits import MADE, made_of

RECURRENT_SCALE = 2.0**-9
_FIXED_SLOTS = {"GRU": ("in3",), "LSTM": ("in3", "in6", "out2")}
_SECOND_IS_FLOAT = frozenset(
    """
    Reshape Gather Split Squeeze Unsqueeze ScatterND ReverseSequence RMSNormalization
    Expand Tile TopK GatherElements GatherND ScatterElements
    """.split()
)
# InsertZeros stands for a ConvTranspose with a constant of its own
_OTHERS_ARE_FLOAT = frozenset({"Slice", "Resize", "Pad", "Clip", "Where", "InsertZeros"})


@dataclass(frozen=True, slots=True)
class Family:
    """What the chips of one family have in common.

    Attributes:
        per_channel: weights of Conv and Gemm have a scale per output channel.
        bias_bits: width of the bias by the bits of the layer.
        integer_attention: esp-ppq computes a quantized Attention as the chip does, in integers
            (`executor/op/torch/espdl_attention.py`), which is not simulated.
    """

    per_channel: bool
    bias_bits: Mapping[int, int]
    integer_attention: bool = False


def dispatched(model: Model, view: GraphView, setting: Setting) -> dict[str, str]:
    """Return quantized node -> precision.

    All quantizable types run in the setting's precision, whatever the table says of a node wins;
    what was made of a node (InsertZeros, the parts of a split) goes with it, an Add of a mask with
    infinities stays float, and a MatMul of two activations has no weight that could be narrower.

    Raises:
        TargetError: if the table names an op that esp-ppq makes after it has read the table.
    """
    default = setting.precision or "int8"
    found = {}

    def kind_of(name: str) -> str:
        return model.op_types.get(name, view.nodes[name].op_type)

    for name, node in view.nodes.items():
        kind = kind_of(name)
        if name in setting.table and name.startswith(MADE):
            raise TargetError(
                f"{kind} {name!r} cannot be given a precision: esp-ppq makes it after it has read "
                "the dispatch table.",
                "Name the layers next to it instead.",
            )
        told = setting.table.get(made_of(view, kind_of, name))
        precision = told or (default if kind in QUANTIZED else "fp32")
        if precision == "fp32" or not _touches_float(model, view, node):
            continue
        if kind == "Add" and any(_is_mask(view, t) for t in node.input):
            continue
        weighted = any(map(view.is_constant, node.input))
        if precision == "w8a16" and kind == "MatMul" and not weighted:
            precision = "int16"
        found[name] = precision
    return found


def first_configs(
    model: Model, view: GraphView, family: Family, node: onnx.NodeProto, kind: str, precision: str,
    *, constants: Observer | None,
) -> list[Config]:  # fmt: skip
    """Return the configs of one node of op type `kind`, as esp-ppq calls it.

    `constants` is the observer of all constants, None for the default of each.
    """
    found = []
    bits = BITS[precision]
    for side, tensors in (("in", node.input), ("out", node.output)):
        for index, tensor in enumerate(tensors):
            if not tensor:
                continue
            slot = f"{side}{index}"
            config = Config(node.name, slot, tensor, view.is_constant(tensor), bits)
            config.observer = "minmax" if bits == 16 else "percentile"
            if kind in BIASED and index == len(node.input) - 1 > 1 and side == "in":
                config.state = "BIAS" if config.constant else "FP32"
                config.bits = family.bias_bits[bits]
                config.axis = last_axis(model, tensor) if family.per_channel else None
            elif slot in _FIXED_SLOTS.get(kind, ()):
                config.bits, config.fixed, config.observer = 16, RECURRENT_SCALE, None
            elif _stays_float(model, view, kind, slot, tensor):
                config.state = "FP32"
            elif slot == "in1" and config.constant:
                _weight(config, family, node, kind, precision)
            config.observer = constants or config.observer
            found.append(config)
    return found


def _weight(
    config: Config, family: Family, node: onnx.NodeProto, kind: str, precision: str
) -> None:
    if kind in BIASED and family.per_channel:
        config.axis = _weight_axis(node)
        config.observer = "minmax"
    group = next((a.i for a in node.attribute if a.name == "group"), 1)
    if precision == "w8a16" and kind in ("Conv", "Gemm", "MatMul") and group == 1:
        config.bits = 8
        config.observer = "minmax" if family.per_channel else "percentile"


def _weight_axis(node: onnx.NodeProto) -> int:
    """Return the axis of output channels in the weight of a computing op."""
    if node.op_type == "Gemm":
        return 0 if any(a.name == "transB" and a.i == 1 for a in node.attribute) else 1
    return 1 if node.op_type == "ConvTranspose" else 0


def _touches_float(model: Model, view: GraphView, node: onnx.NodeProto) -> bool:
    """Tell whether a float tensor that depends on the data goes in or out."""
    tensors = [*(t for t in node.input if not view.is_constant(t)), *node.output]
    return any(is_float(model, t) for t in tensors)


def _stays_float(model: Model, view: GraphView, kind: str, slot: str, tensor: str) -> bool:
    """Tell whether esp-ppq never quantizes this slot of an op of type `kind`."""
    if not is_float(model, tensor):
        return True
    if slot == "out0" and (kind in ("Softmax", "LogSoftmax") or kind in COMPARE):
        return True
    if not slot.startswith("in"):
        return False
    if slot == "in1" and (kind in _SECOND_IS_FLOAT or kind.startswith("Reduce")):
        return True
    if slot != "in0" and kind in _OTHERS_ARE_FLOAT:
        return True
    if kind == "Attention" and slot == "in3":
        return True
    return _carries_mask(view, tensor)


def _is_mask(view: GraphView, tensor: str) -> bool:
    """Tell whether a constant holds infinities, or booleans."""
    if not view.is_constant(tensor):
        return False
    array = view.array(tensor)
    return array.dtype == np.bool_ or (array.dtype.kind == "f" and bool(np.isinf(array).any()))


def _carries_mask(view: GraphView, tensor: str) -> bool:
    """Tell whether the infinities of a mask may reach `tensor` through Where and Add."""
    if view.is_constant(tensor) or tensor not in view.producer:
        return _is_mask(view, tensor)
    node = view.nodes[view.producer[tensor]]
    if node.op_type == "Where":
        return any(_carries_mask(view, t) for t in node.input[1:])
    return node.op_type == "Add" and any(_carries_mask(view, t) for t in node.input)
