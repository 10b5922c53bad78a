"""Completeness: is every part of the request dealt with?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from backfill_spark.scorers.judges.judge import Judge

_TASK = """\
List for yourself each question, request and condition in the inputs. Decide whether the outputs deal with every one of
them. An explicit and reasoned "I cannot do this part" deals with that part; leaving it out does not.
"yes": nothing that was asked for is left out. "no": something is."""


class Completeness(Judge):
    """Says "yes" when the outputs leave out nothing that the inputs ask for."""

    takes: ClassVar[tuple[str, ...]] = ("inputs", "outputs")

    def __init__(
        self,
        *,
        name: str = "completeness",
        model: str | None = None,
        inference_params: Mapping[str, Any] | None = None,
        description: str | None = "Does the output deal with every part of the input?",
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
