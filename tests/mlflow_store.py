"""An MLflow database made large by SQL: its own client would take a second for thirty traces."""

from __future__ import annotations

import psycopg

_COLUMNS = "select column_name from information_schema.columns where table_name = %s and is_generated = 'NEVER'"
_NEW = "'tr-' || md5({id} || k)"
_OLD_BASE64 = "encode(decode(substr(trace_id, 4), 'hex'), 'base64')"
_NEW_BASE64 = "encode(decode(md5(trace_id || k), 'hex'), 'base64')"
_CHANGED = {
    "trace_info": {"request_id": _NEW.format(id="request_id"), "timestamp_ms": "timestamp_ms + k::bigint * {step}"},
    "trace_tags": {"request_id": _NEW.format(id="request_id")},
    "trace_request_metadata": {"request_id": _NEW.format(id="request_id")},
    "spans": {
        "trace_id": _NEW.format(id="trace_id"),
        # The id stands in it as text, and as base64 of its 16 bytes.
        "content": f"replace(replace(content, trace_id, {_NEW.format(id='trace_id')}), {_OLD_BASE64}, {_NEW_BASE64})",
    },
    "assessments": {
        "assessment_id": "'a-' || md5(assessment_id || k)",
        "trace_id": _NEW.format(id="trace_id"),
        "trace_timestamp_ms": "trace_timestamp_ms + k::bigint * {step}",
        "overrides": "'a-' || md5(overrides || k)",
    },
}


def multiply(database: str, experiment: str, copies: int, *, step_ms: int = 1_800_000) -> None:
    """Copy all traces of an experiment so many times, each `step_ms` later than the one before."""
    with psycopg.connect(database, autocommit=True) as connection:
        for table, changed in _CHANGED.items():
            names = [name for (name,) in connection.execute(_COLUMNS, (table,))]
            values = ", ".join(changed.get(name, name).format(step=step_ms) for name in names)
            whose = "request_id" if "request_id" in names else "trace_id"
            of = f"{whose} in (select request_id from base)" if table != "trace_info" else "true"
            if table == "trace_info":
                connection.execute(
                    f"create temp table base as select * from trace_info where experiment_id = {int(experiment)}"
                )
            source = "base" if table == "trace_info" else table
            connection.execute(
                f"insert into {table} ({', '.join(names)}) select {values} "
                f"from {source}, generate_series(1, {copies}) k where {of}"
            )
        connection.execute("analyze")


def add_spans(database: str, trace_id: str, count: int) -> None:
    """Give a trace so many spans more, below its root, each a copy of one that it has."""
    with psycopg.connect(database, autocommit=True) as connection:
        names = [name for (name,) in connection.execute(_COLUMNS, ("spans",))]
        # A number of 8 bytes as base64, in place of the id of the span.
        new = "encode(decode(lpad(to_hex(k), 16, '0'), 'hex'), 'base64')"
        old = "content::json ->> 'span_id'"
        start = "start_time_unix_nano"
        content = f"replace(replace(content, {old}, {new}), {start}::text, ({start} + k)::text)"
        changed = {"span_id": "lpad(to_hex(k), 16, '0')", "content": content, start: f"{start} + k"}
        values = ", ".join(changed.get(name, name) for name in names)
        connection.execute(
            f"insert into spans ({', '.join(names)}) select {values} from (select * from spans where trace_id = %s "
            f"and parent_span_id is not null limit 1) s, generate_series(1, {count}) k",
            (trace_id,),
        )
