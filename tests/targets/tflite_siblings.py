# SPDX-License-Identifier: Apache-2.0
"""What the TFLite converter made of three shared models, told as edge -> grid of the float ones.

The quantized models are Q/DQ graphs with other names and other operand orders, so both graphs are
walked side by side from their outputs.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "peers"))
from edges import Grid, compare, edges_of_plan  # noqa: F401

SHARED = Path(__file__).resolve().parents[3] / "shared"
Q, DQ = "QuantizeLinear", "DequantizeLinear"


def sibling_edges(proto, float_graph):
    """Return edge -> grid as the Q/DQ model `proto` has them, by the nodes of `float_graph`."""
    made = _Made(proto)
    pairs = {}
    for ours, theirs in zip(float_graph.output, proto.graph.output, strict=True):
        assert _match(_Made(float_graph), made, ours.name, theirs.name, pairs)
    found = {}
    for node in float_graph.node:
        twin, order = pairs[node.name]
        for index, tensor in enumerate(node.input):
            if tensor:
                found[node.name, index] = made.grid(twin.input[order[index]])
    for ours, theirs in zip(float_graph.output, proto.graph.output, strict=True):
        found["", ours.name] = made.grid(theirs.name)
    return found


class _Made:
    def __init__(self, model):
        graph = getattr(model, "graph", model)
        self.nodes = {t: node for node in graph.node for t in node.output}
        self.constants = {t.name: t for t in graph.initializer}
        self.readers = {}
        for node in graph.node:
            for tensor in node.input:
                self.readers.setdefault(tensor, []).append(node)

    def node(self, tensor):
        """Return what computes `tensor`, looking through Q/DQ; None for inputs and constants."""
        node = self.nodes.get(tensor)
        while node is not None and node.op_type in (Q, DQ):
            node = self.nodes.get(node.input[0])
        return node

    def shape(self, tensor):
        """Return the shape of a constant, stored quantized or not."""
        node = self.nodes.get(tensor)
        name = node.input[0] if node is not None and node.op_type == DQ else tensor
        return tuple(self.constants[name].dims) if name in self.constants else None

    def grid(self, tensor):
        """Return the grid that the values of `tensor` lie on."""
        node = self.nodes.get(tensor)
        if node is None:
            below = [n for n in self.readers[tensor] if n.op_type in (DQ, "Transpose", "Reshape")]
            return self._params(below[0]) if below[0].op_type == DQ else self.below(below[0])
        if node.op_type in (Q, DQ):
            return self._params(node)
        if node.op_type in ("Transpose", "Reshape"):  # they may move integers
            return self.grid(node.input[0])
        return None

    def below(self, node):
        return self._params(next(n for n in self.readers[node.output[0]] if n.op_type == DQ))

    def _params(self, node):
        scale = numpy_helper.to_array(self.constants[node.input[1]])
        zero = numpy_helper.to_array(self.constants[node.input[2]])
        return Grid.of(8 * zero.dtype.itemsize, True, scale, zero)


def _match(ours, theirs, tensor, other, pairs):
    """Pair the nodes above two tensors; an Add may have its operands swapped."""
    node, twin = ours.node(tensor), theirs.node(other)
    if node is None or twin is None:
        return node is twin is None
    if node.name in pairs:
        return pairs[node.name][0] is twin
    if node.op_type != twin.op_type:
        return False
    count = len(node.input)
    for order in [range(count), *([(1, 0)] if node.op_type == "Add" else [])]:
        attempt = {**pairs, node.name: (twin, tuple(order))}
        if all(
            _shapes_fit(ours.shape(t), theirs.shape(twin.input[order[i]]))
            and _match(ours, theirs, t, twin.input[order[i]], attempt)
            for i, t in enumerate(node.input)
        ):
            pairs.update(attempt)
            return True
    return False


def _shapes_fit(ours, theirs):
    return (ours is None) == (theirs is None) and sorted(ours or ()) == sorted(theirs or ())


def images(paths, size):
    """Return (H, W, 3) float32 arrays of 0 .. 255, resized to `size`."""
    from PIL import Image

    return [
        np.asarray(Image.open(p).convert("RGB").resize(size), np.float32) for p in sorted(paths)
    ]


def samples_of(name, count):
    """Return up to `count` runs of a model's shared data, prepared as its SOURCE.md says."""
    data = SHARED / "data"
    if name == "ad_autoencoder":
        array = np.load(data / "toycar" / "normal_id_01_features.npy").astype(np.float32)
        return [{"input_1": row[None]} for row in array[:count]]
    if name == "resnet8_cifar10":
        files = sorted((data / "cifar10" / "images").glob("*.jpg"))
        scale, size = 1.0, (32, 32)
    else:
        files = sorted((data / "coco").rglob("*.jpg"))
        scale, size = 255.0, (96, 96)
    picked = files[:: max(1, len(files) // count)][:count]
    return [{"input_1": image[None] / np.float32(scale)} for image in images(picked, size)]


def quantized(name):
    """Return the Q/DQ sibling of a shared model."""
    return onnx.load(SHARED / "models" / f"{name}_qdq" / "model.onnx")
