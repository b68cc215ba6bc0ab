# SPDX-License-Identifier: Apache-2.0
"""Changing a bound model node by node: what belongs to the model besides its graph stays right."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from analyzer.graph.constants import count_floats
from analyzer.graph.macs import COUNTED, count_macs
from analyzer.graph.names import all_names, keep_sources, rename_reads, sort_nodes, unique
from analyzer.graph.simplify import remove_unused
from analyzer.graph.view import GraphView, attributes
from analyzer.records import Model


class GraphEditor:
    """A bound model while its nodes are replaced; `model` itself is not changed.

    Attributes:
        graph: the graph that is changed.  Nodes may be changed in place; then call `touch`.
        sources: node -> the user's nodes in it.
        op_types: node -> op type to print, where it differs from the node's own.
        shapes, dtypes: of every tensor.
        notes: of the model, and what is added.
    """

    def __init__(self, model: Model) -> None:
        self._model = model
        self.proto = onnx.ModelProto()
        self.proto.CopyFrom(model.proto)
        self.graph = self.proto.graph
        self.sources = dict(model.source_nodes)
        self.op_types = dict(model.op_types)
        self.shapes = dict(model.shapes)
        self.dtypes = dict(model.dtypes)
        self.notes = list(model.notes)
        self._view: GraphView | None = None
        self._changed = False

    @property
    def view(self) -> GraphView:
        """An index over the graph as it is now."""
        if self._view is None:
            self._view = GraphView(self.graph)
        return self._view

    def touch(self) -> None:
        """Forget the index: a node was changed in place."""
        self._view = None
        self._changed = True

    def kind(self, node: onnx.NodeProto) -> str:
        """Return the op type that is printed for `node`."""
        return self.op_types.get(node.name, node.op_type)

    def of_type(self, *kinds: str) -> list[onnx.NodeProto]:
        """Return the nodes that are printed as one of `kinds`, in order."""
        return [node for node in self.graph.node if self.kind(node) in kinds]

    def reader(self, tensor: str, *, or_output: bool = False) -> onnx.NodeProto | None:
        """Return the node at the only slot that reads `tensor`; None if there are more or none.

        A graph output is read by the user as well, which does not count with `or_output`.
        """
        readers = self.view.consumers.get(tensor, ())
        if len(readers) != 1 or (tensor in self.view.outputs and not or_output):
            return None
        return self.view.nodes[readers[0]]

    def producer(self, tensor: str) -> onnx.NodeProto | None:
        """Return the node that makes `tensor`."""
        name = self.view.producer.get(tensor)
        return None if name is None else self.view.nodes[name]

    def array(self, tensor: str) -> npt.NDArray[Any] | None:
        """Return the value of a constant, else None."""
        return self.view.array(tensor) if self.view.is_constant(tensor) else None

    def constant(self, name: str, value: npt.NDArray[Any]) -> str:
        """Add a constant and return its name, which is `name` where that is free."""
        name = unique(name, all_names(self.graph))
        value = np.ascontiguousarray(value).reshape(value.shape)
        self.graph.initializer.append(numpy_helper.from_array(value, name))
        self.shapes[name], self.dtypes[name] = value.shape, value.dtype.name
        self.touch()
        return name

    def fuse(
        self,
        nodes: Collection[str],
        into: onnx.NodeProto,
        *,
        kind: str | None = None,
        shapes: Mapping[str, tuple[int, ...]] | None = None,
    ) -> None:
        """Put `into` in the place of the last of `nodes`; it stands for all the user's in them.

        Args:
            nodes: that go away.
            into: may keep the name of one of them.
            kind: op type to print, where it is not that of `into`.
            shapes: of tensors that are new.
        """
        order = [node.name for node in self.graph.node if node.name in nodes]
        merged = tuple(text for name in order for text in self.sources.pop(name))
        for name in order:
            self.op_types.pop(name, None)
        self.sources[into.name] = merged
        self._swap(order[-1], [into], gone=set(order))
        self._learn(into, kind, shapes or {})

    def insert_before(
        self,
        name: str,
        node: onnx.NodeProto,
        *,
        kind: str | None = None,
        shapes: Mapping[str, tuple[int, ...]] | None = None,
    ) -> None:
        """Put a node that no node of the user's stands behind before the node `name`."""
        self.sources[node.name] = ()
        self._swap(name, [node, self.view.nodes[name]], gone={name})
        self._learn(node, kind, shapes or {})

    def bypass(self, name: str) -> None:
        """Take a node out; who reads its output reads its first input then.

        Where it makes a graph output, the node before it makes that instead; where there is none
        or that makes a graph output as well, the node stays.
        """
        node = self.view.nodes[name]
        old, new = node.output[0], node.input[0]
        maker = self.producer(new)
        if old in self.view.outputs:
            if maker is None or new in self.view.outputs:
                return
            maker.output[list(maker.output).index(new)] = old
            old, new = new, old
        self.sources.pop(name)
        self.op_types.pop(name, None)
        self._swap(name, [], gone={name})
        self.rename_readers(old, new)

    def drop_output(self, tensor: str) -> bool:
        """Take a tensor out of the graph outputs; tell whether it was one."""
        if tensor not in self.view.outputs:
            return False
        kept = [output for output in self.graph.output if output.name != tensor]
        del self.graph.output[:]
        self.graph.output.extend(kept)
        self.touch()
        return True

    def rename_readers(self, old: str, new: str) -> None:
        """Let the nodes that read `old` read `new`."""
        for node in self.graph.node:
            rename_reads(node, lambda tensor: new if tensor == old else tensor)
        self.touch()

    def set_attributes(self, node: onnx.NodeProto, **values: Any) -> None:
        """Set attributes in place; None takes one out.  Any: whatever ONNX takes."""
        given = {**attributes(node), **values}
        del node.attribute[:]
        node.attribute.extend(
            helper.make_attribute(name, value)
            for name, value in given.items()
            if value is not None
        )
        self.touch()

    def note(self, text: str) -> None:
        """Add a sentence for the user."""
        self.notes.append(text)

    def use_domain(self, domain: str, version: int = 1) -> None:
        """Declare that nodes of `domain` are used."""
        if all(opset.domain != domain for opset in self.proto.opset_import):
            self.proto.opset_import.append(helper.make_opsetid(domain, version))
        self._changed = True

    def done(self) -> Model:
        """Return the model as it is now; the one given, where nothing was changed."""
        if not self._changed:
            return replace(self._model, notes=tuple(self.notes))
        sort_nodes(self.graph)
        remove_unused(self.graph)
        for constant in self.graph.initializer:  # folding a norm makes some
            self.shapes.setdefault(constant.name, tuple(constant.dims))
            kind = helper.tensor_dtype_to_np_dtype(constant.data_type).name
            self.dtypes.setdefault(constant.name, kind)
        tensors = all_names(self.graph)
        outputs = {output.name for output in self.graph.output}
        shapes = {name: shape for name, shape in self.shapes.items() if name in tensors}
        # a node that only stands for something else (zeros put in by a ConvTranspose) has none
        counted = {node.name for node in self.graph.node if self.kind(node) in COUNTED}
        macs = count_macs(self.graph, shapes)
        return replace(
            self._model,
            proto=self.proto,
            outputs=tuple(o for o in self._model.outputs if o.name in outputs),
            source_nodes=keep_sources(self.graph, self.sources),
            op_types={n.name: self.op_types[n.name] for n in self.graph.node if self._is_named(n)},
            shapes=shapes,
            dtypes={name: kind for name, kind in self.dtypes.items() if name in tensors},
            macs={name: count for name, count in macs.items() if name in counted},
            parameters=count_floats(self.graph),
            notes=tuple(self.notes),
        )

    def _is_named(self, node: onnx.NodeProto) -> bool:
        return self.op_types.get(node.name, node.op_type) != node.op_type

    def _swap(self, at: str, new: list[onnx.NodeProto], gone: set[str]) -> None:
        nodes: list[onnx.NodeProto] = []
        for node in self.graph.node:
            if node.name == at:
                nodes += new
            elif node.name not in gone:
                nodes.append(node)
        copies = []
        for node in nodes:
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            copies.append(copy)
        del self.graph.node[:]
        self.graph.node.extend(copies)
        self.touch()

    def _learn(
        self, node: onnx.NodeProto, kind: str | None, shapes: Mapping[str, tuple[int, ...]]
    ) -> None:
        if kind is not None:
            self.op_types[node.name] = kind
        for tensor, shape in shapes.items():
            self.shapes[tensor] = shape
            self.dtypes[tensor] = self.dtypes[node.input[0]]
