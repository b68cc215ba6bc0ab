# SPDX-License-Identifier: Apache-2.0
"""The script that hands a setting to esp-ppq: a plan goes in, Python source comes out."""

from __future__ import annotations

from collections.abc import Iterator

from analyzer.export.esp_ppq_setting import Told
from analyzer.export.header import plain
from analyzer.export.order import Order
from analyzer.export.script import assigned, filled
from analyzer.formats import SOURCE

SCRIPT = "esp-ppq/quantize.py"


def script(order: Order, told: Told, said: str) -> str:
    """Return the source.

    Args:
        order: what is exported.
        told: the same in esp-ppq's words.
        said: comment lines to stand on top.
    """
    blocks = [_THRESHOLDS] if told.thresholds else []
    blocks += [_SCALES] if told.other_scales else []
    imports = [_STATES] if told.other_scales else []
    imports += [_PASSES] if blocks else []
    return filled(
        _SCRIPT,
        said=said,
        imports="".join(imports),
        model=_model(order, told),
        constants="\n".join(_constants(order, told)),
        blocks="".join(blocks),
    )


def _model(order: Order, told: Told) -> str:
    if told.file == "ours":
        return f"MODEL is {SOURCE}, which lies beside this folder: the plan was made for it."
    name = plain(order.original.name).replace("\\", "/").replace('"', "'")
    return f"MODEL is your own {name}."


def _constants(order: Order, told: Told) -> Iterator[str]:
    found = order.analysis.provenance
    count = next((data.count for data in found.data if data.role == "calibration"), None)
    shapes = {spec.name: order.source.shapes[spec.name] for spec in order.source.inputs}
    types = {spec.name: spec.dtype for spec in order.source.inputs}
    names = [*told.table, *(layer for layer, _ in told.splits), *(n for n, _ in told.scales)]
    yield assigned("TARGET", told.target)
    yield assigned("QUANT_TYPE", told.quant_type)
    yield "# input -> type and shape of a run"
    yield assigned("INPUTS", {name: (types[name], shapes[name]) for name in shapes})
    yield "# runs that the plan was calibrated on"
    yield assigned("SAMPLES", count)
    wanted = ("preset", "preprocessing")
    prepared = {key: found.config[key] for key in wanted if found.config.get(key)}
    yield "# how pictures become inputs, as qanalyze was told"
    yield assigned("PREPARATION", prepared)
    yield "# operations that the setting names; esp-ppq would ignore what it does not know"
    yield assigned("NAMES", sorted(set(names)))
    if told.thresholds:
        yield "# one per layer of weight_split_setting"
        yield assigned("THRESHOLDS", list(told.thresholds))
    if told.other_scales:
        yield "# slots that quant_config_modify_setting cannot name"
        yield assigned("SCALES", {f"{n} {s}": v for (n, s), v in told.other_scales.items()})


_STATES = "from esp_ppq.core import QuantizationStates\n"
_PASSES = "from esp_ppq.quantization.quantizer import base\n"

