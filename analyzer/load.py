# SPDX-License-Identifier: Apache-2.0
"""Loading: an ONNX file goes in, an FP32 graph in canonical form comes out.

In canonical form, weights are initializers, every node has a unique name, nodes that do nothing
at inference are gone, BatchNormalization is folded into the layer before it, and floats are
float32 (float64 stays).  The opset and the names of inputs, outputs and layers are the user's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import inliner

from analyzer.errors import ModelError, nearest
from analyzer.graph.batchnorm import fold_batchnorm
from analyzer.graph.check import OLDEST_OPSET, check_loads, refuse_unsupported
from analyzer.graph.constants import count_floats, lift_constants, widen_floats
from analyzer.graph.fold import fold_constants
from analyzer.graph.macs import count_macs
from analyzer.graph.names import keep_sources, name_nodes, sort_nodes
from analyzer.graph.read import all_nodes, read_model
from analyzer.graph.shapes import Known, dtype_name, infer, learn, set_shape, value_shape
from analyzer.graph.simplify import remove_identities, remove_unused
from analyzer.graph.trace import skeleton, trace_sources
from analyzer.graph.view import reads
from analyzer.records import Model, TensorSpec

# nodes that no target looks into
_WHOLE = ("LSTM", "GRU", "RNN", "If", "Loop", "Scan")

Rewrite = Callable[[onnx.ModelProto], tuple[onnx.ModelProto, tuple[str, ...]]]


def load_model(path: Path, *, rewrite: Rewrite | None = None, fold_norms: bool = True) -> Model:
    """Read, check and canonicalize; shapes still unbound.

    Args:
        path: of the file.
        rewrite: simplifies the file's own graph as a quantizer does before it looks at it (see
            `Target.rewrite`).  It returns the model it was given where it does nothing; where it
            returns another one, nodes that do nothing and BatchNormalization are left to it.
        fold_norms: False leaves every BatchNormalization where it is.

    Raises:
        ModelError: if the file is not an FP32 ONNX model that onnxruntime runs.
    """
    file = read_model(path)
    refuse_unsupported(file.proto)
    return canonicalize(file.proto, path, file.sha256, rewrite=rewrite, fold_norms=fold_norms)


def canonicalize(
    proto: onnx.ModelProto,
    path: Path,
    sha256: str,
    *,
    rewrite: Rewrite | None = None,
    as_in_file: bool = True,
    fold_norms: bool = True,
) -> Model:
    """Bring a model that was read and checked into canonical form; shapes still unbound.

    Args:
        proto: may be modified.
        path: of the file it comes from.
        sha256: of that file.
        rewrite: as `load_model` takes it.
        as_in_file: whether `proto` still holds what the file does.
        fold_norms: False leaves every BatchNormalization where it is.

    Raises:
        ModelError: if onnxruntime does not run it.
    """
    notes: list[str] = []
    rewritten = False
    opset = _check_opset(proto)
    if proto.functions:
        proto = inliner.inline_local_functions(proto)
        notes.append("Local functions were expanded into the nodes they stand for.")
    graph = proto.graph
    graph.name = graph.name or "graph"
    given = [node.name for node in graph.node]
    source = name_nodes(graph)
    given_names = dict(zip(source, given, strict=True))
    sort_nodes(graph)
    widened = widen_floats(proto)
    if widened:
        notes.append(f"{' and '.join(sorted(widened))} model: computed in FP32.")
    # loading from the file is faster, but onnxruntime has no CPU kernels for some narrow floats
    check_loads(proto, path if as_in_file and not widened else None)
    if rewrite is not None:
        file_proto = proto
        proto, source, done = _rewritten(proto, source, given_names, rewrite)
        graph, rewritten = proto.graph, proto is not file_proto
        notes += done
    _drop_constant_inputs(proto)
    lift_constants(graph)
    if not rewritten:
        remove_identities(graph)
    if fold_norms and not rewritten and (folded := fold_batchnorm(graph, source)):
        notes.append(f"{_count(folded, 'BatchNormalization')} folded into the layer before.")
    remove_unused(graph)
    if not graph.node:
        raise ModelError(
            f"The graph of '{path}' computes nothing, expected at least one node.",
            "Export the model again.",
        )
    return Model(
        proto=proto,
        path=path,
        name=path.stem,
        sha256=sha256,
        opset=opset,
        inputs=_input_specs(graph),
        outputs=_output_specs(proto),
        source_nodes=keep_sources(graph, source),
        parameters=count_floats(graph),
        notes=(*notes, *_whole_note(graph)),
        metadata={p.key: p.value for p in proto.metadata_props},
        rewritten=rewritten,
    )


def bind_shapes(
    model: Model,
    shapes: Mapping[str, tuple[int, ...]],
    *,
    sample: Mapping[str, npt.NDArray[Any]] | None = None,
    fold_norms: bool = True,
) -> Model:
    """Fix every graph input to the given static shape, and fold what is constant then.

    Args:
        model: is not modified.
        shapes: input name -> shape, for every graph input.
        sample: input name -> array of that shape.  Where shapes depend on the data, the model is
            run once on it (on zeros where there is none), and they are what they were then.
        fold_norms: False leaves every BatchNormalization where it is.

    Returns:
        a model with shapes, dtypes, macs and parameters filled in.

    Raises:
        ModelError: if the shapes do not fit the model.
    """
    _check_shapes(model.inputs, shapes)
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    graph = proto.graph
    del graph.value_info[:]
    for value in graph.input:
        set_shape(value, shapes[value.name])
    source = dict(model.source_nodes)
    known = fold_constants(proto, source)
    if not model.rewritten:
        remove_identities(graph, known.dtypes)
    if fold_norms and not model.rewritten:
        fold_batchnorm(graph, source)
    remove_unused(graph)
    if missing := known.missing(graph):
        learn(proto, missing, known, sample)
    _declare_outputs(graph, known)
    names = _tensors(graph)
    bound_shapes = {name: known.shapes[name] for name in names if name in known.shapes}
    before = _whole_note(model.proto.graph)
    return replace(
        model,
        proto=proto,
        inputs=_input_specs(graph),
        outputs=_output_specs(proto),
        source_nodes=keep_sources(graph, source),
        shapes=bound_shapes,
        dtypes={name: known.dtypes[name] for name in names if name in known.dtypes},
        macs=count_macs(graph, bound_shapes),
        parameters=count_floats(graph),
        notes=(*(n for n in model.notes if n not in before), *_whole_note(graph)),
    )


def _rewritten(
    proto: onnx.ModelProto,
    source: dict[str, tuple[str, ...]],
    given_names: Mapping[str, str],
    rewrite: Rewrite,
) -> tuple[onnx.ModelProto, dict[str, tuple[str, ...]], tuple[str, ...]]:
    """Rewrite the file's own graph, under the file's own node names.

    Returns:
        the new model, the user's nodes behind each of its nodes, and the notes of `rewrite`.
    """
    user = skeleton(proto.graph)
    for node in proto.graph.node:
        node.name = given_names[node.name]
    made, notes = rewrite(proto)
    graph = made.graph
    if made is proto:
        for node, named in zip(graph.node, user.node, strict=True):
            node.name = named.name
        return made, source, notes
    graph.name = graph.name or "graph"
    name_nodes(graph)
    sort_nodes(graph)
    return made, trace_sources(user, source, graph), notes


def _check_opset(proto: onnx.ModelProto) -> int:
    """Return the opset of the ONNX operators, with their domain written one way."""
    for node in all_nodes(proto):
        if node.domain == "ai.onnx":
            node.domain = ""
    versions: dict[str, int] = {}
    for opset in proto.opset_import:
        opset.domain = "" if opset.domain == "ai.onnx" else opset.domain
        versions[opset.domain] = opset.version
    if "" not in versions:
        raise ModelError(
            "The model declares no opset for the ONNX operators, expected "
            f"{OLDEST_OPSET} or newer.",
            "Export the model again.",
        )
    if versions[""] < OLDEST_OPSET:
        raise ModelError(
            f"The model uses ONNX opset {versions['']}, expected {OLDEST_OPSET} or newer.",
            "Convert it with onnx.version_converter, or export it again.",
        )
    return versions[""]


def _drop_constant_inputs(proto: onnx.ModelProto) -> None:
    """Take initializers out of the graph inputs, where IR versions before 4 list them."""
    constants = {t.name for t in proto.graph.initializer}
    for index in reversed(range(len(proto.graph.input))):
        if proto.graph.input[index].name in constants:
            del proto.graph.input[index]
    proto.ir_version = max(proto.ir_version, 4)


def _input_specs(graph: onnx.GraphProto) -> tuple[TensorSpec, ...]:
    return tuple(_spec(value, "input") for value in graph.input)


def _output_specs(proto: onnx.ModelProto) -> tuple[TensorSpec, ...]:
    outputs = list(proto.graph.output)
    if not all(value.type.tensor_type.elem_type for value in outputs):
        known = infer(proto)
        for value in outputs:
            _declare(value, known)
    return tuple(_spec(value, "output") for value in outputs)


def _spec(value: onnx.ValueInfoProto, what: str) -> TensorSpec:
    kind = value.type.WhichOneof("value")
    if kind not in ("tensor_type", None):
        raise ModelError(
            f"Graph {what} '{value.name}' is a {kind.removesuffix('_type')}, expected a tensor.",
            f"Export the model with tensors as its {what}s.",
        )
    # an output of an unknown type is found out by bind_shapes; nearly all are float
    dtype = dtype_name(value.type.tensor_type.elem_type or onnx.TensorProto.FLOAT)
    return TensorSpec(value.name, dtype, value_shape(value))


def _whole_note(graph: onnx.GraphProto) -> tuple[str, ...]:
    """Return the note about nodes that are never looked into."""
    counts = Counter(node.op_type for node in graph.node if node.op_type in _WHOLE)
    parts = [f"{counts[kind]} {kind}" for kind in _WHOLE if counts[kind]]
    if not parts:
        return ()
    one = sum(counts.values()) == 1
    listed = " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
    return (f"{listed} {'node runs' if one else 'nodes run'} whole in FP32.",)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun} {'node was' if number == 1 else 'nodes were'}"


def _check_shapes(inputs: Sequence[TensorSpec], shapes: Mapping[str, tuple[int, ...]]) -> None:
    names = [spec.name for spec in inputs]
    for name in shapes:
        if name not in names:
            raise ModelError(f"The model has no input '{name}'.", nearest(name, names))
    for spec in inputs:
        if spec.name not in shapes:
            raise ModelError(
                f"Input '{spec.name}' has no shape, expected one like {_pattern(spec)}.",
                f"Give it with --shape {spec.name}=DIMS.",
            )
        shape = shapes[spec.name]
        fits = len(shape) == len(spec.shape) and all(
            size >= 0 and wanted in (None, size)
            for size, wanted in zip(shape, spec.shape, strict=True)
        )
        if not fits:
            raise ModelError(
                f"Input '{spec.name}' was given shape {tuple(shape)}, expected {_pattern(spec)}.",
                "Give data of that shape, or export the model with free axes.",
            )


def _pattern(spec: TensorSpec) -> str:
    """Write the shape of an input with `?` for free axes."""
    return f"({', '.join('?' if d is None else str(d) for d in spec.shape)})"


def _declare_outputs(graph: onnx.GraphProto, known: Known) -> None:
    for value in graph.output:
        _declare(value, known)


def _declare(value: onnx.ValueInfoProto, known: Known) -> None:
    if value.name in known.dtypes:
        kind = known.dtypes[value.name]
        value.type.tensor_type.elem_type = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    if value.name in known.shapes:
        set_shape(value, known.shapes[value.name])


def _tensors(graph: onnx.GraphProto) -> list[str]:
    """Return the name of every tensor of the graph, bodies excluded."""
    names = [value.name for value in graph.input]
    names += [tensor.name for tensor in graph.initializer]
    for node in graph.node:
        names += [*reads(node), *(name for name in node.output if name)]
    return list(dict.fromkeys(names))
