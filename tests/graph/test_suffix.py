# SPDX-License-Identifier: Apache-2.0
"""Suffix runs give what two full runs give, for every unit, however the graph is cut."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from analyzer.calibrate import calibrate
from analyzer.graph import suffix
from analyzer.graph.build import GraphBuilder, emit, slots_by_node
from analyzer.graph.segments import cut, depth_first_order, for_probes
from analyzer.graph.session import open_session, run
from analyzer.graph.suffix import SuffixRuns, Unit, altered
from analyzer.graph.view import GraphView
from analyzer.place import place
from analyzer.probe import units_of
from analyzer.records import Setting
from analyzer.targets.espdl import ESP32P4
from analyzer.targets.onnxruntime import ONNXRUNTIME


def feeds_of(model, seed):
    rng = np.random.default_rng(seed)
    feeds = {}
    for spec in model.inputs:
        shape = tuple(spec.shape)
        if spec.dtype == "float32":
            feeds[spec.name] = rng.standard_normal(shape).astype(np.float32)
            if len(shape) == 4 and shape[2] > 32:
                # dots on a bright page: a detector of text is silent on plain noise
                feeds[spec.name][...] = 2
                line = feeds[spec.name][:, :, 24:40, 10:80]
                line[...] = np.where(rng.random(line.shape[2:]) < 0.5, -2, 2)
        elif spec.dtype == "bool":
            feeds[spec.name] = np.asarray(rng.random(shape) < 0.5)
        else:  # token ids below 512, or the sample rate
            low, high = (16000, 16001) if spec.name == "sr" else (0, 512)
            feeds[spec.name] = np.asarray(rng.integers(low, high, shape))
    return feeds


def calibrated_units(model, target=ESP32P4, layers=None):
    graph, plan = place(model, target, Setting(observer="minmax"))
    plan = calibrate(graph, plan, target, [feeds_of(model, seed) for seed in range(2)])
    return graph, units_of(plan, layers or plan.layers), plan


def full_run(model, quantizers, feeds):
    """Run the whole model in one session, float outputs only."""
    view = GraphView(model.proto.graph)
    builder = GraphBuilder(model, view)
    made = emit(
        builder, model.proto.graph.node, prefix="", outside=lambda t: builder.input(t, t),
        slots=slots_by_node(quantizers),
    )  # fmt: skip
    outputs = [t for t in view.outputs if model.dtypes[t] == "float32"]
    for tensor in outputs:
        builder.output(made[tensor], tensor)
    session = open_session(builder.serialize())
    read = {i.name for i in session.get_inputs()}
    names = [made[t] for t in outputs]
    result = session.run(names, {k: v for k, v in feeds.items() if k in read})
    return dict(zip(outputs, result, strict=True))


def nsr_of_runs(noisy, plain):
    """NSR per output by numpy in float64."""
    found = {}
    for name, reference in plain.items():
        reference = reference.astype(np.float64)
        noise = noisy[name].astype(np.float64) - reference
        found[name] = (noise**2).sum() / (reference**2).sum() if noise.any() else 0.0
    return found


def cut_every(length):
    def cut_there(model, view, units, *, samples):
        order = depth_first_order(view)
        return cut(view, order, [*range(length, len(order), length), len(order)])

    return cut_there


CUTS = {"own": for_probes, "every node": cut_every(1), "every third": cut_every(3)}


def conv(rng, *shape):
    return (rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)


def skip(bind):
    """Two skip connections, one of them behind a Relu."""
    rng = np.random.default_rng(0)
    return bind(
        """g (float[1,3,6,6] x) => (float[1,4,6,6] y) {
            [c0] h0 = Conv(x, w0)  [r0] a0 = Relu(h0)
            [c1] h1 = Conv<pads = [1,1,1,1]>(a0, w1)  [add1] s1 = Add(h1, a0)
            [r1] a1 = Relu(s1)
            [c2] h2 = Conv(a1, w2)  [add2] s2 = Add(h2, s1)
            [c3] y = Conv(s2, w3)
        }""",
        w0=conv(rng, 4, 3, 1, 1), w1=conv(rng, 4, 4, 3, 3), w2=conv(rng, 4, 4, 1, 1),
        w3=conv(rng, 4, 4, 1, 1),
    )  # fmt: skip


def branches(bind):
    """Split and Concat, three outputs; one is read inside, one depends on little."""
    rng = np.random.default_rng(1)
    return bind(
        """g (float[1,4,5,5] x) => (float[1,4,5,5] mid, float[1,8,5,5] y, float[1,4,1,1] side) {
            [c0] mid = Conv(x, w0)
            [split] p, q = Split<axis = 1>(mid, halves)
            [c1] b1 = Conv(p, w1)  [sig] g1 = Sigmoid(b1)
            [c2] b2 = Conv(q, w2)
            [mul] m = Mul(b2, g1)
            [cat] k = Concat<axis = 1>(m, mid, q)
            [c3] y = Conv(k, w3)
            [pool] p0 = GlobalAveragePool(x)
            [c4] side = Conv(p0, w0)
        }""",
        halves=np.array([2, 2]), w0=conv(rng, 4, 4, 1, 1), w1=conv(rng, 2, 2, 1, 1),
        w2=conv(rng, 2, 2, 1, 1), w3=conv(rng, 8, 8, 1, 1),
    )  # fmt: skip


def condition(bind):
    """An If whose bodies capture a quantized tensor."""
    rng = np.random.default_rng(2)
    return bind(
        """g (float[2,4] x, bool c) => (float[2,3] y, float[2,3] z) {
            [fc0] h = Gemm(x, w0)  [act] a = Relu(h)
            [pick] k = If (c) <
                then_branch = t () => (float[2,4] u) { n = Neg(a)  u = Tanh(n) },
                else_branch = e () => (float[2,4] v) { v = Add(a, h) }
            >
            [fc1] y = Gemm(k, w1)
            [fc2] z = MatMul(a, w1)
        }""",
        w0=conv(rng, 4, 4), w1=conv(rng, 4, 3),
    )  # fmt: skip


def silu(bind):
    """SiLU, a MatMul of two activations and a Softmax."""
    rng = np.random.default_rng(3)
    return bind(
        """g (float[1,6,8] x) => (float[1,6,8] y) {
            [q] h = MatMul(x, w0)  [gate] s = Sigmoid(h)  [times] a = Mul(h, s)
            [t] b = Transpose<perm = [0,2,1]>(a)
            [qk] k = MatMul(a, b)  [soft] p = Softmax<axis = 2>(k)
            [pv] y = MatMul(p, a)
        }""",
        w0=conv(rng, 8, 8),
    )  # fmt: skip


NETS = [skip, branches, condition, silu]


@pytest.mark.parametrize("target", [ESP32P4, ONNXRUNTIME], ids=lambda t: t.name)
@pytest.mark.parametrize("where", CUTS)
@pytest.mark.parametrize("net", NETS)
def test_suffix_runs_equal_full_runs(bind, monkeypatch, net, where, target):
    """Every single layer and some sets of layers: the NSR of two full runs at every output."""
    monkeypatch.setattr(suffix, "for_probes", CUTS[where])
    graph, units, _ = calibrated_units(net(bind), target)
    several = [
        Unit("first and last", units[0].quantizers + units[-1].quantizers),
        Unit("all", tuple(q for unit in units for q in unit.quantizers)),
        Unit("every other", tuple(q for unit in units[::2] for q in unit.quantizers)),
    ]
    runs = SuffixRuns(graph, [*units, *several], samples=2)
    for seed in (10, 11):
        feeds = feeds_of(graph, seed)
        plain = runs.plain(feeds)
        reference = full_run(graph, (), feeds)
        for unit in [*units, *several]:
            expected = nsr_of_runs(full_run(graph, unit.quantizers, feeds), reference)
            found = runs.nsr(unit.name, plain)
            for tensor, nsr in expected.items():
                # noise is a difference of float32 outputs: their own rounding, 1e-7, remains
                allowed = 1e-5 * nsr + 1e-7 * nsr**0.5 + 1e-12
                assert found[tensor] == pytest.approx(nsr, rel=0, abs=allowed), unit.name


@pytest.mark.parametrize("where", CUTS)
@pytest.mark.parametrize("net", NETS)
def test_changes_of_a_quantized_base_equal_full_runs(bind, monkeypatch, net, where):
    """One quantizer taken out or widened, all others on: the NSR of a full run of that plan."""
    monkeypatch.setattr(suffix, "for_probes", CUTS[where])
    graph, _, plan = calibrated_units(net(bind))
    active = {q.key: q for q in plan.quantizers if q.active}
    base = slots_by_node(active.values())
    wide = {k: replace(q, qmin=-32768, qmax=32767) for k, q in active.items()}
    changes = {
        **{f"without {key}": {key: None} for key in active},
        **{f"wide {key}": {key: wide[key]} for key in active},
        "without two": dict.fromkeys(list(active)[::3]),
        "all wide": wide,
    }
    units = [altered(name, base, change) for name, change in changes.items()]
    runs = SuffixRuns(graph, units, samples=2, base=active.values())
    feeds = feeds_of(graph, 10)
    plain = runs.plain(feeds)
    reference = full_run(graph, (), feeds)
    everything = nsr_of_runs(full_run(graph, active.values(), feeds), reference)
    assert plain.nsr == pytest.approx(everything, rel=1e-5)
    for name, change in changes.items():
        quantizers = [q for q in {**active, **change}.values() if q is not None]
        expected = nsr_of_runs(full_run(graph, quantizers, feeds), reference)
        assert runs.nsr(name, plain) == pytest.approx(expected, rel=1e-5, abs=1e-12), name


def test_a_dropped_unit_runs_again(bind):
    """Sessions that were given back are compiled anew, and give the same NSR to the bit."""
    graph, units, _ = calibrated_units(branches(bind))
    runs = SuffixRuns(graph, units, samples=1)
    plain = runs.plain(feeds_of(graph, 10))
    first = {unit.name: runs.nsr(unit.name, plain) for unit in units}
    for unit in units:
        runs.drop(unit.name)
    assert {unit.name: runs.nsr(unit.name, plain) for unit in units} == first


def test_outputs_that_do_not_depend_on_the_unit_are_exactly_zero(bind):
    """The side output reads only the graph input: no rounding may leak into it."""
    graph, units, _ = calibrated_units(branches(bind))
    runs = SuffixRuns(graph, units, samples=1)
    plain = runs.plain(feeds_of(graph, 10))
    silent = {
        unit.name: tuple(sorted(t for t, n in runs.nsr(unit.name, plain).items() if n == 0))
        for unit in units
    }
    assert silent == {
        "c0": ("side",),
        **dict.fromkeys(["c1", "c2", "c3", "cat", "mul", "sig"], ("mid", "side")),
        **dict.fromkeys(["c4", "pool"], ("mid", "y")),
    }


def test_a_unit_names_each_node_once():
    """Several quantizers of one node are one perturbed layer."""
    quantizers = tuple(SimpleNamespace(node=name) for name in ["a", "b", "a"])
    assert Unit("u", quantizers).nodes == ("a", "b")


def test_the_power_of_the_plain_outputs(bind):
    """What noise is divided by is the sum of squares of the FP32 outputs."""
    graph, units, _ = calibrated_units(branches(bind))
    feeds = feeds_of(graph, 10)
    expected = {
        t: float(np.sum(np.square(y, dtype=np.float64)))
        for t, y in full_run(graph, (), feeds).items()
    }
    runs = SuffixRuns(graph, units, samples=1)
    assert runs.plain(feeds).power == pytest.approx(expected, rel=1e-6)


def noisy_outputs(runs, unit, plain):
    """Walk the route of `unit` as `SuffixRuns.nsr` does, and return the output tensors."""
    outputs = {t: plain.values[t].numpy() for t in runs.outputs}
    noisy = {}
    for step in runs._routes[unit]:
        compiled = runs._compiled(step.part)
        inputs = step.part.inputs
        feeds = {t: noisy[t] if t in step.noisy else plain.values[t] for t in inputs}
        feeds.update(("ref:" + t, plain.reference[t]) for t in step.part.outputs)
        wanted = [
            *(compiled.made[t] for t in step.keeps),
            *(compiled.noise[t] for t in step.outputs),
        ]
        made = run(compiled.session, wanted, feeds)
        noisy.update((t, made[compiled.made[t]]) for t in step.keeps)
        for t in step.outputs:
            outputs[t] = plain.reference[t].numpy().astype(np.float64)
            outputs[t] += made[compiled.noise[t]].numpy()
    return outputs


QUICK = ["mnist_cntk", "resnet8_cifar10", "ad_autoencoder", "vww_mobilenet"]
LONG = [
    "espdet_pico_cat", "face_rfb320", "mobilenet_v1_025_imagenet", "ppocrv3_det",
    "silero_vad_16k", "squeezenet_fp16", "squeezenet_imagenet", "stories260k",
    "superres_subpixel", "yolo11n", "yolo11n_heads", "yolox_nano",
]  # fmt: skip
SHAPES = {
    "ppocrv3_det": {"x": (1, 3, 64, 96)},
    "silero_vad_16k": {"input": (2, 576), "state": (2, 2, 128), "sr": ()},
}


@pytest.mark.parametrize(
    "name", [*QUICK, *(pytest.param(n, marks=pytest.mark.slow) for n in LONG)]
)
def test_suffix_runs_of_real_models_equal_full_runs(shared, name):
    """Output tensors within 1e-6 of the full run, NSRs accordingly, a handful of layers."""
    graph, units, plan = calibrated_units(shared(name, **SHAPES.get(name, {})))
    rows = [unit for unit in units if unit.name in plan.computing]
    some = [rows[0], units[1], rows[len(rows) // 2], *rows[-2:]]
    chosen = list({unit.name: unit for unit in some}.values())
    runs = SuffixRuns(graph, chosen, samples=1)
    feeds = feeds_of(graph, 20)
    plain = runs.plain(feeds)
    reference = full_run(graph, (), feeds)
    for unit in chosen:
        full = full_run(graph, unit.quantizers, feeds)
        outputs = noisy_outputs(runs, unit.name, plain)
        for tensor, expected in full.items():
            error = np.sort(np.abs(outputs[tensor] - expected), axis=None)
            # where the unit quantizes the output itself, a value that float32 leaves on either
            # side of a tie moves by a whole step: one in 10 000 may
            error = error[: error.size - error.size // 10_000]
            assert np.linalg.norm(error) <= 1e-6 * np.linalg.norm(expected), (unit.name, tensor)
        expected = nsr_of_runs(full, reference)
        found = runs.nsr(unit.name, plain)
        for tensor, nsr in expected.items():
            # an output that is off by 1e-6 has an NSR that is off by 2e-6 of its square root
            allowed = 1e-4 * nsr + 2e-6 * nsr**0.5 + 1e-12
            assert found[tensor] == pytest.approx(nsr, rel=0, abs=allowed), unit.name
