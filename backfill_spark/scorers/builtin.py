"""Built-in code scorers: what they share, and how they find the text they judge."""

from __future__ import annotations

import json
import math
import re
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, Unpack

from backfill_spark.errors import ScorerDefinitionError
from backfill_spark.models import ScorerKind
from backfill_spark.scorers.scorer import Scorer, ScorerOptions
from backfill_spark.traces.assessment import Feedback


class BuiltInScorer(Scorer):
    """A scorer that a stored row recreates from its class name and constructor arguments."""

    kind = ScorerKind.BUILTIN
    default_name: ClassVar[str]
    about: ClassVar[str]
    """Description where none is given."""

    def __init__(self, **options: Unpack[ScorerOptions]) -> None:
        # A backfill passes the outputs, so that Spark never reads spans for them.
        super().__init__(
            None, signature=("outputs",), **(ScorerOptions(name=self.default_name, description=self.about) | options)
        )

    @property
    def parameters(self) -> Mapping[str, Any]:
        """The class and all its constructor arguments, as JSON can hold them."""
        return {"class": type(self).__name__, **self._arguments()}

    @abstractmethod
    def _arguments(self) -> dict[str, Any]:
        """Return the constructor arguments."""

    @abstractmethod
    def _judge(self, text: str) -> tuple[bool, str]:
        """Return whether `text` passes, and why."""

    def __call__(self, *, outputs: Any = None, trace: Any = None) -> Feedback:
        """Judge `outputs`, or those of `trace`: "yes" or "no", with a rationale.

        Without outputs the answer is "no".
        """
        text = output_text(outputs if outputs is not None or trace is None else _outputs_of(trace))
        if text is None:
            return Feedback(name=self.name, value="no", rationale="No outputs provided to evaluate.")
        passes, why = self._judge(text)
        return Feedback(name=self.name, value="yes" if passes else "no", rationale=why)

    def _accepted(self) -> tuple[str, ...]:
        return ("outputs", "trace")

    def __repr__(self) -> str:
        arguments = ", ".join(f"{k}={v!r}" for k, v in self._arguments().items() if v is not None)
        return f"{super().__repr__()[:-1]}, {arguments})" if arguments else super().__repr__()


def output_text(outputs: Any) -> str | None:
    """Return the text that a deterministic scorer judges, as MLflow picks it; None when there is none.

    A list stands for its first element. Of a dict: the first choice of a chat completion, the last of chat messages,
    the last assistant message of a Responses API output; else its JSON text.
    """
    while isinstance(outputs, (list, tuple)):
        if not outputs:
            return None
        outputs = outputs[0]
    if outputs is None or (isinstance(outputs, float) and math.isnan(outputs)):
        return None
    if isinstance(outputs, str):
        return outputs
    if isinstance(outputs, Mapping):
        for found in (_choice(outputs), _last_message(outputs.get("messages")), _response(outputs.get("output"))):
            if found is not None:
                return found
    return json.dumps(outputs, default=str)


def _choice(outputs: Mapping[str, Any]) -> str | None:
    choices = outputs.get("choices")
    if isinstance(choices, list) and choices and isinstance(choices[0], Mapping):
        return _last_message([choices[0].get("message")])
    return None


def _last_message(messages: Any) -> str | None:
    if isinstance(messages, list) and messages and isinstance(messages[-1], Mapping):
        content = messages[-1].get("content")
        return content if isinstance(content, str) else None
    return None


def _response(output: Any) -> str | None:
    if not isinstance(output, list) or not output or not isinstance(output[-1], Mapping):
        return None
    if output[-1].get("type") != "message" or "content" not in output[-1]:
        return None
    for item in reversed(output):
        content = item.get("content") if isinstance(item, Mapping) and item.get("role") == "assistant" else None
        if isinstance(content, str):
            return content
        for part in content if isinstance(content, list) else ():
            if isinstance(part, Mapping) and part.get("type") in ("text", "output_text") and "text" in part:
                return str(part["text"])
    return json.dumps(output, default=str)


def _outputs_of(trace: Any) -> Any:
    missing = object()
    outputs = getattr(trace, "outputs", missing)
    return getattr(getattr(trace, "data", None), "response", None) if outputs is missing else outputs


class RegexMatch(BuiltInScorer):
    """Says "yes" when the output matches `pattern`: anywhere ("search"), or as a whole ("fullmatch").

    Raises:
        ScorerDefinitionError: the pattern does not compile, or the match type is unknown.
    """

    default_name = "regex_match"
    about = "Check whether output matches a regular expression pattern."

    def __init__(
        self,
        *,
        pattern: str,
        match_type: Literal["search", "fullmatch"] = "search",
        case_insensitive: bool = False,
        **options: Unpack[ScorerOptions],
    ) -> None:
        super().__init__(**options)
        if match_type not in ("search", "fullmatch"):
            raise ScorerDefinitionError(f"RegexMatch: match_type is 'search' or 'fullmatch', got {match_type!r}.")
        if not isinstance(pattern, str):
            raise ScorerDefinitionError(f"RegexMatch: pattern is a text, got {pattern!r:.80}.")
        try:
            self._compiled = re.compile(pattern, re.IGNORECASE if case_insensitive else 0)
        except (re.error, OverflowError, RecursionError) as error:
            raise ScorerDefinitionError(f"RegexMatch: invalid regex pattern {pattern!r}: {error}.") from error
        self.pattern = pattern
        self.match_type = match_type
        self.case_insensitive = bool(case_insensitive)

    def _arguments(self) -> dict[str, Any]:
        return {"pattern": self.pattern, "match_type": self.match_type, "case_insensitive": self.case_insensitive}

    def _judge(self, text: str) -> tuple[bool, str]:
        match = self._compiled.fullmatch if self.match_type == "fullmatch" else self._compiled.search
        passes = match(text) is not None
        return passes, f"Output {'matches' if passes else 'does not match'} pattern {self.pattern!r}"


