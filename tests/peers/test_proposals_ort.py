# SPDX-License-Identifier: Apache-2.0
"""Exported plans given to onnxruntime's quantizer, and Q/DQ models given to engines.

What they make has the noise that was simulated.  onnxruntime is always there, so that its tests
are only slow; OpenVINO's need its environment.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parent / "benchmarks")]

from exported import deviations, exported  # noqa: E402
from ort_judge import our_slots, real_slots  # noqa: E402

from analyzer.records import Setting  # noqa: E402

MODELS = HERE.parents[2] / "shared" / "models"
ARGUMENTS = "onnxruntime/arguments.json"
CLOSE = 0.1  # share of the noise
RESNET8, MOBILENET, ESPDET = "resnet8_cifar10", "mobilenet_v1_025_imagenet", "espdet_pico_cat"
SAMPLES = {RESNET8: 32, MOBILENET: 8, ESPDET: 6}
UNLESS_BETTER = 0.9  # of the noise without a plan: where more is left, chance decides

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def real(tmp_path):
    """Return a function: name of a shared model -> its path, and real inputs in an .npz."""

    def make(name):
        path = MODELS / name / "model.onnx"
        if not path.is_file():
            pytest.skip(f"the shared model {name} is not here")
        from real_inputs import samples_of

        samples = samples_of(name, SAMPLES[name])
        data = tmp_path / "inputs.npz"
        np.savez(data, **{key: np.concatenate([s[key] for s in samples]) for key in samples[0]})
        return path, data

    return make


def noise(source, quantized, data, *, integers=False):
    """Return output -> NSR of a model beside the float one.

    Args:
        source: bytes of the float model.
        quantized: path.
        data: path of an .npz.
        integers: with integer kernels; False: every Q/DQ as it stands.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 3
    if not integers:
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    plain = ort.InferenceSession(source)
    noisy = ort.InferenceSession(str(quantized), options)
    names = [output.name for output in plain.get_outputs()]
    arrays = np.load(data)
    ratios = []
    for index in range(len(arrays[arrays.files[0]])):
        feeds = {name: arrays[name][index : index + 1] for name in arrays.files}
        pairs = zip(plain.run(names, feeds), noisy.run(names, feeds), strict=True)
        ratios.append(
            [np.sum((y - x) ** 2, dtype=float) / np.sum(x**2, dtype=float) for x, y in pairs]
        )
    return dict(zip(names, np.mean(ratios, axis=0), strict=True))


def slots_agree(order, quantized, said):
    """Hold what every node reads against our plan.

    A graph input that is converted passes two pairs there; we have the narrower one for both, and
    the bias behind it follows.
    """
    inputs = {spec.name for spec in order.source.inputs}
    twice = {
        node
        for tensor, (entry, *_) in said["extra_options"]["TensorQuantOverrides"].items()
        if tensor in inputs
        for node in entry.get("convert", {}).get("recv_nodes", ())
    }
    theirs, ours = real_slots(quantized), our_slots(order.graph, order.plan)
    for slot in ours.keys() & theirs.keys():  # a merged Relu is gone there
        mine, real = ours[slot], theirs[slot]
        assert (mine is None) == (real is None), slot
        if mine is None or slot[0] in twice:
            continue
        assert mine[2] == real[2], slot
        np.testing.assert_allclose(mine[0], real[0], rtol=2e-6, err_msg=str(slot))
        assert np.array_equal(mine[1], real[1]), slot


