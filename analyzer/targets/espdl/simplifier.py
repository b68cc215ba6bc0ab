# SPDX-License-Identifier: Apache-2.0
"""What esp-ppq does before it looks at a model: onnxsim, which decides names and weights.

Imitates the first lines of `espdl_quantize_onnx` (`api/espdl_interface.py`) and the naming in
`parser/onnx_parser.py` of esp-ppq 1.3.12, which asks for exactly onnxsim 0.7.3: another version
names and folds otherwise.
"""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
import tempfile
from collections import Counter
from importlib import metadata
from pathlib import Path

import onnx

from analyzer.errors import ModelError
from analyzer.graph.check import check_loads
from analyzer.graph.fold import GROWING
from analyzer.graph.read import all_nodes

ONNXSIM = "0.7.3"  # that esp-ppq 1.3.12 pins
TIME_LIMIT_S = 60.0
MEMORY_LIMIT = 4 << 30  # bytes of address space, for a model that could ask for any number

_CHILD = """
import sys
source, target, limit = sys.argv[1:]
try:
    import resource
    resource.setrlimit(resource.RLIMIT_AS, (int(limit), int(limit)))
except ImportError:
    pass  # Windows: only the time is limited
import onnx, onnxsim
model, fine = onnxsim.simplify(onnx.load(source))
if fine:
    onnx.save(model, target)
"""


def simplify_model(proto: onnx.ModelProto) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """Run onnxsim with the arguments that esp-ppq gives it, and name what has no name.

    Returns:
        another model than the one given, and notes.  Where onnxsim fails on the model, it is
        the user's own one: then esp-ppq quantizes that, or stops.
    """
    notes = []
    installed = metadata.version("onnxsim")
    if installed != ONNXSIM:
        notes.append(
            f"Simplified by onnxsim {installed}; esp-ppq uses {ONNXSIM}, which may give layers "
            "other names and fold other nodes."
        )
    before = len(proto.graph.node)
    try:
        made = _simplified(proto)
        check_loads(made, None)
    except _SimplifierError as error:
        notes = [f"onnxsim, which esp-ppq runs first, {error}: the model was left as it is."]
        made = _copy(proto)
    except ModelError as error:
        notes = [f"What onnxsim makes of the model does not run, so it was left as it is: {error}"]
        made = _copy(proto)
    else:
        if len(made.graph.node) != before:
            notes.append(
                f"Simplified by onnxsim as esp-ppq does: {before} nodes became "
                f"{len(made.graph.node)}."
            )
    if any(node.op_type == "Shape" for node in made.graph.node):
        notes.append(
            "esp-ppq quantizes arithmetic on shapes, and mostly stops at it; here it is folded. "
            "Export the model without free axes."
        )
    notes += _name(made.graph)
    return made, tuple(notes)


class _SimplifierError(Exception):
    """What went wrong, as the end of a sentence."""


def _simplified(proto: onnx.ModelProto) -> onnx.ModelProto:
    if _is_bounded(proto):
        return _in_this_process(proto)
    return _in_a_child(proto)


def _is_bounded(proto: onnx.ModelProto) -> bool:
    """Tell whether folding constants can make no more numbers than the file has.

    onnxsim folds whatever it can before it knows how large the result is; a Range of a billion
    fills 23 GB.
    """
    constant = {t.name for t in proto.graph.initializer}
    for node in proto.graph.node:
        if constant.issuperset(name for name in node.input if name):
            constant.update(node.output)
            if node.op_type in GROWING:
                return False
    return not any(n.op_type in ("Loop", "Scan") for n in all_nodes(proto))


def _in_this_process(proto: onnx.ModelProto) -> onnx.ModelProto:
    import onnxsim  # takes 0.1 s, and only this target needs it

    copy = _copy(proto)  # it takes initializers out of the inputs
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            model, fine = onnxsim.simplify(copy)
    except Exception as error:  # its C++ core raises RuntimeError, its checks whatever they like
        line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise _SimplifierError(f"fails ({line.rstrip('.')})") from error
    if not fine:
        raise _SimplifierError("makes an invalid model of it")
    made: onnx.ModelProto = model
    return made


def _in_a_child(proto: onnx.ModelProto) -> onnx.ModelProto:
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "model.onnx"), Path(folder, "simple.onnx")
        data = proto.SerializeToString()
        source.write_bytes(data)
        limit = MEMORY_LIMIT + 8 * len(data)
        command = [sys.executable, "-c", _CHILD, str(source), str(target), str(limit)]
        try:
            done = subprocess.run(  # noqa: S603  # our own interpreter and program
                command, capture_output=True, timeout=TIME_LIMIT_S, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise _SimplifierError(f"takes longer than {TIME_LIMIT_S:.0f} s") from error
        if done.returncode:
            raise _SimplifierError(f"fails within {limit / 2**30:.1f} GiB of memory")
        if not target.is_file():
            raise _SimplifierError("makes an invalid model of it")
        made = onnx.ModelProto()
        made.ParseFromString(target.read_bytes())
        return made


def _copy(proto: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    return copy


def _name(graph: onnx.GraphProto) -> list[str]:
    """Name the nodes without a name as esp-ppq does, in place; it refuses names given twice."""
    unnamed = [node for node in graph.node if not node.name]
    for number, node in enumerate(unnamed):
        node.name = f"generated_name_{number}"
    twice = [name for name, count in Counter(n.name for n in graph.node).items() if count > 1]
    if not twice:
        return []
    return [f"esp-ppq refuses this model: several nodes are called '{twice[0]}'."]