class ResponseLength(BuiltInScorer):
    """Says "yes" when the output's length in characters or words lies within the bounds, both inclusive.

    Raises:
        ScorerDefinitionError: no bound, a bound that is no whole number from 0, bounds that cross, or an unknown unit.
    """

    default_name = "response_length"
    about = "Check whether the output length is within specified bounds."

    def __init__(
        self,
        *,
        min_length: int | None = None,
        max_length: int | None = None,
        unit: Literal["chars", "words"] = "chars",
        **options: Unpack[ScorerOptions],
    ) -> None:
        super().__init__(**options)
        if min_length is None and max_length is None:
            raise ScorerDefinitionError("ResponseLength needs min_length, max_length or both.")
        bounds: tuple[tuple[str, Any], ...] = (("min_length", min_length), ("max_length", max_length))
        for what, bound in bounds:
            if bound is not None and (isinstance(bound, bool) or not isinstance(bound, int) or bound < 0):
                raise ScorerDefinitionError(f"ResponseLength: {what} is a whole number from 0, got {bound!r}.")
        if min_length is not None and max_length is not None and min_length > max_length:
            raise ScorerDefinitionError(f"ResponseLength: min_length {min_length} is above max_length {max_length}.")
        if unit not in ("chars", "words"):
            raise ScorerDefinitionError(f"ResponseLength: unit is 'chars' or 'words', got {unit!r}.")
        self.min_length = min_length
        self.max_length = max_length
        self.unit = unit

    def _arguments(self) -> dict[str, Any]:
        return {"min_length": self.min_length, "max_length": self.max_length, "unit": self.unit}

    def _judge(self, text: str) -> tuple[bool, str]:
        length = len(text.split()) if self.unit == "words" else len(text)
        if self.min_length is not None and length < self.min_length:
            return False, f"Output length ({length} {self.unit}) is below the minimum ({self.min_length} {self.unit})"
        if self.max_length is not None and length > self.max_length:
            return False, f"Output length ({length} {self.unit}) exceeds the maximum ({self.max_length} {self.unit})"
        return True, f"Output length ({length} {self.unit}) is within bounds"


_OCTET = r"(?:25[0-5]|2[0-4]\d|[01]?\d\d?)"
# Each tells only whether there is a match, so what may stand before or after without deciding it is left out; this
# keeps the search linear in the text (`[…]+@` alone is quadratic in a long word).
_PATTERNS = {
    "email": re.compile(r"[a-zA-Z0-9._%+-]@[a-zA-Z0-9.-]+\.[a-zA-Z]{2}"),
    "phone": re.compile(r"\d{3}\)?[-.\s]?\d{3}[-.\s]?\d{4}|\+[1-9]\d"),
    "ssn": re.compile(r"\b\d{3}-\d{2}-\d{4}\b"),
    "credit_card": re.compile(
        r"\b(?:(?:4\d{3}|5[1-5]\d\d|6011|65\d\d)(?:[-\s]?\d{4}){3}|3[47]\d\d[-\s]?\d{6}[-\s]?\d{5})\b"
    ),
    "ip_address": re.compile(rf"\b{_OCTET}(?:\.{_OCTET}){{3}}\b"),
}
PII_TYPES = tuple(_PATTERNS)


class PIIDetection(BuiltInScorer):
    """Says "no" when the output holds personal data of one of `pii_types` (default: all), "yes" when it is clean.

    Types: email, phone (US and E.164), ssn, credit_card (Visa, Mastercard, Amex, Discover), ip_address (IPv4).
    It rather flags too much than too little.

    Raises:
        ScorerDefinitionError: a type is unknown, or the list is empty.
    """

    default_name = "pii_detection"
    about = "Detect common PII (email, phone, SSN, credit card, IP) in the output."

    def __init__(self, *, pii_types: Sequence[str] | None = None, **options: Unpack[ScorerOptions]) -> None:
        super().__init__(**options)
        if pii_types is not None:
            if isinstance(pii_types, str) or not pii_types:
                raise ScorerDefinitionError(
                    f"PIIDetection: pii_types is a list out of {list(PII_TYPES)}, got {pii_types!r}."
                )
            if wrong := [kind for kind in pii_types if kind not in PII_TYPES]:
                raise ScorerDefinitionError(f"PIIDetection: unknown pii_types {wrong}. Known: {list(PII_TYPES)}.")
        self.pii_types = None if pii_types is None else list(pii_types)

    def _arguments(self) -> dict[str, Any]:
        return {"pii_types": self.pii_types}

    def _judge(self, text: str) -> tuple[bool, str]:
        detected = [kind for kind in self.pii_types or PII_TYPES if _PATTERNS[kind].search(text)]
        return not detected, f"Detected PII: {', '.join(detected)}" if detected else "No PII detected"
