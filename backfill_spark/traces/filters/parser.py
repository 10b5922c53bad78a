"""The grammar: `comparison (AND comparison)*`, by recursive descent over the lexer's tokens.

MLflow lets a filter begin with AND and lets AND be left out between comparisons; so does this grammar. A filter
that ends with AND was cut off and is refused, which MLflow does not do.
"""

from __future__ import annotations

import ast
import warnings

from backfill_spark.errors import FilterError
from backfill_spark.traces.filters.lexer import Token, TokenKind, tokens_of
from backfill_spark.traces.filters.regex import RegexRefusedError, to_java
from backfill_spark.traces.filters.subjects import subject_of
from backfill_spark.traces.filters.tree import SOURCE_RUN, Comparison, Kind, Operator, Subject, Value

MAX_LENGTH = 4000
MAX_TERMS = 200
_UNQUOTED_NEVER = frozenset({"AS", "CASE", "FROM", "IN", "USING", "VALUES"})
_AND_NEEDED = frozenset({Operator.IN, Operator.NOT_IN, Operator.IS_NULL, Operator.IS_NOT_NULL})
_WORDS = frozenset({"LIKE", "ILIKE", "RLIKE"})


def parse(text: str) -> tuple[tuple[Comparison, ...], tuple[str, ...]]:
    """Return the terms of a filter, and notes for the reader of a plan.

    Raises:
        FilterError: the first thing that does not fit, under a caret.
    """
    if len(text) > MAX_LENGTH:
        raise FilterError.at(text, MAX_LENGTH, f"has {len(text)} characters; at most {MAX_LENGTH} are read")
    parser = _Parser(text)
    terms = parser.terms()
    last = max((i for i, term in enumerate(terms) if _is_run(term)), default=-1)
    kept = [term for i, term in enumerate(terms) if i >= last or not _is_run(term)]
    if len(kept) < len(terms):
        parser.notes.append("of several `run_id =` only the last one counts, as in MLflow")
    return tuple(kept), tuple(parser.notes)


def _is_run(term: Comparison) -> bool:
    return term.subject == Subject(Kind.METADATA, SOURCE_RUN) and term.operator is Operator.EQ


class _Parser:
    def __init__(self, text: str) -> None:
        self.text = text
        for position, character in enumerate(text):
            if "\ud800" <= character <= "\udfff":
                raise self.refused(position, "half of a surrogate pair; the text is not valid Unicode")
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

    def terms(self) -> list[Comparison]:
        found: list[Comparison] = []
        if self.token.upper == "AND":
            self.take()
        is_joined = True
        while True:
            if len(found) == MAX_TERMS:
                raise self.refused(self.token.start, f"more than {MAX_TERMS} comparisons")
            start = self.token.start
            found.append(self.comparison())
            if not is_joined and found[-1].operator in _AND_NEEDED:
                # MLflow reads `name = 'x' tags.k IS NULL` as one field with a long name.
                raise self.refused(start, "AND is missing before this comparison")
            if self.token.kind is TokenKind.END:
                return found
            is_joined = self.token.upper == "AND"
            if is_joined:
                self.take()
            elif self.token.upper in ("OR", "NOT"):
                what = f"{self.token.upper} is not supported; comparisons are joined by AND"
                raise self.refused(self.token.start, what)

    def comparison(self) -> Comparison:
        start, is_bare_timestamp = self.token.start, self.token.text == "timestamp"
        prefix, key = self.field()
        subject = subject_of(prefix, key)
        if isinstance(subject, str):
            raise self.refused(start, subject)
        at = self.token.start
        operator = self.operator()
        if operator not in subject.operators:
            allowed = ", ".join(op for op in Operator if op in subject.operators)
            raise self.refused(at, f"{operator} is not supported for {subject}; supported: {allowed}")
        if operator in (Operator.IS_NULL, Operator.IS_NOT_NULL):
            return Comparison(subject, operator)
        at = self.token.start
        if is_bare_timestamp and not prefix and self.number_kind() is not int:
            raise self.refused(at, "timestamp is compared with a whole number of milliseconds since the epoch")
        value = self.value(subject, operator)
        self.check(subject, operator, value, at)
        return Comparison(subject, operator, value)

    def field(self) -> tuple[str, str]:
        """Return the prefix ("" for none) and the key, split at the first dot."""
        first = self.take()
        if first.upper == "AND":
            raise self.refused(first.start, "a comparison must stand between AND and AND")
        if first.kind not in (TokenKind.WORD, TokenKind.BACKTICKED, TokenKind.DOUBLE):
            what = "expected a comparison" if first.kind is TokenKind.END else "expected a field"
            raise self.refused(first.start, f"{what}, for example status = 'OK' or tags.env = 'prod'")
        if self.token.kind is not TokenKind.DOT:
            if self.token.kind is TokenKind.OPEN:
                raise self.refused(self.token.start, "functions and parentheses are not supported")
            return "", _without_backticks(first.unquoted)
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
            if part.upper in _UNQUOTED_NEVER:
                raise self.refused(part.start, f"the key {part.text!r} must be written in backticks: `{part.text}`")
            before = part
        raw = self.text[start : before.end]
        is_quoted = len(raw) >= 2 and raw[0] == raw[-1] and raw[0] in "'\""
        return _without_backticks(raw[1:-1] if is_quoted else raw)

    def operator(self) -> Operator:
        token = self.take()
        if token.kind is TokenKind.SIGN and token.text in ("=", "!=", "<", "<=", ">", ">="):
            return Operator(token.text)
        if token.upper in _WORDS or token.upper == "IN":
            return Operator(token.upper)
        if token.upper == "NOT" and self.token.upper == "IN":
            self.take()
            return Operator.NOT_IN
        if token.upper == "IS":
            if self.token.upper == "NULL":
                self.take()
                return Operator.IS_NULL
            negation, null = self.take(), self.token
            # MLflow takes NOT NULL as one word, with one blank.
            if negation.upper == "NOT" and null.upper == "NULL" and self.text[negation.end : null.start] == " ":
                self.take()
                return Operator.IS_NOT_NULL
            raise self.refused(negation.start, "after IS comes NULL or NOT NULL (with one blank)")
        shown = f"NOT {self.token.upper}" if token.upper == "NOT" else token.text
        what = f"{shown!r} is not an operator" if shown else "an operator is missing"
        raise self.refused(token.start, f"{what}; supported: {', '.join(Operator)}")

    def number_kind(self) -> type[int | float] | None:
        if self.token.kind is not TokenKind.NUMBER:
            return None
        return int if self.token.text.removeprefix("-").isdigit() else float

    def value(self, subject: Subject, operator: Operator) -> Value:
        if operator in (Operator.IN, Operator.NOT_IN):
            return self.items()
        kind, token = self.number_kind(), self.take()
        if token.is_text:
            return token.unquoted
        if kind is None or not subject.is_number:
            wanted = "a number of milliseconds" if subject.is_number else "a text in quotes"
            raise self.refused(token.start, f"{subject} is compared with {wanted}")
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
        elif subject.is_number and isinstance(value, str) and as_number(value) is None:
            self.notes.append(f"{subject} is in milliseconds; the text {value!r} is greater than every number")


def as_number(text: str) -> int | float | None:
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


def _without_backticks(text: str) -> str:
    return text[1:-1] if len(text) >= 2 and text[0] == text[-1] == "`" else text
