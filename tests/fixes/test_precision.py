# SPDX-License-Identifier: Apache-2.0
"""Wider layers: sets that are closed over shared scales, in an order that is always the same."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from analyzer.fixes.precision import MOST, classes, precision_remedies, wider
from analyzer.fixes.remedy import applied
from analyzer.place import place
from analyzer.records import LayerError, Setting, Source
from analyzer.targets import get_target, target_names
from analyzer.targets.espdl import ESP32P4

JOINS = """g (float[1,3,5,5] x) => (float[1,8,5,5] y, float[1,4,5,5] z) {
    [a] p = Conv(x, w0)  [b] q = Conv(x, w1)  [sum] s = Add(p, q)
    [c] u = Conv(s, w2)  [d] v = Conv(s, w3)  [cat] y = Concat<axis = 1>(u, v)
    [e] h = Conv(s, w4)  [r] z = Relu(h)
}"""
ORDER = ["a", "b", "sum", "c", "d", "cat", "e", "r"]
CLOSED = [("a", "b", "sum"), ("c", "d", "cat"), ("e",), ("r",)]


@pytest.fixture
def model(bind):
    rng = np.random.default_rng(0)
    shapes = [(4, 3, 1, 1), (4, 3, 1, 1), (4, 4, 1, 1), (4, 4, 1, 1), (4, 4, 1, 1)]
    weights = {f"w{n}": rng.standard_normal(s).astype(np.float32) for n, s in enumerate(shapes)}
    return bind(JOINS, **weights)


@pytest.fixture
def samples():
    return [{"x": np.random.default_rng(1).standard_normal((1, 3, 5, 5)).astype(np.float32)}]


def noisy(name, nsr, *layers):
    return Source(name, "group", layers, (), nsr=nsr)


SOURCES = [noisy("e", 0.5, "e"), noisy("ce", 0.3, "c", "e"), noisy("a", 0.2, "a")]


@pytest.fixture
def situation(model, samples, told):
    return told(model, ESP32P4, samples, Setting("minmax"), sources=SOURCES)


def test_layers_that_write_with_one_scale(situation):
    """Both inputs of the Add with it, both of the Concat with it; all others alone."""
    found = classes(situation.plan)
    assert set(found.values()) >= {*CLOSED[:2]}
    for layers in CLOSED[:2]:
        for layer in layers:
            assert found[layer] == layers


def test_every_set_is_closed(situation):
    """Whoever shares a scale with a layer that is moved is moved along."""
    remedies = precision_remedies(situation)
    assert {r.layers for r in remedies} >= {*CLOSED[:2]}
    for remedy in remedies:
        for layers in CLOSED[:2]:
            assert set(layers) <= set(remedy.layers) or not set(layers) & set(remedy.layers)
        assert list(remedy.layers) == sorted(remedy.layers, key=ORDER.index)


def test_no_narrow_quantizer_follows_a_wide_one(model, situation):
    """Placed by the target: nothing active has the scale of what has another number of bits."""
    for remedy in precision_remedies(situation):
        _, plan = place(model, ESP32P4, applied(situation.setting, [remedy]))
        bits = {q.key: q.bits for q in plan.quantizers}
        mixed = [
            q.key for q in plan.quantizers
            if q.active and q.role != "bias" and q.follows and bits[q.follows] != q.bits
        ]  # fmt: skip
        assert mixed == [], remedy.title
        moved = {n for n, p in plan.precision.items() if p == remedy.after}
        assert moved >= set(remedy.layers)  # the target may take an activation along


def test_the_loudest_come_first(situation):
    """By hand: e makes 0.5 and is part of 0.3; a source is closed like any set."""
    remedies = precision_remedies(situation)
    expected = [r.expected for r in remedies]
    assert expected == sorted(expected, reverse=True)
    found = {(r.layers, r.after): r.expected for r in remedies}
    assert found[("e",), "int16"] == pytest.approx(0.8)
    assert found[("a", "b", "sum"), "int16"] == pytest.approx(0.2)
    assert found[("c", "d", "cat"), "int16"] == pytest.approx(0.3)
    assert found[("c", "d", "cat", "e"), "int16"] == pytest.approx(1.1)
    assert {r.before for r in remedies} == {"int8"}


def test_rows_count_where_they_are_louder(situation):
    """A layer that is in no source still has its own error: 0.9 of a total of 1."""
    rows = [LayerError("r", "Relu", isolated_nsr=0.9), LayerError("e", "Conv", isolated_nsr=0.1)]
    remedies = precision_remedies(replace(situation, rows=rows))
    found = {(r.layers, r.after): r.expected for r in remedies}
    assert found[("r",), "int16"] == pytest.approx(0.9)
    assert found[("e",), "int16"] == pytest.approx(0.8)


def test_the_order_is_always_the_same(model, samples, told):
    """Two situations made anew: the same remedies."""
    one, other = (
        precision_remedies(told(model, ESP32P4, samples, Setting("minmax"), sources=SOURCES))
        for _ in range(2)
    )
    assert one == other
    assert len({(r.layers, r.after) for r in one}) == len(one)


def test_layers_that_are_wide_already_are_left_out(model, samples, told):
    """What the user moved stays as it is, alone and in sets."""
    setting = Setting("minmax", table=dict.fromkeys(("a", "b", "sum"), "int16"))
    remedies = precision_remedies(told(model, ESP32P4, samples, setting, sources=SOURCES))
    assert remedies
    assert not {"a", "b", "sum"} & {layer for r in remedies for layer in r.layers}


def test_a_layer_and_the_one_that_reads_it(situation):
    """e and its Relu are tried together; s has three readers."""
    assert ("e", "r") in {r.layers for r in precision_remedies(situation)}


def test_there_are_not_too_many(bind, told):
    """A chain of 120 layers, two precisions: a limited number, the loudest one among them."""
    text = " ".join(f"[n{i}] t{i + 1} = MatMul(t{i}, w)" for i in range(120))
    model = bind(f"g (float[1,2] t0) => (float[1,2] t120) {{ {text} }}", w=np.eye(2, dtype="f4"))
    samples = [{"t0": np.float32([[1, -1]])}]
    sources = [noisy("n77", 1.0, "n77"), noisy("n3", 0.5, "n3")]
    remedies = precision_remedies(
        told(model, ESP32P4, samples, Setting("minmax"), sources=sources)
    )
    assert len(remedies) == MOST
    assert "n77" in remedies[0].layers


@pytest.mark.parametrize(
    ("target", "precisions"),
    [
        ("esp32p4", ("int16", "w8a16")),  # float takes 16 times as long
        ("esp32s3", ("int16", "w8a16")),  # 1.9, 1.9, 7: two at most
        ("onnxruntime", ("fp32", "s16s8")),  # 2.5, 3, 3; other 8-bit schemes are not wider
        ("openvino", ("fp32",)),
        ("qnn", ("a16w8", "fp32")),
        ("tensorrt", ("fp16", "fp32")),
        ("tflite", ("fp32", "int16x8")),
        ("pytorch", ("fp32",)),
    ],
)
def test_what_is_wider_per_target(target, precisions):
    """The two cheapest by the factors that the targets state."""
    target = get_target(target)
    default = "a8w8" if target.name == "qnn" else "int8"
    assert wider(target, default) == precisions


def test_wider_for_the_same_time():
    """An ESP32 multiplies 16 bits as fast as 8: these are offered, before float."""
    assert wider(get_target("esp32"), "int8")[0] == "int16"


@pytest.mark.parametrize("name", target_names())
def test_8_bits_are_never_wider(name):
    """Whatever the default is, neither itself nor 8 bits are a remedy."""
    target = get_target(name)
    for precision in target.precisions:
        assert not {precision, "int8", "u8s8", "u8u8", "a8w8"} & {*wider(target, precision)}


@pytest.mark.parametrize("name", target_names())
def test_nothing_is_wider_than_float(name):
    """Not even 16-bit integers, which some tools run slower than float."""
    assert wider(get_target(name), "fp32") == ()
