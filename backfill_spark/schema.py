"""Every schema, key, partitioning and comment; the one place where a column is spelled.

`docs/tables.md` is generated from here.
"""

from __future__ import annotations

from dataclasses import dataclass

from pyspark.sql import types as T

STRING, BIGINT, INT, DOUBLE = T.StringType(), T.LongType(), T.IntegerType(), T.DoubleType()
BOOLEAN, TIMESTAMP, DATE = T.BooleanType(), T.TimestampType(), T.DateType()
TEXTS = T.MapType(STRING, STRING)


def _struct(*columns: tuple[str, T.DataType, str]) -> T.StructType:
    return T.StructType(
        [T.StructField(name, kind, True, {"comment": comment} if comment else {}) for name, kind, comment in columns]
    )


@dataclass(frozen=True, slots=True)
class Table:
    """One Delta table of ours."""

    name: str
    schema: T.StructType
    comment: str
    partitioned_by: tuple[str, ...] = ()
    append_only: bool = False
    is_contract: bool = False
    """True for tables that others may read; the rest are internal."""
    added: tuple[tuple[str, ...], ...] = ()
    """Columns that version 2, 3, … of the table brought. An older table gets them when it is opened."""

    @property
    def version(self) -> int:
        """Written to the table as the property `backfill_spark.schema_version`; newer ones are refused."""
        return 1 + len(self.added)


SPAN = _struct(
    ("span_id", STRING, ""),
    ("parent_id", STRING, ""),
    ("name", STRING, ""),
    ("span_type", STRING, ""),
    ("start_time_ns", BIGINT, ""),
    ("end_time_ns", BIGINT, ""),
    ("status_code", STRING, ""),
    ("inputs", STRING, ""),
    ("outputs", STRING, ""),
    ("attributes", TEXTS, ""),
)
TRACE_ASSESSMENT = _struct(
    ("assessment_id", STRING, ""),
    ("trace_id", STRING, ""),
    ("assessment_name", STRING, ""),
    ("source", _struct(("source_id", STRING, ""), ("source_type", STRING, "")), ""),
    ("create_time", TIMESTAMP, ""),
    ("last_update_time", TIMESTAMP, ""),
    (
        "expectation",
        _struct(
            ("value", STRING, ""),
            (
                "serialized_value",
                _struct(("serialization_format", STRING, ""), ("value", STRING, ""), ("stack_trace", STRING, "")),
                "",
            ),
        ),
        "",
    ),
    (
        "feedback",
        _struct(
            ("value", STRING, ""),
            (
                "error",
                _struct(("error_code", STRING, ""), ("error_message", STRING, ""), ("stack_trace", STRING, "")),
                "",
            ),
        ),
        "",
    ),
    ("rationale", STRING, ""),
    ("metadata", TEXTS, ""),
    ("span_id", STRING, ""),
    ("overrides", STRING, ""),
    ("valid", STRING, ""),
)
_IMPORTED_ASSESSMENT = T.StructType(
    [*TRACE_ASSESSMENT.fields, *_struct(("issue", _struct(("issue_name", STRING, "")), ""))]
)
TRACES = _struct(
    ("trace_id", STRING, "Id, exactly as the source spells it."),
    ("experiment_id", STRING, "Experiment; NULL belongs to the experiment that asks."),
    ("request_time", TIMESTAMP, "Start of the trace."),
    ("execution_duration_ms", BIGINT, "Duration in milliseconds."),
    ("state", STRING, "OK, ERROR, IN_PROGRESS, INCOMPLETE or STATE_UNSPECIFIED."),
    ("request", STRING, "Input of the root span."),
    ("response", STRING, "Output of the root span."),
    ("request_preview", STRING, ""),
    ("response_preview", STRING, ""),
    ("client_request_id", STRING, ""),
    ("session_id", STRING, ""),
    ("trace_metadata", TEXTS, ""),
    ("tags", TEXTS, ""),
    ("spans", T.ArrayType(SPAN), "Spans; a JSON text of the same list is read too."),
    ("assessments", T.ArrayType(TRACE_ASSESSMENT), "Assessments that the trace had in the source."),
    ("trace_date", DATE, "UTC date of request_time."),
)
PAYLOAD = "backfill_spark.payload"
"""Metadata of a column `request`: the payload rule of the whole table, where traces.payload is auto."""
IMPORTED_TRACES = Table(
    "traces",
    T.StructType(
        [
            T.StructField("request", STRING, True, {"comment": "JSON text of the root's input.", PAYLOAD: "json"})
            if field.name == "request"
            else T.StructField("spans", STRING, True, {"comment": "JSON list of spans, as MLflow stores them."})
            if field.name == "spans"
            else T.StructField("assessments", T.ArrayType(_IMPORTED_ASSESSMENT), True)
            if field.name == "assessments"
            else field
            for field in TRACES.fields
        ]
    ),
    "Traces imported from a server: values are JSON texts, as it stores them.",
)
REQUIRED_TRACE_COLUMNS = ("trace_id", "request_time")

