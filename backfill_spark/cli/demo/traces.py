"""A seeded history of support conversations, in the canonical trace shape."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from backfill_spark.cli.demo import texts
from backfill_spark.cli.demo.conversations import Turn, new_turn, new_words
from backfill_spark.cli.demo.topics import TOPICS

if TYPE_CHECKING:
    from pathlib import Path

    import pyarrow as pa
    from pyspark.sql.types import DataType

END = datetime(2024, 7, 1, tzinfo=UTC)
"""The history ends here, and begins `days` before."""
FILES = 4
_HOURS = (2, 1, 1, 1, 1, 2, 4, 7, 10, 13, 14, 13, 12, 12, 13, 13, 13, 14, 16, 18, 19, 15, 9, 4)
_WEEKDAYS = (1.25, 1.15, 1.1, 1.05, 1.0, 0.8, 0.85)
_SESSION_LENGTHS = (1, 1, 1, 2, 2, 3, 4, 5, 6)
_TOPIC_WEIGHTS = [topic.weight for topic in TOPICS]


def demo_table(*, traces: int = 20_000, days: int = 60, seed: int = 7) -> pa.Table:
    """Return `traces` traces of support conversations over `days` days as one Arrow table of the shape TRACES.

    Equal arguments give equal rows.
    """
    import pyarrow as pa

    from backfill_spark import schema

    columns: dict[str, list[Any]] = {name: [] for name in schema.TRACES.names}
    for row in demo_traces(traces=traces, days=days, seed=seed):
        for name, values in columns.items():
            values.append(row[name])
    return pa.table(columns, schema=pa.schema([(field.name, _arrow_type(field.dataType)) for field in schema.TRACES]))


def write_table(path: Path, table: pa.Table) -> None:
    """Write rows in order of time to a new Delta table at `path`, without Spark."""
    from deltalake import write_deltalake

    # Files that each hold a stretch of time are skipped by a window.
    size = -(-len(table) // FILES)
    for start in range(0, len(table), size):
        write_deltalake(path, table.slice(start, size), mode="append")


def demo_traces(*, traces: int = 20_000, days: int = 60, seed: int = 7) -> Iterator[dict[str, Any]]:
    """Yield `traces` rows of the canonical shape TRACES, in order of time."""
    rng = random.Random(seed)
    rows: list[dict[str, Any]] = []
    while len(rows) < traces:
        rows.extend(_session(rng, _arrival(rng, days)))
    del rows[traces:]
    rows.sort(key=lambda row: (row["request_time"], row["trace_id"]))
    yield from rows


def _arrow_type(kind: DataType) -> pa.DataType:
    """Return the Arrow type of a column of TRACES (PySpark's own function for it differs between 4.0 and 4.2)."""
    import pyarrow as pa
    from pyspark.sql import types as T

    match kind:
        case T.StructType():
            return pa.struct([pa.field(field.name, _arrow_type(field.dataType)) for field in kind.fields])
        case T.ArrayType():
            return pa.list_(_arrow_type(kind.elementType))
        case T.MapType():
            return pa.map_(_arrow_type(kind.keyType), _arrow_type(kind.valueType))
        case T.StringType():
            return pa.string()
        case T.LongType():
            return pa.int64()
        case T.DateType():
            return pa.date32()
        case _:
            return pa.timestamp("us", "UTC")


def _arrival(rng: random.Random, days: int) -> datetime:
    """More by day than by night, on Mondays than on Saturdays, and in the last week than in the first."""
    start = END - timedelta(days=days)
    while True:
        day = int(days * rng.random())
        weight = _WEEKDAYS[(start + timedelta(days=day)).weekday()] * (0.7 + 0.6 * day / days)
        if rng.random() * 1.7 < weight:
            break
    hour = rng.choices(range(24), _HOURS)[0]
    # A conversation of six ends within the hour, so that none runs over the end of the history.
    return start + timedelta(days=day, hours=hour, microseconds=int(rng.random() * 2_400_000_000))


def _session(rng: random.Random, moment: datetime) -> Iterator[dict[str, Any]]:
    topic = rng.choices(TOPICS, _TOPIC_WEIGHTS)[0]
    session_id = f"sess-{rng.getrandbits(48):012x}"
    user = f"u-{1000 + int(2600 * rng.random() ** 2)}"
    channel = rng.choice(("web", "web", "web", "app", "app", "e-mail"))
    words = new_words(rng, moment)
    language = rng.choice(tuple(texts.OTHER_LANGUAGES)) if rng.random() < 0.03 else "en"
    for number in range(rng.choice(_SESSION_LENGTHS)):
        turn = new_turn(rng, topic, words, language, is_first=number == 0)
        yield _trace(rng, turn, moment, session_id=session_id, user=user, channel=channel)
        moment += timedelta(seconds=15 + rng.expovariate(1 / 60) % 180)


def _trace(
    rng: random.Random, turn: Turn, moment: datetime, *, session_id: str, user: str, channel: str
) -> dict[str, Any]:
    question, answer = turn.question, turn.answer
    unfinished = rng.random() < 0.003
    if unfinished:
        answer = None
    request = _json({"messages": [{"role": "user", "content": question}]})
    spans, duration_ms, tokens = _spans(rng, turn, request, answer, moment)
    metadata = {
        "mlflow.trace.session": session_id,
        "mlflow.trace.user": user,
        "mlflow.trace.tokenUsage": _json(tokens),
    }
    if rng.random() < 0.01:
        # Made by an evaluation run over old questions, so never scored again.
        metadata["mlflow.sourceRun"] = f"{rng.getrandbits(128):032x}"
    return {
        "trace_id": f"tr-{rng.getrandbits(128):032x}",
        "experiment_id": "0",
        "request_time": moment,
        "execution_duration_ms": None if unfinished else duration_ms,
        "state": "IN_PROGRESS" if unfinished else "ERROR" if turn.failed else "OK",
        "request": request,
        "response": answer,
        "request_preview": question[:200],
        "response_preview": None if answer is None else answer[:200],
        "client_request_id": f"req-{rng.getrandbits(40):010x}",
        "session_id": session_id,
        "trace_metadata": list(metadata.items()),
        "tags": [
            ("mlflow.traceName", "support_assistant"),
            ("environment", "production"),
            ("channel", channel),
            ("topic", turn.topic.name),
            ("app_version", "3.1.0" if moment < END - timedelta(days=21) else "3.2.0"),
        ],
        "spans": spans,
        "assessments": [],
        "trace_date": moment.date(),
    }


def _spans(
    rng: random.Random, turn: Turn, request: str, answer: str | None, moment: datetime
) -> tuple[list[dict[str, Any]], int, dict[str, int]]:
    """Return the spans with the root first, the duration in ms, and the tokens of the model's call."""
    ids = iter(f"{rng.getrandbits(64):016x}" for _ in range(3 + turn.tools))
    root = next(ids)
    start = int(moment.timestamp() * 1e6) * 1000
    clock = start + rng.randrange(1_000_000, 9_000_000)
    model = rng.choice(texts.MODELS)
    output = answer or ""
    tokens = {"input_tokens": 380 + len(request) // 4 + 90 * turn.tools, "output_tokens": 1 + len(output) // 4}
    tokens["total_tokens"] = tokens["input_tokens"] + tokens["output_tokens"]

    def child(milliseconds: float, **more: Any) -> dict[str, Any]:
        nonlocal clock
        begin, clock = clock, clock + int(milliseconds * 1e6)
        return _span(span_id=next(ids), parent_id=root, start_time_ns=begin, end_time_ns=clock, **more)

    articles = [{"page_content": page, "metadata": {"source": "help"}} for page in turn.topic.articles]
    children = [
        child(
            rng.lognormvariate(4, 0.4),
            name="search_help_center",
            span_type="RETRIEVER",
            inputs=turn.question,
            outputs=_json(articles),
            attributes=[("top_k", "3")],
        )
    ]
    wanted = _json({"order": turn.words["order"]})
    for number in range(turn.tools):
        broke = turn.failed and number == turn.tools - 1
        found = None if broke else _json({"order": turn.words["order"], "city": turn.words["city"], "state": "sent"})
        tool = turn.topic.tool if number == 0 else "get_customer"
        said = {"inputs": wanted, "outputs": found, "status_code": "ERROR" if broke else "OK"}
        children.append(child(rng.lognormvariate(4.6, 0.6), name=tool, span_type="TOOL", **said))
    children.append(
        child(
            250 + 9 * tokens["output_tokens"] * rng.lognormvariate(0, 0.3),
            name="chat",
            span_type="CHAT_MODEL",
            inputs=request,
            outputs=answer,
            attributes=[("mlflow.llm.model", model), ("mlflow.chat.tokenUsage", _json(tokens))],
        )
    )
    end = clock + 2_000_000
    whole = _span(
        span_id=root,
        parent_id=None,
        name="support_assistant",
        span_type="AGENT",
        start_time_ns=start,
        end_time_ns=end,
        status_code="ERROR" if turn.failed else "OK",
        inputs=request,
        outputs=answer,
    )
    return [whole, *children], (end - start) // 1_000_000, tokens


def _span(**fields: Any) -> dict[str, Any]:
    return {"status_code": "OK", "attributes": []} | fields


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
