"""Faults of a source: what Spark and Delta say when data are gone or damaged, and settings that would hide it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import cast
from urllib.parse import unquote

from pyspark.sql import SparkSession
from pyspark.sql import types as T

from backfill_spark.errors import TraceSourceError

_SKIPPING = ("spark.sql.files.ignoreMissingFiles", "spark.sql.files.ignoreCorruptFiles")
_GONE = re.compile(
    r"DELTA_VERSION_NOT_FOUND|DELTA_VERSIONS_NOT_CONTIGUOUS|DELTA_TRUNCATED_TRANSACTION_LOG|DELTA_LOG_FILE_NOT_FOUND"
    r"|DELTA_FILE_NOT_FOUND|DELTA_FILE_TO_\w+_NOT_FOUND|DELTA_CANNOT_RECONSTRUCT_STATE|DELTA_STATE_RECOVER_ERROR"
    r"|DELTA_PATH_DOES_NOT_EXIST|DELTA_MISSING_DELTA_TABLE|DELTA_TABLE_NOT_FOUND|DELTA_NO_COMMITS_FOUND"
    r"|DELTA_UNSUPPORTED_TIME_TRAVEL_BEYOND_DELETED_FILE_RETENTION_DURATION"
    r"|FAILED_READ_FILE\.FILE_NOT_EXIST|PATH_NOT_FOUND|TABLE_OR_VIEW_NOT_FOUND"
)
_CORRUPT = re.compile(r"FAILED_READ_FILE\.(?!FILE_NOT_EXIST)\w+\].{0,200}?reading file (.+?)\.(?:\s|$)", re.DOTALL)
_UNMERGED = re.compile(
    r'Initial schema:\s*"(STRUCT<.*?>)"\s*Schema that cannot be merged[^"]*"(STRUCT<.*?>)"', re.DOTALL
)
_FOOTER = re.compile(r"(?:FileStatus\{path=|footer for file: |^|\s)((?:\w+:/)?/[^\n;]+?)(?:;| is not a Parquet file)")


def refuse_skipping(spark: SparkSession, source: str) -> None:
    """Refuse a session that skips missing or damaged files, since their traces would be left out in silence.

    Raises:
        TraceSourceError: names the settings.
    """
    on = [key for key in _SKIPPING if str(spark.conf.get(key, "false")).strip().lower() == "true"]
    if on:
        raise TraceSourceError(
            f"The session skips files that it cannot read ({', '.join(f'{key}=true' for key in on)}), so traces of "
            f"{source!r} could be left out in silence. Set {'them' if len(on) > 1 else 'it'} to false and try again."
        )


def source_gone(error: BaseException) -> bool:
    """True when the error says that a file, a version or the whole table is no longer there."""
    return any(_GONE.search(text) for text in _texts(error))


def corrupt_file(error: BaseException) -> str | None:
    """Return the path of the file that could not be read although it is there; None when the error is another one."""
    for text in _texts(error):
        match = _CORRUPT.search(text) or ("is not a Parquet file" in text and _FOOTER.search(text)) or None
        if match is not None:
            return unquote(match[1])
    return None


def unmerged(error: BaseException) -> list[str]:
    """Return the columns whose types differ between Parquet files that have no common schema, with both types."""
    for text in _texts(error):
        match = _UNMERGED.search(text)
        if match is not None:
            one, other = (T.DataType.fromDDL(shown) for shown in match.groups())
            types = {f.name: f.dataType for f in cast("T.StructType", other).fields}
            return [
                f"{f.name} ({f.dataType.simpleString()[:80]} and {types[f.name].simpleString()[:80]})"
                for f in cast("T.StructType", one).fields
                if types.get(f.name, f.dataType) != f.dataType
            ]
    return []


def first_line(error: BaseException) -> str:
    """Return the first line of what Spark says, at most 300 characters."""
    return next(_texts(error)).strip().split("\n", 1)[0][:300]


def _texts(error: BaseException) -> Iterator[str]:
    """The message of each error in the chain of causes; Java errors without their frames."""
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        java = getattr(link, "java_exception", None)
        for _ in range(10):
            if java is None:
                break
            yield str(java.getMessage())
            java = java.getCause()
        yield str(link)
        link = link.__cause__ or link.__context__
