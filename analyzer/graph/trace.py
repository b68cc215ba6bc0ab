# SPDX-License-Identifier: Apache-2.0
"""Which nodes of the user's graph stand behind a node of the graph that was made out of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import onnx

from analyzer.graph.view import GraphView, reads

# they read the size of a tensor, never its values
_SIZES = frozenset({"Shape", "Size"})
# they compute nothing
_IDLE = frozenset({"Identity", "Dropout", "Constant"})
# with a constant, they become part of the weights of the layer before them
_FOLDED_BACK = frozenset({"BatchNormalization", "Add", "Sub", "Mul", "Div"})
_COMPUTING = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "LSTM", "GRU", "RNN"})


def skeleton(graph: onnx.GraphProto) -> onnx.GraphProto:
    """Return a copy that has the names of the initializers, and no values in them."""
    copy = onnx.GraphProto(name=graph.name)
    copy.node.extend(graph.node)
    copy.input.extend(graph.input)
    copy.output.extend(graph.output)
    copy.initializer.extend(onnx.TensorProto(name=tensor.name) for tensor in graph.initializer)
    return copy


def trace_sources(
    user: onnx.GraphProto, source: Mapping[str, tuple[str, ...]], graph: onnx.GraphProto
) -> dict[str, tuple[str, ...]]:
    """Find the user's nodes behind every node of `graph`.

    Both graphs are compared by the tensors they share.  A node stands for those of the user's
    that lie between the tensors it makes and the nearest ones that `graph` has as well.  What
    was merged with an equal node, or dissolved into its readers, is counted to these.  Every
    node of the user's that computes something from the data is counted once.

    Args:
        user: nodes in topological order, with unique names.
        source: node of `user` -> what it is called in the result.
        graph: nodes with unique names.
    """
    return _Trace(user, graph).sources(source)


class _Trace:
    """The two graphs, and who owns each of the user's nodes."""

    def __init__(self, user: onnx.GraphProto, graph: onnx.GraphProto) -> None:
        self.user = GraphView(user)
        self.new = GraphView(graph)
        self.order = {name: i for i, name in enumerate(self.user.nodes)}
        self.live = self._computing()
        self.owner: dict[str, str] = {}  # user's node -> new node

    def sources(self, source: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        for name in self.new.nodes:
            self._claim_made(name)
        for name in self.new.nodes:
            self._claim_namesake(name)
        self._claim_paired()
        for cluster in self._clusters():
            self._hand_to_main(cluster)
        self._claim_constants_behind()
        self._claim_equal()
        self._claim_between()
        self._claim_left()
        found: dict[str, list[str]] = {name: [] for name in self.new.nodes}
        for name in sorted(self.owner, key=self.order.__getitem__):
            if self.user.nodes[name].op_type in _IDLE and self.owner[name] != name:
                continue
            found[self.owner[name]].append(name)
        return {
            name: tuple(text for n in names for text in source[n]) for name, names in found.items()
        }

    def _computing(self) -> set[str]:
        """Return the user's nodes that depend on the data and that an output depends on."""
        data = set(self.user.inputs)
        depends = set()
        for node in self.user.nodes.values():
            if node.op_type not in _SIZES and not data.isdisjoint(reads(node)):
                depends.add(node.name)
                data.update(name for name in node.output if name)
        needed: set[str] = set()
        stack = [self.user.producer[o] for o in self.user.outputs if o in self.user.producer]
        while stack:
            name = stack.pop()
            if name not in needed:
                needed.add(name)
                stack += self.user.parents(self.user.nodes[name])
        return depends & needed

    def _clusters(self) -> Iterator[list[str]]:
        """Yield sets of new nodes that are tied by tensors the user does not know."""
        group: dict[str, list[str]] = {}
        for node in self.new.nodes.values():
            mine = group.setdefault(node.name, [node.name])
            for tensor in node.input:
                maker = self.new.producer.get(tensor)
                if maker is None or self._knows(tensor) or group[maker] is mine:
                    continue
                mine += group[maker]
                for name in group[maker]:
                    group[name] = mine
        order = {name: i for i, name in enumerate(self.new.nodes)}
        seen: set[int] = set()
        for members in group.values():
            if id(members) not in seen:
                seen.add(id(members))
                yield sorted(members, key=order.__getitem__)

    def _claim_made(self, name: str) -> None:
        for tensor in self.new.nodes[name].output:
            maker = self.user.producer.get(tensor)
            if maker is not None:
                self.owner.setdefault(maker, name)

    def _claim_namesake(self, name: str) -> None:
        twin = self.user.nodes.get(name)
        if twin is not None and twin.op_type == self.new.nodes[name].op_type:
            self.owner.setdefault(name, name)

    def _claim_paired(self) -> None:
        """Pair nodes of one type that stand at the same input of a pair."""
        stack = [(user, new) for user, new in self.owner.items()]
        while stack:
            user, new = (self.user.nodes[stack[-1][0]], self.new.nodes[stack.pop()[1]])
            if user.op_type != new.op_type:
                continue
            for theirs, ours in zip(user.input, new.input, strict=False):
                maker, made = self.user.producer.get(theirs), self.new.producer.get(ours)
                if maker is None or made is None or maker in self.owner or self._knows(ours):
                    continue
                if self.user.nodes[maker].op_type == self.new.nodes[made].op_type:
                    self.owner[maker] = made
                    stack.append((maker, made))

    def _knows(self, tensor: str) -> bool:
        """Tell whether the user's graph has a tensor of this name that is no constant."""
        return tensor in self.user.producer or tensor in self.user.inputs

    def _hand_to_main(self, cluster: list[str]) -> None:
        """Let the node that computes stand for what the last one of its cluster makes."""
        main = next((n for n in cluster if self.new.nodes[n].op_type in _COMPUTING), None)
        if main is None or main in self.owner.values():
            return
        for name, owner in self.owner.items():
            if owner in cluster and self.user.nodes[name].op_type != self.new.nodes[owner].op_type:
                self.owner[name] = main

    def _claim_constants_behind(self) -> None:
        """Count what was folded into the weights of the layer before it to that layer."""
        for node in self.user.nodes.values():
            if node.op_type not in _FOLDED_BACK or node.name in self.owner:
                continue
            before = [self.owner.get(p, "") for p in self.user.parents(node) if p in self.live]
            if len(before) == 1 and self._computes(before[0]):
                self.owner[node.name] = before[0]

    def _computes(self, name: str) -> bool:
        return name in self.new.nodes and self.new.nodes[name].op_type in _COMPUTING

    def _claim_between(self) -> None:
        """Give every node what lies between it and the nearest tensors of the new graph."""
        order = {name: i for i, name in enumerate(self.new.nodes)}
        stack = sorted(self.owner, key=lambda name: -order[self.owner[name]])
        while stack:
            name = stack.pop()
            for tensor in self.user.nodes[name].input:
                maker = self.user.producer.get(tensor)
                if maker is None or maker in self.owner or maker not in self.live:
                    continue
                if tensor in self.new.producer or tensor in self.new.initializers:
                    continue
                self.owner[maker] = self.owner[name]
                stack.append(maker)

    def _claim_equal(self) -> None:
        """Count a node that was merged with an equal one to that one's owner."""
        first: dict[tuple[object, ...], onnx.NodeProto] = {}
        same: dict[str, str] = {}
        for node in self.user.nodes.values():
            attributes = sorted(a.SerializeToString() for a in node.attribute)
            inputs = [same.get(name, name) for name in node.input]
            key = (node.domain, node.op_type, tuple(inputs), tuple(attributes))
            twin = first.setdefault(key, node)
            if twin is node:
                continue
            same.update(zip(node.output, twin.output, strict=False))
            for left, right in ((node.name, twin.name), (twin.name, node.name)):
                if left not in self.owner and right in self.owner and left in self.live:
                    self.owner[left] = self.owner[right]

    def _claim_left(self) -> None:
        """Count what is left to the owner of its first reader, else of what it reads."""
        left = [
            name
            for name, node in self.user.nodes.items()
            if name in self.live and name not in self.owner and node.op_type not in _IDLE
        ]
        for name in reversed(left):
            self._claim_near(name, self.user.children(self.user.nodes[name]))
        for name in left:
            if name not in self.owner:
                self._claim_near(name, self.user.parents(self.user.nodes[name]))

    def _claim_near(self, name: str, neighbours: list[str]) -> None:
        for neighbour in neighbours:
            if neighbour in self.owner:
                self.owner[name] = self.owner[neighbour]
                return
