"""The sections of the settings: their keys, defaults and what each means."""

from __future__ import annotations

import os
import re
from datetime import timedelta
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|h|d|w)")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def parse_duration(text: str) -> timedelta:
    """Turn `30s`, `15m`, `24h`, `7d` or `2w` into a timedelta."""
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is no duration; write a number and one of s, m, h, d, w, for example 7d")
    try:
        return timedelta(**{_UNITS[match[2]]: float(match[1])})
    except OverflowError:
        return timedelta.max


def paths_as_text(value: Any) -> Any:
    """Take `Path` objects where texts are due, alone or in a list."""
    if isinstance(value, list):
        return [paths_as_text(one) for one in value]
    return os.fspath(value) if isinstance(value, os.PathLike) else value


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TableSettings(_Section):
    """Where the tables of backfill_spark live."""

    root: str = Field("./backfill_data", description="Folder of the tables: {root}/{prefix}{table}.")
    schema_: str | None = Field(None, alias="schema", description="catalog.schema of the tables, instead of root.")
    prefix: str = Field("", description="Put before each table's name.", pattern=r"^[A-Za-z0-9_]*$")
    staged: str | None = Field(
        None,
        description="Folder or volume of results that wait for their commit; default: `_staged` in the folder of "
        "`assessments`, where Spark may write there.",
    )
    _take_paths = field_validator("root", mode="before")(paths_as_text)
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class ColumnOrigin(_Section):
    """What a column of the traces is made of, where a name alone does not say it."""

    column: str | None = Field(None, description="Name of a column; dots are part of it.")
    path: str | list[str | int] | None = Field(None, description="Way into structs, maps, lists and JSON texts.")
    constant: str | bool | int | float | None = Field(None, description="The same value for every trace.")
    unit: Literal["s", "ms", "us", "ns"] | None = Field(None, description="Of a time that is a number.")

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        ways = {"column": self.column, "path": self.path, "constant": self.constant}
        given = [name for name, value in ways.items() if value is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of column, path and constant, not {given or 'none'}")
        if self.path in ("", []):
            raise ValueError("path is empty; write a.b, or a list of steps")
        return self


class TraceSettings(_Section):
    """Where the traces are, and how their columns are read."""

    path: str | None = Field(None, description="Folder of the traces table; default {root}/traces.")
    table: str | None = Field(None, description="Name of the traces table, instead of path.")
    format: Literal["auto", "delta", "parquet", "json", "csv"] = Field(
        "auto", description="File format; auto looks for a Delta log, then at the files' names."
    )
    shape: str = Field("auto", description="How the traces are stored: a shape of docs/your-traces.md; auto looks.")
    payload: Literal["auto", "json", "text"] = Field(
        "auto", description="auto decodes JSON objects and arrays, json decodes fully, text nothing."
    )
    columns: dict[str, str | ColumnOrigin] = Field(
        default_factory=dict,
        description="Canonical column: column of the source, or a mapping with one of column, path (a.b[0].c, or a "
        "list of steps), constant; for request_time a unit (s, ms, us, ns) where it is a number.",
    )
    slack: str = Field(
        "1h", description="Where rows are spans: how long a trace may last, and how far beyond a window is read."
    )
    _take_paths = field_validator("path", mode="before")(paths_as_text)

    @field_validator("slack")
    @classmethod
    def _is_slack(cls, value: str) -> str:
        if not timedelta(0) < parse_duration(value) <= timedelta(days=366):
            raise ValueError(f"{value!r} is not between 1s and 366d")
        return value

    @property
    def mapping(self) -> dict[str, Any]:
        """`columns` as plain values, which a job records."""
        return {
            name: entry if isinstance(entry, str) else entry.model_dump(exclude_none=True)
            for name, entry in self.columns.items()
        }


class ScoringSettings(_Section):
    """How scorers are applied."""

    udf: Literal["pandas", "arrow"] = Field(
        "pandas", description="Kind of UDF where Spark writes what it gives; arrow needs Spark 4.1."
    )
    writer: Literal["auto", "files", "spark"] = Field(
        "auto",
        description="Who writes results: tasks as files (files), or Spark (spark); auto: files where each executor "
        "writes to the folder of the tables and this process sees it. In an object store (s3, s3a, gs, abfs), which "
        "Spark has to see too, tasks write what waits for a MERGE.",
    )


class FilterSettings(_Section):
    """How filters are read."""

    dialect: Literal["mlflow", "extended"] = Field(
        "mlflow", description="extended: also OR, NOT, parentheses and BETWEEN."
    )


class LimitSettings(_Section):
    """Limits on one call, one trace, one job and one runner."""

    scorer_timeout_s: float = Field(300, gt=0, description="Longest one scorer call may take, in seconds.")
    lease_s: float = Field(60, gt=0, description="A runner that did not renew for this long is dead.")
    heartbeat_s: float = Field(20, gt=0, description="A runner renews its lease this often.")
    staging_retention: str = Field("7d", description="How long staged rows of jobs that did not succeed are kept.")
    max_error_rate: float = Field(1.0, ge=0, le=1, description="A job fails when a scorer's error share passes it.")
    trace_mb: float = Field(16, gt=0, description="Largest trace that is scored, in MiB of text.")
    allow_speculation: bool = Field(False, description="Run although spark.speculation is on (it repeats calls).")
    path_roots: list[str] = Field(default_factory=list, description="Folders that paths may lie in; empty: any.")

    _take_paths = field_validator("path_roots", mode="before")(paths_as_text)

    @field_validator("staging_retention")
    @classmethod
    def _is_duration(cls, value: str) -> str:
        parse_duration(value)
        return value