CASES = [
    (RESNET8, "onnxruntime", Setting()),
    (RESNET8, "onnxruntime", Setting(table={"model/conv2d_2/BiasAdd": "fp32"})),
    (
        RESNET8,
        "onnxruntime",
        Setting(table={"model/conv2d_5/BiasAdd": "s16s8", "model/conv2d_8/BiasAdd": "s16s8"}),
    ),
    (
        RESNET8,
        "onnxruntime",
        Setting(
            observer="percentile",
            precision="u8s8",
            table={"model/conv2d/BiasAdd": "u16s8", "model/dense/MatMul": "fp32"},
            ranges={"model/activation_2/Relu:0": (0.0, 9.0)},
        ),
    ),
    (MOBILENET, "onnxruntime", Setting()),
    (
        MOBILENET,
        "onnxruntime",
        Setting(observer="percentile", ranges={"input_2": (-1.0, 1.0)}),
    ),
    (
        MOBILENET,
        "onnxruntime",
        Setting(table={"mobilenet_0.25_224/conv1/Conv2D": "fp32"}, granularity="tensor"),
    ),
    (
        MOBILENET,
        "qnn",
        Setting(
            precision="a16w8",
            granularity="channel",
            table={"mobilenet_0.25_224/conv_pw_13/Conv2D": "a8w8"},
        ),
    ),
    (ESPDET, "onnxruntime", Setting()),
    (
        ESPDET,
        "onnxruntime",
        Setting(
            table={
                "/model.0/conv/Conv": "s16s8",
                "/model.1/pointwise/Conv": "s16s8",
                "/model.1/depthwise/Conv": "fp32",
            },
            observer="percentile",
        ),
    ),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("name", "target", "setting"), CASES, ids=lambda x: str(x)[:60])
def test_the_script_gives_the_model_that_was_simulated(real, tmp_path, name, target, setting):
    """Every slot has our type and scale, and the noise of the outputs is what was predicted."""
    order, model = exported(tmp_path, "onnxruntime", *real(name), target, setting)
    made = tmp_path / "quantized.onnx"
    command = [sys.executable, tmp_path / "onnxruntime" / "quantize.py", tmp_path / "inputs.npz"]
    done = subprocess.run(
        [str(part) for part in [*command, "--output", made]], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    slots_agree(order, onnx.load(made), json.loads((tmp_path / ARGUMENTS).read_text("utf-8")))
    found = noise(model.read_bytes(), made, tmp_path / "inputs.npz")
    off = deviations(order, found)
    print(name, target, order.proposal.outputs_before, order.proposal.outputs_after, off)
    assert max(off.values()) < CLOSE
    before, after = order.proposal.outputs_before, order.proposal.outputs_after
    for output, nsr in found.items():
        if after[output] < UNLESS_BETTER * before[output]:
            assert nsr < before[output]


MODELS_OF_PLANS = [
    (RESNET8, "onnxruntime", Setting(table={"model/conv2d_5/BiasAdd": "s16s8"})),
    (RESNET8, "esp32p4", Setting(table={"model/conv2d_1/BiasAdd": "int16"})),
    (RESNET8, "tflite", Setting()),
    (RESNET8, "pytorch", Setting()),
    (MOBILENET, "openvino", Setting()),
    (MOBILENET, "tensorrt", Setting()),
    (ESPDET, "esp32p4", Setting(table={"/model.1/depthwise/Conv": "int16"})),
    (ESPDET, "qnn", Setting()),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "target", "setting"), MODELS_OF_PLANS, ids=lambda x: str(x)[:50])
def test_onnxruntime_runs_the_model(real, tmp_path, name, target, setting):
    """As it stands, the Q/DQ model has the predicted noise to a thousandth.

    But for weights of dead channels, which are widened so that their float biases survive: single
    values then fall on the other side of a rounding.
    """
    path, data = real(name)
    order, _ = exported(tmp_path, "qdq", path, data, target, setting)
    source = order.source.proto.SerializeToString()
    off = deviations(order, noise(source, tmp_path / "qdq" / "model.onnx", data))
    integer = deviations(
        order, noise(source, tmp_path / "qdq" / "model.onnx", data, integers=True)
    )
    print(name, target, off, "integer kernels", integer)
    assert max(off.values()) < (CLOSE if target == "openvino" else 1e-3)


@pytest.mark.peer
@pytest.mark.parametrize(("name", "target", "setting"), MODELS_OF_PLANS, ids=lambda x: str(x)[:50])
def test_openvino_runs_the_model(judge, real, tmp_path, name, target, setting):
    """OpenVINO loads it, and has the predicted noise; it leaves 16-bit quantizers out."""
    path, data = real(name)
    order, _ = exported(tmp_path, "qdq", path, data, target, setting)
    source = tmp_path / "source.onnx"
    source.write_bytes(order.source.proto.SerializeToString())
    answer = judge("nncf", "openvino_runs", source, tmp_path / "qdq" / "model.onnx", data)
    off = deviations(order, answer["nsr"])
    print(name, target, off)
    assert max(off.values()) < (3 if setting.table else 2) * CLOSE