SCORERS = Table(
    "scorers",
    _struct(
        ("experiment_id", STRING, "Experiment the scorer is registered in."),
        ("name", STRING, "Name, unique in the experiment."),
        ("version", INT, "1, 2, …; a number is never used again."),
        ("kind", STRING, "function, async_function, builtin or judge."),
        ("level", STRING, "trace or session."),
        ("parameters", STRING, "JSON object: constructor arguments of a built-in or judge."),
        ("definition", STRING, "Base64 of the pickled function; NULL for built-ins and judges."),
        ("source_text", STRING, "Source, for people to read; never executed."),
        ("digest", STRING, "SHA-256 of what decides the scorer's answers."),
        ("signature", STRING, "JSON list of the parameters the scorer takes."),
        ("description", STRING, ""),
        ("aggregations", STRING, 'JSON list such as ["mean","p90"].'),
        ("timeout_s", DOUBLE, "Limit of one call in seconds; NULL means the setting."),
        ("version_note", STRING, "What the author said about this version."),
        ("python_version", STRING, "Minor version that pickled the definition, such as 3.11."),
        ("created_at", TIMESTAMP, ""),
        ("created_by", STRING, ""),
        ("deleted_at", TIMESTAMP, "Set on a tombstone row: this version is deleted."),
    ),
    "Registered scorers, a row a version (append-only).",
    append_only=True,
    is_contract=True,
)
SCORER_CONFIGS = Table(
    "scorer_configs",
    _struct(
        ("experiment_id", STRING, ""),
        ("name", STRING, "Scorer."),
        ("sample_rate", DOUBLE, "Share of traces in [0, 1]; 0 means stopped."),
        ("filter_string", STRING, "MLflow filter, or NULL."),
        ("updated_at", TIMESTAMP, "The latest row of a scorer wins."),
        ("filter_dialect", STRING, "Dialect of the filter: mlflow or extended; NULL means mlflow."),
    ),
    "Sample rate and filter of each scorer (append-only, latest wins).",
    append_only=True,
    is_contract=True,
    added=(("filter_dialect",),),
)
ASSESSMENTS = Table(
    "assessments",
    _struct(
        ("assessment_id", STRING, "a- and 32 hex digits, made from the row's key."),
        ("experiment_id", STRING, "Experiment of the job."),
        ("trace_id", STRING, ""),
        ("trace_time", TIMESTAMP, "The trace's request_time."),
        ("trace_date", DATE, "UTC date of trace_time."),
        ("session_id", STRING, ""),
        ("span_id", STRING, "Span the feedback is about, or NULL."),
        ("target", STRING, "trace, session or span."),
        ("assessment_name", STRING, "The feedback's own name, else the scorer's."),
        ("scorer_name", STRING, ""),
        ("scorer_version", INT, ""),
        ("scorer_digest", STRING, ""),
        ("ordinal", INT, "0, 1, … among the feedbacks of one pair."),
        ("outcome", STRING, "scored, empty or error."),
        ("source_type", STRING, "CODE, LLM_JUDGE or HUMAN."),
        ("source_id", STRING, ""),
        ("value", STRING, "Compact JSON text; NULL unless scored."),
        ("value_double", DOUBLE, "Number; booleans and yes/no as 1 and 0; else NULL."),
        ("value_string", STRING, "Bare text of a string value; else NULL."),
        ("rationale", STRING, ""),
        ("error_code", STRING, "Why there is no value; a closed list."),
        ("error_message", STRING, "Details, at most 500 characters."),
        ("metadata", TEXTS, ""),
        ("sample_rate", DOUBLE, "Rate of the job that merged the row."),
        ("draw", DOUBLE, "The trace's number in [0, 1)."),
        ("seed", BIGINT, "Seed of the draw."),
        ("job_id", STRING, "Job that merged the row."),
        ("scored_job_id", STRING, "Job that called the scorer."),
        ("source_version", STRING, "Version of the source that was read."),
        ("attempts", INT, "Calls made for this result."),
        ("latency_ms", DOUBLE, "Time of the call; NULL where not measured."),
        ("model", STRING, "Model of a judge."),
        ("input_tokens", BIGINT, ""),
        ("output_tokens", BIGINT, ""),
        ("cost_usd", DOUBLE, "NULL where unknown."),
        ("cached", BOOLEAN, "True when answered without a call."),
        ("prompt_hash", STRING, "Key of the judge's answer."),
        ("input_digest", STRING, "Hash of what the scorer was given: tells stale from current."),
        ("created_at", TIMESTAMP, ""),
        ("updated_at", TIMESTAMP, ""),
    ),
    "Results: one row a feedback, or one row for an empty or failed pair.",
    partitioned_by=("trace_date",),
    is_contract=True,
)
PAIR_KEY = ("experiment_id", "trace_id", "scorer_name", "scorer_version")
ROW_KEY = (*PAIR_KEY, "ordinal")

