# SPDX-License-Identifier: Apache-2.0
"""The graph as ModelOpt's rules see it, and the look-ups they use.

They look at the user's file, where constants may be made by nodes; so are they here again.

Imitates the helpers of `onnx/quantization/graph_utils.py` and `onnx/utils.py` of nvidia-modelopt.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from analyzer.graph.view import GraphView
from analyzer.records import Model

# Only move values (`get_copy_ops` of `onnx/op_types.py`).
COPY = frozenset(
    """
    Flatten Transpose Concat Split Squeeze Expand ReverseSequence Reshape Tile Gather Slice
    GatherElements GatherND ScatterElements ScatterND OneHot
    """.split()
)
LINEAR = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_OPTIONAL = ("BiasAdd", "ConstMul")
# what TensorRT merges into a convolution, read backwards
_FUSED = tuple(
    (*path, conv)
    for conv in ("Conv", "ConvTranspose")
    for path in (
        ("BiasAdd", "ConstMul"),
        ("Relu", "BiasAdd", "ConstMul"),
        ("BatchNormalization", "BiasAdd"),
        ("Relu", "BatchNormalization", "BiasAdd"),
        ("MaxPool", "Relu", "BatchNormalization", "BiasAdd"),
        ("Mul", "Sigmoid", "BatchNormalization"),
    )
)
Path = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Op:
    """One node; `inputs` and `outputs` are tensor names, empty ones kept."""

    name: str
    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Origin:
    """How the user's file held constants.

    Attributes:
        initializers: names of its initializers.
        nodes: names of what its Constant nodes make.
        known: False where nothing is known; all constants count as initializers then.
    """

    initializers: frozenset[str] = frozenset()
    nodes: frozenset[str] = frozenset()
    known: bool = False


class Net:
    """Look-ups over one graph.

    Attributes:
        ops: node name -> node, in execution order.
        outputs: names of the graph's outputs.
    """

    def __init__(self, model: Model, origin: Origin) -> None:
        view = GraphView(model.proto.graph)
        self.origin = origin
        self.outputs = frozenset(view.outputs)
        self.ops: dict[str, Op] = {}
        self._initializers: set[str] = set()
        for op in _ops(view, origin, self._initializers):
            self.ops[op.name] = op
        self.maker = {t: op.name for op in self.ops.values() for t in op.outputs if t}
        self.readers: dict[str, list[str]] = {}
        for op in self.ops.values():
            for tensor in op.inputs:
                if tensor:
                    self.readers.setdefault(tensor, []).append(op.name)
        self._matched: dict[tuple[str, Path, bool, frozenset[str]], Path | None] = {}

    def is_initializer(self, tensor: str) -> bool:
        """Tell whether the file holds `tensor` as an initializer."""
        return tensor in self._initializers

    def is_constant(self, tensor: str) -> bool:
        """Tell whether the rules take `tensor` for a constant (`is_const_input`)."""
        if self.is_initializer(tensor):
            return True
        maker = self.ops.get(self.maker.get(tensor, ""))
        if maker is None:
            return False
        if maker.kind in ("Constant", "Identity"):
            return True
        if maker.kind in ("Squeeze", "Unsqueeze") and self.is_constant(maker.inputs[0]):
            return True
        if maker.kind == "Exp":
            before = self.ops.get(self.maker.get(maker.inputs[0], ""))
            return before is not None and before.kind == "Clip" and self.has_constant(before.name)
        return False

    def has_constant(self, name: str) -> bool:
        """Tell whether the node reads a constant."""
        return any(self.is_constant(tensor) for tensor in self.ops[name].inputs)

    def children(self, name: str) -> list[str]:
        """Return the readers of the node's outputs, once per reading slot."""
        return [r for tensor in self.ops[name].outputs for r in self.readers.get(tensor, ())]

    def parents(self, name: str) -> list[str]:
        """Return the makers of the node's inputs, once per slot."""
        return [self.maker[t] for t in self.ops[name].inputs if t in self.maker]

    def follows(
        self, name: str, path: Path, *, forward: bool, skipping: frozenset[str] = frozenset()
    ) -> Path | None:
        """Return the nodes along `path`, starting at `name`; None where it does not match.

        Args:
            name: where the path starts.
            path: op types.  "BiasAdd" and "ConstMul" (an Add, a Mul with a constant) may be
                missing, "NonBiasAdd" is an Add without a constant.
            forward: towards the outputs.
            skipping: op types that may stand in between.

        `has_path_type`, to the order in which it tries things.
        """
        if not path:
            return ()
        key = (name, path, forward, skipping)
        if key not in self._matched:
            self._matched[key] = self._follow(name, path, forward, skipping)
        return self._matched[key]

    def backbone(self, name: str) -> str | None:
        """Return the convolution that TensorRT merges the node into (`get_fusible_backbone`)."""
        if any(self.follows(name, p, forward=False, skipping=COPY) is not None for p in _FUSED):
            return self._first_conv(name)
        return None

    def common_ancestor(self, one: str, other: str) -> tuple[str | None, int, int]:
        """Return the common ancestor nearest to `one`, and its distance from both.

        `find_lowest_common_ancestor`.  It picks any of several that are equally near; here the
        first in execution order.
        """
        mine, theirs = self._ancestors(one), self._ancestors(other)
        order = {name: i for i, name in enumerate(self.ops)}
        common = sorted(mine.keys() & theirs.keys(), key=lambda n: (mine[n], order[n]))
        return (common[0], mine[common[0]], theirs[common[0]]) if common else (None, -1, -1)

    def _follow(
        self, name: str, path: Path, forward: bool, skipping: frozenset[str]
    ) -> Path | None:
        op = self.ops[name]
        kind = op.kind
        if kind in ("Add", "Mul") and self.has_constant(name):
            kind = "BiasAdd" if kind == "Add" else "ConstMul"
        first = "Add" if kind == "Add" and path[0] == "NonBiasAdd" else path[0]
        fits = first in (kind, op.kind)
        rest = path[1:] if fits or first in _OPTIONAL else (first, *path[1:])
        if not fits and kind not in skipping:
            if first not in _OPTIONAL:
                return None
            return self.follows(name, rest, forward=forward, skipping=skipping)
        here = (name,) if fits else ()
        for near in self.children(name) if forward else self.parents(name):
            found = self.follows(near, rest, forward=forward, skipping=skipping)
            if found is not None:
                return (*here, *found)
        return here if not rest else None

    def _first_conv(self, name: str) -> str | None:
        stack, seen = [name], set[str]()
        while stack:
            here = stack.pop()
            if here in seen:
                continue
            seen.add(here)
            op = self.ops[here]
            if op.kind in ("Conv", "ConvTranspose"):
                return here
            stack.extend(
                self.maker[t]
                for t in reversed(op.inputs)
                if t in self.maker and not self.is_initializer(t)
            )
        return None

    def _ancestors(self, name: str) -> dict[str, int]:
        """Distances as a depth-first walk meets them, which need not be the shortest."""
        found = {name: 0}
        stack = [name]
        while stack:
            here = stack.pop()
            for parent in self.parents(here):
                if parent not in found:
                    found[parent] = found[here] + 1
                    stack.append(parent)
        return found


def _ops(view: GraphView, origin: Origin, initializers: set[str]) -> Iterator[Op]:
    """Yield the nodes of the file, as far as they can be told; fill `initializers`."""
    made: set[str] = set()
    for node in view.nodes.values():
        for tensor in node.input:
            if not view.is_constant(tensor) or tensor in made or tensor in initializers:
                continue
            if origin.known and tensor not in origin.initializers:
                made.add(tensor)
                # what is neither was computed from shapes
                kind = "Constant" if tensor in origin.nodes else "Shape"
                yield Op(f"{tensor}//made", kind, (), (tensor,))
            else:
                initializers.add(tensor)
        yield Op(node.name, node.op_type, tuple(node.input), tuple(node.output))
