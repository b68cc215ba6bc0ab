# SPDX-License-Identifier: Apache-2.0
"""PyTorch: a QConfigMapping for FX quantization, and the same layers for torchao's FqnToConfig.

Both go by the names of modules, which an ONNX file does not have.  They follow from what exporters
leave of them: the name of a parameter (`layer3.0.conv.weight`) first, else the path in a node's
name (`/layer3/layer3.0/conv/Conv`).  Each name stands with the rule it was found by, and the
scripts refuse names that the user's module does not have.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import onnx

from analyzer.errors import ExportError
from analyzer.export.asked import Asked, Width, asked, asked_of_nodes, left_out, several, width
from analyzer.export.header import header
from analyzer.export.order import Files, Order
from analyzer.export.pytorch_scripts import QCONFIG, TORCHAO
from analyzer.export.script import assigned, filled
from analyzer.graph.view import GraphView
from analyzer.records import Model
from analyzer.targets.pytorch import PyTorchFx
from analyzer.targets.pytorch.operators import Operator, operators

_TOOL = "pytorch"
_OBSERVERS = ("histogram", "minmax")
_PARAMETER = re.compile(r"(?P<module>[A-Za-z_]\w*(\.\w+)*)\.(weight|bias|running_mean)")
_COUNTED = re.compile(r"(?P<module>.+)_\d+")
_ENGINES = {"pytorch-qnnpack": "qnnpack"}


@dataclass(slots=True)
class _Modules:
    """What was found out about names.

    Attributes:
        float, int8: module -> how its name was found, for those that are not as the rest.
        unnamed: layers that no module stands for.
        shared: modules of which another call has another precision in the plan.
    """

    float: dict[str, str] = field(default_factory=dict)
    int8: dict[str, str] = field(default_factory=dict)
    unnamed: list[str] = field(default_factory=list)
    shared: list[str] = field(default_factory=list)


def write(order: Order) -> Files:
    """Return `pytorch/qconfig.py` and `pytorch/torchao_config.py`.

    Raises:
        ExportError: where the plan quantizes nothing.
    """
    found = asked(order)
    modules = _modules(order, found.base)
    if found.base == "float" and not modules.int8:
        raise ExportError(
            f"The plan leaves all of {order.source.name!r} in float, expected modules at int8.",
            "Choose a plan that quantizes something.",
        )
    not_said = [*_not_said(order, found, modules)]
    engine = _ENGINES.get(order.target.name, "x86")
    values = {
        "floats": assigned("FLOAT", modules.float),
        "chosen": assigned("INT8", modules.int8),
    }
    qconfig = filled(
        QCONFIG,
        header=header(order, left_out=not_said, tool=_TOOL),
        engine=engine,
        observer=_observer(order),
        granularity=_granularity(order, engine),
        every=str(found.base != "float"),
        **values,
    )
    dynamic = (
        "torchao has configurations of its own (weights only, activations quantized as they "
        "come); what they do to these layers was not measured."
    )
    torchao = filled(
        TORCHAO,
        header=header(order, left_out=[*not_said, dynamic], tool=_TOOL),
        every=str(found.base != "float"),
        **values,
    )
    return {"pytorch/qconfig.py": qconfig, "pytorch/torchao_config.py": torchao}


def module_of_parameter(tensor: str) -> str | None:
    """Return the module that a parameter belongs to, by its name; None where it tells none.

    >>> module_of_parameter("layer3.0.conv.weight"), module_of_parameter("onnx::Conv_45")
    ('layer3.0.conv', None)
    """
    match = _PARAMETER.fullmatch(tensor)
    return match["module"] if match else None


def module_of_path(node: str) -> str | None:
    """Return the module that a node's name leads to; None where it is no path, or the whole net.

    Scopes hold the name of a module below the one that calls it: the child `0` of the Sequential
    `stem` is `stem.0`, also where `stem` was called itself.

    >>> module_of_path("/stem/stem.0/Conv"), module_of_path("/model.2/m.0/cv1/conv/Conv")
    ('stem.0', 'model.2.m.0.cv1.conv')
    >>> module_of_path("/Add") is None
    True
    """
    scopes = node.split("/")[1:-1]
    if not node.startswith("/") or not scopes:
        return None
    kept = [
        scope
        for scope, below in zip(scopes, [*scopes[1:], ""], strict=True)
        if not below.startswith(f"{scope}.")
    ]
    return ".".join(kept)


def _modules(order: Order, base: Width) -> _Modules:
    own = isinstance(order.target, PyTorchFx)
    model = order.graph if own else order.source
    view = GraphView(model.proto.graph)
    kind = _of_plan(order) if own else _of_layers(order)
    paths = _paths(model)
    found, kinds = _Modules(), dict[str, Width]()
    for operator in operators(model, view):
        if operator.kind == "float":
            continue
        wanted = kind(operator) or base
        named = _name(model, view, operator, paths)
        if named is not None and kinds.setdefault(named[0], wanted) != wanted:
            found.shared.append(named[0])
        if wanted == base:
            continue
        if named is None:
            found.unnamed.append(operator.name)
        elif wanted in ("float", "int8"):
            (found.float if wanted == "float" else found.int8)[named[0]] = named[1]
    return found


def _of_plan(order: Order) -> Callable[[Operator], Width | None]:
    return lambda operator: width(order.plan.precision[operator.name])


def _of_layers(order: Order) -> Callable[[Operator], Width | None]:
    kind = asked_of_nodes(order)
    return lambda operator: kind(operator.nodes)


def _paths(model: Model) -> dict[str, set[str]]:
    """Return module by path -> nodes of the graph in it and below it."""
    found: dict[str, set[str]] = {}
    for node in model.proto.graph.node:
        path = module_of_path(node.name)
        while path:
            found.setdefault(path, set()).add(node.name)
            path = path.rpartition(".")[0]
    return found


def _name(
    model: Model, view: GraphView, operator: Operator, paths: Mapping[str, set[str]]
) -> tuple[str, str] | None:
    """Return the module of an operator and how it was found; None for a function call."""
    nodes = [view.nodes[name] for name in operator.nodes]
    for node in nodes if operator.weighted else nodes[:1]:
        for tensor in node.input[1:]:
            module = module_of_parameter(tensor) if view.is_constant(tensor) else None
            if module is not None:
                return module, f"parameter {tensor}"
    for user in (*model.source_nodes.get(operator.name, ()), operator.name):
        module = module_of_path(user)
        if module and (operator.weighted or _is_leaf(nodes, module, paths)):
            return module, f"path of {user}"
    return None


def _is_leaf(nodes: list[onnx.NodeProto], module: str, paths: Mapping[str, set[str]]) -> bool:
    """Tell whether a path leads to a module of this operator alone.

    Nodes of other op types in it, or in modules below, are what else a module around it calls.
    `relu_1` beside `relu` may be a module, or the second call of `relu`.
    """
    first = _COUNTED.fullmatch(module)
    if first and first["module"] in paths:
        return False
    others = paths.get(module, set()) - {node.name for node in nodes}
    return {name.rpartition("/")[2].partition("_")[0] for name in others} <= {nodes[0].op_type}


def _observer(order: Order) -> str:
    asked_for = order.proposal.setting.observer
    return asked_for if asked_for in _OBSERVERS else "histogram"


def _granularity(order: Order, engine: str) -> str:
    asked_for = order.proposal.setting.granularity
    return asked_for or ("tensor" if engine == "qnnpack" else "channel")


def _not_said(order: Order, found: Asked, modules: _Modules) -> Iterator[str]:
    yield from left_out(order, found, tool=_TOOL, observers=_OBSERVERS)
    if modules.unnamed:
        yield (
            f"{several(modules.unnamed)}: calls of functions, or nodes whose names lead to no "
            "module; they stay as the rest. Make them modules (nn.ReLU instead of F.relu) to "
            "name them."
        )
    if modules.shared:
        yield (
            f"{several(modules.shared)}: called several times, with several precisions in the "
            "plan; a module has one qconfig for all its calls."
        )
    if order.our_edits:
        kinds = {edit.kind.replace("_", " ") for edit in order.our_edits}
        yield f"Edits of the ONNX graph are not made in your module: {', '.join(sorted(kinds))}."
