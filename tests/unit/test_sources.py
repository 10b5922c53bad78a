"""Rules of sources that need no JVM: which columns fit, and what error texts mean."""

from typing import Any

import pytest
from pyspark.sql import types as T

from backfill_spark.errors import TraceSourceError
from backfill_spark.schema import TEXTS, TRACES
from backfill_spark.traces.sources import corrupt_file, source_gone
from backfill_spark.traces.sources.canonical import resolve
from backfill_spark.traces.sources.files import version_of


def shape(**columns: T.DataType) -> T.StructType:
    """Return a source with the required columns and `columns`."""
    kinds = {"trace_id": T.StringType(), "request_time": T.TimestampType()} | columns
    return T.StructType([T.StructField(name, kind) for name, kind in kinds.items()])


def refusal(found: T.StructType, **mapping: Any) -> str:
    with pytest.raises(TraceSourceError) as caught:
        resolve(found, mapping, "/traces")
    return str(caught.value)


def test_the_canonical_shape_fits_itself() -> None:
    """Each column of TRACES but the computed date is found."""
    assert set(resolve(TRACES, {}, "/traces")) == set(TRACES.fieldNames()) - {"trace_date"}


def test_mapped_columns_win_over_columns_of_the_canonical_name() -> None:
    """A mapping says which column is meant, dots and blanks included."""
    found = shape(**{"context.trace id": T.StringType(), "response": T.StringType(), "answer": T.StringType()})
    fields = resolve(found, {"trace_id": "context.trace id", "response": "answer"}, "/traces")
    assert {k: f.told for k, f in fields.items()} == {
        "trace_id": "context.trace id",
        "request_time": "request_time",
        "response": "answer",
    }


def test_names_are_found_in_any_case_when_only_one_fits() -> None:
    """`Response` is response; of `TAGS` and `Tags` neither is."""
    found = shape(Response=T.StringType(), TAGS=TEXTS, Tags=TEXTS)
    assert set(resolve(found, {}, "/traces")) == {"trace_id", "request_time", "response"}


def test_missing_required_columns_are_all_named_with_those_found() -> None:
    """Both required columns and what is there stand in one message."""
    text = refusal(T.StructType([T.StructField("id", T.StringType())]))
    assert "['request_time', 'trace_id']" in text
    assert "Found: ['id']" in text
    assert "traces.columns" in text


def test_mapping_problems_are_all_named_with_the_nearest() -> None:
    """Keys that are no trace column and columns that are not there, at once."""
    text = refusal(shape(answer=T.StringType()), responce="answer", request="anser", trace_date="day")
    assert "'responce' is no trace column; did you mean 'response'" in text
    assert "'anser' is not there; the nearest are ['answer'" in text
    assert "trace_date is always computed" in text
    found = shape(answer=T.StringType())
    text = refusal(found, request={"path": "answer.it's"}, tags={"column": "answer", "unit": "ms"})
    assert "has a quote in a key of a JSON text, which no path can name" in text
    assert "tags: a unit is for request_time only" in text


@pytest.mark.parametrize(
    ("column", "kind", "found"),
    [
        ("trace_id", T.StructType([T.StructField("a", T.StringType())]), "STRUCT<A:STRING>"),
        ("trace_id", T.BinaryType(), "BINARY"),
        ("trace_id", T.DoubleType(), "DOUBLE"),
        ("request_time", T.BooleanType(), "BOOLEAN"),
        ("execution_duration_ms", T.DateType(), "DATE"),
        ("state", T.IntegerType(), "INT"),
        ("tags", T.ArrayType(T.StringType()), "ARRAY<STRING>"),
        ("spans", T.ArrayType(T.StringType()), "ARRAY<STRING>"),
        ("assessments", TEXTS, "MAP<STRING,STRING>"),
        ("request", T.BinaryType(), "BINARY"),
    ],
)
def test_types_that_cannot_be_read_are_refused(column: str, kind: T.DataType, found: str) -> None:
    """The message has the column, its type and the expected one."""
    text = refusal(shape(**{column: kind}))
    assert f"{column} is {found}, expected " in text


