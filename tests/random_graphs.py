# SPDX-License-Identifier: Apache-2.0
"""Small random networks for differential tests: a seed goes in, a valid model and inputs come out.

The same seed gives the same bytes with the same versions of numpy and onnx.  Every model passes
`onnx.checker`, runs in onnxruntime, and has static shapes, so that nothing but the quantizers
under test can differ.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

F32 = npt.NDArray[np.float32]
Step = Callable[["Net", str], str]

_ODD_NAMES = ("a b", "x::y", "Conv", "/m.0/act-1", "0", "q.out:0", "n(1)", "ü")
_LARGEST = 1600  # elements of a tensor beyond which a net is not grown further


class Net:
    """A graph that is being written: nodes, constants, and the shape of every tensor."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.opset = int(self.rng.choice([13, 17]))
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.shapes: dict[str, tuple[int, ...]] = {}  # of activations
        self.inputs: list[str] = []
        self.read: set[str] = set()
        self.weights: dict[tuple[Any, ...], str] = {}
        self.naming = self.pick(["named", "named", "named", "unnamed", "odd"])
        self.constant_nodes = self.chance(0.2)

    def chance(self, probability: float) -> bool:
        """Throw a coin."""
        return bool(self.rng.random() < probability)

    def pick(self, options: Sequence[Any]) -> Any:
        """Choose one of several things."""
        return options[int(self.rng.integers(len(options)))]

    def normal(self, *shape: int) -> F32:
        """Draw standard normal values."""
        return self.rng.standard_normal(shape).astype(np.float32)

    def between(self, low: float, high: float, *shape: int) -> F32:
        """Draw uniform values."""
        return self.rng.uniform(low, high, shape).astype(np.float32)

    def constant(self, value: npt.ArrayLike, dtype: type = np.float32) -> str:
        """Bring in a constant: an initializer, or in some nets a Constant node."""
        name = f"c{len(self.constants) + len(self.nodes)}"
        tensor = numpy_helper.from_array(np.asarray(value, dtype), name)
        if self.constant_nodes and self.chance(0.5):
            self.nodes.append(helper.make_node("Constant", [], [name], value=tensor))
        else:
            self.constants.append(tensor)
        return name

    def weight(self, *shape: int, fan: int | None = None) -> str:
        """Bring in a weight; now and then one that another node has already."""
        if shape in self.weights and self.chance(0.3):
            return self.weights[shape]
        fan = fan or int(np.prod(shape[1:]))
        value = self.normal(*shape) / np.float32(np.sqrt(fan))
        if self.chance(0.3):  # channels of very different size
            value *= np.exp(self.normal(*[n if i == 0 else 1 for i, n in enumerate(shape)]))
        name = f"w{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(value.astype(np.float32), name))
        self.weights[shape] = name
        return name

    def bias(self, n: int) -> str:
        """Bring in a bias; seldom one that another node has already."""
        if ("bias", n) in self.weights and self.chance(0.1):
            return self.weights["bias", n]
        name = self.weights["bias", n] = self.constant(0.3 * self.normal(n))
        return name

    def add(
        self,
        op: str,
        inputs: Sequence[str],
        shape: Sequence[int],
        outputs: Sequence[Sequence[int]] = (),
        **attributes: Any,
    ) -> str:
        """Add a node; `outputs` holds the shapes of its second and later ones."""
        index = len(self.nodes)
        names = [f"t{index}"] + [f"t{index}.{k + 1}" for k in range(len(outputs))]
        for name, dims in zip(names, [shape, *outputs], strict=True):
            self.shapes[name] = tuple(int(d) for d in dims)
        self.read.update(inputs)
        name = f"/net/{op.lower()}_{index}"
        if self.naming == "odd" and self.chance(0.5):
            name = f"{self.pick(_ODD_NAMES)}{index}"
        if self.naming == "unnamed" and self.chance(0.5):
            name = ""
        self.nodes.append(helper.make_node(op, inputs, names, name=name, **attributes))
        return names[0]

    def same(self, op: str, inputs: Sequence[str], **attributes: Any) -> str:
        """Add a node whose output is shaped as its first input."""
        return self.add(op, inputs, self.shapes[inputs[0]], **attributes)

    def like(self, x: str) -> list[str]:
        """Return the other tensors shaped as `x`."""
        return [t for t, shape in self.shapes.items() if shape == self.shapes[x] and t != x]


