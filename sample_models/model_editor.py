# SPDX-License-Identifier: Apache-2.0
"""An ONNX model whose nodes and constants are found by name, changed and put between others."""

from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper


class Editor:
    """A model whose nodes and initializers are found by name."""

    def __init__(self, path: Path) -> None:
        self.model = onnx.load(path)
        self._index()

    def _index(self) -> None:
        graph = self.model.graph
        self.nodes = {node.name: node for node in graph.node}
        self.makers = {out: node for node in graph.node for out in node.output}
        self._weights = {item.name: item for item in graph.initializer}

    def read(self, node: str, slot: int) -> np.ndarray:
        """Return a copy of the constant at an input slot, float64."""
        return numpy_helper.to_array(self._weights[self.nodes[node].input[slot]]).astype(float)

    def write(self, node: str, slot: int, value: np.ndarray) -> None:
        """Replace the constant at an input slot."""
        weight = self._weights[self.nodes[node].input[slot]]
        weight.CopyFrom(numpy_helper.from_array(value.astype(np.float32), weight.name))

    def constant(self, name: str, value: np.ndarray) -> str:
        """Add a float32 constant; return its name."""
        self.model.graph.initializer.append(
            numpy_helper.from_array(np.asarray(value, np.float32), name)
        )
        self._index()
        return name

    def insert(self, reader: str, slot: int, *made: onnx.NodeProto) -> None:
        """Put nodes in front of a reader, whose input becomes the last one's output."""
        place = list(self.nodes).index(reader)
        for offset, node in enumerate(made):
            self.model.graph.node.insert(place + offset, node)
        self._index()
        self.nodes[reader].input[slot] = made[-1].output[0]

    def end_with(self, tensors: list[str]) -> None:
        """Make these the outputs of the graph."""
        end_with(self.model, tensors)
        self._index()

    def depthwise(self, node: str) -> bool:
        """Say whether a convolution reads each channel by itself."""
        groups = [item.i for item in self.nodes[node].attribute if item.name == "group"]
        return groups > [1]

    def output(self, node: str) -> str:
        """Return the first output of a node."""
        return str(self.nodes[node].output[0])

    def activated(self, producer: str) -> str:
        """Return the output of a convolution, behind its Relu if there is one."""
        output = self.output(producer)
        readers = [node for node in self.nodes.values() if output in node.input]
        return str(readers[0].output[0]) if readers[0].op_type == "Relu" else output

    def source(self, tensor: str) -> list[str]:
        """Return the convolution that computes a tensor, after the Relu behind it if any."""
        maker = self.makers[tensor]
        return [maker.name] + ([] if maker.op_type == "Conv" else self.source(maker.input[0]))

    def feeding(self, concat: str) -> list[list[str]]:
        """Return the sources of the branches that enter a Concat."""
        return [self.source(name) for name in self.nodes[concat].input]


def end_with(model: onnx.ModelProto, tensors: list[str]) -> None:
    """Make these the outputs of a graph, in place, with the shapes that inference finds."""
    del model.graph.output[:]
    del model.graph.value_info[:]
    shapes = onnx.shape_inference.infer_shapes(model)
    known = {item.name: item for item in shapes.graph.value_info}
    model.graph.output.extend(known[name] for name in tensors)


def node(kind: str, name: str, *inputs: str, **attributes: int) -> onnx.NodeProto:
    """Return a node with one output, which is called after it."""
    return helper.make_node(kind, list(inputs), [f"{name}_output_0"], name=name, **attributes)
