# SPDX-License-Identifier: Apache-2.0
"""esp-ppq's passes over the configs: fusion, simplification, alignment (`optim/refine.py`)."""

from __future__ import annotations

from analyzer.targets.espdl.configs import (
    ALIGNED_TO_OUTPUT,
    COMPUTING,
    PASSIVE,
    Graph,
)


def _single_edge(graph: Graph, node: str) -> str | None:
    """Return the only node that reads output 0 of `node`, if that reads nothing else made."""
    readers = graph.view.consumers.get(graph.view.nodes[node].output[0], [])
    if len(readers) != 1:
        return None
    made = [t for t in graph.view.nodes[readers[0]].input if t in graph.view.producer]
    return readers[0] if len(made) == 1 else None


def _fuse_pair(graph: Graph, node: str, activation: str) -> None:
    target = graph.configs[activation, "out0"]
    for config in (graph.configs.get((node, "out0")), graph.configs.get((activation, "in0"))):
        if config is not None and config.state != "FP32":
            config.dominated_by(target)


def fuse_activations(graph: Graph) -> None:
    """Computing op -> Relu or Clip: both leave the tensor to the activation's output."""
    for node, kind in graph.types.items():
        reader = _single_edge(graph, node)
        if kind in COMPUTING and graph.types.get(reader or "") in ("Relu", "Clip"):
            _fuse_pair(graph, node, str(reader))


def fuse_passive(graph: Graph) -> None:
    """Ops that only move values keep the scale of what they read."""
    for node, kind in graph.types.items():
        if kind not in PASSIVE:
            continue
        proto = graph.view.nodes[node]
        if graph.view.producer.get(proto.input[0]) not in graph.types:
            continue
        source = graph.configs[node, "in0"]
        if source.state == "FP32":
            continue
        for config in graph.of(node, "out"):
            if config.state != "FP32":
                config.dominated_by(source)


def fuse_any_with_activation(graph: Graph) -> None:
    """Any quantized op -> Relu or Clip, as for computing ops."""
    for node in graph.types:
        reader = _single_edge(graph, node)
        if graph.types.get(reader or "") in ("Relu", "Clip"):
            _fuse_pair(graph, node, str(reader))


def simplify(graph: Graph) -> None:
    """A tensor is quantized at its producer; consumers with the same scheme leave it there."""
    for node in graph.types:
        for output in graph.of(node, "out"):
            if output.state == "FP32":
                continue
            seen: set[str] = set()
            for reader in graph.view.consumers.get(output.tensor, ()):
                if reader not in graph.types or reader in seen:
                    continue
                seen.add(reader)
                slot = list(graph.view.nodes[reader].input).index(output.tensor)
                config = graph.configs.get((reader, f"in{slot}"))
                if config is not None and config.state == "INITIAL" and not config.per_channel:
                    config.dominated_by(output)


def align(graph: Graph) -> None:
    """Add, Sub, Concat, Resize: inputs, and producers read by nothing else, follow the output."""
    for node, kind in graph.types.items():
        if kind not in ALIGNED_TO_OUTPUT:
            continue
        output = graph.configs[node, "out0"]
        for config in graph.of(node, "in"):
            if config.state != "FP32":
                config.enslaved_to(output)
        for tensor in graph.view.nodes[node].input:
            producer = graph.view.producer.get(tensor)
            source = graph.output(tensor)
            if producer is None or source is None or graph.types[producer] in PASSIVE:
                continue
            edges = sum(
                len(graph.view.consumers.get(t, ())) for t in graph.view.nodes[producer].output
            )
            if edges == 1:
                source.enslaved_to(output)
