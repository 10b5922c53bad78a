"""The made-up history of the demo."""

from __future__ import annotations

import json
from collections import Counter
from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest

from backfill_spark.cli.demo.texts import OTHER_LANGUAGES
from backfill_spark.cli.demo.topics import TOPICS
from backfill_spark.cli.demo.traces import END, demo_traces
from backfill_spark.scorers import PIIDetection


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    return list(demo_traces(traces=3_000, days=20, seed=7))


def test_equal_seeds_give_equal_rows(rows: list[dict[str, Any]]) -> None:
    """The demo shows the same numbers on every machine."""
    assert rows == list(demo_traces(traces=3_000, days=20, seed=7))
    assert rows != list(demo_traces(traces=3_000, days=20, seed=8))


def test_the_history_has_the_length_that_was_asked_for(rows: list[dict[str, Any]]) -> None:
    """Every day of the window has traces, and none lies outside it."""
    days = {row["trace_date"] for row in rows}

    assert 3_000 == len({row["trace_id"] for row in rows})
    assert {(END - timedelta(days=back)).date() for back in range(1, 21)} == days
    assert all(before["request_time"] <= after["request_time"] for before, after in pairwise(rows))


def test_sessions_have_one_to_six_traces_of_one_user(rows: list[dict[str, Any]]) -> None:
    """A session is one person's conversation."""
    users = {(row["session_id"], dict(row["trace_metadata"])["mlflow.trace.user"]) for row in rows}
    lengths = Counter(row["session_id"] for row in rows)

    assert len(lengths) == len(users)
    assert {1, 2, 3, 4, 5, 6} == set(lengths.values())


def test_spans_hang_together(rows: list[dict[str, Any]]) -> None:
    """One root, an agent, holds the other spans in time."""
    for row in rows:
        root, *children = row["spans"]
        assert (None, "AGENT", row["response"]) == (root["parent_id"], root["span_type"], root["outputs"])
        assert {root["span_id"]} == {span["parent_id"] for span in children}
        assert all(root["start_time_ns"] <= span["start_time_ns"] <= span["end_time_ns"] for span in children)
        assert all(span["end_time_ns"] <= root["end_time_ns"] for span in children)
        assert {"RETRIEVER", "CHAT_MODEL"} <= {span["span_type"] for span in children}


def test_the_faults_of_real_histories_are_there(rows: list[dict[str, Any]]) -> None:
    """Errors, unfinished traces, evaluation runs, refusals, leaks and missing answers all occur."""
    answers = [row["response"] for row in rows]
    judged = Counter(PIIDetection()(outputs=answer).value for answer in answers if answer)
    lengths = sorted(len(answer) for answer in answers if answer)

    assert {"OK", "ERROR", "IN_PROGRESS"} == {row["state"] for row in rows}
    assert 0 < sum("mlflow.sourceRun" in dict(row["trace_metadata"]) for row in rows) < 100
    assert 0 < judged["no"] < 200
    assert None in answers
    assert "" in answers
    assert any("can't help" in answer for answer in answers if answer)
    assert any(word in answer for answer in answers if answer for word in ("secret", "Bearer", "api_key"))
    assert lengths[-1] > 10 * lengths[len(lengths) // 20]


def test_requests_are_chat_messages(rows: list[dict[str, Any]]) -> None:
    """A scorer on `inputs` gets a dict of messages."""
    first = json.loads(rows[0]["request"])

    assert ["user"] == [message["role"] for message in first["messages"]]


def test_no_place_is_left_open(rows: list[dict[str, Any]]) -> None:
    """Every name that a sentence asks for is filled in, in all languages."""
    questions = {question for topic in TOPICS for question in topic.asks}

    assert questions
    assert {"de", "es", "fr"} == set(OTHER_LANGUAGES)
    assert not [row for row in rows if "{product" in f"{row['request']}{row['response']}"]
    assert not [row for row in rows if "{order}" in f"{row['request']}{row['response']}"]
