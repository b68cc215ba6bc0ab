# SPDX-License-Identifier: Apache-2.0
"""Pieces of the Python scripts that are written for users: values as text, and reading samples."""

from __future__ import annotations

import pprint
from collections.abc import Mapping, Sequence
from string import Template

from analyzer.export.asked import Asked
from analyzer.export.header import plain
from analyzer.export.order import Order
from analyzer.formats import SOURCE

_WIDTH = 96

# How a script reads calibration data.  It needs `INPUTS` (see `inputs`), numpy, math and Path.
SAMPLES = '''
def samples_of(path):
    """Return a dict of arrays per run, out of an .npz, an .npy, or a folder of these."""
    path = Path(path)
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    files = [file for file in files if file.suffix in (".npz", ".npy")]
    runs = [run for file in files for run in runs_in(file)]
    if not runs:
        raise SystemExit(f"{path} holds no runs, expected .npz or .npy files.")
    return runs


def runs_in(file):
    """Return the runs in one file: an array per input, runs along the first axis."""
    arrays = np.load(file)
    arrays = {next(iter(INPUTS)): arrays} if file.suffix == ".npy" else dict(arrays)
    found = {}
    for name, (dtype, shape) in INPUTS.items():
        if name not in arrays:
            raise SystemExit(f"{file} has no array {name!r}, only {sorted(arrays)}.")
        array, rest = arrays[name], tuple(shape[1:])
        if array.shape[array.ndim - len(rest) :] != rest or array.size % math.prod(shape):
            raise SystemExit(f"{file}: {name!r} is {array.shape}, expected runs of {shape}.")
        found[name] = array.astype(dtype).reshape(-1, *shape)
    counts = {name: len(array) for name, array in found.items()}
    if len(set(counts.values())) > 1:
        raise SystemExit(f"{file}: the inputs have different numbers of runs: {counts}.")
    return [{n: array[i] for n, array in found.items()} for i in range(min(counts.values()))]
'''


def literal(value: object) -> str:
    """Write a value as Python source, long ones on several lines.

    >>> literal({"a": (1, 2)})
    "{'a': (1, 2)}"
    """
    return pprint.pformat(value, width=_WIDTH, sort_dicts=False)


def assigned(name: str, value: object) -> str:
    """Write an assignment; what does not fit on a line is indented below.

    >>> assigned("FLOAT", ["a"])
    "FLOAT = ['a']"
    """
    text = literal(value)
    if len(name) + len(text) + 3 <= _WIDTH or "\n" not in text:
        return f"{name} = {text}"
    opening, closing = text[0], text[-1]
    body = "\n".join(f"    {line.removeprefix(' ')}" for line in text[1:-1].splitlines())
    return f"{name} = {opening}\n    {body.lstrip()},\n{closing}"


def inputs(order: Order) -> Mapping[str, tuple[str, tuple[int | None, ...]]]:
    """Return input -> type and shape of a run."""
    return {spec.name: (spec.dtype, spec.shape) for spec in order.source.inputs}


def model_argument(order: Order, found: Asked) -> str:
    """Return a sentence on which FP32 model a script is to be given."""
    if found.file == "ours":
        return f"MODEL is {SOURCE}, which lies beside this folder: the plan needs its names."
    name = plain(order.original.name).replace("\\", "/").replace('"', "'")
    return f"MODEL is your own {name}: the names stand in it."


def filled(text: str, **values: str) -> str:
    """Put values into a script: `$name` is replaced, `$$` is a dollar."""
    return Template(text).substitute(values)


def listed(names: Sequence[str]) -> list[str]:
    """Return names without repetition, in their order."""
    return list(dict.fromkeys(names))
