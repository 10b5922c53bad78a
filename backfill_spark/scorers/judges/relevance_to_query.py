"""RelevanceToQuery: does the output answer what was asked?"""

from __future__ import annotations

from typing import ClassVar

from backfill_spark.scorers.judges.judge import Judge

_TASK = """\
Decide whether the outputs address what the inputs ask for. Whether they are correct or complete does not matter here;
what counts is that they are about the request and do not stray to another subject.
"yes": the outputs are relevant to the inputs. "no": they are not."""


class RelevanceToQuery(Judge):
    """Says "yes" when the outputs are about what the inputs ask."""

    takes: ClassVar[tuple[str, ...]] = ("inputs", "outputs")
    default_name: ClassVar[str] = "relevance_to_query"
    about: ClassVar[str] = "Does the output address what the input asks, without straying?"

    @property
    def task(self) -> str:
        return _TASK
