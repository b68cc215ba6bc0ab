# SPDX-License-Identifier: Apache-2.0
"""onnxruntime sessions that share one memory arena and run on the thread that calls them.

Hundreds of small sessions live side by side during a run.  An arena each would spend most of the
time in page faults, and a thread pool each would fight for the cores, so all sessions use one
arena of the environment and no pool: parallelism comes from calling them on several threads.
"""

from __future__ import annotations

import ctypes
import functools
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from onnx import TensorProto, helper

Value: TypeAlias = Any  # ort.OrtValue: onnxruntime ships no types

_lock = threading.Lock()
_ready = False


def _prepare_environment() -> None:
    """Register the shared arena once per process."""
    global _ready
    with _lock:
        if _ready:
            return
        info = ort.OrtMemoryInfo(
            "Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT
        )
        ort.create_and_register_allocator(info, ort.OrtArenaCfg({}))
        ort.set_default_logger_severity(3)
        _ready = True


def open_session(
    model: bytes, *, threads: int = 1, optimize: bool = True, fuse_quantizers: bool = False
) -> ort.InferenceSession:
    """Open a session on the shared arena.

    Args:
        model: a serialized ModelProto.
        threads: 1 runs on the calling thread.
        optimize: False leaves every node as it is.
        fuse_quantizers: True lets onnxruntime turn Q/DQ pairs into integer kernels; the
            simulation needs them as they are.

    Raises:
        onnxruntime's own exceptions when the model cannot be loaded.
    """
    _prepare_environment()
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # one block per run would need a block of its own size for every session
    options.enable_mem_pattern = False
    options.log_severity_level = 3
    if not optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.use_env_allocators", "1")
    if not fuse_quantizers:
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    # enable_fallback=0: a failing session must raise, not print and try again
    return ort.InferenceSession(
        model, options, providers=["CPUExecutionProvider"], enable_fallback=0
    )


def to_value(array: npt.NDArray[np.generic]) -> Value:
    """Wrap an array for `run`; it is copied."""
    return ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array))


def run(
    session: ort.InferenceSession, outputs: Sequence[str], feeds: Mapping[str, Value]
) -> dict[str, Value]:
    """Run a session on values already wrapped; nothing is copied in or out."""
    found = session.run_with_ort_values(list(outputs), dict(feeds))
    return dict(zip(outputs, found, strict=True))


def release_unused() -> None:
    """Give memory that no tensor uses back to the system: the arena's, then the C library's.

    Without it both keep what the hungriest moment of a stage needed, in pieces that the next
    stage can use only in part, and peak memory creeps up with the number of samples.
    """
    options = ort.RunOptions()
    options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    _tiny_session().run(None, {"x": np.zeros(1, np.float32)}, options)
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it, musl does not
        if trim is not None:
            trim(0)


@functools.cache
def _tiny_session() -> ort.InferenceSession:
    """A session to hang run options on: shrinking is asked for with a run."""
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [1]) for n in "xy")
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "tiny", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 7
    return open_session(model.SerializeToString())
