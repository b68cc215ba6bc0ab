# SPDX-License-Identifier: Apache-2.0
"""Rebuild a simple ONNX graph as a torch.fx.GraphModule, node by node, names kept.

Where several torch forms do the same, one that FX quantization knows is taken; what it does not
know (slices, splits, padding, subtraction) stays a plain function.  Only float tensors flow.
"""

from __future__ import annotations

import operator

import numpy as np
import torch
from onnx import helper, numpy_helper
from torch import fx, nn
from torch.nn import functional as F


class Rebuilt:
    """A graph module, and where the ONNX nodes went.

    Attributes:
        module: takes the graph inputs in order, returns a tuple of the outputs.
        reads: fx node name -> for each tensor argument, in order, the ONNX (node, input) slots.
        weights: fx node name -> the ONNX (node, input) slot of its weight.
        outputs: names of the graph outputs.
    """

    def __init__(self, proto):
        self.root = nn.Module()
        self.graph = fx.Graph()
        self.reads, self.weights = {}, {}
        self.constants = {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}
        self.env, self.buffers, self.used, self.opset = {}, {}, set(), 17
        self.outputs = [o.name for o in proto.graph.output]
        self.readers = {}
        for node in proto.graph.node:
            for tensor in node.input:
                self.readers.setdefault(tensor, []).append(node)
        for item in proto.graph.input:
            if item.name not in self.constants:
                self.env[item.name] = self.graph.placeholder(f"input_{len(self.env)}")
        for self.count, node in enumerate(proto.graph.node):
            if node.name not in self.used:
                self.convert(node)
        self.graph.output(tuple(self.env[name] for name in self.outputs))
        self.module = fx.GraphModule(self.root, self.graph).eval()

    def convert(self, node):
        """Emit the torch form of one node."""
        given = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        getattr(self, node.op_type)(node, given)

    def tensor(self, name):
        """Return the fx node of a tensor, a number for a constant of rank 0."""
        if name in self.env:
            return self.env[name]
        value = self.constants[name]
        if value.ndim == 0:
            return value.item()
        if name not in self.buffers:
            buffer = f"constant_{len(self.buffers)}"
            self.root.register_buffer(buffer, torch.from_numpy(value.copy()))
            self.buffers[name] = buffer
        return self.graph.get_attr(self.buffers[name])

    def call(self, node, target, slots, *rest, into=None, **options):
        """Emit a module, function or method on the inputs `slots`; a slot list is one argument."""
        flat = [s for slot in slots for s in (slot if isinstance(slot, list) else [slot])]
        arguments = [
            [self.tensor(node.input[s]) for s in slot]
            if isinstance(slot, list)
            else self.tensor(node.input[slot])
            for slot in slots
        ]
        if isinstance(target, nn.Module):
            name = f"layer_{self.count}"
            self.root.add_module(name, target)
            made = self.graph.call_module(name, tuple(arguments))
        elif isinstance(target, str):
            made = self.graph.call_method(target, (*arguments, *rest), options)
        else:
            made = self.graph.call_function(target, (*arguments, *rest), options)
        self.reads[made.name] = [
            [(node.name, s)] for s in flat
            if node.input[s] in self.env or self.constants[node.input[s]].ndim
        ]  # fmt: skip
        self.env[into or node.output[0]] = made
        return made

    def ints(self, node, index):
        """Return a constant input as a list of numbers, None where there is none."""
        if index >= len(node.input) or not node.input[index]:
            return None
        return self.constants[node.input[index]].tolist()

    # layers

    def Conv(self, node, given):
        weight = torch.from_numpy(self.constants[node.input[1]].copy())
        rank = weight.ndim - 2
        pads = given.get("pads", [0] * 2 * rank)
        if given.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
            raise NotImplementedError("auto_pad")
        before, after = pads[:rank], pads[rank:]
        for axis in range(rank):
            # a zero row before the kernel takes one line of padding over to the other side
            missing = after[axis] - before[axis]
            if missing:
                fill = [0, 0] * (rank - 1 - axis) + [max(missing, 0), max(-missing, 0)]
                weight = F.pad(weight, fill)
        kind = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[rank - 1]
        self.layer(node, weight, kind(
            weight.shape[1] * given.get("group", 1), weight.shape[0], tuple(weight.shape[2:]),
            stride=tuple(given.get("strides", [1] * rank)),
            padding=tuple(map(max, before, after)),
            dilation=tuple(given.get("dilations", [1] * rank)), groups=given.get("group", 1),
            bias=len(node.input) > 2,
        ))  # fmt: skip

    def ConvTranspose(self, node, given):
        weight = torch.from_numpy(self.constants[node.input[1]].copy())
        rank = weight.ndim - 2
        pads = given.get("pads", [0] * 2 * rank)
        kind = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)[rank - 1]
        group = given.get("group", 1)
        self.layer(node, weight, kind(
            weight.shape[0], weight.shape[1] * group, tuple(weight.shape[2:]),
            stride=tuple(given.get("strides", [1] * rank)), padding=tuple(pads[:rank]),
            output_padding=tuple(given.get("output_padding", [0] * rank)), groups=group,
            bias=len(node.input) > 2,
        ))  # fmt: skip

    def Gemm(self, node, given):
        weight = torch.from_numpy(self.constants[node.input[1]].copy())
        weight = weight if given.get("transB", 0) else weight.T
        self.layer(node, weight, nn.Linear(*weight.shape[::-1], bias=len(node.input) > 2))

    def layer(self, node, weight, module, bias=None):
        """Fill in a layer's parameters and emit it."""
        with torch.no_grad():
            module.weight.copy_(weight)
            if module.bias is not None:
                bias = self.constants[node.input[2]] if bias is None else bias
                module.bias.copy_(torch.from_numpy(bias.copy()).reshape(-1))
        made = self.call(node, module, [0])
        self.weights[made.name] = (node.name, 1)

    def MatMul(self, node, given):
        weight = self.constants.get(node.input[1])
        if weight is None or weight.ndim != 2:
            self.call(node, torch.matmul, [0, 1])
            return
        weight = torch.from_numpy(weight.T.copy())
        readers = self.readers.get(node.output[0], [])
        bias = None
        if len(readers) == 1 and readers[0].op_type == "Add":
            other = next(t for t in readers[0].input if t != node.output[0])
            value = self.constants.get(other)
            bias = value if value is not None and value.shape == weight.shape[:1] else None
        self.layer(node, weight, nn.Linear(*weight.shape[::-1], bias=bias is not None), bias)
        if bias is not None:
            self.used.add(readers[0].name)
            self.env[readers[0].output[0]] = self.env[node.output[0]]

    # activations

    def Sigmoid(self, node, given):
        readers = self.readers.get(node.output[0], [])
        if len(readers) == 1 and set(readers[0].input) == {node.input[0], node.output[0]}:
            made = self.call(node, nn.SiLU(), [0], into=readers[0].output[0])
            index = list(readers[0].input).index(node.input[0])
            self.reads[made.name][0].append((readers[0].name, index))
            self.used.add(readers[0].name)
        else:
            self.call(node, nn.Sigmoid(), [0])

    def Relu(self, node, given):
        self.call(node, nn.ReLU(), [0])

    def Clip(self, node, given):
        low = float(given.get("min", self.ints(node, 1) or 0.0))
        high = float(given.get("max", self.ints(node, 2) or 0.0))
        relu6 = (low, high) == (0.0, 6.0)
        self.call(node, nn.ReLU6() if relu6 else nn.Hardtanh(low, high), [0])

    def HardSwish(self, node, given):
        self.call(node, nn.Hardswish(), [0])

    def HardSigmoid(self, node, given):
        if abs(given.get("alpha", 0.2) * 6 - 1) < 1e-3:
            self.call(node, nn.Hardsigmoid(), [0])
            return
        name = node.output[0]
        made = self.call(node, operator.mul, [0], given.get("alpha", 0.2))
        # no torch module has this slope: written out with functions that stay in float
        made.target = torch.div
        made.args = (made.args[0], 1 / given.get("alpha", 0.2))
        shifted = self.graph.call_function(torch.sub, (made, -given.get("beta", 0.5)))
        self.env[name] = self.graph.call_function(torch.minimum, (shifted, torch.tensor(1.0)))

    def Tanh(self, node, given):
        self.call(node, nn.Tanh(), [0])

    def Softmax(self, node, given):
        self.call(node, nn.Softmax(given.get("axis", -1)), [0])

    def LeakyRelu(self, node, given):
        self.call(node, nn.LeakyReLU(given.get("alpha", 0.01)), [0])

    def Elu(self, node, given):
        self.call(node, nn.ELU(given.get("alpha", 1.0)), [0])

    def PRelu(self, node, given):
        slope = torch.from_numpy(self.constants[node.input[1]].copy()).reshape(-1)
        module = nn.PReLU(slope.numel())
        module.weight.data.copy_(slope)
        self.call(node, module, [0])

    # arithmetic

    def Add(self, node, given):
        self.call(node, operator.add, [0, 1])

    def Mul(self, node, given):
        self.call(node, operator.mul, [0, 1])

    def Sub(self, node, given):
        self.call(node, operator.sub, [0, 1])

    def Div(self, node, given):
        self.call(node, operator.truediv, [0, 1])

    def Exp(self, node, given):
        self.call(node, torch.exp, [0])

    def Sqrt(self, node, given):
        self.call(node, torch.sqrt, [0])

    def ReduceMean(self, node, given):
        axes = given.get("axes") or self.ints(node, 1)
        self.call(node, torch.mean, [0], list(axes), bool(given.get("keepdims", 1)))

    # pooling and shapes

    def MaxPool(self, node, given):
        rank = len(given["kernel_shape"])
        kind = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)[rank - 1]
        pads = given.get("pads", [0] * 2 * rank)
        if pads[:rank] != pads[rank:]:
            raise NotImplementedError("MaxPool padded on one side")
        self.call(node, kind(
            tuple(given["kernel_shape"]), tuple(given.get("strides", [1] * rank)),
            tuple(pads[:rank]), ceil_mode=bool(given.get("ceil_mode", 0)),
        ), [0])  # fmt: skip

    def AveragePool(self, node, given):
        rank = len(given["kernel_shape"])
        kind = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)[rank - 1]
        self.call(node, kind(
            tuple(given["kernel_shape"]), tuple(given.get("strides", [1] * rank)),
            tuple(given.get("pads", [0] * 2 * rank)[:rank]),
            count_include_pad=bool(given.get("count_include_pad", 0)),
        ), [0])  # fmt: skip

    def GlobalAveragePool(self, node, given):
        self.call(node, nn.AdaptiveAvgPool2d(1), [0])

    def Concat(self, node, given):
        self.call(node, torch.cat, [list(range(len(node.input)))], given["axis"])

    def Split(self, node, given):
        sizes = given.get("split") or self.ints(node, 1)
        made = self.call(node, torch.split, [0], list(sizes), given.get("axis", 0))
        for index, output in enumerate(node.output):
            self.env[output] = self.graph.call_function(operator.getitem, (made, index))

    def Slice(self, node, given):
        starts, ends, axes, steps = (
            given.get(key) or self.ints(node, k)
            for k, key in enumerate(("starts", "ends", "axes", "steps"), 1)
        )
        axes = list(range(len(starts))) if axes is None else axes
        index = [slice(None)] * (max(axes) + 1)
        for k, axis in enumerate(axes):
            index[axis] = slice(starts[k], ends[k], steps[k] if steps else 1)
        self.call(node, operator.getitem, [0], tuple(index))

    def Reshape(self, node, given):
        self.call(node, "reshape", [0], *self.ints(node, 1))

    def Flatten(self, node, given):
        self.call(node, torch.flatten, [0], given.get("axis", 1))

    def Transpose(self, node, given):
        self.call(node, "permute", [0], *given["perm"])

    def Squeeze(self, node, given):
        self.call(node, torch.squeeze, [0], tuple(given.get("axes") or self.ints(node, 1)))

    def Unsqueeze(self, node, given):
        (axis,) = given.get("axes") or self.ints(node, 1)
        self.call(node, torch.unsqueeze, [0], axis)

    def Pad(self, node, given):
        pads = given.get("pads") or self.ints(node, 1)
        rank = len(pads) // 2
        flat = [p for k in reversed(range(rank)) for p in (pads[k], pads[rank + k])]
        while flat[-2:] == [0, 0]:
            flat = flat[:-2]
        value = self.ints(node, 2) or 0.0
        self.call(node, F.pad, [0], flat, "constant", float(np.ravel(value)[0]))

    def Resize(self, node, given):
        mode = {b"nearest": "nearest", b"linear": "bilinear"}[given.get("mode", b"nearest")]
        scales, sizes = self.ints(node, 2), self.ints(node, 3)
        where = {"scale_factor": tuple(scales[2:])} if scales else {"size": tuple(sizes[2:])}
        self.call(node, F.interpolate, [0], mode=mode, **where)
