# SPDX-License-Identifier: Apache-2.0
"""Free advice for outputs that join boxes and scores: return the parts as outputs of their own.

What the quantizer can be asked for is to leave the Concat in float, with all that only hands its
values on to the output: it then joins what was rounded before, part by part.  That is what a
device would return if the model ended before the Concat, which is the better way to have it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import onnx

from analyzer.fixes.local import Spread, spreads_of
from analyzer.fixes.remedy import Remedy
from analyzer.fixes.situation import Situation
from analyzer.graph.view import GraphView

CODES = frozenset({"QA105", "QA106", "QA116"})
_NAMED = 3  # parts that the advice lists
_LOOKED_AT = 2  # samples that their ranges are read off
# op types whose outputs hold values of input 0 and nothing else, as they are
_HANDING_ON = frozenset(
    """
    Cast DepthToSpace Dropout Flatten Gather Identity Reshape Slice SpaceToDepth Split Squeeze
    Transpose Unsqueeze
    """.split()
)


@dataclass(frozen=True, slots=True)
class _Join:
    """Concats in front of a graph output, and all that hands their values on.

    Attributes:
        concat: the last one.
        nodes: all of them, in execution order.
        parts: tensors that are joined.
    """

    output: str
    concat: str
    nodes: tuple[str, ...]
    parts: tuple[str, ...]


def outputs_remedies(situation: Situation) -> Sequence[Remedy]:
    """Return one remedy per output that was found to join parts of very different ranges.

    None where the target offers no float.
    """
    floats = [p for p in situation.target.precisions if p.startswith(("fp", "bf", "float"))]
    # FP32 hands values on exactly as they were rounded
    precision = "fp32" if "fp32" in floats else next(iter(floats), None)
    if precision is None:
        return ()
    found = []
    for join in _joins(situation):
        told = [f for f in situation.findings if f.code in CODES and f.layer in join.nodes]
        here = [n for n in join.nodes if situation.plan.precision.get(n, precision) != precision]
        if told and here:
            gain = max((f.gain for f in told if f.gain is not None), default=None)
            found.append(_remedy(situation, join, here, precision, gain))
    return sorted(found, key=lambda remedy: -(remedy.expected or 0.0))


def _joins(situation: Situation) -> Iterator[_Join]:
    view, seen = situation.view, set[str]()
    for output in view.outputs:
        if output in situation.model.slices:
            continue
        last = _maker(view, output)
        behind = []
        while last is not None and last.op_type in _HANDING_ON:
            behind.append(last.name)
            last = _maker(view, last.input[0])
        if last is None or last.op_type != "Concat" or last.name in seen:
            continue
        seen.add(last.name)
        inside, parts = _inside(view, last)
        nodes = {*inside, *behind}
        yield _Join(output, last.name, tuple(n for n in view.nodes if n in nodes), parts)


def _inside(view: GraphView, concat: onnx.NodeProto) -> tuple[set[str], tuple[str, ...]]:
    """Return the Concats that end in this one with what lies between, and what they join."""
    nodes, parts = {concat.name}, dict[str, None]()
    for tensor in concat.input:
        between, name = [], tensor
        maker = _maker(view, name)
        while maker is not None and maker.op_type in _HANDING_ON:
            between.append(maker.name)
            name = maker.input[0]
            maker = _maker(view, name)
        if maker is not None and maker.op_type == "Concat":
            more, own = _inside(view, maker)
            nodes.update(between, more)
            parts.update(dict.fromkeys(own))
        elif not view.is_constant(name):
            parts[tensor] = None
    return nodes, tuple(parts)


def _maker(view: GraphView, tensor: str) -> onnx.NodeProto | None:
    return view.nodes.get(view.producer.get(tensor, ""))


def _remedy(
    situation: Situation, join: _Join, here: Sequence[str], precision: str, gain: float | None
) -> Remedy:
    named = join.parts[:_NAMED]
    parts = spreads_of(situation.model, named, situation.samples[:_LOOKED_AT])
    listed = ", ".join(f"{t} {_range(parts[t])}" for t in named)
    listed += ", ..." if len(join.parts) > _NAMED else ""
    # the Concat that the advice is about comes first: it names the remedy
    layers = (join.concat, *(n for n in here if n != join.concat))
    return Remedy(
        kind="separate_outputs",
        layers=tuple(n for n in layers if n in here),
        before=f"{join.output} joins {listed} on one scale",
        after=f"return them as outputs of their own; simulated as {join.concat} in {precision}",
        table=dict.fromkeys(here, precision),
        expected=gain,
    )


def _range(spreads: Sequence[Spread]) -> str:
    low, high = min(s.range[0] for s in spreads), max(s.range[1] for s in spreads)
    return f"[{low:.4g}, {high:.4g}]"
