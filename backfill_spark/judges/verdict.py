"""What a judge may answer: the type of its value, as a schema for the model and as a check of what came."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import Any, Literal, get_args, get_origin

from backfill_spark.errors import JudgeOutputError, ScorerDefinitionError

Scalar = str | int | float | bool
_NAMES: dict[type, str] = {str: "string", bool: "boolean", int: "integer", float: "number"}
_WORDS = {"string": '"<your answer>"', "boolean": "true or false", "integer": "<an integer>", "number": "<a number>"}


def closed_object(properties: dict[str, Any]) -> dict[str, Any]:
    """Return the JSON schema of an object with these properties, all of them and no others."""
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


@dataclass(frozen=True, slots=True)
class VerdictType:
    """A closed set of values, or one of the types str, bool, int, float."""

    kind: str | None
    """JSON schema type; None for a set of several types."""
    allowed: tuple[Scalar, ...] = field(default=())

    @classmethod
    def of(cls, declared: Any) -> VerdictType:
        """Read a `feedback_value_type`: str, bool, int, float, a Literal of such, or its own JSON form.

        Raises:
            ScorerDefinitionError: anything else.
        """
        if declared is None:
            return cls("string")
        if isinstance(declared, type) and declared in _NAMES:
            return cls(_NAMES[declared])
        if get_origin(declared) is Literal:
            return cls._of_set(get_args(declared))
        if isinstance(declared, dict) and isinstance(declared.get("enum"), list):
            return cls._of_set(tuple(declared["enum"]))
        if isinstance(declared, dict) and declared.get("type") in _WORDS:
            return cls(declared["type"])
        raise ScorerDefinitionError(
            f"feedback_value_type is str, bool, int, float or a Literal of such, got {declared!r:.80}."
        )

    @classmethod
    def _of_set(cls, values: tuple[Any, ...]) -> VerdictType:
        if not values or any(type(v) not in _NAMES for v in values):
            raise ScorerDefinitionError(
                f"A Literal of a judge holds texts, numbers or truth values, got {values!r:.80}."
            )
        kinds = {type(v) for v in values}
        return cls(_NAMES[kinds.pop()] if len(kinds) == 1 else None, values)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON schema of the value, which `of` reads again."""
        kind = {} if self.kind is None else {"type": self.kind}
        return {**kind, "enum": list(self.allowed)} if self.allowed else kind

    @property
    def schema(self) -> dict[str, Any]:
        """JSON schema of the whole answer, as strict as providers ask for."""
        return closed_object({"rationale": {"type": "string"}, "result": self.to_json()})

    @property
    def words(self) -> str:
        """What the prompt says about the value."""
        if self.allowed:
            return " or ".join(json.dumps(v, ensure_ascii=False) for v in self.allowed)
        return _WORDS[str(self.kind)]

    def read(self, answer: str) -> tuple[Scalar, str | None]:
        """Check a model's JSON object; return its value and rationale.

        A text that differs from an allowed one only in case or white space is that one; `"true"` is a boolean
        and `"4"` a number where one is asked for.

        Raises:
            JudgeOutputError: no `result`, or one that is not allowed.
        """
        rationale, found = self.parts(answer)
        return self.value_of(found), rationale

    def parts(self, answer: str) -> tuple[str | None, Any]:
        """Return the rationale and the unchecked result of a model's JSON object.

        Raises:
            JudgeOutputError: there is no result.
        """
        try:
            data = json.loads(answer)
        except ValueError as error:
            raise JudgeOutputError("the answer is no JSON object") from error
        if not isinstance(data, dict) or "result" not in data:
            raise JudgeOutputError("the answer has no result")
        rationale = data.get("rationale")
        return rationale if isinstance(rationale, str) else None, data["result"]

    def value_of(self, found: Any) -> Scalar:
        """Check a result by itself.

        Raises:
            JudgeOutputError: it is not allowed.
        """
        if self.allowed:
            # type() too: True equals 1, and 1.0 does.
            exact: list[Scalar] = [v for v in self.allowed if type(v) is type(found) and v == found]
            near: list[Scalar] = [v for v in self.allowed if isinstance(v, str) and _folded(v) == _folded(found)]
            if not exact and not isinstance(found, str | bool):
                near = [v for v in self.allowed if type(v) in (int, float) and v == found]
            fitting = exact or near
            if len(fitting) != 1:
                raise JudgeOutputError(f"the result {found!r:.80} is none of {self.words}")
            return fitting[0]
        read = {"string": _text, "boolean": _boolean, "integer": _integer, "number": _number}[str(self.kind)]
        value = read(found)
        if value is None:
            raise JudgeOutputError(f"the result {found!r:.80} is no {self.kind}")
        return value


def _folded(value: Any) -> Any:
    return value.strip().strip(".\"'").casefold() if isinstance(value, str) else None


def _text(value: Any) -> str | None:
    is_scalar = isinstance(value, bool | int | float)
    return json.dumps(value) if is_scalar else value if isinstance(value, str) else None


def _boolean(value: Any) -> bool | None:
    return value if isinstance(value, bool) else {"true": True, "false": False}.get(_folded(value) or "")


def _integer(value: Any) -> int | None:
    number = _number(value)
    if number is None or number != math.floor(number):
        return None
    return value if type(value) is int else int(number)


def _number(value: Any) -> float | None:
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None
