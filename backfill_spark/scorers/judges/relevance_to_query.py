"""RelevanceToQuery: does the output answer what was asked?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from backfill_spark.scorers.judges.judge import Judge

_TASK = """\
Decide whether the outputs address what the inputs ask for. Whether they are correct or complete does not matter here;
what counts is that they are about the request and do not stray to another subject.
"yes": the outputs are relevant to the inputs. "no": they are not."""


class RelevanceToQuery(Judge):
    """Says "yes" when the outputs are about what the inputs ask."""

    takes: ClassVar[tuple[str, ...]] = ("inputs", "outputs")

    def __init__(
        self,
        *,
        name: str = "relevance_to_query",
        model: str | None = None,
        inference_params: Mapping[str, Any] | None = None,
        description: str | None = "Does the output address what the input asks, without straying?",
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
