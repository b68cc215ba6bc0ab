# SPDX-License-Identifier: Apache-2.0
"""RKNN-Toolkit2: hybrid quantization of the layers that a plan moves, merged in as text.

Step 1 of hybrid quantization writes `MODEL.quantization.cfg`.  What stands there under
`custom_quantize_layers` is the user's (output tensor: int8, int16 or float16); what stands under
`quantize_parameters` has to stay as it is, to the last digit, so that the file must not be read
and written again as YAML.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from analyzer.errors import ExportError
from analyzer.export.asked import Asked, asked, file_name, left_out, width
from analyzer.export.fusions import Fusions
from analyzer.export.header import header, plain
from analyzer.export.order import Files, Order
from analyzer.export.script import assigned, filled

_DTYPES = {"float": "float16", "int8": "int8", "wide": "int16"}
# observer -> `quantized_algorithm`
_ALGORITHMS = {
    "minmax": "normal", "kl": "kl_divergence", "entropy": "kl_divergence", "mse": "mmse"
}  # fmt: skip


def write(order: Order) -> Files:
    """Return the fragment of the cfg, the script that merges it, and one that does both steps.

    Raises:
        ExportError: where nothing of the plan can be told.
    """
    found = asked(order)
    if found.base == "float":
        raise ExportError(
            "The plan leaves the network in float; hybrid quantization starts from int8.",
            "Build it with do_quantization=False.",
        )
    layers = list(_layers(order, found))
    algorithm = _ALGORITHMS.get(order.proposal.setting.observer or "")
    if not (layers or algorithm or order.our_edits):
        raise ExportError(
            "The plan moves no layer to another precision, and RKNN-Toolkit2 takes nothing else.",
            "Leave rknn out of --export.",
        )
    config = {"quantized_algorithm": algorithm} if algorithm else {}
    if found.base == "wide":
        config["quantized_dtype"] = "w16a16i"
    said = header(order, left_out=list(_left_out(order, found)), tool="rknn")
    return {
        "rknn/hybrid.quantization.cfg": said + _fragment(layers),
        "rknn/merge.py": said + filled(_MERGE, layers=assigned("LAYERS", layers)),
        "rknn/convert.py": said
        + filled(_CONVERT, model=_shown(file_name(order, found)), config=repr(config)),
    }


def _layers(order: Order, found: Asked) -> Iterator[tuple[str, list[str], str]]:
    """Yield layer, names that its output may have, and data type."""
    fusions = Fusions(order, found.file)
    for layer in found.layers:
        names = [*layer.tensors]
        for tensor in layer.tensors[:1]:
            names += fusions.behind(tensor)
        if names:
            yield layer.name, list(dict.fromkeys(names)), _DTYPES[width(layer.precision)]


def _fragment(layers: list[tuple[str, list[str], str]]) -> str:
    """Return the section, names quoted as JSON, which YAML reads too."""
    if not layers:
        return "custom_quantize_layers: {}\n"
    lines = [f"    {json.dumps(names[0])}: {dtype}\n" for _, names, dtype in layers]
    return "custom_quantize_layers:\n" + "".join(lines)


def _left_out(order: Order, found: Asked) -> Iterator[str]:
    yield from left_out(order, found, tool="rknn", wide=True, observers=_ALGORITHMS)
    observer = order.proposal.setting.observer
    if observer in _ALGORITHMS:
        yield (
            f"Calibration {observer!r} becomes quantized_algorithm={_ALGORITHMS[observer]!r}, "
            "which is alike and not the same."
        )
    if any(layer.precision == "fp32" for layer in found.layers):
        yield "There is no fp32 on the NPU: these layers become float16."
    halves = [p for p in {layer.precision for layer in found.layers} if _narrow_weights(p)]
    for precision in sorted(halves):
        yield f"Precision {precision!r} becomes int16, which has weights of 16 bits as well."


def _shown(name: str) -> str:
    """Write a file name so that it may stand in a docstring."""
    return plain(name).replace("\\", "/").replace('"', "'")


def _narrow_weights(precision: str) -> bool:
    return width(precision) == "wide" and "8" in precision


_MERGE = r'''"""Put the layers of this plan into the cfg of step 1 of hybrid quantization, as text.

    python merge.py MODEL.quantization.cfg [MERGED.cfg]

Not a character of the other lines changes.  A layer that step 1 does not list is an error, and
nothing is written then: RKNN-Toolkit2 renames what it fuses.
"""

import difflib
import json
import re
import sys
from pathlib import Path

QUOTED = re.compile(r"""('(?:[^']|'')*'|"(?:[^"\\]|\\.)*")""")
PLAIN = re.compile(r"(.+?)(?::\s.*|:)?$$")

# layer of the plan, what its output may be called, data type
$layers


