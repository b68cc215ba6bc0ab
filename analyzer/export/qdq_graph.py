# SPDX-License-Identifier: Apache-2.0
"""Writing a Q/DQ model: a graph and calibrated quantizers go in, one ONNX model comes out.

Activations pass a QuantizeLinear and a DequantizeLinear, constants are stored as integers with a
DequantizeLinear behind them.  Readers of one tensor that want the same grid share one pair.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, inliner, numpy_helper

from analyzer.export.flow import data_grid
from analyzer.export.grids import TYPES, container, grid_key, levels_of
from analyzer.export.opsets import Opset, raised
from analyzer.graph.build import MS, quantized_constant, slots_by_node
from analyzer.graph.names import all_names, rename_reads, replace_nodes, unique
from analyzer.graph.simplify import remove_unused
from analyzer.graph.view import GraphView
from analyzer.quant.fake import calibrated, fake_quantize
from analyzer.records import Model, Quantizer

Array = npt.NDArray[np.generic]

_INT32 = 2**31 - 1
_MARGIN = 1.0001
_PER_CHANNEL, _WIDE = 13, 21  # opsets from which Q/DQ have an axis, and 16-bit types
# what onnxruntime moves pairs through (`QDQPropagationTransformer`)
_MOVING = frozenset("MaxPool Reshape Slice Squeeze Transpose Unsqueeze Flatten".split())
_CLIPS_INTEGERS = 12  # opset from which Clip takes integers

_NOT_EVERYWHERE = (
    "16-bit activations: TensorRT has none, and OpenVINO 2026.4 runs them in float on a CPU."
)


@dataclass(frozen=True, slots=True)
class Written:
    """A Q/DQ model.

    Attributes:
        left_out: one sentence per thing that Q/DQ nodes cannot express.
    """

    proto: onnx.ModelProto
    left_out: tuple[str, ...]


def write_qdq(model: Model, quantizers: Iterable[Quantizer]) -> Written:
    """Write a model with Q/DQ nodes at the slots of the active quantizers.

    Args:
        model: bound.
        quantizers: calibrated.
    """
    active = [q for q in quantizers if q.active]
    wide = any(8 < q.bits <= 16 for q in active)
    base = _plain(model)
    opset = raised(
        base, _WIDE if wide else _PER_CHANNEL, keep=[(q.node, q.slot, q.tensor) for q in active]
    )
    written = _Writer(model, opset, active).run()
    if any(8 < q.bits <= 16 and q.role in ("input", "activation") for q in active):
        return replace(written, left_out=(*written.left_out, _NOT_EVERYWHERE))
    return written


def _plain(model: Model) -> onnx.ModelProto:
    """Return the network itself: no local functions, no slices that were added to look at."""
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    if model.slices:
        kept = [output for output in proto.graph.output if output.name not in model.slices]
        del proto.graph.output[:]
        proto.graph.output.extend(kept)
        remove_unused(proto.graph)
    if proto.functions:
        proto = inliner.inline_local_functions(proto)
    return proto


@dataclass(frozen=True, slots=True)
class _Pair:
    """Names of the scale and zero point of one grid."""

    scale: str
    zero: str
    axis: int | None


class _Writer:
    def __init__(self, model: Model, opset: Opset, active: list[Quantizer]) -> None:
        self.model = model
        self.proto = opset.proto
        self.domain = MS if opset.foreign else ""
        self.version = opset.version
        self.graph = self.proto.graph
        self.view = GraphView(self.graph)
        self.slots = slots_by_node(active)
        self.placed = {q.key: q for q in active}
        self.taken = all_names(self.graph) | {node.name for node in self.graph.node}
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}
        self.made: dict[str, str] = {}  # tensor -> what its readers get
        self.pairs: dict[tuple[str, bytes], str] = {}  # (tensor, grid) -> dequantized tensor
        self.grids: dict[str, Quantizer] = {}  # dequantized activation -> what it passed
        self.left_out: dict[str, None] = dict.fromkeys(opset.notes)

    def run(self) -> Written:
        """Write all nodes anew."""
        for node in list(self.graph.node):
            self._node(node)
        replace_nodes(self.graph, self.nodes)
        self.graph.initializer.extend(self.constants.values())
        remove_unused(self.graph)
        del self.graph.value_info[:]
        if self.domain and not any(o.domain == MS for o in self.proto.opset_import):
            self.proto.opset_import.append(helper.make_opsetid(MS, 1))
        return Written(self.proto, tuple(self.left_out))

    def _node(self, node: onnx.NodeProto) -> None:
        quantizers = {q.slot: q for q in self.slots.get(node.name, ())}
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        rename_reads(copy, lambda tensor: self.made.get(tensor, tensor))
        for index, tensor in enumerate(node.input):
            quantizer = quantizers.get(f"in{index}")
            if quantizer is None:
                continue
            if self.view.is_constant(tensor):
                copy.input[index] = self._constant(tensor, quantizer)
            else:
                copy.input[index] = self._activation(copy.input[index], quantizer)
        dropped = any(q.replaces_node for q in quantizers.values())
        for index, tensor in enumerate(node.output):
            quantizer = quantizers.get(f"out{index}")
            if not tensor:
                continue
            if dropped and index == 0:
                assert quantizer is not None, "the quantizer that replaces a node stands behind it"
                wanted = tensor if tensor in self.view.outputs else None
                self.made[tensor] = self._activation(copy.input[0], quantizer, wanted)
            elif quantizer is not None:
                self._behind(copy, index, quantizer)
        self._keep_on_grid(copy, node)
        if not dropped:
            # what is read behind the node comes after it
            where = next(
                (k for k, n in enumerate(self.nodes) if set(n.input) & set(copy.output)),
                len(self.nodes),
            )
            self.nodes.insert(where, copy)

    def _keep_on_grid(self, copy: onnx.NodeProto, node: onnx.NodeProto) -> None:
        """Repeat the pair of what is only moved, which changes no value.

        onnxruntime would do so itself, but writes 8-bit pairs of opset 21 that it then refuses.
        """
        if self.version < _WIDE or node.op_type not in _MOVING or node.output[0] in self.made:
            return
        quantizer = self.grids.get(copy.input[0])
        if quantizer is not None and quantizer.axis is None:
            self._behind(copy, 0, quantizer)

    def _behind(self, node: onnx.NodeProto, index: int, quantizer: Quantizer) -> None:
        """Quantize an output; a graph output keeps its name behind the quantizer."""
        tensor = node.output[index]
        if tensor in self.view.outputs and container(quantizer) is not None:
            node.output[index] = self._new(f"{tensor}_float")
            self.made[tensor] = self._activation(node.output[index], quantizer, tensor)
        else:
            self.made[tensor] = self._activation(tensor, quantizer)

    def _activation(self, source: str, quantizer: Quantizer, wanted: str | None = None) -> str:
        """Add a pair behind `source`; the same grid on the same tensor is there only once."""
        kind = container(quantizer)
        if kind is None:
            self._leave_out(f"{quantizer.bits}-bit activations stay in float", quantizer)
            return source
        if quantizer.rounding == "half_up":
            self.left_out.setdefault(
                "QuantizeLinear rounds halves to even; the target rounds them up, so that values "
                "just between two levels may come out one level lower. Constants are exact."
            )
        key = source, grid_key(quantizer)
        if key in self.pairs and wanted is None:
            return self.pairs[key]
        pair = self._grid(source, quantizer, kind)
        levels = self._new(f"{source}_quantized")
        self._linear("QuantizeLinear", source, pair, source, levels)
        levels = self._narrow(levels, source, quantizer, kind)
        found = wanted or self._new(f"{source}_dequantized")
        self._linear("DequantizeLinear", levels, pair, source, found)
        self.pairs.setdefault(key, found)
        self.grids[found] = quantizer
        return found

    def _narrow(self, levels: str, source: str, quantizer: Quantizer, kind: str) -> str:
        """Cut off the levels of the type that the grid does not have."""
        if (quantizer.qmin, quantizer.qmax) == TYPES[kind]:
            return levels
        if kind not in ("int8", "uint8") or self.version < _CLIPS_INTEGERS:
            what = f"levels beyond {quantizer.qmin} .. {quantizer.qmax} are not cut off"
            self._leave_out(what, quantizer)
            return levels
        bounds = [
            self._store(f"{levels}_{side}", np.array(level, kind))
            for side, level in (("lowest", quantizer.qmin), ("highest", quantizer.qmax))
        ]
        found = self._new(f"{source}_clipped")
        name = self._new(f"{source}_Clip")
        self.nodes.append(helper.make_node("Clip", [levels, *bounds], [found], name=name))
        return found

    def _constant(self, tensor: str, quantizer: Quantizer) -> str:
        """Store a constant as integers, and add what turns them back."""
        quantizer, value = self._fitting(tensor, quantizer)
        levels = levels_of(value, quantizer)
        kind = "int32" if 16 < quantizer.bits <= 32 else container(quantizer)
        if kind is None or levels is None:
            what = f"{quantizer.bits}-bit constants are stored as rounded floats"
            self._leave_out(what, quantizer)
            return self._store(f"{tensor}_rounded", value)
        key = tensor, grid_key(quantizer) + levels.tobytes()
        if key in self.pairs:
            return self.pairs[key]
        stored = self._store(f"{tensor}_quantized", levels.astype(kind))
        pair = self._grid(tensor, quantizer, kind)
        found = self._new(f"{tensor}_dequantized")
        self._linear("DequantizeLinear", stored, pair, tensor, found)
        self.pairs[key] = found
        return found

    def _fitting(
        self, tensor: str, quantizer: Quantizer
    ) -> tuple[Quantizer, npt.NDArray[np.float32]]:
        """Return a constant, rounded, and a quantizer whose integers are wide enough for it.

        onnxruntime turns float biases into 32-bit ones as it loads a model, and cuts off those
        that this does not hold.  So wider biases are stored on a 32-bit grid of their own, and
        weights next to a float bias that would be cut off get a scale that holds it, as
        onnxruntime's quantizer does: they are so small beside that bias that it does not matter.
        """
        value = quantized_constant(self.view, quantizer)
        if quantizer.bits > 32:
            largest = float(np.abs(value).max(initial=0.0)) or 1.0
            scale = np.array([2.0 ** np.ceil(np.log2(largest / _INT32))])
            wide = replace(
                quantizer, bits=32, axis=None, scale=scale, zero_point=np.zeros(1, np.int64),
                qmin=-_INT32 - 1, qmax=_INT32, stored=None, rounding="half_even",
            )  # fmt: skip
            return wide, fake_quantize(value, wide)
        least = self._least_scale(quantizer) if quantizer.role == "weight" else None
        scale = calibrated(quantizer)[0]
        if least is None or np.all(scale >= least):
            return quantizer, value
        wider = replace(quantizer, scale=np.maximum(scale, least), stored=None)
        return wider, fake_quantize(value, wider)

    def _least_scale(self, quantizer: Quantizer) -> npt.NDArray[np.float64] | None:
        """Return the weight scales, one per channel, from which on the bias fits 32 bits."""
        node = self.view.nodes[quantizer.node]
        bias = node.input[2] if quantizer.slot == "in1" and len(node.input) > 2 else ""
        if quantizer.bits > 8 or (node.name, "in2") in self.placed or not bias:
            return None
        data = data_grid(self.view, node.name, 0, self.placed)
        if data is None or not self.view.is_constant(bias):
            return None
        values = np.abs(self.view.array(bias).astype(np.float64)).ravel()
        steps = calibrated(data)[0]
        if values.size != calibrated(quantizer)[0].size or steps.size > 1:
            return None
        return np.asarray(_MARGIN * values / _INT32 / steps)

    def _grid(self, tensor: str, quantizer: Quantizer, kind: str) -> _Pair:
        scale, zero = calibrated(quantizer)
        per_channel = scale.size > 1 or (quantizer.axis is not None and kind == "int32")
        per_channel = per_channel and quantizer.axis is not None
        shape = (-1,) if per_channel else ()
        steps = scale.astype(np.float32).reshape(shape)
        names = [self._store(f"{tensor}_scale", steps)]
        zeros = zero.astype(kind).reshape(shape)
        names.append(self._store(f"{tensor}_zero_point", zeros) if kind != "int32" else "")
        return _Pair(names[0], names[1], quantizer.axis if per_channel else None)

    def _linear(self, op: str, read: str, pair: _Pair, tensor: str, output: str) -> None:
        """Add one Q/DQ operator that is called after `tensor`."""
        node = helper.make_node(
            op, [read, pair.scale], [output], name=self._new(f"{tensor}_{op}"), domain=self.domain
        )
        if pair.zero:  # 32-bit integers have none
            node.input.append(pair.zero)
        if pair.axis is not None:
            node.attribute.append(helper.make_attribute("axis", pair.axis))
        self.nodes.append(node)

    def _store(self, name: str, array: Array) -> str:
        name = self._new(name)
        # made contiguous, a scalar becomes an array of one
        array = np.ascontiguousarray(array).reshape(array.shape)
        self.constants[name] = numpy_helper.from_array(array, name)
        return name

    def _new(self, name: str) -> str:
        name = unique(name, self.taken)
        self.taken.add(name)
        return name

    def _leave_out(self, what: str, quantizer: Quantizer) -> None:
        self.left_out.setdefault(f"At '{quantizer.node}' {quantizer.slot}: {what}.")
