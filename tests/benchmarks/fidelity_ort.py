# SPDX-License-Identifier: Apache-2.0
"""How far our plans are those of onnxruntime's quantizer, on real models; prints tables.

python tests/benchmarks/fidelity_ort.py [MODEL ...] [--target onnxruntime qnn] [--all] [--own-file]

Samples are random: what is compared depends little on them.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from measure import SHARED, table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from onnx import numpy_helper
from onnxruntime.quantization.shape_inference import quant_pre_process
from ort_judge import agreement, our_plan, real_quantizer

from analyzer.errors import QAnalyzeError
from analyzer.load import bind_shapes, load_model
from analyzer.records import Model, Setting
from analyzer.targets import get_target

MODELS = (
    "resnet8_cifar10 mobilenet_v1_025_imagenet vww_mobilenet face_rfb320 squeezenet_imagenet "
    "ad_autoencoder superres_subpixel yolox_nano yolo11n_heads espdet_pico_cat stories260k "
    "silero_vad_16k"
).split()
SHAPES = {"silero_vad_16k": {"input": (1, 576)}}
COUNT = 2


def main() -> None:
    """Compare each model with each setting."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--target", nargs="+", default=["onnxruntime", "qnn"])
    parser.add_argument("--all", action="store_true", help="all combinations of settings")
    parser.add_argument("--own-file", action="store_true", help="quantize the file as it stands")
    chosen = parser.parse_args()
    rows = []
    for name in chosen.models:
        model = bound(name)
        for target in chosen.target:
            if chosen.own_file:
                rows += own_file(name, model, target)
            else:
                rows += [compared(name, model, target, s) for s in settings(target, chosen.all)]
    table(OWN if chosen.own_file else COLUMNS, rows)


COLUMNS = ["model", "target", "setting", "slots", "different", "worst scale", "output error"]
OWN = ["model", "target", "file", "same", "other scale", "only ours", "only theirs", "example"]


def bound(name: str) -> Model:
    """Load a shared model, free axes 1."""
    model = load_model(SHARED / "models" / name / "model.onnx")
    shapes = {spec.name: tuple(d or 1 for d in spec.shape) for spec in model.inputs}
    return bind_shapes(model, shapes | SHAPES.get(name, {}), sample=samples(model, name)[0])


def samples(model: Model, name: str) -> list[dict[str, np.ndarray]]:
    """Return random inputs: smooth ones would do no better here."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(COUNT):
        feeds = {}
        for spec in model.inputs:
            shape = SHAPES.get(name, {}).get(spec.name, tuple(d or 1 for d in spec.shape))
            if spec.dtype == "int64":
                feeds[spec.name] = (
                    rng.integers(1, 500, shape) if shape else np.array(16000, np.int64)
                )
            else:
                feeds[spec.name] = rng.uniform(-1, 1, shape).astype(np.float32)
        found.append(feeds)
    return found


def settings(target: str, everything: bool) -> list[Setting]:
    """Return the settings to compare: the default, or all combinations."""
    rules = get_target(target)
    if not everything:
        return [Setting(precision=p) for p in rules.precisions if p != "fp32"]
    return [
        Setting(precision=p, granularity=g, observer=o)
        for p, g, o in itertools.product(
            [p for p in rules.precisions if p != "fp32"], rules.granularities, rules.observers
        )
    ]


def compared(name: str, model: Model, target: str, setting: Setting) -> list[object]:
    """Return one row."""
    label = " ".join(filter(None, (setting.precision, setting.granularity, setting.observer)))
    try:
        found = agreement(model, samples(model, name), target, setting)
    except (QAnalyzeError, ValueError, RuntimeError) as error:
        return [name, target, label, "-", f"{type(error).__name__}: {str(error)[:60]}", "-", "-"]
    different = len(found.differences)
    if found.differences:
        print(name, target, label, *found.differences[:3], sep="\n  ", file=sys.stderr)
    return [
        name, target, label, found.slots, different, f"{found.worst_scale:.1e}",
        f"{found.error:.1e}",
    ]  # fmt: skip


def own_file(name: str, model: Model, target: str) -> list[list[object]]:
    """Compare with what becomes of the user's own file, directly and after `quant_pre_process`."""
    path = SHARED / "models" / name / "model.onnx"
    feeds = samples(model, name)
    _, plan = our_plan(model, feeds, target, Setting())
    ours = {q.tensor: q.scale for q in plan.quantizers if q.active and q.scale is not None}
    rows: list[list[object]] = []
    with tempfile.TemporaryDirectory() as folder:
        processed = Path(folder) / "processed.onnx"
        quant_pre_process(str(path), str(processed), skip_symbolic_shape=True)
        for label, file in (("direct", path), ("pre-processed", processed)):
            own = replace(model, proto=onnx.load(file))
            try:
                theirs = quantized_tensors(
                    real_quantizer(own, typed(own.proto, feeds), target, Setting())
                )
            except Exception as error:  # whatever it is, it is the finding
                rows.append([name, target, label, "-", "-", "-", "-", str(error)[:60]])
                continue
            common = ours.keys() & theirs.keys()
            other = sorted(t for t in common if not _close(ours[t], theirs[t]))
            here, there = sorted(ours.keys() - common), sorted(theirs.keys() - common)
            example = (other or there or here or [""])[0]
            same = len(common) - len(other)
            rows.append(
                [name, target, label, same, len(other), len(here), len(there), example[:60]]
            )
    return rows


def quantized_tensors(quantized: onnx.ModelProto) -> dict[str, np.ndarray]:
    """Return tensor -> scale of a QDQ model; stored constants under their float name."""
    constants = {t.name: numpy_helper.to_array(t) for t in quantized.graph.initializer}
    found = {}
    for node in quantized.graph.node:
        if node.op_type == "QuantizeLinear":
            name = node.input[0].removesuffix("_QuantizeLinear_Input")
        elif node.op_type == "DequantizeLinear" and node.input[0] in constants:
            name = node.input[0].removesuffix("_quantized")
        else:
            continue
        found[name] = np.atleast_1d(constants[node.input[1]]).astype(np.float64)
    return found


def typed(
    proto: onnx.ModelProto, feeds: list[dict[str, np.ndarray]]
) -> list[dict[str, np.ndarray]]:
    """Cast inputs to the types that the file itself wants (float16 is widened by us)."""
    types = {
        v.name: onnx.helper.tensor_dtype_to_np_dtype(v.type.tensor_type.elem_type)
        for v in proto.graph.input
    }
    return [{name: x.astype(types[name]) for name, x in feed.items()} for feed in feeds]


def _close(mine: np.ndarray, real: np.ndarray) -> bool:
    return mine.shape == real.shape and bool(np.allclose(mine, real, rtol=1e-5, atol=0))


if __name__ == "__main__":
    main()
