"""What older versions stored is found under today's names."""

from __future__ import annotations

import pickle
from typing import Any

import cloudpickle
import pytest

from backfill_spark import Feedback, RegexMatch, Trace, scorer
from backfill_spark.scorers.stored_code import moved

OF_THE_FIRST_LAYOUT = "8fb7313cfffc45c159ac484e1baf6354cd117dd6fc888c99efd088d66a9fc70d"


def renamed(payload: bytes) -> bytes:
    """What an older version would have pickled: its names are as long as they like in protocol 0."""
    for first, today, names in moved._HOMES:
        for name in names or ("Feedback", "Trace"):
            payload = payload.replace(f"c{today}\n{name}\n".encode(), f"c{first}\n{name}\n".encode())
    return payload


@pytest.mark.parametrize("thing", [Feedback, Trace, RegexMatch], ids=lambda t: t.__name__)
def test_a_class_is_found_under_its_first_name(thing: Any) -> None:
    """A pickle that names the old module gives the class of today."""
    stored = renamed(pickle.dumps(thing, protocol=0))
    assert (b"traces" not in stored, moved.unpickled(stored)) == (True, thing)


def test_a_module_is_found_under_its_first_name() -> None:
    """A function may hold a module of ours."""
    from backfill_spark.traces import trace

    stored = cloudpickle.dumps(trace, protocol=0).replace(b"backfill_spark.traces.trace", b"backfill_spark.trace")
    assert moved.unpickled(stored) is trace


def test_the_digest_of_an_unchanged_scorer_is_what_it_was() -> None:
    """Else registering it again would make a new version, and pay for its results again."""

    @scorer
    def polite(outputs):  # type: ignore[no-untyped-def] # as people write it
        return Feedback(value="please" in outputs)

    assert polite.digest == OF_THE_FIRST_LAYOUT
