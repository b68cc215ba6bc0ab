# SPDX-License-Identifier: Apache-2.0
"""TPU-MLIR: a quantize table of the layers that a plan moves, and the ranges that it sets.

Both are text, one operation per line: `name mode` and `name threshold min max`.  An operation is
called after its first output and its ONNX type, `TENSOR_TYPE`, a graph input after itself
(`python/transform/OnnxConverter.py`).  A name that the tool does not know is ignored without a
word there (`lib/Conversion/TopToTpu`), so that a script checks all of them first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from analyzer.errors import ExportError
from analyzer.export.asked import Asked, Layer, asked, file_name, left_out, width
from analyzer.export.fusions import Fusions
from analyzer.export.header import header, plain
from analyzer.export.order import Files, Order
from analyzer.export.script import assigned, filled
from analyzer.records import Quantizer

Ranges = dict[str, tuple[float, float, float]]  # operation -> threshold, smallest, largest value

_LEAST = 1e-5  # what `run_calibration` gives a tensor that is always 0
# a comment with one of these starts another section of a calibration table
_MARKS = ("weight_scale", "int4_th", "tpu-mlir-fp8", "mqbench-fp8", "asym_op", "int4_op")


def write(order: Order) -> Files:
    """Return the tables, and the script that checks them against the tool's own.

    Raises:
        ExportError: where nothing of the plan can be told, or a name cannot stand in a table.
    """
    found = asked(order)
    if found.base != "int8":
        raise ExportError(
            "The plan leaves most of the network in float or 16 bits; a quantize table starts "
            "from INT8.",
            "Build it with --quantize F16.",
        )
    fusions = Fusions(order, found.file)
    modes = {layer.name: (_names(fusions, layer), _mode(layer)) for layer in found.layers}
    ranges = _ranges(order, fusions)
    if not (modes or ranges or order.our_edits):
        raise ExportError(
            "The plan moves no layer to another precision and sets no range.",
            "Leave tpu-mlir out of --export.",
        )
    _refuse_blanks([*(name for names, _ in modes.values() for name in names), *ranges])
    said = header(order, left_out=list(_left_out(order, found)), tool="tpu-mlir")
    files = {
        "tpu-mlir/qtable.txt": said + _table("# op_name   quantize_mode", _mode_rows(modes)),
        "tpu-mlir/merge.py": said
        + filled(
            _MERGE,
            model=plain(file_name(order, found)).replace("\\", "/").replace('"', "'"),
            modes=assigned("MODES", [(n, names, mode) for n, (names, mode) in modes.items()]),
            ranges=assigned("RANGES", ranges),
            must=assigned("MUST", sorted(_must(order, fusions))),
        ),
    }
    if ranges:
        files["tpu-mlir/calibration_table.txt"] = _unmarked(said) + _table(
            "# op_name    threshold    min    max", _range_rows(ranges)
        )
    return files


def _names(fusions: Fusions, layer: Layer) -> list[str]:
    """Return what the layer's operation may be called, the likeliest first."""
    tensors = [*layer.tensors]
    for tensor in layer.tensors[:1]:
        tensors += fusions.behind(tensor)
    return list(dict.fromkeys(_operation(fusions, t) for t in tensors))


def _operation(fusions: Fusions, tensor: str) -> str:
    """Return what the operation that makes a tensor is called."""
    maker = fusions.makers.get(tensor)
    return tensor if maker is None else f"{maker.output[0]}_{maker.op_type}"


def _mode(layer: Layer) -> str:
    if width(layer.precision) == "int8":
        return "INT8"
    known = {"fp32": "F32", "bf16": "BF16"}
    return known.get(layer.precision, "F16")


def _ranges(order: Order, fusions: Fusions) -> Ranges:
    """Return the ranges of 8-bit tensors, where the plan has a say in them."""
    setting = order.proposal.setting
    found: Ranges = {}
    for quantizer in order.plan.quantizers:
        known = quantizer.tensor in fusions.makers or quantizer.tensor in fusions.inputs
        wanted = setting.observer or quantizer.tensor in setting.ranges
        if known and wanted and _is_plain(quantizer):
            found.setdefault(_operation(fusions, quantizer.tensor), _range(quantizer))
    return found


def _is_plain(quantizer: Quantizer) -> bool:
    on = quantizer.active and quantizer.role in ("input", "activation")
    return on and quantizer.scale is not None and quantizer.scale.size == 1 and quantizer.bits == 8


def _range(quantizer: Quantizer) -> tuple[float, float, float]:
    """Return what the grid covers, no farther than values were seen; from 0 on is unsigned."""
    assert quantizer.scale is not None
    assert quantizer.zero_point is not None
    scale, zero = float(quantizer.scale[0]), int(quantizer.zero_point[0])
    low, high = (scale * (end - zero) for end in (quantizer.qmin, quantizer.qmax))
    reach = scale * 127 if quantizer.symmetric else max(-low, high)
    if quantizer.range is not None:
        low, high = max(low, quantizer.range[0]), min(high, quantizer.range[1])
    return max(reach, _LEAST), min(low, 0.0), max(high, _LEAST)


