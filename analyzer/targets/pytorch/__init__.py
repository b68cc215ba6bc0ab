# SPDX-License-Identifier: Apache-2.0
"""PyTorch's FX post-training quantization with the default qconfigs of x86 and qnnpack.

Imitates `prepare_fx` and `convert_fx` of `torch.ao.quantization` in torch 2.13 with the native
backend config.  Biases stay in float there: the kernels round them to the accumulator's grid.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import onnx

from analyzer.graph.batchnorm import fold_batchnorm
from analyzer.graph.edit import GraphEditor
from analyzer.graph.view import GraphView, gemm_output_axis
from analyzer.quant.observers import MinMax, extremes
from analyzer.quant.observers import Observer as RangeObserver
from analyzer.quant.torch_observers import TorchHistogram
from analyzer.records import Model, Observer, Quantizer, QuantPlan, Role, Setting
from analyzer.targets.base import COMPUTING, F32, F64, I64, Target
from analyzer.targets.pytorch.insertion import FULL, Module, Tap, insert
from analyzer.targets.pytorch.operators import Operator, operators

_EPS = np.finfo(np.float32).eps  # smallest scale


@dataclass(frozen=True, slots=True, kw_only=True)
class PyTorchFx(Target):
    """One backend's default qconfig mapping.

    Attributes:
        levels: steps in which an observed range is divided.  With `reduce_range` these are 127,
            and yet `quantize_per_tensor` clips at 255: values above the range are kept.
    """

    levels: int
    precisions: tuple[str, ...] = ("int8", "fp32")
    observers: tuple[Observer, ...] = ("histogram", "minmax")
    folds_norms: bool = False

    def prepare(self, model: Model) -> Model:
        """Fold BatchNormalization as FX does: not into a ConvTranspose with a ReLU behind both.

        The pair of BatchNormalization and ReLU is found first there (`fx/fuse.py`).
        """
        edit = GraphEditor(model)
        keep = {norm.name for norm in edit.of_type("BatchNormalization") if _is_apart(edit, norm)}
        if fold_batchnorm(edit.graph, edit.sources, keep=keep):
            edit.touch()
            for tensor in edit.graph.initializer:
                edit.shapes[tensor.name] = tuple(tensor.dims)
                edit.dtypes.setdefault(tensor.name, "float32")
        return edit.done()

    def place(self, model: Model, setting: Setting) -> QuantPlan:
        """Tell the torch operators apart, tap their tensors, and turn taps into slots."""
        view = GraphView(model.proto.graph)
        found = operators(model, view)
        known = [op for op in found if op.kind != "float"]
        default = setting.precision or self.precisions[0]
        precision = {op.name: setting.table.get(op.name, default) for op in known}
        quantized = [op for op in known if precision[op.name] != "fp32"]
        taps = insert(quantized, setting.observer or self.observers[0])
        granularity = setting.granularity or self.granularities[0]
        weights = [_weight(view, op, granularity) for op in quantized if op.weighted]
        by_node = {name: precision[op.name] for op in known for name in op.nodes}
        layers = tuple(name for name in view.nodes if name in by_node)
        return QuantPlan(
            target=self.name,
            layers=layers,
            computing=frozenset(n for n in layers if view.nodes[n].op_type in COMPUTING),
            precision={name: by_node[name] for name in layers},
            quantizers=(*weights, *_activations(view, taps)),
            notes=_notes(found),
        )

    def make_observer(self, quantizer: Quantizer) -> RangeObserver:
        """Return a `HistogramObserver` or a `MinMaxObserver`."""
        if quantizer.observer == "minmax":
            return MinMax()
        return TorchHistogram(quantizer.observer or "histogram")

    def constant_range(self, x: F32, quantizer: Quantizer) -> tuple[F64, F64]:
        """Return the range of a weight, or what the observer finds in a constant operand."""
        if quantizer.role == "weight":
            return extremes(x, quantizer.axis)
        observer = self.make_observer(quantizer)
        observer.update(x, 0)
        found = observer.result()
        return np.array([found.lo]), np.array([found.hi])

    def scale(self, quantizer: Quantizer, lo: F64, hi: F64, kind: Observer) -> tuple[F64, I64]:
        """Return scales as `_calculate_qparams` of `observer.py` does, in float32.

        An observer of fixed parameters has 256 steps in its range (`FixedQParamsObserver`).
        """
        below = np.minimum(lo, 0.0).astype(np.float32)
        above = np.maximum(hi, 0.0).astype(np.float32)
        if quantizer.fixed_range is not None:
            step = (above - below) / np.float32(256)
            return step.astype(np.float64), np.rint(-below / step).astype(np.int64)
        if quantizer.symmetric:
            reach = np.maximum(-below, above)
            step = _same_level(reach, np.maximum(reach / np.float32(127.5), _EPS))
            return step.astype(np.float64), np.zeros(step.shape, np.int64)
        levels = 255 if kind == FULL else self.levels
        step = np.maximum((above - below) / np.float32(levels), _EPS)
        zero = np.clip(-np.rint(below / step), 0, levels)
        return step.astype(np.float64), zero.astype(np.int64)


X86 = PyTorchFx(
    name="pytorch",
    summary="PyTorch FX quantization for x86: uint8 in 127 steps, int8 per-channel weights",
    granularities=("channel", "tensor"),
    levels=127,
    # Rough.  By Intel's comparisons INT8 has 1.9 times the speed of FP32 with AVX2, 3 to 4 times
    # with VNNI.
    cost_factors={"int8": 1.0, "fp32": 3.0},
)
QNNPACK = PyTorchFx(
    name="pytorch-qnnpack",
    summary="PyTorch FX quantization for qnnpack: uint8 activations, int8 per-tensor weights",
    granularities=("tensor", "channel"),
    levels=255,
    # Rough.  MobileNetV2 on a Raspberry Pi, by Arm: 10.9 ms in FP32, 4.0 ms in INT8.
    cost_factors={"int8": 1.0, "fp32": 2.7},
)


def _is_apart(edit: GraphEditor, norm: onnx.NodeProto) -> bool:
    """Tell whether a BatchNormalization between ConvTranspose and Relu goes with the latter."""
    layer, behind = edit.producer(norm.input[0]), edit.reader(norm.output[0])
    return (
        layer is not None
        and layer.op_type == "ConvTranspose"
        and behind is not None
        and behind.op_type == "Relu"
        and len(edit.shapes[norm.input[0]]) in (4, 5)
    )


def _same_level(reach: F32, step: F32) -> F32:
    """Return `step`, moved by a rounding error where the largest weight would fall elsewhere.

    It lies at 127.5 steps, between two levels.  PyTorch multiplies by the inverse where others
    divide (`quantize_val`), and a negative one becomes -127 or -128 by that.
    """
    wanted = np.rint(reach * (np.float32(1) / step))
    moved = step
    for towards in (np.float32(0), np.float32(np.inf)):
        near = np.nextafter(step, towards)
        fits = (np.rint(reach / step) != wanted) & (np.rint(reach / near) == wanted)
        moved = np.where(fits, near, moved)
    return moved


def _weight(view: GraphView, operator: Operator, granularity: str) -> Quantizer:
    node = view.nodes[operator.name]
    axis: int | None = 0
    if node.op_type == "MatMul":
        axis = 1
    elif node.op_type == "Gemm":
        axis = gemm_output_axis(node)
    if granularity == "tensor" or node.op_type == "ConvTranspose":
        axis = None  # the default mapping has one scale for any ConvTranspose
    return Quantizer(
        node=node.name,
        slot="in1",
        tensor=node.input[1],
        role="weight",
        bits=8,
        axis=axis,
        qmin=-128,
        qmax=127,
        observer="minmax",
    )


def _activations(view: GraphView, taps: Iterable[Tap]) -> list[Quantizer]:
    """Turn taps into quantizers; those of one observer follow its first place."""
    held: dict[Module, list[Tap]] = {}
    for tap in _in_order(view, taps):
        held.setdefault(tap.module, []).append(tap)
    found = []
    for module, together in held.items():
        # a range needs data, which a constant has none of
        first = next((t for t in together if not view.is_constant(t.tensor)), together[0])
        root = first.places[0]
        places = [(tap, place) for tap in together for place in tap.places]
        for tap, place in places:
            own = place == root
            found.append(
                Quantizer(
                    node=place[0],
                    slot=place[1],
                    tensor=tap.tensor,
                    role=_role(view, tap.tensor),
                    bits=8,
                    signed=False,
                    symmetric=False,
                    qmin=0,
                    qmax=255,
                    group=f"{root[0]}:{root[1]}" if len(places) > 1 else None,
                    observer=module.observer,
                    follows=None if own else root,
                    fixed_range=module.fixed if own else None,
                    observes=tuple(t.tensor for t in together) if own and together[1:] else (),
                )
            )
    return found


def _in_order(view: GraphView, taps: Iterable[Tap]) -> list[Tap]:
    """Sort taps by when their tensors are made: in this order their observer sees them."""
    order: dict[str, int] = dict.fromkeys(view.inputs, -1)
    for index, node in enumerate(view.nodes.values()):
        order.update(dict.fromkeys(node.output, index))
    return sorted(taps, key=lambda tap: order.get(tap.tensor, -1))


def _role(view: GraphView, tensor: str) -> Role:
    if view.is_constant(tensor):
        return "constant"
    return "input" if tensor in view.inputs else "activation"


def _notes(found: Iterable[Operator]) -> tuple[str, ...]:
    counts = Counter(op.type for op in found if op.kind == "float")
    if not counts:
        return ()
    listed = ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()))
    return (f"PyTorch has no quantized form for these, they run in float: {listed}.",)
