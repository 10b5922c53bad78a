"""Correctness: does the output agree with what somebody said is right?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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

    def __init__(
        self,
        *,
        name: str = "correctness",
        model: str | None = None,
        inference_params: Mapping[str, Any] | None = None,
        description: str | None = "Does the output agree with the expected response or facts?",
        aggregations: Sequence[str] | None = None,
        timeout: float | None = None,
        version_note: str | None = None,
    ) -> None:
        super().__init__(
            name=name,
            model=model,
            inference_params=inference_params,
            description=description,
            aggregations=aggregations,
            timeout=timeout,
            version_note=version_note,
        )

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
