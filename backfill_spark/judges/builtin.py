"""Built-in judges, with MLflow's names and meaning; what each is asked to do stands in builtin.toml."""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any, ClassVar, Unpack

from backfill_spark.errors import JudgeOutputError, ScorerDefinitionError
from backfill_spark.judges.judge import YES_NO, Interpretation, Judge, JudgeOptions
from backfill_spark.judges.prompt import shown
from backfill_spark.judges.trace_texts import calls_apart, documents_of, expected_calls_in, tool_calls_of, tools_of
from backfill_spark.judges.verdict import closed_object
from backfill_spark.models import compact_json

DOCUMENTS_KEY = "backfill_spark.documents"
"""Metadata of RetrievalRelevance: the answer for each document, as a JSON object."""
_JUDGES: dict[str, dict[str, Any]] = tomllib.loads(files(__package__).joinpath("builtin.toml").read_text("utf-8"))
_OF_SPANS = {"documents": documents_of, "tool_calls": tool_calls_of, "available_tools": tools_of}
_OF_EXPECTATIONS = {
    "expected": ("expected_response", "expected_facts"),
    "expected_response": ("expected_response",),
    "guidelines": ("guidelines",),
}


class BuiltInJudge(Judge):
    """A judge whose task is always the same: the entry of builtin.toml under its class's name."""

    words: ClassVar[str]
    """What the model is asked to do."""
    sees: ClassVar[tuple[str, ...]]
    """What its prompt shows, in this order."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if (entry := _JUDGES.get(cls.__name__)) is not None:
            cls.default_name = re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).lower()
            cls.about, cls.words = entry["about"], entry["task"]
            cls.takes, cls.sees = tuple(entry["takes"]), tuple(entry["sees"])

    @property
    def task(self) -> str:
        return self.words

    def sections(
        self, *, inputs: Any, outputs: Any, expectations: Any, trace: Any
    ) -> dict[str, str] | Interpretation | None:
        found: dict[str, Any] = {"inputs": inputs, "outputs": outputs}
        for name, read in _OF_SPANS.items():
            if name in self.sees:
                found[name] = read(self._spans(trace))
                if not found[name] and name != "available_tools":
                    return None
        if "outputs" in self.sees and outputs is None:
            return None
        sections: dict[str, str] = {}
        for name in self.sees:
            if name in _OF_EXPECTATIONS:
                sections |= _shown(self._expected(expectations, _OF_EXPECTATIONS[name]))
            else:
                sections[name] = "\n\n".join(found[name]) if name == "documents" else shown(found[name])
        return sections

    def _expected(self, expectations: Any, keys: Sequence[str]) -> dict[str, Any]:
        """Return the expectations under `keys`; at least one must be there."""
        known = expectations if isinstance(expectations, Mapping) else {}
        found = {key: known[key] for key in keys if known.get(key) not in (None, "", [])}
        if not found:
            raise self._missing(f"one of the expectations {list(keys)}")
        return found

    def _spans(self, trace: Any) -> list[Any]:
        if trace is None:
            raise self._missing("the spans")
        return list(trace.data.spans)


class Safety(BuiltInJudge):
    """Says "yes" when the outputs hold nothing harmful. Sees the outputs only."""


class RelevanceToQuery(BuiltInJudge):
    """Says "yes" when the outputs are about what the inputs ask."""


class Completeness(BuiltInJudge):
    """Says "yes" when the outputs leave out nothing that the inputs ask for."""


class Fluency(BuiltInJudge):
    """Says "yes" when the outputs are well written, whatever they say. Sees the outputs only."""


class Summarization(BuiltInJudge):
    """Says "yes" when the outputs are a good summary of the inputs: faithful, whole in the main points, and short."""


class Correctness(BuiltInJudge):
    """Says "yes" when the outputs support the expectation `expected_response`, or all `expected_facts`."""


class Equivalence(BuiltInJudge):
    """Says "yes" when the outputs mean the same as `expected_response`, in the same format.

    Equal texts and numbers are settled without a call, as are numbers that differ.
    """

    def sections(
        self, *, inputs: Any, outputs: Any, expectations: Any, trace: Any
    ) -> dict[str, str] | Interpretation | None:
        sections = super().sections(inputs=inputs, outputs=outputs, expectations=expectations, trace=trace)
        if not isinstance(sections, dict):
            return sections
        expected = expectations["expected_response"]
        if isinstance(outputs, int | float) and isinstance(expected, int | float):
            is_equal = math.isclose(outputs, expected)
            return _settled(is_equal, f"The number {outputs} is {'' if is_equal else 'not '}the expected {expected}.")
        if sections["outputs"] == sections["expected_response"]:
            return _settled(True, "The output is the expected response, letter for letter.")
        return sections


class Guidelines(BuiltInJudge):
    """Says "yes" when the outputs keep to all `guidelines`, a text or a list of texts.

    Raises:
        ScorerDefinitionError: there is no guideline, or one is empty.
    """

    def __init__(self, *, guidelines: str | Sequence[str], **options: Unpack[JudgeOptions]) -> None:
        super().__init__(**options)
        listed = [guidelines] if isinstance(guidelines, str) else guidelines
        if not isinstance(listed, list | tuple) or not listed:
            expected = "guidelines is a text or a list of texts with at least one in it"
            raise ScorerDefinitionError(f"Guidelines: {expected}, got {guidelines!r:.80}.")
        for guideline in listed:
            if not isinstance(guideline, str) or not guideline.strip():
                expected = "a guideline is a text with words in it"
                raise ScorerDefinitionError(f"Guidelines: {expected}, got {guideline!r:.80}.")
        self.guidelines = [guideline.strip() for guideline in listed]

    @property
    def task(self) -> str:
        return self.words.format(guidelines="\n".join(f"- {g}" for g in self.guidelines))

    def _arguments(self) -> dict[str, Any]:
        return {"guidelines": list(self.guidelines)}


class ExpectationsGuidelines(BuiltInJudge):
    """Says "yes" when the outputs keep to the guidelines in the trace's expectation `guidelines`."""


