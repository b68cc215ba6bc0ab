# SPDX-License-Identifier: Apache-2.0
"""Names a layer may end up with in a tool that fuses activations: an order in, candidates out."""

from __future__ import annotations

from collections.abc import Iterator

import onnx

from analyzer.export.asked import File
from analyzer.export.order import Order
from analyzer.graph.view import reads

# what compilers make a part of the layer before it; the result keeps the name of the last one
_FUSED = frozenset(
    """
    BatchNormalization Clip Elu Gelu HardSigmoid HardSwish LeakyRelu Mish PRelu Relu Sigmoid
    Softplus Tanh
    """.split()
)


class Fusions:
    """The graph that a tool is given, looked at for what follows a layer.

    Attributes:
        inputs: names of the graph inputs.
        makers: tensor -> the node that makes it.
    """

    def __init__(self, order: Order, file: File) -> None:
        if file == "original":
            graph = onnx.load(str(order.original), load_external_data=False).graph
        else:
            graph = order.source.proto.graph
        constants = {tensor.name for tensor in graph.initializer}
        self.inputs = frozenset(i.name for i in graph.input if i.name not in constants)
        self.makers = {t: node for node in graph.node for t in node.output if t}
        self._readers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for tensor in reads(node):
                self._readers.setdefault(tensor, []).append(node)
        self._outputs = {output.name for output in graph.output}

    def behind(self, tensor: str) -> Iterator[str]:
        """Yield what a tensor is after each activation that may be fused into its maker."""
        while (after := self._after(tensor)) is not None:
            yield after
            tensor = after

    def _after(self, tensor: str) -> str | None:
        readers = [] if tensor in self._outputs else self._readers.get(tensor, [])
        if len(readers) == 1 and readers[0].op_type in _FUSED and readers[0].input[0] == tensor:
            return str(readers[0].output[0])
        if sorted(node.op_type for node in readers) == ["Mul", "Sigmoid"]:
            return self._swish(tensor, readers)
        return None

    def _swish(self, tensor: str, readers: list[onnx.NodeProto]) -> str | None:
        product, gate = sorted(readers, key=lambda node: node.op_type)
        alone = self._readers.get(gate.output[0]) == [product]
        return str(product.output[0]) if alone and tensor in product.input else None
