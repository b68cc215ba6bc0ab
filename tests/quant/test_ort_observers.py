# SPDX-License-Identifier: Apache-2.0
"""onnxruntime's calibrators, against its own HistogramCollector."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnxruntime.quantization.calibrate import HistogramCollector

from analyzer.quant.ort_observers import make_ort_observer

REAL = {  # as `create_calibrator` fills in what `quantize_static` leaves open
    "percentile": {"symmetric": True, "num_bins": 2048, "num_quantized_bins": 2048},
    "entropy": {"symmetric": False, "num_bins": 128, "num_quantized_bins": 128},
}


def observed(name, arrays):
    """Return what our observer finds, fed as the calibrate stage does."""
    observer = make_ort_observer(name)
    for phase in range(observer.phases + 1):  # phases of another observer may follow
        for array in arrays:
            observer.update(array, phase)
    found = observer.result()
    return found.lo, found.hi


def real(name, arrays):
    """Return the thresholds of onnxruntime's collector for all arrays at once."""
    collector = HistogramCollector(
        method=name, percentile=99.999, scenario="same", **REAL[name]
    )  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()):
        collector.collect({"t": list(arrays)})
        low, high, *_ = collector.compute_collection_result()["t"]
    return float(low), float(high)


@st.composite
def streams(draw):
    """Some arrays of one size: any scale, offset, sign and tail."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    size, count = draw(st.integers(1, 3000)), draw(st.integers(1, 4))
    scale = 10.0 ** draw(st.integers(-6, 6))
    shift = draw(st.sampled_from([0.0, 0.0, 5.0, -5.0]))
    values = rng.standard_normal((count, size)) ** draw(st.sampled_from([1, 1, 3])) + shift
    if draw(st.booleans()):
        values = np.maximum(values, 0)
    return list((values * scale).astype(np.float32))


@pytest.mark.parametrize("name", REAL)
@given(arrays=streams())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_thresholds_are_onnxruntimes_to_the_bit(name, arrays):
    """Streamed in two passes or collected at once: the same thresholds, cut to the data."""
    found = observed(name, arrays)
    if found == observed("minmax", arrays) and name == "percentile":
        # either nothing is cut, or so narrow a range has no bins and quantize_static fails
        with contextlib.suppress(ValueError):
            assert found == real(name, arrays)
    else:
        assert found == real(name, arrays)


@pytest.mark.parametrize("name", REAL)
@pytest.mark.parametrize("values", [[0.0], [0, 0, 0], [2, 2], [-3, -3, -3]])
def test_constant_tensors_agree_as_well(name, values):
    """A histogram of one value has bins around it."""
    arrays = [np.float32(values)]
    assert observed(name, arrays) == real(name, arrays)


def test_a_percentile_by_hand():
    """Of 0..200000 in 2048 bins, 99.999 % lie below the last bin's left edge or in it."""
    x = np.arange(200001, dtype=np.float32)
    low, high = observed("percentile", [x])
    assert (low, high) == (0.0, float(np.float32(200000 * 2047 / 2048)))


@pytest.mark.parametrize("name", ["minmax", "percentile", "entropy"])
def test_nothing_seen_is_no_range(name):
    """Empty tensors, and no tensor at all."""
    assert observed(name, [np.zeros((0, 4), np.float32)]) == (0.0, 0.0)
    assert observed(name, []) == (0.0, 0.0)


def test_an_unknown_name_lists_the_known():
    """A bug in a target must show at once."""
    with pytest.raises(ValueError, match=r"'kl'.*minmax, percentile, entropy"):
        make_ort_observer("kl")
