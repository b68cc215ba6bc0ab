# SPDX-License-Identifier: Apache-2.0
"""What is exported for esp-ppq, done by esp-ppq: the same plan, the noise that was foretold."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parent / "benchmarks")]

from esp_plans import Planned, differences, save_samples  # noqa: E402
from orders import order_of  # noqa: E402
from peers.conftest import interpreter  # noqa: E402
from real_inputs import samples_of  # noqa: E402

from analyzer.errors import ExportError  # noqa: E402
from analyzer.export import export  # noqa: E402
from analyzer.export.esp_ppq import write  # noqa: E402
from analyzer.formats import SOURCE  # noqa: E402
from analyzer.records import Edit, Setting  # noqa: E402

MODELS = HERE.parents[2] / "shared" / "models"
RNG = np.random.default_rng(11)


def _w(*shape):
    """Weights of which a few are large."""
    w = RNG.standard_normal(shape)
    return (np.sign(w) * np.abs(w) ** 2.5).astype(np.float32)


PICTURE = "(float[1,4,8,8] x) => (float[1,{},{},{}] y)"
CONV = PICTURE.format(6, 8, 8) + " {{ [c] {} = Conv<pads = [1,1,1,1]>(x, w, b) {} }}"
CONV_WEIGHTS = {"w": _w(6, 4, 3, 3), "b": _w(6)}
UP = PICTURE.format(3, 17, 17)
TURNED = UP + " { [t] y = ConvTranspose<kernel_shape = [3,3], strides = [2,2]>(x, w, b) }"
# name -> graph, its weights, layers that are split
SPLITS = {
    "conv": (CONV.format("y", ""), CONV_WEIGHTS, ("c",)),
    "conv, relu": (CONV.format("h", "[r] y = Relu(h)"), CONV_WEIGHTS, ("c",)),
    "conv, swish": (
        CONV.format("h", "[s] g = Sigmoid(h) [m] y = Mul(h, g)"), CONV_WEIGHTS, ("c",)
    ),
    "gemm": (
        "(float[2,8] x) => (float[2,5] y) { [g] h = Gemm<alpha = 0.5>(x, w, b) [r] y = Tanh(h) }",
        {"w": _w(8, 5), "b": _w(5)}, ("g",),
    ),
    "gemm, no bias": (
        "(float[2,8] x) => (float[2,5] y) { [g] y = Gemm<transB = 1>(x, w) }",
        {"w": _w(5, 8)}, ("g",),
    ),
    "matmul": (
        "(float[1,4,8] x) => (float[1,4,5] y) { [r] h = Relu(x) [m] y = MatMul(h, w) }",
        {"w": _w(8, 5)}, ("m",),
    ),
    "strided transposed": (TURNED, {"w": _w(4, 3, 3, 3), "b": _w(3)}, ("t",)),
    "two of two": (
        UP.replace("17,17", "16,16") + """ {
            [a] h = Conv<pads = [1,1,1,1]>(x, v) [r] k = Relu(h)
            [t] l = ConvTranspose<kernel_shape = [2,2], strides = [2,2]>(k, w, b)
            [u] y = Conv(l, u)
        }""",
        {"v": _w(4, 4, 3, 3), "w": _w(4, 3, 2, 2), "b": _w(3), "u": _w(3, 3, 1, 1)},
        ("t", "a"),
    ),
    "behind attention": (
        """(float[1,2,4,8] x) => (float[1,2,4,8] y) {
            [q0] q = Neg(x) [k0] k = Relu(x) [v0] v = Tanh(x)
            [tk] kt = Transpose<perm=[0,1,3,2]>(k) [qk] s = MatMul(q, kt)
            [sm] p = Softmax(s) [pv] o = MatMul(p, v) [m] y = MatMul(o, w)
        }""",
        {"w": _w(8, 8)}, ("m",),
    ),
}  # fmt: skip
WAYS = [
    ("esp32p4", {"observer": "percentile"}),
    ("esp32s3", {"observer": "percentile"}),
    ("esp32", {"precision": "int16"}),
]
SPLIT_TWICE = (
    Edit("weight_split", ("model/conv2d_7/BiasAdd",), "balance", 1.0),
    Edit("weight_split", ("model/conv2d_1/BiasAdd",), "balance", 0.5),
)
# case -> model, target, setting; the setting alone does for those without a mark
REAL = {
    "calibration": ("espdet_pico_cat", "esp32p4", Setting(observer="percentile")),
    "table": (
        "resnet8_cifar10", "esp32p4",
        Setting(
            observer="minmax",
            table={"model/conv2d_3/BiasAdd": "int16", "model/dense/MatMul": "fp32"},
        ),
    ),
    "weights of 8 bits": ("resnet8_cifar10", "esp32s3", Setting(precision="w8a16")),
    "everything": (
        "espdet_pico_cat", "esp32s3",
        Setting(
            observer="percentile",
            table={"/model.0/conv/Conv": "int16", "/model.0/act/Relu": "int16"},
            ranges={"/model.1/act/Relu_output_0": (0.0, 3.5)},
            edits=(
                Edit(
                    "weight_split",
                    ("/model.1/pointwise/Conv", "/model.2/cv1/conv/Conv"), "balance", 0.99609375,
                ),
            ),
        ),
    ),
    "edited model": (
        "espdet_pico_cat", "esp32p4",
        Setting(
            observer="percentile", table={"/model.1/pointwise/Conv": "int16"},
            edits=(
                Edit(
                    "bias_correction", ("/model.0/conv/Conv",),
                    values={"/model.0/conv/Conv": tuple(np.linspace(-0.02, 0.03, 16))},
                ),
                Edit("weight_split", ("/model.0/conv/Conv",), "balance", 0.99609375),
            ),
        ),
    ),
    "two thresholds*": ("resnet8_cifar10", "esp32s3", Setting(edits=SPLIT_TWICE)),
    "range of the input*": (
        "espdet_pico_cat", "esp32p4", Setting(ranges={"images": (-0.45, 0.45)}, observer="mse")
    ),
}  # fmt: skip

pytestmark = [pytest.mark.peer, pytest.mark.filterwarnings("ignore")]


def ordered(folder, text, weights, target, setting):
    """Write a graph and samples; return the job for esp-ppq, and the order."""
    folder.mkdir(parents=True, exist_ok=True)
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 13]> g {text}')
    proto.graph.initializer.extend(numpy_helper.from_array(w, n) for n, w in weights.items())
    onnx.save(proto, folder / "model.onnx")
    shape = [d.dim_value for d in proto.graph.input[0].type.tensor_type.shape.dim]
    samples = [{"x": np.clip(RNG.standard_normal(shape), -3, 3).astype("f4")} for _ in range(3)]
    return exported(folder, folder / "model.onnx", samples, target, setting)


def exported(folder, path, samples, target, setting, **config):
    """Export for esp-ppq what `setting` asks for, into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    together = {n: np.concatenate([s[n] for s in samples]) for n in samples[0]}
    np.savez(folder / "calib.npz", **together)
    order = order_of(path, folder / "calib.npz", target, setting, **config)
    for file, content in export(order, ["esp-ppq"]).items():
        (folder / file).parent.mkdir(exist_ok=True)
        (folder / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    job = {
        "model": str(folder / SOURCE if order.our_edits else path),
        "reference": str(path),
        "inputs": str(save_samples(folder / "samples.npz", samples)),
        "outputs": str(folder / "outputs.npz"),
        "setting": str(folder / "esp-ppq" / "setting.json"),
        "script": str(folder / "esp-ppq" / "quantize.py"),
    }
    return job, order


def measured(job):
    """Return output -> mean NSR of what esp-ppq computes, held against onnxruntime in FP32."""
    session = ort.InferenceSession(job["reference"], providers=["CPUExecutionProvider"])
    with np.load(job["inputs"]) as inputs, np.load(job["outputs"]) as theirs:
        runs = [
            dict(zip(inputs.files, row, strict=True)) for row in zip(*inputs.values(), strict=True)
        ]
        names = [o.name for o in session.get_outputs()]
        plain = [dict(zip(names, session.run(names, run), strict=True)) for run in runs]
        return {
            name: float(
                np.mean([ratio(theirs[name][i], each[name]) for i, each in enumerate(plain)])
            )
            for name in names
        }


def ratio(y, reference):
    """Return the power of the noise over that of the signal."""
    y, reference = y.astype(np.float64), reference.astype(np.float64)
    return np.square(y - reference).sum() / np.square(reference).sum()


def ask(judge, jobs, folder):
    """Ask about all jobs in one process."""
    (folder / "jobs.json").write_text(json.dumps(jobs), encoding="utf-8")
    return judge("esp-ppq", "esp_ppq_exported", folder / "jobs.json")


@pytest.fixture(scope="module")
def splits(judge, tmp_path_factory):
    """Split all small graphs all ways; return (name, target) -> (order, answer, job)."""
    folder = tmp_path_factory.mktemp("splits")
    made = {}
    for name, (text, weights, layers) in SPLITS.items():
        for target, more in WAYS:
            edits = (Edit("weight_split", layers, "balance", 1.25),)
            place, setting = folder / f"{name} {target}", Setting(edits=edits, **more)
            made[name, target] = ordered(place, text, weights, target, setting)
    answers = ask(judge, [job for job, _ in made.values()], folder)
    return {
        key: (order, answer, job)
        for (key, (job, order)), answer in zip(made.items(), answers, strict=True)
    }


@pytest.mark.parametrize("target", [target for target, _ in WAYS])
@pytest.mark.parametrize("name", SPLITS)
def test_a_split_is_the_one_esp_ppq_makes(splits, name, target):
    """All operations with their names; every state, bit and scale; the same noise."""
    order, theirs, job = splits[name, target]
    assert "error" not in theirs
    differing, total = differences(theirs["configs"], Planned(order.graph, order.plan))
    assert total > 5
    assert not differing
    if (name, target) == ("behind attention", "esp32p4"):
        return  # esp-ppq computes integers there, see the note of the plan
    wide = target == "esp32"
    for tensor, nsr in measured(job).items():
        assert order.proposal.outputs_after[tensor] == pytest.approx(
            nsr, rel=0.01, abs=1e-8 if wide else 0
        )


@pytest.fixture(scope="module")
def real(judge, tmp_path_factory):
    """Export settings of real models; return case -> (order, job, by the script, as it is)."""
    if not all((MODELS / model / "model.onnx").is_file() for model, *_ in REAL.values()):
        pytest.skip("the shared models are not here")
    folder = tmp_path_factory.mktemp("real")
    samples = {model: samples_of(model, 6) for model, *_ in REAL.values()}
    made = {}
    for case, (model, target, setting) in REAL.items():
        path = MODELS / model / "model.onnx"
        made[case] = exported(folder / case, path, samples[model], target, setting)
    jobs = [job for job, _ in made.values()]
    for job, order in made.values():
        types = {"w8a16": "w8a16"}
        alone = {name: value for name, value in job.items() if name != "script"}
        alone |= {
            "outputs": job["outputs"].replace("outputs.npz", "alone.npz"),
            "target": order.target.name,
            "quant_type": types.get(order.proposal.setting.precision, "w8a8"),
        }
        jobs.append(alone)
    answers = ask(judge, jobs, folder)
    assert not [a["error"] for a in answers if "error" in a]
    pairs = zip(made.items(), answers[: len(made)], answers[len(made) :], strict=True)
    return {case: (order, job, *both) for (case, (job, order)), *both in pairs}


@pytest.mark.parametrize("case", REAL)
def test_the_script_does_what_was_foretold(real, case):
    """All scales are those of our plan; the noise at the outputs is as foretold, within 10 %."""
    order, job, theirs, _ = real[case]
    differing, total = differences(theirs["configs"], Planned(order.graph, order.plan))
    assert total > 60
    assert not differing
    for tensor, nsr in measured(job).items():
        assert order.proposal.outputs_after[tensor] == pytest.approx(nsr, rel=0.1), tensor


@pytest.mark.parametrize("case", REAL)
def test_the_setting_alone_does_unless_it_says_so(real, case):
    """Without the script esp-ppq makes the same plan, but where the setting names the script."""
    order, job, theirs, alone = real[case]
    said = json.loads(Path(job["setting"]).read_text(encoding="utf-8"))["dispatching_table"]
    assert (theirs["configs"] == alone["configs"]) != case.endswith("*")
    assert any(
        "quantize.py also" in line or "quantize.py gives every" in " ".join(said["intro_0"])
        for line in said["intro_0"]
    ) == case.endswith("*")
    assert order.proposal.left != 1


@pytest.mark.parametrize("case", REAL)
def test_the_setting_is_read_without_a_word(real, case):
    """Every field is known, and those that nobody asked for are as `espdl_setting` has them."""
    order, _, theirs, _ = real[case]
    assert "Unexpected" not in theirs["warned"]
    assert "version" not in theirs["warned"]
    setting, base = theirs["setting"], theirs["espdl"]
    asked = {"dispatching_table", "quantize_activation_setting", "weight_split"}
    asked |= {"weight_split_setting", "quant_config_modify", "quant_config_modify_setting"}
    assert {k: v for k, v in setting.items() if k not in asked} == {
        k: v for k, v in base.items() if k not in asked
    }
    activations = setting["quantize_activation_setting"]
    wide = order.proposal.setting.precision is not None
    assert activations["calib_algorithm"] == (
        order.proposal.setting.observer or ("minmax" if wide else "kl")
    )


def test_names_that_are_not_there_are_refused(judge, tmp_path):
    """By us before anything is written, and by the script, which names the nearest one."""
    weights = {"w": _w(6, 4, 3, 3), "b": _w(6)}
    place, setting = tmp_path / "net", Setting(table={"c": "int16"})
    job, order = ordered(place, CONV.format("y", ""), weights, "esp32p4", setting)
    wrong = replace(order.proposal, setting=Setting(table={"cc": "int16"}))
    with pytest.raises(ExportError, match=r"'cc'.*Did you mean 'c'"):
        write(replace(order, proposal=wrong))
    script = Path(job["script"])
    script.write_text(script.read_text().replace("NAMES = ['c']", "NAMES = ['/c']"))
    (answer,) = ask(judge, [job], tmp_path)
    assert (
        answer["error"] == "SystemExit: There is no operation '/c' in the model; nearest: ['c']."
    )


def test_the_script_runs_as_a_command(tmp_path):
    """A folder of arrays in, an .espdl file and esp-ppq's report out."""
    place, setting = tmp_path / "net", Setting(observer="percentile", table={"c": "int16"})
    job, _ = ordered(place, CONV.format("y", ""), CONV_WEIGHTS, "esp32p4", setting)
    out = tmp_path / "net.espdl"
    command = [interpreter("esp-ppq"), job["script"], job["model"], place / "calib.npz"]
    command = [*map(str, command), "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert out.is_file()
    assert "NOISE:SIGNAL" in done.stdout
