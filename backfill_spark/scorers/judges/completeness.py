"""Completeness: is every part of the request dealt with?"""

from __future__ import annotations

from typing import ClassVar

from backfill_spark.scorers.judges.judge import Judge

_TASK = """\
List for yourself each question, request and condition in the inputs. Decide whether the outputs deal with every one of
them. An explicit and reasoned "I cannot do this part" deals with that part; leaving it out does not.
"yes": nothing that was asked for is left out. "no": something is."""


class Completeness(Judge):
    """Says "yes" when the outputs leave out nothing that the inputs ask for."""

    takes: ClassVar[tuple[str, ...]] = ("inputs", "outputs")
    default_name: ClassVar[str] = "completeness"
    about: ClassVar[str] = "Does the output deal with every part of the input?"

    @property
    def task(self) -> str:
        return _TASK