def test_all_wrong_types_are_named_at_once() -> None:
    """A mapped column is shown by both names."""
    found = shape(ts=T.BooleanType(), state=T.BooleanType())
    text = refusal(found, request_time="ts")
    assert "request_time (their 'ts') is BOOLEAN, expected TIMESTAMP, TIMESTAMP_NTZ" in text
    assert "state is BOOLEAN" in text


def test_a_column_that_stands_twice_is_refused() -> None:
    """Which of two columns is meant is never guessed."""
    double = T.StructType([*shape().fields, T.StructField("trace_id", T.StringType())])
    assert "['trace_id'] more than once" in refusal(double)
    with pytest.raises(TraceSourceError, match=r"\['tags'\] more than once"):
        resolve(shape(tags=TEXTS, Tags=TEXTS), {}, "/traces", case_sensitive=False)


def test_a_column_without_a_value_may_have_any_type() -> None:
    """Optional ones only; a VOID column is one of those."""
    found = shape(state=T.IntegerType(), tags=T.NullType(), spans=TEXTS)
    fields = resolve(found, {}, "/traces", lambda _: None)
    assert {"state", "tags", "spans"} == {name for name, f in fields.items() if f.is_void}
    with pytest.raises(TraceSourceError, match="trace_id is VOID"):
        resolve(shape(trace_id=T.NullType()), {}, "/traces", lambda _: 1)


def test_the_version_of_a_file_list_follows_the_set_of_paths() -> None:
    """Order changes nothing, another file does."""
    assert version_of(["a", "b"]) == version_of(["b", "a"])
    assert version_of(["a", "b"]) != version_of(["a", "c"])
    assert version_of(["a"]).startswith("files:")


GONE = [
    "[DELTA_VERSION_NOT_FOUND] Cannot time travel Delta table to version 99. Available versions: [0, 0].",
    "[PATH_NOT_FOUND] Path does not exist: file:/tmp/p/gone.parquet. SQLSTATE: 42K03",
    "o7:\n[FAILED_READ_FILE.FILE_NOT_EXIST] Encountered error while reading file file:/x. File does not exist.",
]
DAMAGED = (
    "An error occurred while calling o6.collectToPython.\n: org.apache.spark.SparkException: [FAILED_READ_FILE.NO_HINT]"
    " Encountered error while reading file file:///tmp/a%20b/part-0.c000.snappy.parquet.  SQLSTATE: KD001\n\tat org.x"
)
NO_FOOTER = (
    "[FAILED_READ_FILE.CANNOT_READ_FILE_FOOTER] Encountered error while reading file file:/tmp/a.csv. Could not read "
    "footer. Please ensure that the file is in either ORC or Parquet format."
)


@pytest.mark.parametrize("text", GONE)
def test_texts_about_gone_data_are_recognised(text: str) -> None:
    """Gone data are gone, not damaged."""
    error = RuntimeError(text)
    assert (source_gone(error), corrupt_file(error)) == (True, None)


def test_a_cause_is_looked_at_too() -> None:
    """What Spark said may stand in the cause of an error."""
    error = RuntimeError("the chunk failed")
    error.__cause__ = ValueError(GONE[0])
    assert source_gone(error)


@pytest.mark.parametrize(
    ("text", "file"), [(DAMAGED, "file:///tmp/a b/part-0.c000.snappy.parquet"), (NO_FOOTER, "file:/tmp/a.csv")]
)
def test_a_damaged_file_is_named(text: str, file: str) -> None:
    """The path is that of the file, decoded; the data are not gone."""
    error = RuntimeError(text)
    assert (source_gone(error), corrupt_file(error)) == (False, file)


def test_other_errors_are_neither() -> None:
    """An ordinary error says nothing about the source."""
    error = RuntimeError("java.lang.OutOfMemoryError: Java heap space")
    assert (source_gone(error), corrupt_file(error)) == (False, None)
