"""Guidelines: does the output keep to rules that the user wrote?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from backfill_spark.errors import ScorerDefinitionError
from backfill_spark.scorers.judges.judge import Judge

_TASK = """\
Decide whether the outputs, given the inputs, keep to every one of these guidelines:

{guidelines}

A guideline that does not apply to this case is kept. Add no rules of your own.
"yes": every guideline is kept. "no": at least one is broken; name it in the rationale."""


class Guidelines(Judge):
    """Says "yes" when the outputs keep to all `guidelines`, a text or a list of texts.

    Raises:
        ScorerDefinitionError: there is no guideline, or one is empty.
    """

    def __init__(
        self,
        *,
        guidelines: str | Sequence[str],
        name: str = "guidelines",
        model: str | None = None,
        inference_params: Mapping[str, Any] | None = None,
        description: str | None = "Does the output keep to the guidelines?",
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
        listed = [guidelines] if isinstance(guidelines, str) else guidelines
        if not isinstance(listed, list | tuple) or not listed:
            raise ScorerDefinitionError(
                f"Guidelines: guidelines is a text or a list of texts with at least one in it, got {guidelines!r:.80}."
            )
        for guideline in listed:
            if not isinstance(guideline, str) or not guideline.strip():
                raise ScorerDefinitionError(
                    f"Guidelines: a guideline is a text with words in it, got {guideline!r:.80}."
                )
        self.guidelines = [guideline.strip() for guideline in listed]

    @property
    def task(self) -> str:
        return _TASK.format(guidelines="\n".join(f"- {g}" for g in self.guidelines))

    def _arguments(self) -> dict[str, Any]:
        return {"guidelines": list(self.guidelines)}
