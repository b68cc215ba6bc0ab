# SPDX-License-Identifier: Apache-2.0
"""What observers of one array share is what each of them would find alone."""

import numpy as np
import pytest

from analyzer.quant.observers import KL, MSE, MinMax, Percentile, Shown, magnitude_counts, show
from analyzer.quant.observers import order_statistics as found


def arrays() -> dict[str, np.ndarray]:
    """Return arrays whose magnitudes meet every rule of binning."""
    values = np.random.default_rng(3).standard_normal(200_000).astype(np.float32)
    masked = values.copy()
    masked[::7] = -np.inf
    return {
        "normal": values,
        "relu": np.maximum(values, 0),
        "few": np.round(values),
        "masked": masked,
        "subnormal": values * np.float32(1e-40),
        "constant": np.full(100_000, 0.3, np.float32),
    }


@pytest.mark.parametrize("name", arrays())
@pytest.mark.parametrize("bins", [256, 2048, 4096, 1 << 14])
def test_shared_counts_are_those_of_the_width_asked_for(name, bins):
    """Bins summed from finer ones hold what the wide ones count by themselves."""
    x = arrays()[name]
    amax = np.abs(x[np.isfinite(x)]).max()
    shown = Shown(x)
    shown.magnitude_counts(amax, 4096)
    assert (shown.magnitude_counts(amax, bins) == magnitude_counts(x, amax, bins)).all()


@pytest.mark.parametrize("name", arrays())
def test_order_statistics_are_those_of_the_sorted_values(name):
    """Looking at the tails alone gives the elements that sorting gives."""
    x = arrays()[name]
    ordered = np.sort(x)
    low, high = int(x.size * (1 - 0.9999)), int(x.size * 0.9999)
    assert found(x) == (ordered[low], ordered[high])


def test_nan_sorts_last_in_large_arrays_too():
    """A NaN stands at the upper end, as np.partition has it."""
    x = arrays()["normal"]
    x[5] = np.nan
    ordered = np.sort(x)
    assert found(x) == (ordered[int(x.size * (1 - 0.9999))], ordered[int(x.size * 0.9999)])


def test_together_and_alone_observers_find_the_same():
    """Four observers of the same arrays agree to the bit with four that see their own."""
    together, alone = ([KL(8), MinMax(), Percentile(), MSE(8)] for _ in range(2))
    for phase in (0, 1):
        for x in (arrays()["normal"], arrays()["relu"]):
            shown = Shown(x)
            for one, other in zip(together, alone, strict=True):
                show(one, shown, phase)
                other.update(x, phase)
    assert [o.result() for o in together] == [o.result() for o in alone]