def keys(lines):
    """Return name -> how it is written, for the first level of quantize_parameters."""
    found, margin = {}, None
    for line in lines:
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        indent = len(line) - len(line.lstrip(" "))
        margin = indent if margin is None else margin
        if indent == margin and not text.startswith(": "):
            text = text.removeprefix("? ")
            key = QUOTED.match(text) or PLAIN.match(text)
            found[plain(key[1])] = key[1]
    return found


def plain(key):
    """Return a YAML key without its quotes."""
    if key[:1] == "'":
        return key[1:-1].replace("''", "'")
    return json.loads(key) if key[:1] == '"' else key


def chosen(listed):
    """Return written name -> data type; leave with a message where step 1 has no such layer."""
    found, missing = {}, []
    for layer, names, dtype in LAYERS:
        name = next((name for name in names if name in listed), None)
        if name is None:
            near = dict.fromkeys(n for name in names for n in nearest(name, listed))
            missing.append(f"{layer}: {' or '.join(names)}; the nearest are {', '.join(near)}")
            continue
        if found.setdefault(listed[name], dtype) != dtype:
            sys.exit(f"{name} shall be {found[listed[name]]} and {dtype}. Nothing was written.")
    if missing:
        lines = "".join(f"\n  {line}" for line in missing)
        sys.exit(f"Step 1 lists no output of these layers:{lines}\nNothing was written.")
    return found


def nearest(name, known):
    """Return the known names that are most like one that is missing."""
    return difflib.get_close_matches(name, known, 2, cutoff=0)


def merged(text):
    """Return the text of step 1 with the layers in it."""
    lines = text.splitlines(keepends=True)
    heads = [i for i, line in enumerate(lines) if line.startswith("custom_quantize_layers:")]
    marks = [i for i, line in enumerate(lines) if line.startswith("quantize_parameters:")]
    if len(heads) != 1 or len(marks) != 1:
        sys.exit("Expected one custom_quantize_layers and one quantize_parameters in the cfg.")
    (head,), (mark,) = heads, marks
    inner = lines[mark + 1 :]
    stop = next((i for i, line in enumerate(inner) if line[:1] not in " #\r\n"), len(inner))
    wanted = chosen(keys(inner[:stop]))
    value = lines[head].partition(":")[2].strip()
    if value not in ("", "{}", "null", "~"):
        sys.exit("custom_quantize_layers has entries on its own line: give each of them a line.")
    margin, end = "    ", "\r\n" if lines[head].endswith("\r\n") else "\n"
    for line in lines[head + 1 :]:
        if line.strip() and not line.startswith(" "):
            break
        name, colon, dtype = line.strip().rpartition(":")
        if colon and not name.startswith("#"):
            margin = line[: len(line) - len(line.lstrip(" "))]
            if wanted.get(name, dtype.strip()) != dtype.strip():
                sys.exit(f"{name} is{dtype} already, not {wanted[name]}. Nothing was written.")
            wanted.pop(name, None)
    if wanted and value:
        lines[head] = "custom_quantize_layers:" + end
    new = [f"{margin}{name}: {dtype}{end}" for name, dtype in wanted.items()]
    lines[head + 1 : head + 1] = new
    return "".join(lines)


def main(source, target=None):
    """Read one file and write another."""
    source = Path(source)
    target = Path(target) if target else source.with_suffix(".plan.cfg")
    with source.open(encoding="utf-8", newline="") as file:
        text = merged(file.read())
    with target.open("w", encoding="utf-8", newline="") as file:
        file.write(text)
    return target


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    print(f"Wrote {main(*sys.argv[1:])}.")
'''

_CONVERT = r'''"""Both steps of hybrid quantization with RKNN-Toolkit2, and the merge between them.

    python convert.py $model DATASET.txt PLATFORM

DATASET.txt lists the calibration inputs, one per line, as RKNN-Toolkit2 reads them.  Add
mean_values and std_values to CONFIG where these are pictures.
"""

import sys
from pathlib import Path

from rknn.api import RKNN

import merge

CONFIG = $config


def done(code, what):
    """Leave where a step of the toolkit failed."""
    if code != 0:
        sys.exit(f"{what} failed.")


def main(model, dataset, platform):
    """Write MODEL.rknn into the working folder."""
    stem = Path(model).stem
    rknn = RKNN()
    done(rknn.config(target_platform=platform, **CONFIG), "config")
    done(rknn.load_onnx(model=model), "load_onnx")
    done(rknn.hybrid_quantization_step1(dataset=dataset, proposal=False), "step 1")
    rknn.release()
    cfg = merge.main(f"{stem}.quantization.cfg")
    rknn = RKNN()
    done(rknn.hybrid_quantization_step2(f"{stem}.model", f"{stem}.data", str(cfg)), "step 2")
    done(rknn.export_rknn(f"{stem}.rknn"), "export")
    rknn.release()


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
'''
