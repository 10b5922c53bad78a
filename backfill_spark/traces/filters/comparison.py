"""One comparison of a filter: its field, its operator and its value."""

from __future__ import annotations

import ast
import re
import warnings

from backfill_spark.errors import FilterError
from backfill_spark.traces.filters.lexer import Token, TokenKind, tokens_of
from backfill_spark.traces.filters.regex import RegexRefusedError, to_java
from backfill_spark.traces.filters.subjects import subject_of
from backfill_spark.traces.filters.tree import ORDER, Comparison, Kind, Number, Operator, Subject, Value

UNQUOTED_NEVER = frozenset({"AS", "CASE", "FROM", "IN", "USING", "VALUES"})
_WORDS = frozenset({"LIKE", "ILIKE", "RLIKE", "IN"})
_NEGATED = frozenset({"LIKE", "ILIKE", "RLIKE", "BETWEEN"})


class ComparisonReader:
    """The tokens of a filter, and a place in them."""

    def __init__(self, text: str, *, extended: bool) -> None:
        self.text = text
        self.extended = extended
        try:
            text.encode()
        except UnicodeEncodeError as error:
            what = "half of a surrogate pair; the text is not valid Unicode"
            raise self.refused(error.start, what) from None
        self.tokens = tokens_of(text)
        self.index = 0
        self.notes: list[str] = []

    @property
    def token(self) -> Token:
        return self.tokens[self.index]

    def take(self) -> Token:
        token = self.token
        self.index += token.kind is not TokenKind.END
        return token

    def refused(self, position: int, what: str) -> FilterError:
        return FilterError.at(self.text, position, what)

    def needs_extended(self, token: Token, what: str) -> None:
        """Refuse what only the extended dialect has."""
        if not self.extended:
            hint = "as in MLflow, where comparisons are joined by AND only"
            raise self.refused(token.start, f"{what} needs filters.dialect: extended; it is mlflow, {hint}")

    def comparison(self) -> tuple[Comparison, bool]:
        """Read a comparison; True where its operator is negated, as in NOT LIKE."""
        start, is_bare_timestamp = self.token.start, self.token.text == "timestamp"
        prefix, key = self.field()
        subject = subject_of(prefix, key)
        if isinstance(subject, str):
            raise self.refused(start, subject)
        at = self.token.start
        operator, is_negated = self.operator()
        if operator not in subject.operators:
            known = subject.operators - (set() if self.extended else {Operator.BETWEEN})
            allowed = ", ".join(op for op in Operator if op in known)
            raise self.refused(at, f"{operator} is not supported for {subject}; supported: {allowed}")
        if operator in (Operator.IS_NULL, Operator.IS_NOT_NULL):
            return Comparison(subject, operator), is_negated
        at = self.token.start
        if is_bare_timestamp and not prefix and self.number_kind() is not int:
            raise self.refused(at, "timestamp is compared with a whole number of milliseconds since the epoch")
        value = self.value(subject, operator)
        self.check(subject, operator, value, at)
        return Comparison(subject, operator, value), is_negated

    def field(self) -> tuple[str, str]:
        """Return the prefix ("" for none) and the key, split at the first dot."""
        first = self.take()
        if first.upper in ("AND", "OR"):
            what = "between AND and AND" if first.upper == "AND" else "on both sides of OR"
            raise self.refused(first.start, f"a comparison must stand {what}")
        if first.kind not in (TokenKind.WORD, TokenKind.BACKTICKED, TokenKind.DOUBLE):
            what = "expected a comparison" if first.kind is TokenKind.END else "expected a field"
            raise self.refused(first.start, f"{what}, for example status = 'OK' or tags.env = 'prod'")
        if self.token.kind is not TokenKind.DOT:
            if self.token.kind is TokenKind.OPEN:
                raise self.refused(self.token.start, "functions are not supported")
            if first.upper == "TEXT":
                raise self.refused(first.start, "'text' alone is not a field, as in MLflow; write trace.text")
            return "", without_backticks(first.unquoted)
        prefix = first.text if first.kind is TokenKind.DOUBLE else first.unquoted
        return prefix, self.key(first)

    def key(self, before: Token) -> str:
        """Take the key behind the prefix; as in MLflow it is unquoted as a whole, so tags.a.`b` keeps its backticks."""
        start = self.token.end
        while self.token.kind is TokenKind.DOT:
            dot, part = self.take(), self.take()
            is_part = part.kind is TokenKind.WORD or part.text != part.unquoted
            if before.end != dot.start or dot.end != part.start or not is_part:
                what = "a key must follow the dot; a key with other signs than letters, digits, '_' and '.' "
                raise self.refused(dot.start, what + "is written in backticks: tags.`my key`")
            if part.upper in UNQUOTED_NEVER:
                raise self.refused(part.start, f"the key {part.text!r} must be written in backticks: `{part.text}`")
            before = part
        return key_of(self.text[start : before.end])

    def operator(self) -> tuple[Operator, bool]:
        token = self.take()
        if token.kind is TokenKind.SIGN and token.text in ("=", "!=", "<", "<=", ">", ">="):
            return Operator(token.text), False
        if token.upper in _WORDS:
            return Operator(token.upper), False
        if token.upper == "BETWEEN":
            self.needs_extended(token, "BETWEEN")
            return Operator.BETWEEN, False
        if token.upper == "NOT" and self.token.upper == "IN":
            self.take()
            return Operator.NOT_IN, False
        if token.upper == "NOT" and self.token.upper in _NEGATED:
            self.needs_extended(token, f"NOT {self.token.upper}")
            return Operator(self.take().upper), True
        if token.upper == "IS":
            if self.token.upper == "NULL":
                self.take()
                return Operator.IS_NULL, False
            negation, null = self.take(), self.token
            # MLflow takes NOT NULL as one word, with one blank.
            if negation.upper == "NOT" and null.upper == "NULL" and self.text[negation.end : null.start] == " ":
                self.take()
                return Operator.IS_NOT_NULL, False
            raise self.refused(negation.start, "after IS comes NULL or NOT NULL (with one blank)")
        what = f"{token.text!r} is not an operator" if token.text else "an operator is missing"
        known = [op for op in Operator if self.extended or op is not Operator.BETWEEN]
        raise self.refused(token.start, f"{what}; supported: {', '.join(known)}")

    def number_kind(self) -> type[Number] | None:
        if self.token.kind is not TokenKind.NUMBER:
            return None
        return int if self.token.text.removeprefix("-").isdigit() else float

    def value(self, subject: Subject, operator: Operator) -> Value:
        if operator in (Operator.IN, Operator.NOT_IN):
            return self.items()
        if operator is Operator.BETWEEN:
            low = self.number(subject)
            if self.take().upper != "AND":
                raise self.refused(self.tokens[self.index - 1].start, "BETWEEN takes two numbers: BETWEEN 1 AND 5")
            return low, self.number(subject)
        if subject.is_assessment and operator in ORDER:
            return self.number(subject)
        if self.token.is_text:
            return self.take().unquoted
        if subject.is_number:
            return self.number(subject)
        raise self.refused(self.token.start, f"{subject} is compared with a text in quotes")

    def number(self, subject: Subject) -> Number:
        kind, token = self.number_kind(), self.take()
        if kind is None:
            what = "a number of milliseconds" if subject.is_number else "a number, without quotes, by < <= > >= BETWEEN"
            raise self.refused(token.start, f"{subject} is compared with {what}")
        number = kind(token.text)
        if isinstance(number, int) and not -(2**63) <= number < 2**63:
            raise self.refused(token.start, "the number does not fit into 64 bits")
        return number

    def items(self) -> tuple[str, ...]:
        """Read a list of texts, in which MLflow reads Python's escapes: it calls `ast.literal_eval`."""
        first = last = self.take()
        if first.kind is not TokenKind.OPEN:
            raise self.refused(first.start, "after IN comes a list of texts: ('a', 'b')")
        while last.kind is not TokenKind.CLOSE:
            last = self.take()
            if not (last.is_text or last.kind in (TokenKind.COMMA, TokenKind.CLOSE)):
                raise self.refused(last.start, "a list holds only texts in quotes: ('a', 'b')")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = ast.literal_eval(self.text[first.start : last.end])
            items = found if isinstance(found, tuple) else (found,)
            "".join(items).encode()
        except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError) as error:
            raise self.refused(first.start, "is no list of texts: ('a', 'b')") from error
        if not items:
            raise self.refused(first.start, "the list is empty")
        return items

    def check(self, subject: Subject, operator: Operator, value: Value, at: int) -> None:
        """Refuse patterns that could hang a task; note comparisons that cannot mean what they say."""
        if operator is Operator.RLIKE:
            try:
                if to_java(str(value)) is None:
                    self.notes.append(f"{subject} RLIKE: {value!r} is no regular expression and matches nothing")
            except RegexRefusedError as error:
                raise self.refused(at, str(error)) from error
        elif subject.kind is Kind.PROMPT and not re.fullmatch("[^/]+/[^/]+", str(value)):
            raise self.refused(at, "a prompt is written 'name/version'")
        elif subject.is_number and isinstance(value, str) and as_number(value) is None:
            self.notes.append(f"{subject} is in milliseconds; the text {value!r} is greater than every number")


def as_number(text: str) -> Number | None:
    """Read a quoted number as SQLite does for a column of numbers; None when it is none."""
    plain = text.strip(" \t\n\v\f\r")
    if not plain.isascii() or plain.strip("+-.eE0123456789"):
        return None
    try:
        whole = int(plain)
        return whole if -(2**63) <= whole < 2**63 else float(whole)
    except (ValueError, OverflowError):
        pass
    try:
        return float(plain)
    except ValueError:
        return None


def key_of(written: str) -> str:
    """Return the key that is written so behind a prefix."""
    is_quoted = len(written) >= 2 and written[0] == written[-1] and written[0] in "'\""
    return without_backticks(written[1:-1] if is_quoted else written)


def without_backticks(text: str) -> str:
    return text[1:-1] if len(text) >= 2 and text[0] == text[-1] == "`" else text