RESULT_FIELDS: tuple[tuple[str, T.DataType], ...] = (
    ("scorer_name", STRING),
    ("scorer_version", INT),
    ("ordinal", INT),
    ("assessment_name", STRING),
    ("value", STRING),
    ("value_double", DOUBLE),
    ("value_string", STRING),
    ("rationale", STRING),
    ("error_code", STRING),
    ("error_message", STRING),
    ("latency_ms", DOUBLE),
    ("input_digest", STRING),
    ("extra", STRING),
)
"""One result of a trace. `extra` is a JSON object of what few results have: see EXTRA."""
RESULTS = T.StructType([T.StructField(name, T.ArrayType(kind)) for name, kind in RESULT_FIELDS])
"""All results of one trace: a struct of parallel arrays, one element a result."""
EXTRA = _struct(
    ("span_id", STRING, ""),
    ("source_type", STRING, ""),
    ("source_id", STRING, ""),
    ("metadata", TEXTS, ""),
    ("attempts", INT, ""),
    ("model", STRING, ""),
    ("input_tokens", BIGINT, ""),
    ("output_tokens", BIGINT, ""),
    ("cost_usd", DOUBLE, ""),
    ("cached", BOOLEAN, ""),
    ("prompt_hash", STRING, ""),
)

SCORED = _struct(
    ("trace_id", STRING, ""),
    ("trace_time", TIMESTAMP, ""),
    ("trace_date", DATE, ""),
    ("session_id", STRING, ""),
    ("draw", DOUBLE, ""),
    ("results", RESULTS, "What each scorer gave."),
)
"""A scored trace, before its results are rows of ASSESSMENTS."""
OLD_STAGING = Table("staging", SCORED, "Where older versions staged scored traces, with their job_id and chunk.")
WORK = Table(
    "work",
    _struct(
        ("job_id", STRING, ""),
        ("kind", STRING, "choice (sampling, trace_ids), prompt (a rendered judge call) or file (a frozen list)."),
        ("scorer_name", STRING, "Scorer of the choice or prompt."),
        ("scorer_version", INT, ""),
        ("trace_id", STRING, "Trace of the choice or prompt; path of the file."),
        ("trace_time", TIMESTAMP, ""),
        ("trace_date", DATE, ""),
        ("session_id", STRING, ""),
        ("draw", DOUBLE, ""),
        ("prompt", STRING, "Rendered prompt (JSON messages), or NULL."),
        ("prompt_hash", STRING, ""),
        ("input_digest", STRING, ""),
        ("tokens", BIGINT, "Estimated tokens of the prompt."),
    ),
    "What a job chose once: sampled pairs, listed traces, rendered prompts, frozen file lists.",
    partitioned_by=("job_id",),
)
JUDGEMENTS = Table(
    "judgements",
    _struct(
        ("prompt_hash", STRING, "Hash of model, parameters and rendered prompt."),
        ("model", STRING, ""),
        ("answer", STRING, "JSON object as the model gave it; NULL for an error."),
        ("error_code", STRING, ""),
        ("error_message", STRING, ""),
        ("attempts", INT, "Requests sent for this answer."),
        ("latency_ms", DOUBLE, ""),
        ("input_tokens", BIGINT, ""),
        ("output_tokens", BIGINT, ""),
        ("cost_usd", DOUBLE, ""),
        ("job_id", STRING, "Job that paid for it."),
        ("answered_at", TIMESTAMP, ""),
    ),
    "Answers of judges by prompt: what was paid for once is not asked again.",
)
JOB_EVENTS = Table(
    "job_events",
    _struct(
        ("job_id", STRING, ""),
        ("event", STRING, "created, claimed, heartbeat, chunk_planned, chunk_staged, chunk_merged, covered, …"),
        ("epoch", BIGINT, "Epoch of the runner that wrote it; 0 before any claim."),
        ("n", BIGINT, "Rising within the epoch."),
        ("at", TIMESTAMP, "The writer's clock; leases use the commit's."),
        ("payload", STRING, "JSON object."),
    ),
    "The truth about jobs (append-only).",
    # From version 2 on the event of a staged chunk names the files of its results: there is no table `staging`.
    added=((),),
)
JOBS = Table(
    "jobs",
    _struct(
        ("job_id", STRING, ""),
        ("experiment_id", STRING, ""),
        ("state", STRING, "PENDING, RUNNING, CANCELING, SUCCEEDED, PARTIAL, FAILED or CANCELED."),
        ("request", STRING, "JSON, frozen at creation."),
        ("window_start", TIMESTAMP, "Inclusive; NULL is no bound."),
        ("window_end", TIMESTAMP, "Exclusive; NULL is no bound."),
        ("source", STRING, ""),
        ("source_table_id", STRING, ""),
        ("source_version", STRING, ""),
        ("results_version", BIGINT, "Version of assessments that decided what was due."),
        ("scorers", STRING, "JSON list: name, version, digest, rate, filter."),
        ("seed", BIGINT, ""),
        ("counts", STRING, "JSON object: scorer to its counts."),
        ("rate_reached", DOUBLE, "How far in the draw the job came; NULL before its end."),
        ("calls", BIGINT, "Scorer calls made."),
        ("cost_usd", DOUBLE, "What its judges cost at most, answers and lost requests alike; NULL where unknown."),
        ("owner", STRING, "Runner: host, process and a random part."),
        ("epoch", BIGINT, ""),
        ("heartbeat_at", TIMESTAMP, ""),
        ("error", STRING, ""),
        ("parent_job_id", STRING, "Always NULL: no job has a parent."),
        ("spark_app_id", STRING, ""),
        ("versions", STRING, "JSON object: backfill_spark, spark, delta, python."),
        ("created_at", TIMESTAMP, ""),
        ("started_at", TIMESTAMP, ""),
        ("ended_at", TIMESTAMP, ""),
    ),
    "A row a job, for people; kept in step with job_events.",
    is_contract=True,
)
DELIVERIES = Table(
    "deliveries",
    _struct(
        ("destination", STRING, "Kind and address of the server, or the table."),
        ("job_id", STRING, "Job whose results they are."),
        ("results_version", BIGINT, "Version of assessments that was read."),
        (
            "delivered",
            T.ArrayType(STRING),
            "Of each accepted result: its id there, a hash of what it holds, its scorer's version and its age.",
        ),
        ("missing", T.ArrayType(STRING), "Ids of accepted results that a read-back did not find: sent again."),
        ("rejected", STRING, "JSON object: assessment_id to the reason."),
        ("at", TIMESTAMP, ""),
    ),
    "What was delivered where: a row a batch (append-only).",
    append_only=True,
)
ALL_TABLES = (SCORERS, SCORER_CONFIGS, ASSESSMENTS, WORK, JUDGEMENTS, JOB_EVENTS, JOBS, DELIVERIES)
