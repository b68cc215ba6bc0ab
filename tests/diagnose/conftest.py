# SPDX-License-Identifier: Apache-2.0
"""Cases made by hand: a model, its quantizers, one source of noise with all of them."""

from __future__ import annotations

import numpy as np
import pytest

from analyzer.diagnose.case import Case
from analyzer.records import Balance, Quantizer, QuantPlan, Source


@pytest.fixture
def case_of():
    """Return a function: model, quantizers, samples -> case with one source, or those given."""

    def make(model, quantizers, samples, **sources):
        layers = tuple(node.name for node in model.proto.graph.node)
        precision = dict.fromkeys(layers, "int8")
        plan = QuantPlan("none", layers, frozenset(), precision, tuple(quantizers))
        keys = tuple(q.key for q in quantizers)
        found = (
            [Source("all", "group", layers, keys, nsr=1.0)] if not sources else sources.values()
        )
        return Case(model, plan, None, (), (), Balance(tuple(found)), samples, None)

    return make


@pytest.fixture
def quantizer():
    """Return a function that makes a calibrated quantizer of 8 bits."""

    def make(node, slot, tensor, scale, zero=0, *, role="activation", **fields):
        scales = np.atleast_1d(np.asarray(scale, np.float64))
        zeros = np.broadcast_to(np.asarray(zero, np.int64), scales.shape).copy()
        return Quantizer(node, slot, tensor, role, 8, scale=scales, zero_point=zeros, **fields)

    return make
