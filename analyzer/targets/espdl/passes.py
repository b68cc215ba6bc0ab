# SPDX-License-Identifier: Apache-2.0
"""esp-ppq's passes over the configs: fusion, simplification, alignment, passive parameters.

`quantization/optim/refine.py` and `parameters.py` of esp-ppq 1.3.12, in the order of its pipeline.
What needs scales ("Align to Large" of comparisons) stands in `comparisons.py`.
"""

from __future__ import annotations

from analyzer.targets.espdl.configs import (
    ACTIVATIONS,
    ALIGNED_TO_OUTPUT,
    BITS,
    COMPARE,
    COMPUTING,
    PASSIVE,
    RECURRENT,
    Config,
    Graph,
)


def run_passes(graph: Graph) -> None:
    """Bring all configs from their first state to the last one."""
    fuse_computing_with_activation(graph)
    fuse_passive(graph)
    fuse_any_with_activation(graph)
    simplify(graph)
    for config in graph.configs.values():
        if config.state == "INITIAL":
            config.state = "ACTIVATED"
    align(graph)
    follow_first_input(graph)


def _activation_behind(graph: Graph, node: str) -> str | None:
    """Return the quantized Relu or Clip that alone reads `node` and reads nothing else."""
    readers = graph.readers(node)
    if len(readers) != 1 or graph.types.get(readers[0]) not in ACTIVATIONS:
        return None
    return readers[0] if len(graph.sources(readers[0])) == 1 else None


def _fuse(graph: Graph, node: str, activation: str) -> None:
    """Leave the tensor between the two to the output of the activation."""
    target = graph.configs[activation, "out0"]
    # the first output, even where the activation reads another one
    for key in ((node, "out0"), (activation, "in0")):
        if key in graph.configs:
            graph.configs[key].dominated_by(target)


def fuse_computing_with_activation(graph: Graph) -> None:
    """Computing op -> Relu or Clip of the same precision."""
    for node, kind in graph.types.items():
        activation = _activation_behind(graph, node) if kind in COMPUTING else None
        if activation and graph.precision[node] == graph.precision[activation]:
            _fuse(graph, node, activation)


def fuse_passive(graph: Graph) -> None:
    """Ops that only move values keep the scale of what they read."""
    for node, kind in graph.types.items():
        source = graph.view.producer.get(graph.view.nodes[node].input[0])
        if kind not in PASSIVE or graph.precision.get(source or "") != graph.precision[node]:
            continue
        for config in graph.of(node, "out"):
            config.dominated_by(graph.configs[node, "in0"])


def fuse_any_with_activation(graph: Graph) -> None:
    """Any quantized op -> Relu or Clip; a narrower Relu behind a Conv is widened to its bits."""
    for node, kind in graph.types.items():
        activation = _activation_behind(graph, node)
        if activation is None:
            continue
        mine, theirs = graph.precision[node], graph.precision[activation]
        if mine != theirs and kind in ("Conv", "Gemm", "MatMul"):
            output = graph.configs[activation, "out0"]
            if graph.types[activation] == "Relu" and output.bits < BITS[mine]:
                graph.precision[activation] = mine
                output.bits = BITS[mine]
        _fuse(graph, node, activation)


def simplify(graph: Graph) -> None:
    """A tensor is quantized at its producer; consumers with the same scheme leave it there."""
    for node in graph.types:
        for output in graph.of(node, "out"):
            if output.state == "FP32":
                continue
            for reader in graph.view.consumers.get(output.tensor, ()):
                if graph.precision.get(reader) != graph.precision[node]:
                    continue
                # a second slot that reads the tensor, as in Mul(x, x), is not found
                slot = list(graph.view.nodes[reader].input).index(output.tensor)
                config = graph.configs.get((reader, f"in{slot}"))
                if config is not None and config.state == "INITIAL" and _alike(config, output):
                    config.dominated_by(output)


def _alike(config: Config, other: Config) -> bool:
    return config.bits == other.bits and config.axis == other.axis


def align(graph: Graph) -> None:
    """Let operands that must share a scale share it, and with them what makes only them."""
    for node, kind in graph.types.items():
        if kind in ALIGNED_TO_OUTPUT:
            output = graph.configs[node, "out0"]
            for config in graph.of(node, "in"):
                if config.state != "FP32":
                    config.enslaved_to(output)
            align_producers(graph, node, output)
        elif kind in RECURRENT:
            output = graph.configs[node, "out0"]
            for key in ((node, "out1"), (node, "in5")):
                if key in graph.configs and graph.configs[key].state != "FP32":
                    graph.configs[key].enslaved_to(output)
            align_producers(graph, node, output)


def align_producers(graph: Graph, node: str, master: Config) -> None:
    """Ops that `node` alone reads quantize with its scale, whatever their own bits are.

    Passive ops keep the scale of what they read, and are requantized at the input.
    """
    for producer in graph.sources(node):
        if producer not in graph.types or graph.types[producer] in PASSIVE:
            continue
        if len(graph.readers(producer)) != 1:
            continue
        for config in graph.of(producer, "out"):
            if node in graph.view.consumers.get(config.tensor, ()):
                config.enslaved_to(master)


def follow_first_input(graph: Graph) -> None:
    """Bounds of a Clip and the value of a Pad are on the grid of the first input."""
    for node, kind in graph.types.items():
        slots = {"Clip": ("in1", "in2"), "Pad": ("in2",)}.get(kind, ())
        if kind == "Pad" and len(graph.view.nodes[node].input) != 3:
            continue
        for slot in slots:
            config = graph.configs.get((node, slot))
            if config is not None:
                config.observer = None
                config.enslaved_to(graph.configs[node, "in0"])


def comparisons(graph: Graph) -> list[str]:
    """Return the comparisons of floats, in order."""
    return [n for n, kind in graph.types.items() if kind in COMPARE]
