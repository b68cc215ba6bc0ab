# SPDX-License-Identifier: Apache-2.0
"""QA101, QA102, QA107 and QA109: what makes a grid coarse, and the grid without it."""

from __future__ import annotations

import numpy as np
import pytest

from analyzer.diagnose.activations import (
    constant_channels,
    lying_out,
    outlier_channels,
    outlier_values,
    shifted,
)

EDGE = 12  # pixels


@pytest.fixture
def relu(bind, case_of, quantizer):
    """Return a function: values of 8 channels, scale -> case of a Relu on that grid."""
    model = bind(
        f"g (float[1,8,{EDGE},{EDGE}] x) => (float[1,8,{EDGE},{EDGE}] y) {{ [r] y = Relu(x) }}"
    )

    def make(values, scale, zero=0, **fields):
        q = quantizer("r", "out0", "y", scale, zero, **fields)
        return case_of(model, [q], [{"x": values.astype(np.float32)}])

    return make


def even(reaches):
    """Return values that grow evenly from 0 to the reach of each channel."""
    ramp = np.linspace(0, 1, EDGE * EDGE).reshape(EDGE, EDGE)
    return np.asarray(reaches, np.float64)[None, :, None, None] * ramp


def spiked(values, channels, spike):
    values = values.copy()
    values[0, channels, 5, 5] = spike
    return values


def test_an_outlier_channel_gets_a_scale_of_its_own(relu):
    """One of eight channels reaches 508, the others 4 to 6: these get the scale of 6."""
    case = relu(even([4, 5, 6, 508, 6, 5, 4, 5]), 4.0)
    (found,) = outlier_channels(case)
    assert (found.code, found.layer) == ("QA101", "r")
    assert (found.evidence["channel"], found.evidence["channels_out"]) == (3, 1)
    assert found.evidence["range_ratio"] == pytest.approx(508 / 5)
    (changed,) = found.changes.values()
    assert changed.axis == 1
    # 6 / 127 rounded up to a power of two; the outlier keeps its 4
    np.testing.assert_array_equal(changed.scale, [0.0625] * 3 + [4.0] + [0.0625] * 4)


def test_scales_that_are_no_powers_of_two_stay_exact(relu):
    """On another target's grid the scale is that of the range: 6.35 / 127."""
    case = relu(even([4, 5, 6.35, 635, 6, 5, 4, 5]), 5.1)
    (found,) = outlier_channels(case)
    (changed,) = found.changes.values()
    np.testing.assert_allclose(changed.scale, [0.05] * 3 + [5.0] + [0.05] * 4)


@pytest.mark.parametrize(
    "reaches",
    [
        pytest.param([4, 5, 6, 35, 6, 5, 4, 5], id="seven times"),
        pytest.param([4, 5, 600, 508, 6, 5, 4, 5], id="two of eight"),
        pytest.param([0, 0, 0, 0, 0, 5, 4, 508], id="three alive"),
    ],
)
def test_channels_that_differ_less_or_are_many_are_none(relu, reaches):
    """Below eight times the usual reach, or more than one in eight, or hardly any to compare."""
    assert not list(outlier_channels(relu(even(reaches), 4.0)))


def test_the_usual_reach_is_that_of_living_channels():
    """Channels that are always zero are no measure."""
    spans = np.array([0, 0, 0, 0, 0, 1, 1, 1, 20, 1], float)
    assert lying_out(spans).tolist() == [False] * 8 + [True, False]
    assert lying_out(np.full(4, np.inf)) is None


def test_spikes_are_values_not_channels(relu):
    """A single value of a channel: QA102, with the step of the rest and levels for all."""
    values = spiked(even([4, 5, 6, 4, 6, 5, 4, 5]), [2], 500.0)
    case = relu(values, 4.0)
    assert not list(outlier_channels(case))
    (found,) = outlier_values(case)
    usual = float(np.percentile(values.astype(np.float32), 99.9))
    assert found.evidence["range_ratio"] == pytest.approx(500 / usual)
    (changed,) = found.changes.values()
    assert (changed.scale.item(), changed.axis) == (0.0625, None)
    # twice 500 in steps of 1/16
    assert (changed.qmin, changed.qmax) == (-128, 16000)


def test_an_outlier_channel_is_not_told_as_values(relu):
    """A whole channel that lies out is QA101's."""
    assert not list(outlier_values(relu(even([1, 1, 1, 508, 1, 1, 1, 1]), 4.0)))