class RetrievalGroundedness(BuiltInJudge):
    """Says "yes" when the outputs claim nothing that the outputs of the trace's RETRIEVER spans do not support.

    A trace without retrieval has nothing to judge. All retrieved documents count together: one verdict a trace.
    """


class RetrievalSufficiency(BuiltInJudge):
    """Says "yes" when the retrieved documents hold all that the expected response or facts need.

    A trace without retrieval has nothing to judge. All retrieved documents count together: one verdict a trace.
    """


class RetrievalRelevance(BuiltInJudge):
    """Gives the share of retrieved documents that are relevant to the inputs, as MLflow's `…/precision`.

    One question covers all documents of a trace; its metadata keeps the answer for each. A trace without retrieval has
    nothing to judge.
    """

    suffix: ClassVar[str] = "/precision"

    def sections(self, *, inputs: Any, outputs: Any, expectations: Any, trace: Any) -> dict[str, str] | None:
        del outputs, expectations
        documents = {f"document_{n}": text for n, text in enumerate(documents_of(self._spans(trace)), 1)}
        return _shown({"inputs": inputs, **documents}) if documents else None

    def form(self, sections: Mapping[str, str]) -> tuple[dict[str, Any], str]:
        names = [name for name in sections if name != "inputs"]
        schema = YES_NO.schema
        schema["properties"]["result"] = closed_object({name: YES_NO.to_json() for name in names})
        return schema, f'{{"document_1": {YES_NO.words}, and so on up to "{names[-1]}"}}'

    def interpret(self, answer: str) -> Interpretation:
        rationale, found = YES_NO.parts(answer)
        if not isinstance(found, dict) or set(found) != {f"document_{n + 1}" for n in range(len(found) or 1)}:
            raise JudgeOutputError(f"the result {compact_json(found):.80} is not an answer for each document")
        marks = {name: YES_NO.value_of(found[name]) for name in sorted(found, key=lambda n: int(n[9:]))}
        share = sum(mark == "yes" for mark in marks.values()) / len(marks)
        return Interpretation(share, rationale, self._flags(rationale) | {DOCUMENTS_KEY: compact_json(marks)})


class ToolCallEfficiency(BuiltInJudge):
    """Says "yes" when the TOOL spans of a trace show no redundant call.

    A trace without a tool call has nothing to judge.
    """


class ToolCallCorrectness(BuiltInJudge):
    """Says "yes" when the TOOL spans of a trace show the right calls with the right arguments.

    They are compared with the trace's expectation `expected_tool_calls` (a list of `name` and, if all have them,
    `arguments`), where it has one; else the model decides whether they are reasonable.

    Args:
        should_exact_match: Compare names and arguments letter for letter, without a call; the expectation is needed.
        should_consider_ordering: The order of the calls counts.
        options: Those of every judge.

    Raises:
        ScorerDefinitionError: one of the two is no truth value.
    """

    def __init__(
        self,
        *,
        should_exact_match: bool = False,
        should_consider_ordering: bool = False,
        **options: Unpack[JudgeOptions],
    ) -> None:
        super().__init__(**options)
        self.should_exact_match = should_exact_match
        self.should_consider_ordering = should_consider_ordering
        for name, value in self._arguments().items():
            if not isinstance(value, bool):
                raise ScorerDefinitionError(f"ToolCallCorrectness: {name} is True or False, got {value!r:.40}.")

    @property
    def task(self) -> str:
        order = "Their order must be right, too." if self.should_consider_ordering else "Their order does not count."
        return self.words.format(order=order)

    def sections(
        self, *, inputs: Any, outputs: Any, expectations: Any, trace: Any
    ) -> dict[str, str] | Interpretation | None:
        del outputs
        spans = self._spans(trace)
        calls = tool_calls_of(spans)
        expected = expected_calls_in(expectations or trace.expectations or {})
        if expected is None:
            raise self._missing("a list of calls with name and arguments in the expectation 'expected_tool_calls'")
        if self.should_exact_match:
            if not expected:
                raise self._missing("the expectation 'expected_tool_calls'")
            wrong = calls_apart(calls, expected, ordered=self.should_consider_ordering)
            return _settled(not wrong, wrong or "The tool calls are the expected ones.")
        wanted = {"expected_tool_calls": expected} if expected else {}
        return _shown({"inputs": inputs, "available_tools": tools_of(spans), **wanted, "tool_calls": calls})

    def _arguments(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("should_exact_match", "should_consider_ordering")}


def get_all_scorers() -> list[Any]:
    """Return one of each built-in scorer and judge that needs no argument."""
    from backfill_spark.scorers.builtin import PIIDetection

    judges = (
        RetrievalRelevance, RetrievalSufficiency, RetrievalGroundedness, ToolCallEfficiency, ToolCallCorrectness,
        ExpectationsGuidelines, RelevanceToQuery, Safety, Correctness, Fluency, Equivalence, Completeness,
        Summarization,
    )  # fmt: skip
    return [*(judge() for judge in judges), PIIDetection()]


def _settled(is_good: bool, why: str) -> Interpretation:  # noqa: FBT001
    return Interpretation("yes" if is_good else "no", why, {})


def _shown(found: Mapping[str, Any]) -> dict[str, str]:
    return {name: shown(value) for name, value in found.items()}
