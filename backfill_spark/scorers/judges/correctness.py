"""Correctness: does the output agree with what somebody said is right?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from backfill_spark.scorers.judges.judge import Judge
from backfill_spark.scorers.judges.prompt import shown

KEYS = ("expected_response", "expected_facts")
_TASK = """\
Decide whether the outputs are right, measured only by the expectations: an expected response must be agreed with in
substance, and each of the expected facts must be stated or clearly implied. Other wording and further details are fine
as long as nothing in them contradicts the expectations. What you know yourself does not count.
"yes": the outputs support all of the expectations. "no": one is missing or contradicted."""


class Correctness(Judge):
    """Says "yes" when the outputs support the expectation `expected_response`, or all `expected_facts`."""

    takes: ClassVar[tuple[str, ...]] = ("inputs", "outputs", "expectations")
    default_name: ClassVar[str] = "correctness"
    about: ClassVar[str] = "Does the output agree with the expected response or facts?"

    @property
    def task(self) -> str:
        return _TASK

    def sections(self, *, inputs: Any, outputs: Any, expectations: Any, trace: Any) -> dict[str, str] | None:
        del trace
        if outputs is None:
            return None
        known = expectations if isinstance(expectations, Mapping) else {}
        expected = {key: known[key] for key in KEYS if known.get(key) not in (None, "", [])}
        if not expected:
            raise self._missing(f"one of the expectations {list(KEYS)}")
        return {
            "inputs": shown(inputs),
            "outputs": shown(outputs),
            **{key: shown(value) for key, value in expected.items()},
        }
