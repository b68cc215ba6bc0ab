# SPDX-License-Identifier: Apache-2.0
"""Slices of outputs: a bound model goes in, the same one with parts of its outputs beside them.

A slice is one more graph output, behind a node that nothing is quantized at: what measures outputs
measures it as well, and `Model.slices` tells what it is a part of.  Some are asked for; others are
added where an output joins parts of very different ranges, which share one scale on a device.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from analyzer.errors import ConfigError, nearest
from analyzer.graph.build import noisy_outputs
from analyzer.graph.indexing import Kept, parse_index
from analyzer.graph.joins import seams
from analyzer.graph.names import all_names, replace_nodes, unique
from analyzer.graph.simplify import remove_unused
from analyzer.graph.tensors import TensorRuns
from analyzer.graph.view import GraphView
from analyzer.records import Model, Sample, TensorSpec

# With one scale for both, a part whose range is an eighth of the other's has 5 of 8 bits left.
UNLIKE = 8.0
MOST_PARTS = 8
_SLICE_READS_BOUNDS = 10  # opset from which the bounds of a Slice are inputs
_WRITTEN = re.compile(r"(?P<output>.*\S)\s*\[(?P<index>[^\[\]]*)\]", re.DOTALL)
_FORM = "Expected OUTPUT[INDEX] such as output0[:, :4]."


@dataclass(frozen=True, slots=True)
class Cut:
    """A part of an output.

    Attributes:
        axes: axis -> start, stop and step of what is kept of it, as of `slice.indices`; axes kept
            whole are left out.
    """

    name: str
    output: str
    axes: Mapping[int, Kept]


def with_slices(model: Model, slices: Mapping[str, str], sample: Sample) -> Model:
    """Add what the user asked to look at, and parts of outputs with very different ranges.

    Outputs that the user slices are left to the user.

    Args:
        model: bound; quantizers are placed already, so that what is added has none.
        slices: name -> expression such as `output0[:, :4]`: an output, and a basic index as in
            numpy, but that a whole number keeps its axis.
        sample: to see ranges on.

    Returns:
        `model` itself where there is nothing to add.

    Raises:
        ConfigError: if an expression does not parse or does not fit.
    """
    asked = check_slices(model, slices)
    whole = [t for t in _noisy(model) if all(cut.output != t for cut in asked)]
    taken = {*all_names(model.proto.graph), *slices}
    found = [cut for cut in _unlike_parts(model, whole, sample) if cut.name not in taken]
    return _add(model, [*asked, *found]) if asked or found else model


def without_slices(model: Model) -> Model:
    """Return the model without the outputs that `with_slices` added."""
    if not model.slices:
        return model
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    kept = [output for output in proto.graph.output if output.name not in model.slices]
    del proto.graph.output[:]
    proto.graph.output.extend(kept)
    remove_unused(proto.graph)
    outputs = tuple(spec for spec in model.outputs if spec.name not in model.slices)
    return replace(model, proto=proto, outputs=outputs, slices={})


def check_slices(model: Model, slices: Mapping[str, str]) -> list[Cut]:
    """Read what the user asked for, see `with_slices`.

    Raises:
        ConfigError: if an expression does not parse or does not fit.
    """
    taken = all_names(model.proto.graph)
    return [_asked(model, name, text, taken) for name, text in slices.items()]


def _noisy(model: Model) -> tuple[str, ...]:
    return noisy_outputs(model, GraphView(model.proto.graph))


def _asked(model: Model, name: str, text: str, taken: Container[str]) -> Cut:
    """Read one expression.

    Raises:
        ConfigError: if it does not parse or does not fit.
    """
    if name in taken:
        raise ConfigError(
            f"The slice {name!r} is called like a tensor of the model.", "Give it another name."
        )
    if not name.isprintable() or not name.strip():
        raise ConfigError(
            f"{name!r} cannot be a slice's name, expected printable text.",
            "Give it another name.",
        )
    written = _WRITTEN.fullmatch(text.strip())
    if not written:
        raise ConfigError(f"The slice {name!r} is {text!r}.", _FORM)
    output = written["output"].strip()
    if output not in (names := [spec.name for spec in model.outputs]):
        raise ConfigError(
            f"The slice {name!r} is a part of {output!r}, expected an output of the model.",
            nearest(output, names),
        )
    if output not in (noisy := _noisy(model)):
        raise ConfigError(
            f"The slice {name!r} is a part of {output!r}, which holds {model.dtypes[output]} and "
            "carries no noise.",
            f"Outputs that nodes make of float values: {', '.join(noisy) or 'none'}.",
        )
    try:
        return Cut(name, output, parse_index(written["index"], model.shapes[output]))
    except ConfigError as error:
        raise ConfigError(f"The slice {name!r}: {error.message}", error.remedy) from error


def _unlike_parts(model: Model, outputs: Sequence[str], sample: Sample) -> list[Cut]:
    """Cut outputs where parts of very different ranges are joined."""
    view = GraphView(model.proto.graph)
    places = {t: seams(model, view, t) for t in outputs}
    joined = [t for t in outputs if places[t]]
    if not joined:
        return []
    values = TensorRuns(model, joined).run(sample)
    cuts = []
    for output in joined:
        found = {
            axis: _parts(values[output], axis, at) for axis, at in sorted(places[output].items())
        }
        axis = max(found, key=lambda axis: _contrast(found[axis]))
        for part in found[axis] if len(found[axis]) > 1 else ():
            index = [":"] * axis + [_range(part, model.shapes[output][axis])]
            name = f"{output}[{', '.join(index)}]"
            cuts.append(Cut(name, output, {axis: (part.start, part.stop, 1)}))
    return cuts


@dataclass(frozen=True, slots=True)
class _Part:
    """A stretch of an axis, and the largest magnitude in it: what a scale has to reach."""

    start: int
    stop: int
    reach: float


def _range(part: _Part, size: int) -> str:
    return f"{part.start or ''}:{part.stop if part.stop < size else ''}"


def _parts(value: npt.NDArray[np.generic], axis: int, seams: Iterable[int]) -> list[_Part]:
    """Return neighbouring parts whose ranges differ much.

    Neighbours are united, the most alike first, until all that are left differ; parts that are
    zero throughout go with whatever is beside them.
    """
    edges = [0, *sorted(seams), value.shape[axis]]
    parts = [
        _Part(start, stop, _reach(value[(slice(None),) * axis + (slice(start, stop),)]))
        for start, stop in itertools.pairwise(edges)
    ]
    while len(parts) > 1:
        ratios = [_ratio(one, other) for one, other in itertools.pairwise(parts)]
        best = int(np.argmin(ratios))
        if ratios[best] > UNLIKE and len(parts) <= MOST_PARTS:
            break
        one, other = parts[best : best + 2]
        parts[best : best + 2] = [_Part(one.start, other.stop, max(one.reach, other.reach))]
    return parts


def _reach(part: npt.NDArray[np.generic]) -> float:
    """Return the largest magnitude; 0 where a value is not finite."""
    found = float(max(np.max(part), -np.min(part))) if part.size else 0.0
    return found if np.isfinite(found) else 0.0


def _ratio(one: _Part, other: _Part) -> float:
    low, high = sorted((one.reach, other.reach))
    return high / low if low else 1.0


def _contrast(parts: Sequence[_Part]) -> float:
    """Return how many times the largest range of a part is that of the smallest."""
    return _ratio(min(parts, key=lambda p: p.reach), max(parts, key=lambda p: p.reach))


def _add(model: Model, cuts: Sequence[Cut]) -> Model:
    """Return a copy of the model with the cuts as further outputs."""
    new = _Growing(model, cuts)
    for cut in cuts:
        new.cut(cut)
    new.insert()
    specs = [TensorSpec(cut.name, "float32", new.shapes[cut.name]) for cut in cuts]
    return replace(
        model,
        proto=new.proto,
        outputs=(*model.outputs, *specs),
        source_nodes=new.sources,
        shapes=new.shapes,
        dtypes=new.dtypes,
        slices={**model.slices, **{cut.name: cut.output for cut in cuts}},
    )


class _Growing:
    """A copy of a model while nodes are added to it."""

    def __init__(self, model: Model, cuts: Iterable[Cut]) -> None:
        self.opset = model.opset
        self.proto = onnx.ModelProto()
        self.proto.CopyFrom(model.proto)
        self.graph = self.proto.graph
        self.shapes, self.dtypes = dict(model.shapes), dict(model.dtypes)
        self.sources = dict(model.source_nodes)
        self.behind: dict[str, list[onnx.NodeProto]] = {}
        self.tensors = all_names(self.graph) | {cut.name for cut in cuts}
        self.nodes = {node.name for node in self.graph.node}

    def cut(self, cut: Cut) -> None:
        """Add the output of a cut, and the nodes that make it: mostly one Slice.

        Steps are left to Gather, which knows them in every opset.
        """
        straight = {axis: kept for axis, kept in cut.axes.items() if kept[2] == 1}
        stepping = {axis: kept for axis, kept in cut.axes.items() if kept[2] != 1}
        work = [*([straight] if straight else []), *({a: k} for a, k in stepping.items())] or [{}]
        tensor = cut.output
        for position, axes in enumerate(work, 1):
            made = cut.name if position == len(work) else self._free(f"{cut.name}//{position}")
            node = self._node(tensor, made, axes)
            node.name = unique(made, self.nodes)
            self.nodes.add(node.name)
            self.sources[node.name] = ()
            self.behind.setdefault(cut.output, []).append(node)
            shape = list(self.shapes[tensor])
            for axis, kept in axes.items():
                shape[axis] = len(range(*kept))
            self.shapes[made], self.dtypes[made] = tuple(shape), "float32"
            tensor = made
        self.graph.output.append(
            helper.make_tensor_value_info(cut.name, onnx.TensorProto.FLOAT, self.shapes[cut.name])
        )

    def insert(self) -> None:
        """Put every node right behind the one whose output it cuts: that need not be kept long."""
        order = []
        for node in self.graph.node:
            order.append(node)
            order += [new for tensor in node.output for new in self.behind.get(tensor, ())]
        replace_nodes(self.graph, order)

    def _node(self, tensor: str, made: str, axes: Mapping[int, Kept]) -> onnx.NodeProto:
        if not axes:
            return helper.make_node("Identity", [tensor], [made])
        kept = list(axes.values())
        if kept[0][2] != 1:
            indices = self._constant(f"{made}//indices", np.arange(*kept[0], dtype=np.int64))
            return helper.make_node("Gather", [tensor, indices], [made], axis=min(axes))
        starts, ends, _ = zip(*kept, strict=True)
        if self.opset < _SLICE_READS_BOUNDS:
            return helper.make_node(
                "Slice", [tensor], [made], starts=starts, ends=ends, axes=list(axes)
            )
        bounds = {"starts": starts, "ends": ends, "axes": list(axes)}
        names = [
            self._constant(f"{made}//{part}", np.array(values, np.int64))
            for part, values in bounds.items()
        ]
        return helper.make_node("Slice", [tensor, *names], [made])

    def _constant(self, name: str, value: npt.NDArray[np.int64]) -> str:
        name = self._free(name)
        self.graph.initializer.append(numpy_helper.from_array(value, name))
        self.shapes[name], self.dtypes[name] = value.shape, "int64"
        return name

    def _free(self, name: str) -> str:
        name = unique(name, self.tensors)
        self.tensors.add(name)
        return name
