# SPDX-License-Identifier: Apache-2.0
"""The user's own metric, `module:function`.

A function is called once per sample, and its results are averaged:

    def metric(fp32, int8, name):
        "fp32, int8: output name -> array; name: of the sample"
        return float(...)  # or {"one": ..., "another": ...}

A class is for what is no mean over samples: one instance per plan, made without arguments, is
called the same way, what it returns is not looked at, and `result()` is asked once at the end.
"""

from __future__ import annotations

import inspect
import numbers
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from analyzer.data.generators import import_named
from analyzer.errors import ConfigError, DataError, raised_at
from analyzer.records import TaskScore
from analyzer.score.judge import Arrays


class CustomJudge:
    """Asks the user's code.

    Args:
        name: `module:function`.
        outputs: of the graph.
        sample_names: in order.
        plans: how many there are.

    Raises:
        ConfigError: if the code cannot be imported, or is neither a function nor a class.
    """

    def __init__(
        self, name: str, outputs: tuple[str, ...], sample_names: Sequence[str], plans: int
    ) -> None:
        self._name = name
        self._outputs = outputs
        self._sample_names = sample_names
        self._samples = 0
        self._sums: list[dict[str, float]] = [{} for _ in range(plans)]
        self._results: dict[int, tuple[TaskScore, ...]] = {}
        found = _load(name)
        self._is_class = inspect.isclass(found)
        self._metrics = [self._made(found) if self._is_class else found for _ in range(plans)]

    def add(self, index: int, plain: Arrays, noisy: Sequence[Arrays]) -> None:
        """Take in one sample, see `Judge`."""
        sample = self._sample_names[index]
        self._samples += 1
        for metric, sums, arrays in zip(self._metrics, self._sums, noisy, strict=True):
            answer = self._asked(
                lambda: metric(dict(plain), dict(arrays), sample),  # noqa: B023  # called at once
                f"on sample {sample!r}",
            )
            if self._is_class:
                continue
            named = self._numbers(answer, f"on sample {sample!r}")
            if self._samples > 1 and named.keys() != sums.keys():
                raise ConfigError(
                    f"The metric {self._name} returns {', '.join(named) or 'nothing'} on sample"
                    f" {sample!r}, expected {', '.join(sums)} as before.",
                    "Return the same names for every sample.",
                )
            for key, value in named.items():
                sums[key] = sums.get(key, 0.0) + value

    def scores(self, plan: int) -> tuple[TaskScore, ...]:
        """Return the scores of one plan, see `Judge`."""
        if not self._samples:
            return ()
        if plan not in self._results:
            self._results[plan] = self._finished(plan)
        return self._results[plan]

    def _finished(self, plan: int) -> tuple[TaskScore, ...]:
        if self._is_class:
            answer = self._asked(self._metrics[plan].result, "in result()")
            named = self._numbers(answer, "in result()")
        else:
            named = {key: value / self._samples for key, value in self._sums[plan].items()}
        return tuple(
            TaskScore(key, value, None, "fp32", self._samples, self._outputs)
            for key, value in named.items()
        )

    def _made(self, found: Any) -> Any:  # Any: the user's class
        made = self._asked(found, "when made")
        if not callable(made) or not callable(getattr(made, "result", None)):
            raise ConfigError(
                f"The metric {self._name} is a class without __call__ or result().",
                "Give it __call__(self, fp32, int8, name) and result(self).",
            )
        return made

    def _asked(self, ask: Callable[[], Any], when: str) -> Any:  # Any: what the user's code gives
        try:
            return ask()
        except Exception as error:  # the user's code may raise anything
            raise ConfigError(
                f"The metric {self._name} raised {type(error).__name__} {when}: {error}.",
                raised_at(
                    error, ours=__file__, otherwise="It is called as metric(fp32, int8, name)."
                ),
            ) from error

    def _numbers(self, answer: object, when: str) -> dict[str, float]:
        entries = answer if isinstance(answer, Mapping) else {self._name.split(":")[1]: answer}
        named = {str(key): value for key, value in entries.items()}
        values = {key: _number(value) for key, value in named.items()}
        for key, value in values.items():
            if value is None:
                raise ConfigError(
                    f"The metric {self._name} returned {named[key]!r} {when}, expected a number.",
                    "Return a float, or a dict of names and floats.",
                )
        return {key: value for key, value in values.items() if value is not None}


def _load(name: str) -> Any:  # Any: whatever the user's module holds
    module, separator, attribute = name.partition(":")
    if not (module and separator and attribute):
        raise ConfigError(f"{name!r} is no metric.", "Expected MODULE:FUNCTION.")
    try:
        found = import_named(name)
    except DataError as error:
        raise ConfigError(error.message, error.remedy) from error
    if not callable(found):
        raise ConfigError(
            f"{name} is {type(found).__name__}, expected a function or a class.",
            "Write def metric(fp32, int8, name).",
        )
    return found


def _number(value: Any) -> float | None:  # Any: whatever the user's code returned
    if isinstance(value, numbers.Real):
        return float(value)
    try:
        return float(value) if getattr(value, "shape", None) == () else None
    except (TypeError, ValueError):
        return None
