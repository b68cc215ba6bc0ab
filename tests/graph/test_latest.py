# SPDX-License-Identifier: Apache-2.0
"""Values found again by the objects they belong to."""

from analyzer.graph.latest import Latest


def test_equal_objects_are_told_apart_and_the_oldest_is_dropped():
    """Identity decides, and only the latest few are kept."""
    made: list[int] = []

    def make() -> int:
        made.append(len(made))
        return made[-1]

    latest: Latest[int] = Latest(2)
    first, twin, third = [], [], []
    assert [latest.of((o,), make) for o in (first, twin, first)] == [0, 1, 0]
    assert [latest.of((o,), make) for o in (third, twin, first)] == [2, 1, 3]