_SCRIPT = '''#!/usr/bin/env python3
${said}"""Quantize a model with esp-ppq 1.3.12 as planned; an .espdl file comes out.

    python quantize.py MODEL.onnx CALIB --out model.espdl

$model
CALIB is an .npz file with one array per input, an .npy file, or a folder of these: inputs as the
model takes them, runs along the first axis.  Anything else (a folder of pictures, say) is read by
qanalyze, where it is installed.
"""

import argparse
import difflib
import math
import shutil
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxsim
import torch
from esp_ppq import QuantizationSettingFactory
from esp_ppq.api import espdl_quantize_onnx
from esp_ppq.api.interface import load_onnx_graph
$imports
$constants


def main():
    """Read what is given, and quantize."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("calib", help=".npz, .npy, or a folder")
    parser.add_argument("--setting", type=Path, default=Path(__file__).with_name("setting.json"))
    parser.add_argument("--out", type=Path, help="model.espdl")
    parser.add_argument("--no-report", action="store_true", help="spare esp-ppq's error analysis")
    given = parser.parse_args()
    runs = runs_of(given.calib, given.model)
    out = given.out or Path(given.model.with_suffix(".espdl").name)
    quantize(given.model, given.setting, runs, out, report=not given.no_report)


def quantize(model, setting, runs, out=None, report=False):
    """Quantize on `runs`, one list of tensors each; return esp-ppq's graph."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "model.onnx"  # esp-ppq writes over the file it reads
        check_names(shutil.copy(model, copy))
        shutil.copy(model, copy)
        wanted = QuantizationSettingFactory.from_json(setting.read_text(encoding="utf-8"))
        return espdl_quantize_onnx(
            onnx_import_file=str(copy),
            espdl_export_file=str(out or copy.with_suffix(".espdl")),
            calib_dataloader=runs,
            calib_steps=max(2, len(runs)),
            input_shape=[list(shape) for _, shape in INPUTS.values()],
            inputs=runs[0],
            target=TARGET,
            quant_type=QUANT_TYPE,
            collate_fn=lambda run: run,
            setting=wanted,
            device="cpu",
            error_report=report,
            skip_export=out is None,
            verbose=0,
        )


def check_names(path):
    """Stop at a name that the graph does not have, once it is simplified."""
    simple, fine = onnxsim.simplify(onnx.load(path))
    if fine:
        onnx.save(simple, path)
    known = list(load_onnx_graph(onnx_import_file=str(path)).operations)
    for name in NAMES:
        # those that esp-ppq makes itself come later, and it refuses wrong ones
        if name not in known and not name.startswith("PPQ_Operation_"):
            near = difflib.get_close_matches(name, known, 1, 0.0)
            raise SystemExit(f"There is no operation {name!r} in the model; nearest: {near}.")


def runs_of(calib, model):
    """Return one list of tensors per run, in the order of the inputs."""
    path = Path(calib).expanduser()
    files = [path] if path.is_file() else sorted(path.glob("*.np[yz]")) if path.is_dir() else []
    if not files or any(file.suffix not in (".npy", ".npz") for file in files):
        return prepared(calib, model)[:SAMPLES]
    return [run for file in files for run in runs_in(file)][:SAMPLES]


def runs_in(file):
    """Return the runs in one .npy or .npz file."""
    loaded = np.load(file)
    arrays = {next(iter(INPUTS)): loaded} if file.suffix == ".npy" else dict(loaded)
    columns = []
    for name, (dtype, shape) in INPUTS.items():
        if name not in arrays:
            raise SystemExit(f"{file} has no array {name!r}, only {sorted(arrays)}.")
        array, rank = arrays[name], len(shape)
        if array.shape[array.ndim - rank + 1 :] != shape[1:] or array.size % math.prod(shape):
            raise SystemExit(f"Array {name!r} is {array.shape}, expected runs of {shape}.")
        columns.append(torch.from_numpy(array.astype(dtype).reshape(-1, *shape)))
    return [list(run) for run in zip(*columns, strict=True)]


def prepared(calib, model):
    """Return the runs that qanalyze makes of data that are not arrays."""
    try:
        from analyzer.data import open_data
        from analyzer.load import load_model
    except ImportError:
        shapes = {name: shape for name, (_, shape) in INPUTS.items()}
        raise SystemExit(
            f"{calib} holds no arrays: install qanalyze here, or save the inputs {shapes} as .npz."
        ) from None
    found = load_model(model)
    data = open_data(
        calib,
        found.inputs,
        role="calibration",
        metadata=found.metadata,
        preset=PREPARATION.get("preset"),
        overrides=PREPARATION.get("preprocessing", {}),
        limit=SAMPLES,
        shapes={name: shape for name, (_, shape) in INPUTS.items()},
    )
    return [
        [torch.from_numpy(np.ascontiguousarray(data[i][name])) for name in INPUTS]
        for i in range(len(data))
    ]

$blocks
if __name__ == "__main__":
    main()
'''

_THRESHOLDS = '''
class SplitEach(base.HorizontalLayerSplitPass):
    """Splits every layer at its own threshold; the setting has one for all."""

    def h_split(self, op):
        self.left = getattr(self, "left", list(THRESHOLDS))
        self.value_threshold = self.left.pop(0)
        return super().h_split(op)


base.HorizontalLayerSplitPass = SplitEach

'''

_SCALES = '''
class FixEach(base.QuantConfigModifyPass):
    """Also fixes the scales of slots that are no first output."""

    def optimize(self, graph, **kwargs):
        super().optimize(graph, **kwargs)
        for place, scale in SCALES.items():
            name, slot = place.rsplit(" ", 1)
            config = graph.operations[name].config
            configs = (
                config.input_quantization_config
                if slot.startswith("in")
                else config.output_quantization_config
            )
            found = configs[int(slot.lstrip("inout"))]
            if found.dominated_by is found:
                found.scale, found.offset = torch.tensor(scale), torch.tensor(0.0)
                found.state = QuantizationStates.ACTIVATED


base.QuantConfigModifyPass = FixEach

'''
