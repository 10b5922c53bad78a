r"""Regular expressions of RLIKE: Python's, as MLflow runs them, written anew for Java's engine.

Both engines backtrack, so that `(a+)+$` over a stored text of 40 letters takes longer than a day, and no Spark
task can be interrupted in it. Refused are therefore: a group that repeats without bound and can match one text in
several ways, more than 1,000 ways through bounded parts, more than 5 unbounded repeats, and more than 200
characters. What is left takes polynomial time, at worst.

Java reads other things into the same signs (`[a&&b]`, `[[]`, `\d` for ASCII only, `.` stops at more line ends), so
that a pattern is parsed and written out, never passed on.
"""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass

MAX_PATTERN = 200
MAX_UNBOUNDED = 5
MAX_WAYS = 1000
MAX_COUNT = 1000
_LONG_RANGE = 16
"""A bounded repeat that may vary by more than this backtracks like an unbounded one."""

_CLASSES = {
    "d": r"\p{Nd}",
    "D": r"\P{Nd}",
    "w": r"[\p{L}\p{N}_]",
    "W": r"[^\p{L}\p{N}_]",
    "s": r"[\p{IsWhite_Space}\x1c-\x1f]",
    "S": r"[^\p{IsWhite_Space}\x1c-\x1f]",
}
_ANCHORS = {"A": r"\A", "Z": r"\z", "b": r"\b", "B": r"\B"}
_CONTROLS = {"a": 7, "b": 8, "t": 9, "n": 10, "v": 11, "f": 12, "r": 13}
_COUNT = re.compile(r"\{(\d*)(,?)(\d*)\}", re.ASCII)
_HEX = {"x": 2, "u": 4, "U": 8}
_OPENING = re.compile(
    r"\((?:\?:|\?P<\w+>|(?P<look>\?<?[=!])|\?(?P<on>[aiLmsux]+)(?P<off>-[imsx]+)?(?P<end>[:)])|(?!\?))"
)
"""How a group begins: plain, with a name, as a look-around, or with flags."""


class RegexRefusedError(ValueError):
    """A pattern that could hang a task, or that uses what is not supported."""


@dataclass(frozen=True, slots=True)
class _Piece:
    java: str
    ways: int = 1
    """In how many ways it can match one text, unbounded repeats left out."""
    unbounded: int = 0
    """Repeats in it that may vary without bound."""
    can_be_empty: bool = False
    is_one_character: bool = False


def to_java(pattern: str) -> str | None:
    """Return the pattern for Java's engine, or None when Python says that it is no pattern.

    Raises:
        RegexRefusedError: it could hang a task, or uses backreferences or another thing that is not supported.
    """
    if len(pattern) > MAX_PATTERN:
        raise RegexRefusedError(f"the pattern has {len(pattern)} characters; at most {MAX_PATTERN} are read")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            re.compile(pattern)
    except (re.error, OverflowError, RecursionError, ValueError):
        return None
    reader = _Reader(pattern)
    piece = reader.alternatives()
    if piece.unbounded > MAX_UNBOUNDED:
        raise RegexRefusedError(f"the pattern has {piece.unbounded} unbounded repeats; at most {MAX_UNBOUNDED} are run")
    if piece.ways > MAX_WAYS:
        raise RegexRefusedError("the pattern can match one text in too many ways, which could hang a task")
    # d: only \n ends a line; u: letters of all alphabets have cases; both as in Python.
    return f"(?du){piece.java}"


