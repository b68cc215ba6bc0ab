# SPDX-License-Identifier: Apache-2.0
"""The search on a bench of which all is known: noises of layers that add up."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analyzer.fixes.remedy import Remedy, applied
from analyzer.propose.bench import Effect
from analyzer.propose.point import Point
from analyzer.propose.search import MOST_SPLITS, Search, base_name
from analyzer.records import Cost, Edit, Setting

NOISE = {"a": 0.4, "b": 0.3, "c": 0.2, "d": 0.05}
PRICE = {"a": 0.04, "b": 0.02, "c": 0.02, "d": 0.01}
FLOOR = 0.05


def share(after, before):
    """Return what is left; of nothing everything."""
    return after / before if before else math.inf if after else 1.0


class Known:
    """A bench: every layer in 8 bits adds its noise, every one in 16 has its price.

    Args:
        noise: layer -> its noise in 8 bits.
        price: layer -> share of the multiply-accumulates.
        extra: setting -> noise beyond that of the layers.
        refused: layers that the target leaves in 8 bits.
    """

    def __init__(self, noise=NOISE, price=PRICE, *, extra=lambda setting: FLOOR, refused=()):
        self.noise, self.price = noise, price
        self.extra, self.refused = extra, set(refused)
        self.samples = (0, 1, 2)
        self.wholes = []

    def of(self, setting):
        loud = sum(n for layer, n in self.noise.items() if layer not in setting.table)
        return loud + self.extra(setting)

    def whole(self, settings):
        self.wholes += settings
        return [None if self.refused & s.table.keys() else {"y": self.of(s)} for s in settings]

    def around(self, base, others, *, samples=None):
        shares = {
            name: share(self.of(s), self.of(base)) for name, s in others.items()
            if s != base and not self.refused & s.table.keys()
        }  # fmt: skip
        return {name: Effect(share, share, 0.0, 3) for name, share in shares.items()}

    def alone(self, base, others):
        new = {n: s.table.keys() - base.table.keys() for n, s in others.items() if not s.edits}
        return {n: {"y": sum(self.noise[t] for t in tables)} for n, tables in new.items()}

    def left(self, after, before):
        return share(after["y"], before["y"])

    def cost_of(self, setting):
        return Cost(macs=sum(self.price[layer] for layer in setting.table))


def wider(layer, *more, after="int16"):
    layers = (layer, *more)
    return Remedy("precision", layers, "int8", after, dict.fromkeys(layers, after))


def search_on(bench, *, budget=0.05, late=lambda: False):
    return Search(bench, Setting(), lambda cost: cost.macs, budget, late=late)


def spent(bench, remedies, **options):
    search = search_on(bench, **options)
    return search, search.spend(search.begin(), remedies)


def test_the_best_affordable_set_is_found():
    """Of 4, 2, 2 and 1 % at most 5: b, c and d leave 0.45 of 1; a and d, the loudest, 0.55."""
    search, found = spent(Known(), [wider(layer) for layer in NOISE])
    assert found.setting.table == dict.fromkeys("bcd", "int16")
    assert found.left == pytest.approx(0.45)
    assert found.price == pytest.approx(0.05)
    assert search.recommended() is found


def test_the_ladder_leaves_cheaper_and_dearer_points():
    """Also simulated: for half of the budget the best of at most 2.5 %, for twice of it all."""
    search, _ = spent(Known(), [wider(layer) for layer in NOISE])
    tables = [frozenset(p.setting.table) for p in search.points]
    assert {frozenset(), frozenset("b"), frozenset("abcd")} <= set(tables)


LOUD = st.integers(0, 50).map(lambda n: n / 100)
CHEAP = st.integers(1, 8).map(lambda n: n / 128)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(LOUD, CHEAP), min_size=1, max_size=6))
def test_the_budget_is_kept_and_what_is_found_is_near_the_best(pairs):
    """Never dearer than allowed, never louder than the start, and no set by brute force is much
    better: what is left multiplies in the search and adds up here, small steps are not taken."""
    names = "abcdef"[: len(pairs)]
    bench = Known(*({n: p[i] for n, p in zip(names, pairs, strict=True)} for i in (0, 1)))
    _, found = spent(bench, [wider(name) for name in names])
    sets = (s for k in range(len(names) + 1) for s in itertools.combinations(names, k))
    whole = bench.of(Setting())
    best = min(
        bench.of(Setting(table=dict.fromkeys(s, "int16"))) / whole
        for s in sets if sum(bench.price[n] for n in s) <= 0.05
    )  # fmt: skip
    assert found.price <= 0.05
    assert best - 1e-9 <= found.left <= min(1.0, 1.35 * best)


def test_what_was_foretold_and_what_was_measured_is_logged():
    """a leaves 0.6 and b 0.7: foretold 0.42 of both, measured 0.3."""
    bench = Known({"a": 0.4, "b": 0.3}, extra=lambda setting: 0.3)
    search, found = spent(bench, [wider("a"), wider("b")], budget=0.06)
    alone = {a.changes: a for a in search.attempts if a.predicted is None}
    assert alone["precision a: int8 → int16",].measured == pytest.approx(0.6)
    assert alone["precision b: int8 → int16",].verdict == "helps"
    titles = tuple(r.title for r in found.remedies)
    together = next(a for a in search.attempts if a.changes == titles)
    assert sorted(titles) == ["precision a: int8 → int16", "precision b: int8 → int16"]
    assert together.predicted == pytest.approx(0.42)
    assert together.measured == pytest.approx(0.3)
    assert (together.base, together.verdict, together.samples) == ("start", "better", 3)
    assert [a.name for a in search.attempts] == [
        f"run {n}" for n in range(1, len(search.attempts) + 1)
    ]
    assert found.predicted == pytest.approx(0.42)


def test_two_runs_are_the_same():
    """Points and attempts."""
    remedies = [wider(layer) for layer in NOISE]
    one, other = (spent(Known(), remedies)[0] for _ in range(2))
    assert one.attempts == other.attempts
    assert one.points == other.points


def point_of(bench, *layers):
    remedies = tuple(wider(layer) for layer in layers)
    setting = applied(Setting(), remedies)
    cost, nsr = bench.cost_of(setting), bench.of(setting)
    return Point(remedies, setting, cost, cost.macs, {"y": nsr}, nsr / bench.of(Setting()))


def together_worse(setting):
    """What b adds where a is there, too: more than it takes away."""
    return 0.35 if {"a", "b"} <= setting.table.keys() else 0.0


def test_a_remedy_that_hurts_in_company_is_dropped():
    """a and b each help alone (0.6, 0.7), both leave 0.65: b goes, and the log says so."""
    bench = Known({"a": 0.4, "b": 0.3, "c": 0.3}, extra=together_worse)
    search = search_on(bench, budget=1)
    search.begin()
    kept = search.repair(point_of(bench, "a", "b"))
    assert kept.setting.table == {"a": "int16"}
    dropped = [a for a in search.attempts if a.verdict == "dropped: hurts"]
    assert [a.changes for a in dropped] == [("precision b: int8 → int16",)]
    assert dropped[0].measured == pytest.approx(0.65 / 0.6)
    assert kept in search.points


def test_an_idle_remedy_is_dropped():
    """b makes no noise: without it nothing changes, but the price."""
    bench = Known({"a": 0.5, "b": 0.0, "c": 0.5})
    search = search_on(bench, budget=1)
    search.begin()
    kept = search.repair(point_of(bench, "a", "b"))
    assert kept.setting.table == {"a": "int16"}
    assert kept.price == PRICE["a"]
    assert search.attempts[-1].verdict == "dropped: idle"


def test_what_all_is_needed_stays():
    """Each of three does something: nothing is dropped, nothing more is run as a whole."""
    bench = Known()
    search = search_on(bench, budget=1)
    search.begin()
    point = point_of(bench, "a", "b", "c")
    assert search.repair(point) is point
    assert len(bench.wholes) == 1


def either(setting):
    """A noise that goes with a or with b, whichever is there."""
    return 0.1 if {"a", "b"} & setting.table.keys() else 0.5


@pytest.fixture
def redundant():
    """The search, and what is left of three remedies of which two do the same."""
    bench = Known({"a": 0.0, "b": 0.0, "c": 0.5}, extra=either)
    search = search_on(bench, budget=1)
    search.begin()
    return search, search.repair(point_of(bench, "a", "b", "c"))


def test_of_two_that_do_the_same_one_stays(redundant):
    """Without either of them nothing changes, without both much does."""
    _, kept = redundant
    assert len(kept.remedies) == 2
    assert kept.left == pytest.approx(0.1)


def test_what_stays_is_not_logged_as_dropped(redundant):
    """The log says what became of each of them."""
    search, kept = redundant
    dropped = {a.changes for a in search.attempts if a.verdict.startswith("dropped")}
    assert not dropped & {(r.title,) for r in kept.remedies}


def test_no_more_noise_to_take():
    """All noise goes with a: what is left over is tried no more, and nothing is divided by it."""
    bench = Known({"a": 1.0, "b": 0.0}, extra=lambda setting: 0.0)
    split = Remedy("weight_split", ("b",), "", "", edit=Edit("weight_split", ("b",)))
    _, found = spent(bench, [wider("a"), wider("b"), split])
    assert found.setting.table == {"a": "int16"}
    assert found.left == 0


def test_nothing_is_tried_when_it_is_late():
    """Only the start is simulated, and it is what is recommended."""
    bench = Known()
    search = search_on(bench, late=lambda: True)
    base = search.begin()
    remedies = [wider(layer) for layer in NOISE]
    assert search.choose(base, remedies) is base
    assert search.gather(base, remedies) is base
    assert search.spend(base, remedies) is base
    assert search.repair(point_of(bench, "a", "b")).remedies
    assert (len(bench.wholes), search.points, search.attempts) == (1, [base], [])


@pytest.mark.parametrize("calls", range(1, 8))
def test_whenever_it_gets_late_something_is_returned(calls):
    """The clock runs out after so many looks at it; the best by then keeps the budget."""
    looks = iter(range(100))
    search = search_on(Known(), late=lambda: next(looks) >= calls)
    found = search.spend(search.begin(), [wider(layer) for layer in NOISE])
    assert found in search.points
    assert found.price <= 0.05


def test_of_rivals_the_best_one():
    """Each by itself: an observer that leaves half; one that does nothing; one that hurts."""
    shares = {"kl": 1.0, "percentile": 1.3, "mse": 0.5, None: 1.0}
    bench = Known({}, extra=lambda setting: shares[setting.observer])
    search = search_on(bench)
    start = search.begin()
    remedies = [Remedy("calibration", (), "minmax", o, observer=o) for o in ("kl", "mse")]
    louder = Remedy("calibration", (), "minmax", "percentile", observer="percentile")
    assert search.choose(start, [*remedies, louder]).setting.observer == "mse"
    assert search.choose(start, [louder]) is start
    assert search.choose(start, remedies, helps=0.4) is start
    assert [a.verdict for a in search.attempts[:3]] == [
        "worse than without", "better", "worse than without",
    ]  # fmt: skip


def cut(tensor, lo, hi):
    return Remedy("range", (tensor,), "", f"{lo} .. {hi}", ranges={tensor: (lo, hi)})


RANGES = {("p", 1.0): -0.2, ("p", 2.0): -0.3, ("q", 1.0): -0.1, ("r", 1.0): 0.4}


def of_ranges(setting):
    return 1.0 + sum(RANGES[name, hi] for name, (_, hi) in setting.ranges.items())


def test_free_remedies_are_gathered():
    """Of two ranges for p the better one, q's with it; r's hurts and is not taken."""
    search = search_on(Known({}, extra=of_ranges))
    remedies = [cut("p", -1, 1.0), cut("p", -2, 2.0), cut("q", -1, 1.0), cut("r", -1, 1.0)]
    found = search.gather(search.begin(), remedies)
    assert found.setting.ranges == {"p": (-2, 2.0), "q": (-1, 1.0)}
    assert found.left == pytest.approx(0.6)
    assert all(len({r.layers for r in p.remedies}) == len(p.remedies) for p in search.points)
    verdicts = {a.changes[0]: a.verdict for a in search.attempts if a.predicted is None}
    assert verdicts[remedies[3].title] == "hurts"


def test_nothing_that_helps_is_nothing_gathered():
    """The base is returned, not a set of what hurts least."""
    search = search_on(Known({}, extra=of_ranges))
    start = search.begin()
    assert search.gather(start, [cut("r", -1, 1.0)]) is start
    assert search.gather(start, []) is start


def test_a_layer_is_moved_once():
    """To 16 bits or to 16-bit activations, never to both."""
    remedies = [wider(layer, after=after) for layer in "ab" for after in ("int16", "w8a16")]
    search, found = spent(Known(), remedies, budget=1)
    assert set(found.setting.table) == {"a", "b"}
    for point in search.points:
        layers = [layer for r in point.remedies for layer in r.layers]
        assert len(layers) == len(set(layers))


def test_few_weights_are_split():
    """Five splits that all help: no more than so many layers in any set."""
    bench = Known({}, extra=lambda setting: 0.8 ** len(setting.edits))
    remedies = [
        Remedy("weight_split", (n,), "one", "two", edit=Edit("weight_split", (n,)))
        for n in "pqrst"
    ]
    search, found = spent(bench, remedies)
    assert len(found.setting.edits) == MOST_SPLITS
    assert all(len(p.setting.edits) <= MOST_SPLITS for p in search.points)


def test_what_the_target_refuses_is_no_point():
    """A set that cannot be placed is passed over."""
    _, found = spent(Known(refused="b"), [wider("b"), wider("b", "c"), wider("c")])
    assert found.setting.table == {"c": "int16"}
    search = search_on(Known(refused="b"))
    start = search.begin()
    assert search.choose(start, [wider("b")]) is start
    assert search.points == [start]


def test_the_names_of_bases():
    """What a set stands on, in words."""
    point = point_of(Known(), "a", "b", "c", "d")
    assert base_name(Point((), Setting(), Cost(), 0, {}, 1)) == "start"
    first = " + ".join(f"precision {layer}: int8 → int16" for layer in "abc")
    assert base_name(point) == f"{first} + 1 more"
