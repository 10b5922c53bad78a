"""make_judge: a judge from instructions that the user wrote."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from inspect import signature
from typing import Any, Unpack

from backfill_spark.errors import ScorerDefinitionError, nearest_first
from backfill_spark.judges.judge import Judge, JudgeOptions
from backfill_spark.judges.prompt import shown
from backfill_spark.judges.trace_texts import trace_text
from backfill_spark.judges.verdict import VerdictType
from backfill_spark.scorers import validation

VARIABLES = ("inputs", "outputs", "expectations", "trace")
_VARIABLE = re.compile(r"\{\{\s*(.*?)\s*\}\}", re.DOTALL)


class InstructionsJudge(Judge):
    """A judge that follows `instructions`; made by `make_judge`.

    Raises:
        ScorerDefinitionError: the instructions are empty, name an unknown variable or none, or the type cannot be used.
    """

    def __init__(self, *, instructions: str, feedback_value_type: Any = None, **options: Unpack[JudgeOptions]) -> None:
        super().__init__(**options, signature=_variables(instructions))
        self.instructions = instructions
        self._verdict_type = VerdictType.of(feedback_value_type)
        # What is recorded goes between markers, never into the middle of an instruction.
        self._task = _VARIABLE.sub(lambda match: f'the text marked "{match[1]}"', instructions).strip()

    @property
    def verdict_type(self) -> VerdictType:
        return self._verdict_type

    @property
    def task(self) -> str:
        return self._task

    def sections(self, *, inputs: Any, outputs: Any, expectations: Any, trace: Any) -> dict[str, str] | None:
        found = {"inputs": inputs, "outputs": outputs, "expectations": expectations, "trace": trace}
        asked = {name: found[name] for name in self.signature}
        if all(value is None for value in asked.values()):
            return None
        if "expectations" in asked and not expectations:
            raise self._missing("expectations")
        return {name: trace_text(value) if name == "trace" else shown(value) for name, value in asked.items()}

    def _arguments(self) -> dict[str, Any]:
        return {"instructions": self.instructions, "feedback_value_type": self._verdict_type.to_json()}


def make_judge(
    name: str,
    instructions: str,
    model: str | None = None,
    description: str | None = None,
    feedback_value_type: Any = None,
    inference_params: Mapping[str, Any] | None = None,
    *,
    aggregations: Sequence[str] | None = None,
    timeout: float | None = None,
    version_note: str | None = None,
    **unknown: Any,
) -> InstructionsJudge:
    """Make a judge of instructions with `{{ inputs }}`, `{{ outputs }}`, `{{ expectations }}` or `{{ trace }}` in them.

    Args:
        name: Name of the scorer and of its feedback.
        instructions: What to decide, and how; where a variable stands, the judge is pointed to the recorded text.
        model: Model URI such as openai:/gpt-4o-mini; None takes the setting judge.model.
        description: What people read.
        feedback_value_type: str (default), bool, int, float, or a Literal of the values that are allowed.
        inference_params: temperature, top_p, seed, max_tokens, reasoning_effort.
        aggregations: Names out of min, max, mean, median, variance, p90.
        timeout: Kept with the version; the endpoint's timeout_s limits a call.
        version_note: What people read about this version.
        unknown: Refused, with what to write instead.

    Raises:
        ScorerDefinitionError: the instructions are empty, name an unknown variable or none, or the type cannot be used.
    """
    validation.refuse_unknown(
        "make_judge", unknown, [name for name in signature(make_judge).parameters if name != "unknown"]
    )
    return InstructionsJudge(
        name=name,
        instructions=instructions,
        model=model,
        description=description,
        feedback_value_type=feedback_value_type,
        inference_params=inference_params,
        aggregations=aggregations,
        timeout=timeout,
        version_note=version_note,
    )


def _variables(instructions: object) -> tuple[str, ...]:
    if not isinstance(instructions, str) or not instructions.strip():
        raise ScorerDefinitionError(f"make_judge: instructions is a text with words in it, got {instructions!r:.80}.")
    found = [match[1] for match in _VARIABLE.finditer(instructions)]
    unknown = [name for name in found if name not in VARIABLES]
    if unknown:
        raise ScorerDefinitionError(
            f"make_judge: the instructions name {unknown[0]!r:.80}, which no trace has. A judge of single traces knows "
            f"{nearest_first(unknown[0], VARIABLES)}."
        )
    if not found:
        raise ScorerDefinitionError(
            "make_judge: the instructions name nothing of a trace, so that every answer would be the same. "
            "Write at least one of {{ inputs }}, {{ outputs }}, {{ expectations }}, {{ trace }}."
        )
    return tuple(name for name in VARIABLES if name in found)
