# SPDX-License-Identifier: Apache-2.0
"""What stands before any quantizing: the model, and the inputs it is run on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy.typing as npt

if TYPE_CHECKING:
    import onnx

# Input name -> array of one run.  Any: float32, but also int64 tokens and bool masks.
Sample = Mapping[str, npt.NDArray[Any]]


class Samples(Protocol):
    """Prepared inputs, one run each; reading one again gives the same arrays."""

    def __len__(self) -> int:
        """Return how many there are."""

    def __getitem__(self, index: int, /) -> Sample:
        """Return one of them; several threads may ask at once."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A graph input or output: `shape` holds an int per known axis and None per free one."""

    name: str
    dtype: str  # numpy name: "float32", "int64", "bool" ...
    shape: tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class Model:
    """An FP32 graph in canonical form (see `load.py`), with the way back to the user's names.

    Attributes:
        proto: the graph that is simulated: weights are initializers, every node has a unique name.
        name: stem of the file.
        sha256: hex digest of the file (and of its external data).
        inputs, outputs: of the graph, initializers excluded.
        shapes: static shape of every tensor once `bind_shapes` has run, else empty.
        dtypes: numpy dtype name of every tensor once `bind_shapes` has run, else empty.
        source_nodes: canonical node name -> names (or `op_type#index`) of the user's nodes in it.
        op_types: canonical node name -> op type to print, where it differs from the node's own
            (a fused `Swish`, say).
        macs: canonical node name -> multiply-accumulates for one run, computing layers only.
        notes: one sentence per thing that was changed or left alone while loading.
        metadata: `metadata_props` of the file (Ultralytics keeps its preprocessing there).
        rewritten: a target's own simplifier has run (`Target.rewrite`); what does nothing and is
            still there is left to the target.
        slices: graph output that was added to look at a part of another one -> that other one.
    """

    proto: onnx.ModelProto
    path: Path
    name: str
    sha256: str
    opset: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    source_nodes: Mapping[str, tuple[str, ...]]
    op_types: Mapping[str, str] = field(default_factory=dict)
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    dtypes: Mapping[str, str] = field(default_factory=dict)
    macs: Mapping[str, int] = field(default_factory=dict)
    parameters: int = 0
    notes: tuple[str, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)
    rewritten: bool = False
    slices: Mapping[str, str] = field(default_factory=dict)
