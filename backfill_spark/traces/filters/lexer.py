r"""The words of a filter text, with their positions.

The shapes are those of sqlparse, which MLflow reads filters with: quotes inside a quoted text are never
unescaped, `''` and `\'` do not end it, and `-1`, `1.5`, `.5`, `1e3` are numbers.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from backfill_spark.errors import FilterError


class TokenKind(StrEnum):
    """Kind of a token; the value is also its group in the pattern."""

    BACKTICKED = "backticked"
    SINGLE = "single"
    DOUBLE = "double"
    NUMBER = "number"
    WORD = "word"
    DOT = "dot"
    COMMA = "comma"
    OPEN = "open"
    CLOSE = "close"
    SIGN = "sign"
    END = "end"


@dataclass(frozen=True, slots=True)
class Token:
    """A piece of the text `[start, end)`; `text` includes its quotes."""

    kind: TokenKind
    text: str
    start: int
    end: int

    @property
    def upper(self) -> str:
        """The text of a bare word in capitals, "" for any other token."""
        return self.text.upper() if self.kind is TokenKind.WORD else ""

    @property
    def is_text(self) -> bool:
        """True for a value in single or double quotes."""
        return self.kind in (TokenKind.SINGLE, TokenKind.DOUBLE)

    @property
    def unquoted(self) -> str:
        """The text without its quotes."""
        quoted = self.kind in (TokenKind.SINGLE, TokenKind.DOUBLE, TokenKind.BACKTICKED)
        return self.text[1:-1] if quoted else self.text


_TOKEN = re.compile(
    r"""(?P<blank>\s+)
    |(?P<backticked>`(?:``|[^`])*`)
    |(?P<single>'(?:''|\\'|[^'])*')
    |(?P<double>"(?:""|\\"|[^"])*")
    |(?P<number>-?(?:[0-9]+(?:\.[0-9]+)?[eE]-?[0-9]+|[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+)(?!\w))
    |(?P<word>\w+)
    |(?P<dot>\.)|(?P<comma>,)|(?P<open>\()|(?P<close>\))
    |(?P<sign>[<>=~!]+)""",
    re.VERBOSE,
)
_KINDS = {str(kind): kind for kind in TokenKind}
_HINTS = {
    "'": "the quote is not closed",
    '"': "the quote is not closed",
    "`": "the backtick is not closed",
    ";": "';' cannot stand here; a filter is one expression",
    "-": "'-' cannot stand here; there are no comments, and a key with '-' is written in backticks: tags.`my-key`",
    "#": "'#' cannot stand here; a filter has no comments",
    "&": "'&' cannot stand here; join comparisons with AND",
}


def first_token(text: str) -> str:
    """Return the token that a text begins with, with its quotes; "" where none does."""
    match = _TOKEN.match(text)
    return match[0] if match else ""


def tokens_of(text: str) -> list[Token]:
    """Split a filter; the last token is the END.

    Raises:
        FilterError: a character that begins no token, under a caret.
    """
    tokens: list[Token] = []
    position = 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            character = text[position]
            raise FilterError.at(text, position, _HINTS.get(character, f"{character!r} cannot stand here"))
        if match.lastgroup != "blank":
            tokens.append(Token(_KINDS[str(match.lastgroup)], match[0], position, match.end()))
        position = match.end()
    return [*tokens, Token(TokenKind.END, "", len(text), len(text))]
