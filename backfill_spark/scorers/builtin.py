"""Built-in code scorers: what they share, and how they find the text they judge."""

from __future__ import annotations

import json
import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from backfill_spark.assessment import Feedback
from backfill_spark.models import ScorerKind
from backfill_spark.scorers.scorer import Scorer


class BuiltInScorer(Scorer):
    """A scorer that a stored row recreates from its class name and constructor arguments."""

    kind = ScorerKind.BUILTIN
    revision: ClassVar[int] = 1
    """Part of the digest; rises when the answers to the same parameters change."""

    def __init__(
        self,
        *,
        name: str,
        description: str | None,
        aggregations: Sequence[str] | None,
        timeout: float | None,
        version_note: str | None,
    ) -> None:
        super().__init__(
            None,
            name=name,
            description=description,
            aggregations=aggregations,
            timeout=timeout,
            version_note=version_note,
            # A backfill passes the outputs, so that Spark never reads spans for them.
            signature=("outputs",),
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

    def definition_digest(self) -> str:
        from backfill_spark.scorers import digest

        return digest.of_parameters(str(self.kind), self.parameters, self.revision)

    def captured(self) -> tuple[Any, ...]:
        """Return what decides its answers. For digests."""
        return (str(self.kind), self.definition_digest())

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