def random_model(
    seed: int, *, more_ops: bool = False
) -> tuple[onnx.ModelProto, list[dict[str, F32]]]:
    """Return a random float32 network and 2 to 4 inputs for it.

    Args:
        seed: decides everything.
        more_ops: also use ops that few quantizers know (LayerNormalization, Gather, Where,
            InstanceNormalization).

    Returns:
        a model of about 5 to 15 nodes, and samples (input name -> array).
    """
    net = Net(seed)
    shape = (1, net.pick([1, 3, 4]), net.pick([6, 8, 9]), net.pick([6, 8]))
    net.inputs = ["x0", "x1"] if net.chance(0.15) else ["x0"]
    net.shapes = dict.fromkeys(net.inputs, shape)
    wanted = int(net.rng.integers(4, 12))
    current = _conv(net, net.inputs[-1]) if net.chance(0.7) else net.inputs[-1]
    while sum(n.op_type != "Constant" for n in net.nodes) < wanted:
        current = _step(net, _next(net, current), more_ops)
    if net.chance(0.4):
        _head(net, current)
    return _finished(net), _samples(net)


def _next(net: Net, current: str) -> str:
    """Go on from the newest tensor, or branch off an older one."""
    open_ends = [t for t in net.shapes if t not in net.read]
    if net.chance(0.15):
        return str(net.pick(list(net.shapes)))
    if open_ends and net.chance(0.25):
        return str(net.pick(open_ends))
    return current


def _step(net: Net, x: str, more_ops: bool) -> str:
    rank = len(net.shapes[x])
    steps: list[Step] = [*_ANY_RANK]
    if rank == 4:
        steps += _IMAGES
    if rank == 3:
        steps += _SEQUENCES
    if rank == 2:
        steps += _VECTORS
    if more_ops:
        steps += [s for ranks, s in _MORE if rank in ranks]
    return net.pick(steps)(net, x)


def _head(net: Net, x: str) -> None:
    """End in a classifier or in an attention block, which random steps seldom reach."""
    rank = len(net.shapes[x])
    if rank == 4 and net.chance(0.5):
        x, rank = _to_sequence(net, x), 3
    if rank == 3:
        x = _attention(net, _matmul(net, x))
    if len(net.shapes[x]) > 2:
        x = _flatten(net, x)
    x = _gemm(net, x)
    if net.chance(0.5):
        _softmax(net, x)


