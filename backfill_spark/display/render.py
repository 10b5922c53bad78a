"""Sheet: facts, tables and notes about one thing, printed in a terminal, as text, or as HTML in a notebook.

All text is cleaned here: what users or traces wrote cannot move the cursor, colour the terminal, or add markup.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.table import Table as RichTable

T = TypeVar("T")
_ESCAPES = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # CSI: colours, cursor
    r"|\x1b[\]PX^_].*?(?:\x07|\x1b\\|$)"  # OSC, DCS and others: titles, links
    r"|\x1b[ -/]*[0-~]?"
    r"|\x9b[0-?]*[ -/]*[@-~]",
    re.DOTALL,
)
_CONTROLS = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]")
_BREAKS = re.compile("\r\n|[\n\r\x0b\x0c\x85\u2028\u2029]")
_SIDES = {
    "left": "text-align:left;white-space:pre-line",
    "whole": "text-align:left;white-space:pre",
    "broken": "text-align:left;white-space:pre-line;overflow-wrap:anywhere",
    "right": "text-align:right;white-space:pre",
}
PIPE_WIDTH = 160
"""Columns when the output is no terminal."""
LINE_LENGTH = 260
"""Longest text of a line of the log, in characters; with its time and level it stays below 300."""


def clean(value: object, *, lines: bool = False) -> str:
    """Return `value` as text without control characters, escape sequences and lone surrogates.

    Line breaks become spaces unless `lines`; tabs become spaces.
    """
    text = _ESCAPES.sub("", str(value))
    text = _BREAKS.sub("\n" if lines else " ", text)
    text = _CONTROLS.sub(lambda found: " " if found[0] == "\t" else "", text)
    return text.encode("utf-8", "replace").decode("utf-8")


# No markup; and in a notebook rich would hand what is printed to the cell instead of to the stream.
_PLAIN: dict[str, Any] = {"markup": False, "highlight": False, "emoji": False, "force_jupyter": False}


def one_line(text: str, length: int = LINE_LENGTH) -> str:
    """Return `text` without line breaks and control characters, and cut to `length`."""
    plain = clean(text)
    return plain if len(plain) <= length else plain[: length - 1] + "…"


def duration(seconds: float) -> str:
    """Return a number of seconds as `40 s`, `3 min 05 s` or `2 h 10 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def console(stream: TextIO) -> Console:
    """Return a rich console on `stream` that reads no markup; wide when it is no terminal."""
    from rich.console import Console

    made = Console(file=stream, **_PLAIN)
    if not made.is_terminal:
        made.width = PIPE_WIDTH
    return made


class Listed(list[T]):
    """A list that a notebook shows as a table."""

    def __init__(self, things: Iterable[T], sheet: Callable[[Sequence[T]], Sheet]) -> None:
        super().__init__(things)
        self._sheet = sheet

    def _repr_html_(self) -> str:
        return self._sheet(self).html()


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under column names; cells are ready texts."""

    columns: tuple[str, ...]
    """Names; a line break in one is where a narrow terminal gets a second line."""
    rows: tuple[tuple[str, ...], ...]
    left: frozenset[str] = frozenset()
    """Columns aligned left, beside the first; the others hold numbers."""
    whole: frozenset[str] = frozenset()
    """Columns that are never folded, such as ids to be copied."""
    left_out: tuple[str, ...] = ()
    """Columns that a narrow terminal does not show, the first one first."""

    def without(self, column: str) -> Table:
        """Return the table without one of its columns."""
        at = self.columns.index(column)
        rows = tuple((*row[:at], *row[at + 1 :]) for row in self.rows)
        return replace(self, columns=(*self.columns[:at], *self.columns[at + 1 :]), rows=rows)

    def is_left(self, index: int) -> bool:
        """True when the column at `index` is aligned left."""
        return index == 0 or self.columns[index] in self.left


@dataclass(frozen=True, slots=True)
class Sheet:
    """What is shown about one thing."""

    title: str
    facts: tuple[tuple[str, str], ...] = ()
    """Label and value; facts with an empty value are left out."""
    tables: tuple[Table, ...] = ()
    notes: tuple[str, ...] = ()
    """Sentences and preformatted text under the tables."""
    style: str = field(default="bold", compare=False)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        """Give rich the parts of the sheet to print."""
        from rich.table import Table as RichTable
        from rich.text import Text

        yield Text(clean(self.title), style=self.style)
        if facts := [fact for fact in self.facts if fact[1]]:
            grid = RichTable.grid(padding=(0, 2))
            grid.add_column(style="dim")
            grid.add_column(overflow="fold")
            for label, value in facts:
                grid.add_row(Text(clean(label)), Text(clean(value, lines=True)))
            yield grid
        for table in self.tables:
            yield _fitting(table, console, options)
        for note in self.notes:
            yield Text(clean(note, lines=True))

    def text(self, width: int = PIPE_WIDTH) -> str:
        """Return plain text without colours, lines of at most `width` characters."""
        from rich.console import Console

        stream = io.StringIO()
        # A notebook's FORCE_COLOR is not for a text.
        plain = Console(file=stream, width=width, force_terminal=False, color_system=None, **_PLAIN)
        plain.print(self)
        return "\n".join(line.rstrip() for line in stream.getvalue().rstrip().split("\n"))

    def html(self) -> str:
        """Return HTML for a notebook's `_repr_html_`; colours are the notebook's own, light or dark."""
        parts = [f"<b>{_escaped(self.title)}</b>"]
        if facts := [fact for fact in self.facts if fact[1]]:
            parts.append(f"<table>{''.join(_html_row(fact, ('whole', 'broken')) for fact in facts)}</table>")
        parts += [_html_table(table) for table in self.tables]
        parts += [f'<pre style="margin:0;white-space:pre-wrap">{_escaped(note)}</pre>' for note in self.notes]
        return f'<div style="overflow-x:auto">{"".join(parts)}</div>'


def _fitting(table: Table, console: Console, options: ConsoleOptions) -> RichTable:
    """Return the table for rich, without columns that it has no room for."""
    made = _rich_table(table)
    for column in table.left_out:
        if made.__rich_measure__(console, options.update(max_width=1_000)).maximum <= options.max_width:
            break
        table = table.without(column)
        made = _rich_table(table)
    return made


def _rich_table(table: Table) -> RichTable:
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    made = RichTable(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for index, column in enumerate(table.columns):
        is_left = table.is_left(index)
        # Texts may be folded; a folded number reads as another number.
        made.add_column(
            Text(clean(column, lines=True)),
            justify="left" if is_left else "right",
            overflow="fold",
            no_wrap=not is_left or column in table.whole,
        )
    for row in table.rows:
        made.add_row(*(Text(clean(cell)) for cell in row))
    return made


def _html_table(table: Table) -> str:
    # A folded number reads as another number, and an id is copied whole.
    sides = [
        "left" if table.is_left(index) and name not in table.whole else "whole" if table.is_left(index) else "right"
        for index, name in enumerate(table.columns)
    ]
    head = _html_row([clean(name) for name in table.columns], sides, "th")
    body = "".join(_html_row(row, sides) for row in table.rows)
    return f"<table><thead>{head}</thead><tbody>{body}</tbody></table>"


def _html_row(cells: Sequence[str], sides: Sequence[str], tag: str = "td") -> str:
    pairs = zip(cells, sides, strict=True)
    texts = (f'<{tag} style="{_SIDES[side]}">{_escaped(cell)}</{tag}>' for cell, side in pairs)
    return f"<tr>{''.join(texts)}</tr>"


def _escaped(text: str) -> str:
    return html.escape(clean(text, lines=True))
