# SPDX-License-Identifier: Apache-2.0
"""TFLite: a recipe for ai-edge-quantizer, a denylist for TensorFlow's QuantizationDebugger.

Both call an operator by the tensor it makes in the .tflite file.  The ONNX file knows that tensor
by its own name, which a converter may keep or not.  So everything is written with ONNX names, and
the scripts look them up: in the .tflite itself, in a table of the user's, or by running both
models and comparing values.  What is not found is refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from analyzer.errors import ExportError
from analyzer.export.asked import Asked, Width, asked, asked_of_nodes, is_own, left_out, width
from analyzer.export.header import header, plain
from analyzer.export.names import check, known_tensors, reads
from analyzer.export.order import Files, Order
from analyzer.export.script import SAMPLES, assigned, filled, inputs
from analyzer.export.tflite_scripts import DEBUGGER, QUANTIZE
from analyzer.formats import SOURCE
from analyzer.graph.view import GraphView
from analyzer.targets.tflite import LITERT, TfLite
from analyzer.targets.tflite.groups import Operator, operators_of

_TOOL = "tflite"
_BITS: Mapping[Width, int] = {"int8": 8, "wide": 16}
_OBSERVERS = ("moving_average", "minmax")


@dataclass(frozen=True, slots=True)
class _Rules:
    """What the operators are to be.

    Attributes:
        base: all that are not listed.
        others: tensor that an operator makes -> its width, in execution order.
        float_ends: whether an operator at the end of the graph is to be float.
    """

    base: Width
    others: Mapping[str, Width]
    float_ends: bool

    @property
    def floats(self) -> tuple[str, ...]:
        """Tensors of the operators that are listed as float."""
        return tuple(t for t, kind in self.others.items() if kind == "float")


def write(order: Order) -> Files:
    """Return recipe and script for ai-edge-quantizer, denylist and script for the converter.

    Raises:
        ExportError: where the file that the user converts would not have a tensor.
    """
    found, rules = asked(order), _rules(order)
    tensors = [*rules.others, *order.proposal.setting.ranges]
    file = reads(order, [], tensors)
    check(tensors, known_tensors(order, file), "tensor")
    model = SOURCE if file == "ours" else plain(order.original.name).replace('"', "'")
    files = {
        "tflite/recipe.json": _recipe(rules, order.proposal.setting.granularity),
        "tflite/quantize.py": _quantize(order, found, rules, model),
    }
    if rules.base == "int8":
        files["tflite/denylist.txt"] = _denylist(order, found, rules)
        files["tflite/debugger.py"] = _debugger(order, found, model)
    return files


def _rules(order: Order) -> _Rules:
    own = order.target if isinstance(order.target, TfLite) else None
    model = order.graph if own else order.source
    table, view = (own or LITERT).operators, GraphView(model.proto.graph)
    precision = _of_plan(order) if own else _of_layers(order)
    base = width(order.proposal.setting.precision or order.target.precisions[0])
    others: dict[str, Width] = {}
    for operator in operators_of(table, model, view):
        kind = precision(operator)
        if kind is not None and kind != base:
            others[operator.last.output[0]] = kind
    if base == "float" and not others:
        raise ExportError(
            f"The plan leaves all of {order.source.name!r} in float, expected layers at int8.",
            "Choose a plan that quantizes something.",
        )
    ends = any(kind == "float" and tensor in view.outputs for tensor, kind in others.items())
    return _Rules(base, others, ends)


def _of_plan(order: Order) -> Callable[[Operator], Width | None]:
    precision = order.plan.precision
    return lambda o: width(precision[o.nodes[0]]) if o.nodes[0] in precision else None


def _of_layers(order: Order) -> Callable[[Operator], Width | None]:
    kind = asked_of_nodes(order)
    return lambda operator: kind(operator.nodes)


def _recipe(rules: _Rules, granularity: str | None) -> str:
    """Return the rules; the last one that matches an operator counts."""
    base = _rule(".*", rules.base, granularity)
    told = [base, *(_rule(_expression(t), kind, granularity) for t, kind in rules.others.items())]
    if rules.float_ends and rules.base != "float":
        # the rule of the last operator would take the end of the graph along; an expression that
        # was there before would stay in its old place
        told.append({**base, "regex": "^.*$", "operation": "OUTPUT"})
    return json.dumps(told, indent=1, ensure_ascii=False) + "\n"


def _expression(tensor: str) -> str:
    """Return what matches one whole name in a scope, each of whose names ends in a semicolon."""
    return f"(^|;){re.escape(tensor)};"


def _rule(expression: str, kind: Width, granularity: str | None) -> dict[str, Any]:
    rule: dict[str, Any] = {"regex": expression, "operation": "*"}
    if kind == "float":
        return {**rule, "algorithm_key": "no_quantize"}
    bits = _BITS[kind]
    weights = "TENSORWISE" if granularity == "tensor" else "CHANNELWISE"
    return {
        **rule,
        "algorithm_key": "min_max_uniform_quantize",
        "op_config": {
            "activation_tensor_config": _grid(bits, "TENSORWISE", symmetric=bits == 16),
            "weight_tensor_config": _grid(8, weights, symmetric=True),
            "compute_precision": "INTEGER",
            "explicit_dequantize": False,
            "skip_checks": False,
            "min_weight_elements": 0,
        },
    }


def _grid(bits: int, granularity: str, *, symmetric: bool) -> dict[str, Any]:
    return {
        "num_bits": bits, "symmetric": symmetric, "granularity": granularity, "dtype": "INT",
    }  # fmt: skip


def _quantize(order: Order, found: Asked, rules: _Rules, model: str) -> str:
    setting, name = order.proposal.setting, order.target.name
    not_said = [*left_out(order, found, tool=_TOOL, wide=True, ranges=True, observers=_OBSERVERS)]
    if is_own(order, _TOOL) and name != LITERT.name:
        not_said.append(
            "Measured with the rules of the TFLite converter; ai-edge-quantizer has others for "
            "Concat and some operators (target litert)."
        )
    return filled(
        QUANTIZE,
        header=header(order, left_out=not_said, tool=_TOOL),
        model=model,
        samples=SAMPLES.strip("\n"),
        inputs=assigned("INPUTS", inputs(order)),
        tensors=assigned("TENSORS", list(rules.others)),
        ranges=assigned("RANGES", dict(setting.ranges)),
        extremes=str(setting.observer == "minmax" or name == "tflite"),
    )


def _denylist(order: Order, found: Asked, rules: _Rules) -> str:
    said = header(order, left_out=[*_not_denied(order, found)], tool=_TOOL)
    said += "# Tensors of the ONNX file, as JSON; debugger.py finds what the .tflite calls them.\n"
    return said + "".join(f"{json.dumps(t, ensure_ascii=False)}\n" for t in rules.floats)


def _not_denied(order: Order, found: Asked) -> Iterator[str]:
    yield from left_out(order, found, tool=_TOOL, observers=["minmax"])
    if order.proposal.setting.granularity == "tensor":
        yield "The converter gives weights a scale per channel; the debugger has no option for it."
    if order.target.name == LITERT.name:
        yield (
            "Measured with the rules of ai-edge-quantizer; the converter has others for Concat "
            "and some operators (target tflite)."
        )


def _debugger(order: Order, found: Asked, model: str) -> str:
    return filled(
        DEBUGGER,
        header=header(order, left_out=[*_not_denied(order, found)], tool=_TOOL),
        model=model,
        samples=SAMPLES.strip("\n"),
        inputs=assigned("INPUTS", inputs(order)),
    )
