# SPDX-License-Identifier: Apache-2.0
"""Free remedies for the whole network: how ranges are found, and how fine weight scales are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from analyzer.fixes.remedy import Remedy
from analyzer.fixes.situation import Situation


def calibration_remedies(situation: Situation) -> Sequence[Remedy]:
    """Return every other observer that the target has, and scales per channel where there are.

    None of them costs anything at run time.  Observers stand in the order in which the target
    names them: which one fits is not to be seen without trying.
    """
    target, setting = situation.target, situation.setting
    now = current_observer(situation)
    found = [
        Remedy("calibration", (), now, observer, observer=observer)
        for observer in target.observers
        if observer != now
    ]
    granularity = setting.granularity or target.granularities[0]
    if granularity == "tensor" and "channel" in target.granularities:
        found.append(Remedy("granularity", (), "tensor", "channel", granularity="channel"))
    return found


def current_observer(situation: Situation) -> str:
    """Return the observer that most activations have, whoever chose it."""
    if situation.setting.observer is not None:
        return situation.setting.observer
    used = Counter(
        q.observer
        for q in situation.plan.quantizers
        if q.active and q.role in ("input", "activation") and q.observer is not None
    )
    offered = [name for name in situation.target.observers if used[name]]
    return max(offered, key=lambda name: used[name], default=situation.target.observers[0])