def _finished(net: Net) -> onnx.ModelProto:
    made = [t for node in net.nodes if node.op_type != "Constant" for t in node.output]
    outputs = [t for t in made if t not in net.read]
    inner = [t for t in made if t in net.read]
    if inner and net.chance(0.3):
        outputs.append(str(net.pick(inner)))
    graph = helper.make_graph(
        net.nodes,
        f"random_{len(made)}",
        [_declared(net, t) for t in net.inputs if t in net.read],
        [_declared(net, t) for t in outputs],
        net.constants,
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", net.opset)])
    proto.ir_version = 8
    onnx.checker.check_model(proto, full_check=True)
    return proto


def _declared(net: Net, tensor: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(tensor, onnx.TensorProto.FLOAT, net.shapes[tensor])


def _samples(net: Net) -> list[dict[str, F32]]:
    """Return waves with an offset and a gain per channel, plus noise: no two alike."""
    samples = []
    for _ in range(int(net.rng.integers(2, 5))):
        sample = {}
        for name in net.inputs:
            if name not in net.read:
                continue
            _, channels, height, width = net.shapes[name]
            rows, columns = np.mgrid[0:height, 0:width]
            phase, pitch = net.between(0, 6, channels, 1, 1), net.between(0.2, 1.5, channels, 1, 1)
            wave = np.sin(pitch * rows + phase) * np.cos(pitch * columns)
            offset, gain = net.normal(channels, 1, 1), net.between(0.3, 3, channels, 1, 1)
            noise = 0.2 * net.normal(channels, height, width)
            sample[name] = (gain * wave + offset + noise)[None].astype(np.float32)
        samples.append(sample)
    return samples


# --- steps: each adds one node or a small pattern behind x and returns its end ---------------


def _size(side: int, kernel: int, stride: int, pads: int, dilation: int = 1) -> int:
    return (side + pads - dilation * (kernel - 1) - 1) // stride + 1


def _conv(net: Net, x: str) -> str:
    _, channels, height, width = net.shapes[x]
    kind = net.pick(["plain", "plain", "pointwise", "depthwise", "grouped", "dilated"])
    kernel = 1 if kind == "pointwise" else min(3, height, width)
    dilation = 2 if kind == "dilated" and min(height, width) >= 5 else 1
    groups = {"depthwise": channels, "grouped": 2 if channels % 2 == 0 else 1}.get(kind, 1)
    outputs = channels if kind == "depthwise" else groups * net.pick([2, 3, 4])
    pad = net.pick([0, kernel // 2 * dilation]) if height > 4 else kernel // 2 * dilation
    stride = net.pick([1, 1, 2]) if min(height, width) > 4 else 1
    inputs = [x, net.weight(outputs, channels // groups, kernel, kernel)]
    if net.chance(0.6):
        inputs.append(net.bias(outputs))
    spatial = [_size(s, kernel, stride, 2 * pad, dilation) for s in (height, width)]
    made = net.add(
        "Conv", inputs, (1, outputs, *spatial), kernel_shape=[kernel] * 2, pads=[pad] * 4,
        strides=[stride] * 2, dilations=[dilation] * 2, group=groups,
    )  # fmt: skip
    follow = net.pick([None, "norm", "relu", "relu6", "silu"])
    if follow == "norm":
        made = _batch_norm(net, made)
        return _relu(net, made) if net.chance(0.5) else made
    if follow == "relu":
        return _relu(net, made)
    if follow == "relu6":
        return net.same("Clip", [made, net.constant(0.0), net.constant(6.0)])
    return _silu(net, made) if follow == "silu" else made


def _conv_transpose(net: Net, x: str) -> str:
    _, channels, height, width = net.shapes[x]
    if net.shapes[x][2] * net.shapes[x][3] * 4 * 3 > _LARGEST:
        return _conv(net, x)
    kernel, outputs = net.pick([2, 3]), net.pick([2, 3])
    inputs = [x, net.weight(channels, outputs, kernel, kernel, fan=channels)]
    if net.chance(0.5):
        inputs.append(net.bias(outputs))
    shape = (1, outputs, (height - 1) * 2 + kernel, (width - 1) * 2 + kernel)
    return net.add("ConvTranspose", inputs, shape, kernel_shape=[kernel] * 2, strides=[2, 2])


def _batch_norm(net: Net, x: str) -> str:
    n = net.shapes[x][1]
    values = (net.between(0.5, 2, n), 0.5 * net.normal(n), net.normal(n), net.between(0.3, 2, n))
    return net.same("BatchNormalization", [x, *(net.constant(v) for v in values)])


def _relu(net: Net, x: str) -> str:
    return net.same("Relu", [x])


def _clip(net: Net, x: str) -> str:
    low, high = net.pick([(0.0, 6.0), (-1.0, 1.0), (0.0, None), (None, 2.0), (-0.5, 3.0)])
    inputs = [x, "" if low is None else net.constant(low)]
    return net.same("Clip", inputs if high is None else [*inputs, net.constant(high)])


def _silu(net: Net, x: str) -> str:
    gate = net.same("Sigmoid", [x])
    return net.same("Mul", [x, gate] if net.chance(0.7) else [gate, x])


def _hard_swish(net: Net, x: str) -> str:
    if net.opset >= 14 and net.chance(0.5):
        return net.same("HardSwish", [x])
    if net.chance(0.5):
        return net.same("Mul", [x, net.same("HardSigmoid", [x], alpha=1 / 6, beta=0.5)])
    moved = net.same("Add", [x, net.constant(3.0)])
    gate = net.same("Clip", [moved, net.constant(0.0), net.constant(6.0)])
    return net.same("Div", [net.same("Mul", [x, gate]), net.constant(6.0)])


def _activation(net: Net, x: str) -> str:
    op = net.pick(["HardSigmoid", "LeakyRelu", "Sigmoid", "Tanh"])
    return net.same(op, [x])


def _prelu(net: Net, x: str) -> str:
    shape = net.shapes[x]
    slope = net.between(0, 0.5, *([shape[1], 1, 1] if len(shape) == 4 else [shape[-1]]))
    return net.same("PRelu", [x, net.constant(slope)])


def _with_constant(net: Net, x: str) -> str:
    shape = net.shapes[x]
    op = net.pick(["Add", "Sub", "Mul", "Div"])
    dims = net.pick([(), shape[-1:], (1, *shape[1:]), (1, shape[1], *[1] * (len(shape) - 2))])
    value = net.between(0.5, 2, *dims) * net.pick([1, 1, -1])
    first = op != "Div" and net.chance(0.2)
    return net.add(op, [net.constant(value), x] if first else [x, net.constant(value)], shape)


def _join(net: Net, x: str) -> str:
    others = net.like(x)
    other = str(net.pick(others)) if others else net.same(net.pick(["Relu", "Sigmoid"]), [x])
    return net.same(net.pick(["Add", "Add", "Mul", "Sub"]), [x, other])


def _concat(net: Net, x: str) -> str:
    shape = net.shapes[x]
    axis = net.pick([1, -1])
    fits = [
        t for t, other in net.shapes.items()
        if len(other) == len(shape)
        and all(a == b for i, (a, b) in enumerate(zip(shape, other, strict=True))
                if i != axis % len(shape))
    ]  # fmt: skip
    parts = [x] + [str(net.pick(fits)) for _ in range(net.pick([1, 1, 2]))]
    total = sum(net.shapes[t][axis] for t in parts)
    dims = [total if i == axis % len(shape) else d for i, d in enumerate(shape)]
    if np.prod(dims) > _LARGEST:
        return _relu(net, x)
    return net.add("Concat", parts, dims, axis=axis)


def _split(net: Net, x: str) -> str:
    shape = net.shapes[x]
    axis = 1 if shape[1] > 1 else len(shape) - 1
    total = shape[axis]
    if total < 2:
        return _relu(net, x)
    sizes = [total // 2] * 2 if total % 2 == 0 and net.chance(0.6) else [1, total - 1]
    inputs = [x, net.constant(sizes, np.int64)] if sizes[0] != sizes[1] else [x]
    dims = [[s if i == axis else d for i, d in enumerate(shape)] for s in sizes]
    made = net.add("Split", inputs, dims[0], dims[1:], axis=axis)
    if net.chance(0.5):
        return net.add("Concat", [f"{made}.1", made], shape, axis=axis)
    return made


def _resize(net: Net, x: str) -> str:
    shape = net.shapes[x]
    scale = net.pick([2, 2, 0.5])
    dims = [*shape[:2], *(int(s * scale) for s in shape[2:])]
    if np.prod(dims) > _LARGEST or min(dims) < 2:
        return _relu(net, x)
    mode, coordinates = net.pick([
        ("nearest", "asymmetric"), ("nearest", "half_pixel"), ("linear", "half_pixel"),
        ("linear", "align_corners"), ("linear", "asymmetric"), ("linear", "pytorch_half_pixel"),
    ])  # fmt: skip
    exact = all(s * scale == d for s, d in zip(shape[2:], dims[2:], strict=True))
    if exact and net.chance(0.6):
        inputs = [x, "", net.constant([1, 1, scale, scale])]
    else:
        inputs = [x, "", "", net.constant(dims, np.int64)]
    more = {"nearest_mode": "floor"} if coordinates == "asymmetric" else {}
    return net.add(
        "Resize", inputs, dims, mode=mode, coordinate_transformation_mode=coordinates, **more
    )


def _pool(net: Net, x: str) -> str:
    _, channels, height, width = net.shapes[x]
    if min(height, width) < 3:
        return net.add("GlobalAveragePool", [x], (1, channels, 1, 1))
    kernel, stride = net.pick([(2, 2), (3, 1), (3, 2)])
    pad = net.pick([0, 1]) if kernel == 3 else 0
    dims = (1, channels, *(_size(s, kernel, stride, 2 * pad) for s in (height, width)))
    shape = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [pad] * 4}
    if net.chance(0.5):
        return net.add("MaxPool", [x], dims, **shape)
    return net.add("AveragePool", [x], dims, count_include_pad=net.pick([0, 1]), **shape)


def _squeeze_excite(net: Net, x: str) -> str:
    channels = net.shapes[x][1]
    mean = (
        net.add("GlobalAveragePool", [x], (1, channels, 1, 1))
        if net.chance(0.5)
        else net.add("ReduceMean", [x], (1, channels, 1, 1), axes=[2, 3], keepdims=1)
    )
    gate = net.same(net.pick(["Sigmoid", "HardSigmoid"]), [mean])
    return net.same("Mul", [x, gate])


def _reduce_mean(net: Net, x: str) -> str:
    shape = net.shapes[x]
    axes = [2, 3] if len(shape) == 4 else [len(shape) - 1]
    keep = int(net.chance(0.5) or len(shape) == 2)
    kept = [d if i not in axes else 1 for i, d in enumerate(shape) if keep or i not in axes]
    return net.add("ReduceMean", [x], kept, axes=axes, keepdims=keep)


def _pad(net: Net, x: str) -> str:
    shape = net.shapes[x]
    mode = net.pick(["constant", "constant", "edge", "reflect"])
    if min(shape[2:]) < 2 or np.prod(shape) > _LARGEST / 2:
        return _relu(net, x)
    inputs = [x, net.constant([0, 0, 1, 0, 0, 0, 0, 1], np.int64)]
    if mode == "constant" and net.chance(0.7):
        inputs.append(net.constant(net.pick([0.0, 0.0, -1.5])))
    return net.add("Pad", inputs, (*shape[:2], shape[2] + 1, shape[3] + 1), mode=mode)


def _slice(net: Net, x: str) -> str:
    shape = net.shapes[x]
    axis = len(shape) - 1
    if shape[axis] < 2:
        return _relu(net, x)
    start = net.pick([0, 1])
    dims = [*shape[:axis], shape[axis] - start - (0 if start else 1)]
    end = shape[axis] if start else -1
    bounds = [net.constant([v], np.int64) for v in (start, end, axis)]
    return net.add("Slice", [x, *bounds], dims)


def _flatten(net: Net, x: str) -> str:
    shape = net.shapes[x]
    total = int(np.prod(shape[1:]))
    if net.chance(0.5):
        return net.add("Flatten", [x], (shape[0], total), axis=1)
    return net.add("Reshape", [x, net.constant([shape[0], -1], np.int64)], (shape[0], total))


def _to_sequence(net: Net, x: str) -> str:
    n, channels, height, width = net.shapes[x]
    shape = net.constant([n, channels, height * width], np.int64)
    rows = net.add("Reshape", [x, shape], (n, channels, height * width))
    return net.add("Transpose", [rows], (n, height * width, channels), perm=[0, 2, 1])


def _transpose(net: Net, x: str) -> str:
    shape = net.shapes[x]
    perm = [0, 2, 3, 1] if len(shape) == 4 else [0, 2, 1] if len(shape) == 3 else [1, 0]
    if len(shape) == 4:
        moved = net.add("Transpose", [x], [shape[p] for p in perm], perm=perm)
        if net.chance(0.4):
            moved = _activation(net, moved)
        return net.add("Transpose", [moved], shape, perm=[0, 3, 1, 2])
    return net.add("Transpose", [x], [shape[p] for p in perm], perm=perm)


def _squeeze(net: Net, x: str) -> str:
    shape = net.shapes[x]
    if shape[0] != 1 or len(shape) < 3:
        return net.add("Unsqueeze", [x, net.constant([0], np.int64)], (1, *shape))
    flat = net.add("Squeeze", [x, net.constant([0], np.int64)], shape[1:])
    if net.chance(0.5):
        flat = _activation(net, flat)
    return net.add("Unsqueeze", [flat, net.constant([0], np.int64)], shape)


def _matmul(net: Net, x: str) -> str:
    *rows, inner = net.shapes[x]
    if inner > 64:
        return _relu(net, x)
    outer = net.pick([3, 4, 5])
    made = net.add("MatMul", [x, net.weight(inner, outer, fan=inner)], (*rows, outer))
    if net.chance(0.5):
        return net.same("Add", [made, net.constant(0.3 * net.normal(outer))])
    return made


def _attention(net: Net, x: str) -> str:
    n, length, depth = net.shapes[x]
    if length > 36 or depth > 64:
        return _relu(net, x)
    turned = net.add("Transpose", [x], (n, depth, length), perm=[0, 2, 1])
    scores = net.add("MatMul", [x, turned], (n, length, length))
    scaled = net.same("Mul", [scores, net.constant(1 / np.sqrt(depth))])
    return net.add("MatMul", [_softmax(net, scaled), x], (n, length, depth))


def _softmax(net: Net, x: str) -> str:
    return net.same("Softmax", [x], axis=net.pick([-1, -1, 1]))


def _gemm(net: Net, x: str) -> str:
    rows, inner = net.shapes[x]
    if inner > 600:
        return _relu(net, x)
    outer, turned = net.pick([3, 4, 6]), int(net.chance(0.5))
    dims = (outer, inner) if turned else (inner, outer)
    inputs = [x, net.weight(*dims, fan=inner)]
    if net.chance(0.7):
        inputs.append(net.bias(outer))
    return net.add("Gemm", inputs, (rows, outer), transB=turned)


# --- ops that few quantizers know ------------------------------------------------------------


def _layer_norm(net: Net, x: str) -> str:
    width = net.shapes[x][-1]
    gamma, beta = net.constant(net.between(0.5, 2, width)), net.constant(net.normal(width))
    if net.opset < 17:
        return _relu(net, x)
    return net.same("LayerNormalization", [x, gamma, beta][: net.pick([2, 3, 3])], axis=-1)


def _instance_norm(net: Net, x: str) -> str:
    channels = net.shapes[x][1]
    gamma, beta = net.constant(net.between(0.5, 2, channels)), net.constant(net.normal(channels))
    return net.same("InstanceNormalization", [x, gamma, beta])


def _gather(net: Net, x: str) -> str:
    *rows, width = net.shapes[x]
    picked = [int(i) for i in net.rng.integers(0, width, 3)]
    return net.add("Gather", [x, net.constant(picked, np.int64)], (*rows, 3), axis=len(rows))


def _where(net: Net, x: str) -> str:
    shape = net.shapes[x]
    mask = net.constant(net.between(0, 1, *shape) < 0.5, np.bool_)
    other = net.pick([*net.like(x), net.constant(net.normal(*shape))])
    return net.add("Where", [mask, x, other], shape)


_ANY_RANK: list[Step] = [
    _relu, _clip, _silu, _activation, _with_constant, _with_constant, _join, _join, _concat,
    _split, _slice,
]  # fmt: skip
_IMAGES: list[Step] = [
    _conv, _conv, _conv, _conv, _conv, _conv, _conv_transpose, _hard_swish, _prelu, _resize,
    _pool, _pool, _squeeze_excite, _reduce_mean, _pad, _flatten, _to_sequence, _transpose,
    _squeeze, _batch_norm,
]  # fmt: skip
_SEQUENCES: list[Step] = [_matmul, _matmul, _attention, _softmax, _transpose, _squeeze, _flatten]
_VECTORS: list[Step] = [_gemm, _gemm, _gemm, _matmul, _softmax, _transpose, _squeeze, _prelu]
_MORE: list[tuple[tuple[int, ...], Step]] = [
    ((2, 3, 4), _layer_norm), ((4,), _instance_norm), ((2, 3, 4), _gather), ((2, 3, 4), _where),
]  # fmt: skip
