"""Judges: scorers that ask a model. A judge renders a prompt and reads an answer; asking is done elsewhere."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, NamedTuple, Unpack

from backfill_spark.errors import JudgeInputError, ScorerDefinitionError, ScorerLifecycleError
from backfill_spark.judges.prompt import DEFAULT_SECRET, Prompt, is_suspected_echo, render_prompt, shown
from backfill_spark.judges.verdict import Scalar, VerdictType
from backfill_spark.models import ScorerKind
from backfill_spark.scorers.scorer import Scorer, ScorerOptions

YES_NO = VerdictType.of(Literal["yes", "no"])
TOKEN_CAP = 100_000
ECHO_KEY = "backfill_spark.suspected_echo"
"""Metadata of a verdict whose words hold a marker: the judged text may have spoken through the judge."""
_MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}:/[^\s/][^\s]{0,199}")
_INFERENCE = {"temperature": (0.0, 2.0), "top_p": (0.0, 1.0), "seed": (-(2**63), 2**63 - 1), "max_tokens": (1, 1e6)}


class Interpretation(NamedTuple):
    """What a judge made of a model's answer."""

    value: Scalar
    rationale: str | None
    metadata: dict[str, str]


class JudgeOptions(ScorerOptions, total=False):
    """What every judge can be given."""

    model: str | None
    inference_params: Mapping[str, Any] | None


class Judge(Scorer):
    """A scorer that asks a model, one prompt a trace.

    Its answer is "yes" or "no", where "yes" is good, unless it says otherwise.
    """

    kind = ScorerKind.JUDGE
    takes: ClassVar[tuple[str, ...]] = ("inputs", "outputs")
    """What of a trace it sees."""
    default_name: ClassVar[str]
    about: ClassVar[str | None] = None
    """Description where none is given."""
    suffix: ClassVar[str] = ""
    """What its feedback's name has behind the scorer's."""

    def __init__(
        self,
        *,
        model: str | None = None,
        inference_params: Mapping[str, Any] | None = None,
        signature: tuple[str, ...] | None = None,
        **options: Unpack[ScorerOptions],
    ) -> None:
        if options.get("name") is None:
            options["name"] = self.default_name
        if options.get("description") is None:
            options["description"] = self.about
        super().__init__(None, signature=self.takes if signature is None else signature, **options)
        self.model = _checked_model(model)
        self.inference_params = _checked_inference(inference_params)

    @property
    def parameters(self) -> Mapping[str, Any]:
        """The class and all its constructor arguments, as JSON can hold them; those not given are absent."""
        asked = {"model": self.model, "inference_params": self.inference_params or None}
        given = {k: v for k, v in {**self._arguments(), **asked}.items() if v is not None}
        return {"class": type(self).__name__, **given}

    @property
    def verdict_type(self) -> VerdictType:
        """What it may answer."""
        return YES_NO

    @property
    @abstractmethod
    def task(self) -> str:
        """What the model is asked to do."""

    def sections(
        self, *, inputs: Any, outputs: Any, expectations: Any, trace: Any
    ) -> dict[str, str] | Interpretation | None:
        """Return the parts of the prompt, name → text; None with nothing to judge; or a verdict that needs no call.

        Raises:
            JudgeInputError: the trace lacks what it must see.
        """
        del expectations, trace
        if outputs is None:
            return None
        found = {"inputs": inputs, "outputs": outputs}
        return {name: shown(found[name]) for name in self.takes}

    def render(
        self,
        *,
        inputs: Any = None,
        outputs: Any = None,
        expectations: Any = None,
        trace: Any = None,
        secret: bytes = DEFAULT_SECRET,
        token_cap: int = TOKEN_CAP,
    ) -> Prompt | Interpretation | None:
        """Return the prompt for one trace, or None when there is nothing to judge (no output, no retrieval).

        A verdict that needs no model (two equal texts) is returned instead of a prompt.

        Pure: the same data and `secret` give the same prompt. `trace` is needed only where `signature` has it.

        Raises:
            PromptTooLargeError: above `token_cap` estimated tokens.
            JudgeInputError: the trace lacks what the judge must see.
            TraceUnreadableError: a part of the trace cannot be decoded.
        """
        sections = self.sections(inputs=inputs, outputs=outputs, expectations=expectations, trace=trace)
        if isinstance(sections, Interpretation):
            return sections
        if not sections:
            return None
        schema, words = self.form(sections)
        return render_prompt(
            self.task,
            sections,
            schema=schema,
            allowed=words,
            parameters=self.inference_params,
            secret=secret,
            token_cap=token_cap,
        )

    def form(self, sections: Mapping[str, str]) -> tuple[dict[str, Any], str]:
        """Return the JSON schema of the answer, and what the prompt says about its result."""
        del sections
        return self.verdict_type.schema, self.verdict_type.words

    def interpret(self, answer: str) -> Interpretation:
        """Read a model's JSON object.

        Raises:
            JudgeOutputError: its result is outside what the judge allows.
        """
        value, rationale = self.verdict_type.read(answer)
        return Interpretation(value, rationale, self._flags(rationale, None if self.verdict_type.allowed else value))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Refuse: a judge asks a model, within a job that has a budget.

        Raises:
            ScorerLifecycleError: always.
        """
        del args, kwargs
        raise ScorerLifecycleError(
            f"The judge {self.name!r} is not called by hand: it asks a model, within a job and its budget. "
            "Register and start it, and run backfill_scorers(scorers=[…], max_calls=…)."
        )

    def _arguments(self) -> dict[str, Any]:
        """Return constructor arguments that only this judge has."""
        return {}

    def _flags(self, rationale: str | None, value: Scalar | None = None) -> dict[str, str]:
        """Return the metadata of an answer whose words hold a marker."""
        has_echo = is_suspected_echo(rationale) or is_suspected_echo(str(value))
        return {ECHO_KEY: "true"} if has_echo else {}

    def _missing(self, what: str) -> JudgeInputError:
        return JudgeInputError(f"The judge {self.name!r} needs {what}, which this trace does not have.")


def _checked_model(model: object) -> str | None:
    if model is None:
        return None
    if not isinstance(model, str) or _MODEL.fullmatch(model) is None:
        raise ScorerDefinitionError(
            f"model is a model URI <endpoint>:/<model>, for example openai:/gpt-4o-mini, got {model!r:.80}."
        )
    return model


def _checked_inference(given: object) -> dict[str, Any]:
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise ScorerDefinitionError(f"inference_params is a dict, got {given!r:.80}.")
    for name, value in given.items():
        if name == "reasoning_effort" and isinstance(value, str):
            continue
        low, high = _INFERENCE.get(name, (0, -1))
        is_whole = isinstance(value, int) or name in ("temperature", "top_p")
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high or not is_whole:
            raise ScorerDefinitionError(
                f"inference_params[{name!r}] = {value!r:.40} cannot be used; "
                f"it takes {[*_INFERENCE, 'reasoning_effort']}."
            )
    return dict(sorted(given.items()))