def test_a_constant_channel_beyond_the_others_is_taken_out(relu):
    """It holds 800 throughout; the others share the scale of 6."""
    values = even([4, 5, 6, 1, 6, 5, 4, 5])
    values[:, 3] = 800.0
    (found,) = constant_channels(relu(values, 8.0))
    assert (found.code, found.evidence["channels"]) == ("QA107", [3])
    assert found.evidence["range_ratio"] == pytest.approx(800 / 6)
    (changed,) = found.changes.values()
    np.testing.assert_array_equal(changed.scale, [0.0625] * 3 + [8.0] + [0.0625] * 4)


def test_a_constant_channel_among_the_others_does_no_harm(relu):
    """Within their range it takes no levels."""
    values = even([4, 5, 6, 1, 6, 5, 4, 5])
    values[:, 3] = 6.0
    assert not list(constant_channels(relu(values, 0.0625)))


def test_half_a_grid_becomes_a_whole_one(relu):
    """Behind a Relu: 0 to 15.9 on +-16 becomes 256 levels from 0, a step of half the size."""
    (found,) = shifted(relu(even([15.9] * 8), 0.125))
    assert found.code == "QA109"
    assert found.evidence["used_share"] == pytest.approx((15.875 - 0) / (15.875 + 16))
    (changed,) = found.changes.values()
    assert (changed.scale.item(), changed.zero_point.item()) == (0.0625, 0)
    assert (changed.qmin, changed.qmax) == (0, 255)


def test_a_grid_that_is_used_on_both_sides_is_not_shifted(bind, case_of, quantizer):
    """-4 to 16 uses enough of +-16; and an affine grid has no other half."""
    model = bind("g (float[1,8] x) => (float[1,8] y) { [i] y = Identity(x) }")
    samples = [{"x": np.linspace(-4, 16, 8, dtype=np.float32)[None]}]
    q = quantizer("i", "out0", "y", 0.125)
    assert not list(shifted(case_of(model, [q], samples)))
    q = quantizer("i", "out0", "y", 0.1, -128, symmetric=False)
    assert not list(shifted(case_of(model, [q], [{"x": np.abs(samples[0]["x"])}])))


def test_values_far_from_zero_get_a_grid_of_their_own(relu):
    """100 to 125.5 on steps of 0.51 from zero: 255 steps of 0.1, where zero is no level."""
    values = 100 + even([25.5] * 8)
    (found,) = shifted(relu(values, 0.51, -128, symmetric=False))
    assert found.evidence["used_share"] == pytest.approx(25.5 / (255 * 0.51))
    (changed,) = found.changes.values()
    assert changed.scale.item() == pytest.approx(0.1)
    assert (changed.zero_point.item(), changed.qmin, changed.qmax) == (0, 1000, 1255)


def test_values_far_from_zero_may_lie_beyond_their_grid(relu):
    """240 to 265.5 on steps of 2 that end at 254: the finer grid holds them all."""
    (found,) = shifted(relu(240 + even([25.5] * 8), 2.0))
    (changed,) = found.changes.values()
    assert (changed.scale.item(), changed.qmin) == (0.125, 240 * 8)


def test_marks_in_every_channel_are_values(relu):
    """One value in a hundred, in each channel, far beyond a gap: more than a thousandth."""
    values = even([4, 5, 6, 4, 6, 5, 4, 5])
    values[0, :, 5, 5] = 500.0
    (found,) = outlier_values(relu(values, 4.0))
    assert found.evidence["usual"] == 6.0
    assert found.evidence["share"] == pytest.approx(1 / EDGE**2)


def test_all_quantizers_of_a_grid_change_together(bind, case_of, quantizer):
    """The tensor, its reshaped copy and the Concat's output share a grid: one finding, where the
    channel is made; on every tensor the scales follow its own channels.
    """
    model = bind(
        f"""g (float[1,8,{EDGE},{EDGE}] x) => (float[1,16,{EDGE},{EDGE}] y) {{
            [r] a = Relu(x)  [s] b = Sigmoid(x)  [c] y = Concat<axis=1>(a, b)
        }}"""
    )
    grid = [quantizer("r", "out0", "a", 4.0), quantizer("c", "out0", "y", 4.0)]
    samples = [{"x": even([4, 5, 6, 508, 6, 5, 4, 5]).astype(np.float32)}]
    (found,) = outlier_channels(case_of(model, grid, samples))
    assert (found.layer, found.evidence["tensor"]) == ("r", "a")
    own = [0.0625] * 3 + [4.0] + [0.0625] * 4
    np.testing.assert_array_equal(found.changes["r", "out0"].scale, own)
    np.testing.assert_array_equal(found.changes["c", "out0"].scale, own + [0.0625] * 8)