class _Reader:
    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        self.at = 0

    def peek(self, length: int = 1) -> str:
        return self.pattern[self.at : self.at + length]

    def take(self, length: int = 1) -> str:
        taken = self.peek(length)
        self.at += length
        return taken

    def alternatives(self) -> _Piece:
        branches = [self.sequence()]
        while self.peek() == "|":
            self.take()
            branches.append(self.sequence())
        return _Piece(
            "|".join(b.java for b in branches),
            sum(b.ways for b in branches),
            sum(b.unbounded for b in branches),
            any(b.can_be_empty for b in branches),
        )

    def sequence(self) -> _Piece:
        pieces: list[_Piece] = []
        while self.at < len(self.pattern) and self.peek() not in "|)":
            pieces.append(self.repeated(self.atom()))
        ways = 1
        for piece in pieces:
            ways = min(ways * piece.ways, MAX_WAYS + 1)
        return _Piece(
            "".join(p.java for p in pieces), ways, sum(p.unbounded for p in pieces), all(p.can_be_empty for p in pieces)
        )

    def repeated(self, piece: _Piece) -> _Piece:
        while self.peek():
            counts = self.counts()
            if counts is None:
                return piece
            lazy = "?" if self.peek() == "?" else ""
            self.take(len(lazy))
            if self.peek() == "+":
                raise RegexRefusedError("possessive repeats such as 'a*+' are not supported")
            piece = _repeat(piece, *counts, lazy)
        return piece

    def counts(self) -> tuple[int, int | None] | None:
        """Take a quantifier: (least, most), most None for no bound."""
        sign = self.peek()
        if sign in ("*", "+", "?"):
            self.take()
            return {"*": (0, None), "+": (1, None), "?": (0, 1)}[sign]
        match = _COUNT.match(self.pattern, self.at)
        if match is None or match[0] in ("{}", "{,}"):  # Python reads these as plain signs
            return None
        self.take(len(match[0]))
        least = int(match[1] or 0)
        most = least if not match[2] else int(match[3]) if match[3] else None
        if max(least, most or 0) > MAX_COUNT:
            raise RegexRefusedError(f"the repeat {match[0]} is not supported; at most {MAX_COUNT} times")
        return least, most

    def atom(self) -> _Piece:
        sign = self.take()
        if sign == "(":
            return self.group()
        if sign == "\\":
            return self.escape()
        if sign in ("^", "$"):
            return _Piece(sign, can_be_empty=True)
        java = "." if sign == "." else self.character_class() if sign == "[" else _code(ord(sign))
        return _Piece(java, is_one_character=True)

    def group(self) -> _Piece:
        """Take a group behind its '('; no group captures, as backreferences are not supported."""
        self.at -= 1
        opening = _OPENING.match(self.pattern, self.at)
        if opening is None:
            raise RegexRefusedError(f"{self.peek(4)!r} is not supported in a pattern")
        self.take(len(opening[0]))
        is_look, kept = opening["look"] is not None, ""
        if opening["on"] is not None:
            kept = opening["on"].replace("u", "") + (opening["off"] or "")
            if set(kept) - set("ims-"):
                raise RegexRefusedError(f"the flags {opening[0]!r} are not supported; only i, m and s are")
            if opening["end"] == ")":  # Python has flags for the whole pattern at its beginning only
                return _Piece(f"(?{kept})" if kept else "", can_be_empty=True)
        inner = self.alternatives()
        self.take()
        java = f"{opening[0] if is_look else f'(?{kept}:'}{inner.java})"
        return _Piece(java, inner.ways, inner.unbounded, is_look or inner.can_be_empty)

    def escape(self) -> _Piece:
        sign = self.take()
        if sign in _CLASSES:
            return _Piece(_CLASSES[sign], is_one_character=True)
        if sign in _ANCHORS:
            return _Piece(_ANCHORS[sign], can_be_empty=True)
        if sign in "123456789" and not re.fullmatch(r"[0-3][0-7]{2}", self.pattern[self.at - 1 : self.at + 2]):
            raise RegexRefusedError("backreferences such as '\\1' are not supported")
        return _Piece(_code(self.escaped(sign)), is_one_character=True)

    def escaped(self, sign: str) -> int:
        """Return the code point of an escape whose backslash and sign are taken."""
        if sign in _HEX:
            return int(self.take(_HEX[sign]), 16)
        if sign in "01234567":
            more = re.compile("[0-7]{0,2}").match(self.pattern, self.at)
            return int(sign + self.take(len(more[0]) if more else 0), 8)
        if sign == "N":
            raise RegexRefusedError("'\\N{…}' is not supported in a pattern; write the character")
        return _CONTROLS.get(sign, ord(sign))

    def character_class(self) -> str:
        """Take a class behind its '[' and write it without Java's set operations."""
        negated = "^" if self.peek() == "^" else ""
        self.take(len(negated))
        members: list[str] = []
        while not members or self.peek() != "]":
            first = self.member()
            if isinstance(first, int) and self.peek() == "-" and self.peek(2) != "-]":
                self.take()
                members.append(f"{_code(first)}-{_code(self.member())}")
            else:
                members.append(_code(first))
        self.take()
        return f"[{negated}{''.join(members)}]"

    def member(self) -> int | str:
        r"""Take one character (its code point) or a class such as `\d` (as Java writes it)."""
        sign = self.take()
        if sign != "\\":
            return ord(sign)
        sign = self.take()
        return _CLASSES[sign] if sign in _CLASSES else self.escaped(sign)


def _repeat(piece: _Piece, least: int, most: int | None, lazy: str) -> _Piece:
    counts = {(0, None): "*", (1, None): "+", (0, 1): "?"}.get((least, most))
    if counts is None:
        counts = f"{{{least},{'' if most is None else most}}}"
    # Java repeats one character in a loop, but a group by recursion, which can overflow the stack.
    java = f"{piece.java if piece.is_one_character else f'(?:{piece.java})'}{counts}{lazy}"
    if most is None:
        if piece.ways > 1 or piece.unbounded or piece.can_be_empty:
            raise RegexRefusedError(
                "the pattern repeats a group without bound that itself repeats, has alternatives or can be empty, "
                "such as (a+)+ or (a|b)*, which could hang a task; write it without the outer or the inner repeat"
            )
        return _Piece(java, 1, 1, least == 0)
    empty = least == 0 or piece.can_be_empty
    if piece.ways == 1 and most - least > _LONG_RANGE:
        return _Piece(java, 1, max(1, piece.unbounded * most), empty)
    ways = 0
    for count in range(least, most + 1):
        ways += piece.ways**count
        if ways > MAX_WAYS:
            break
    return _Piece(java, min(ways, MAX_WAYS + 1), piece.unbounded * most, empty)


def _code(member: int | str) -> str:
    """Write a code point, plainly only where no engine sees a sign in it."""
    if isinstance(member, str):
        return member
    character = chr(member)
    return character if character.isascii() and character.isalnum() else f"\\x{{{member:x}}}"