def _must(order: Order, fusions: Fusions) -> set[str]:
    """Return the operations whose ranges the plan sets one by one."""
    return {_operation(fusions, tensor) for tensor in order.proposal.setting.ranges}


def _mode_rows(modes: dict[str, tuple[list[str], str]]) -> Iterator[str]:
    for names, mode in modes.values():
        yield f"{names[0]} {mode}"


def _range_rows(ranges: Ranges) -> Iterator[str]:
    # the tool's own pattern knows neither a plus sign nor a capital E
    for name, values in ranges.items():
        yield " ".join([name, *(f"{value:.7f}" for value in values)])


def _table(title: str, rows: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in ("###", title, *rows))


def _unmarked(said: str) -> str:
    """Return comment lines without those that the tool would take for the head of a section."""
    lines = said.splitlines(keepends=True)
    return "".join(line for line in lines if not any(mark in line for mark in _MARKS))


def _refuse_blanks(names: Iterable[str]) -> None:
    for name in names:
        if not name or name.startswith("#") or name.split() != [name]:
            raise ExportError(
                f"The name {name!r} cannot stand in a table of TPU-MLIR, whose columns are "
                "separated by blanks.",
                "Export the model again with names without blanks.",
            )


def _left_out(order: Order, found: Asked) -> Iterator[str]:
    yield from left_out(
        order, found, tool="tpu-mlir", wide=True, ranges=True, observers=order.target.observers
    )
    wide = [layer.name for layer in found.of("wide")]
    if wide:
        yield f"There are no layers of 16-bit integers: {len(wide)} of the plan become F16."
    if order.proposal.setting.observer:
        yield "Ranges of tensors that have no 8-bit quantizer in the plan stay the tool's own."


_MERGE = r'''"""Check the names of this plan against the calibration table that TPU-MLIR wrote.

    model_transform.py --model_def $model ... --mlir MODEL.mlir
    run_calibration.py MODEL.mlir ... -o CALI_TABLE
    python merge.py CALI_TABLE
    model_deploy.py --mlir MODEL.mlir --quantize INT8 ... \\
        --quantize_table qtable.checked --calibration_table CALI_TABLE.plan

CALI_TABLE lists every operation; TPU-MLIR renames what it fuses and ignores names it does not
know.  Two files are written: qtable.checked, and CALI_TABLE.plan with the ranges of this plan in
place of its own.  Where a layer of the plan is not there, nothing is written.
"""

import difflib
import sys
from pathlib import Path

# layer of the plan, what its operation may be called, mode
$modes

# operation -> threshold, smallest and largest value
$ranges

# operations whose ranges have to be found
$must


def rows_of(lines):
    """Return name -> number of its line, in the first section of a calibration table."""
    rows = {}
    for number, line in enumerate(lines):
        if any(mark in line for mark in SECTIONS) and line.startswith("#"):
            break
        words = line.split()
        if len(words) == 4 and not line.startswith("#"):
            rows[words[0]] = number
    return rows


SECTIONS = ("weight_scale", "int4_th", "tpu-mlir-fp8", "mqbench-fp8", "asym_op", "int4_op")


def near(name, known):
    """Return the known names that are most like one that is missing."""
    return difflib.get_close_matches(name, known, 2, cutoff=0)


def main(source):
    """Read the tool's table and write the two files into the working folder."""
    with open(source, encoding="utf-8", newline="") as file:
        lines = file.read().splitlines(keepends=True)
    rows = rows_of(lines)
    if not rows:
        sys.exit(f"{source} is no calibration table: expected lines of a name and 3 numbers.")
    table, missing = [], []
    for layer, names, mode in MODES:
        name = next((name for name in names if name in rows), None)
        if name is None:
            nearest = dict.fromkeys(n for name in names for n in near(name, rows))
            missing.append(f"{layer}: {' or '.join(names)}; the nearest are {', '.join(nearest)}")
        else:
            table.append(f"{name} {mode}\n")
    for name in MUST:
        if name not in rows:
            missing.append(f"range of {name}; the nearest are {', '.join(near(name, rows))}")
    if missing:
        found = "".join(f"\n  {line}" for line in missing)
        sys.exit(f"Not in {source}:{found}\nNothing was written.")
    for name, values in RANGES.items():
        if name in rows:
            old = lines[rows[name]]
            end = old[len(old.rstrip("\r\n")) :]
            lines[rows[name]] = " ".join([name, *(f"{v:.7f}" for v in values)]) + end
    Path("qtable.checked").write_text("# op_name   quantize_mode\n" + "".join(table), "utf-8")
    target = Path(source).name + ".plan"
    with open(target, "w", encoding="utf-8", newline="") as file:
        file.write("".join(lines))
    left = [name for name in RANGES if name not in rows]
    print(f"Wrote qtable.checked ({len(table)} operations) and {target}", end="")
    print(f" ({len(RANGES) - len(left)} ranges; {len(left)} of the plan are of fused tensors).")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
'''
