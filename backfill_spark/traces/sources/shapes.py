"""The shapes that are known, in the order in which they are told: the first that fits is taken."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backfill_spark.errors import TraceSourceError
from backfill_spark.traces.sources import (
    canonical,
    databricks_otel,
    databricks_rows,
    langfuse,
    langsmith,
    mlflow_documents,
    otel,
    phoenix,
)

if TYPE_CHECKING:
    from backfill_spark.traces.sources.mapping import Columns
    from backfill_spark.traces.sources.pinned import Pinned
    from backfill_spark.traces.sources.shape import Shape

SHAPES: tuple[Shape, ...] = (
    langfuse.SHAPE,
    langfuse.LEGACY,
    otel.OTLP_JSON,
    otel.CLICKHOUSE,
    langsmith.SHAPE,
    phoenix.SHAPE,
    databricks_otel.V2,
    databricks_otel.V1,
    mlflow_documents.DOCUMENTS,
    mlflow_documents.FRAME,
    databricks_rows.ARCHIVE,
    databricks_rows.VIEW,
    canonical.SHAPE,
)


def shape_of(pinned: Pinned, wanted: str = "auto", columns: Columns | None = None) -> Shape:
    """Return the shape named `wanted`, or the first that fits; with `columns` a table of any other is canonical.

    Raises:
        TraceSourceError: none fits; the message names the nearest, and what it lacks.
    """
    if wanted != "auto":
        return named(wanted)
    matches = {}
    # One after the other: the names of files can tell before columns are looked at.
    for shape in SHAPES:
        matches[shape.name] = shape.tells(pinned)
        if matches[shape.name].fits:
            return shape
    if columns:
        return canonical.SHAPE
    nearest = max(SHAPES, key=lambda shape: matches[shape.name].nearness)
    match = matches[nearest.name]
    near = f"The nearest is {nearest.name} ({nearest.title}); it lacks {_listed(match.lacks)}. " if match.has else ""
    have = _listed(sorted(pinned.columns)) or "no columns"
    raise TraceSourceError(
        f"The traces at {pinned.name!r} are of no known shape: they have {have}. {near}"
        "Name the columns of a table with a row a trace with the setting traces.columns (at least trace_id and "
        "request_time: --set traces.columns.trace_id=NAME), or see docs/your-traces.md."
    )


def named(name: str) -> Shape:
    """Return a shape by its name.

    Raises:
        TraceSourceError: there is none of this name.
    """
    found = {shape.name: shape for shape in SHAPES}
    if name not in found:
        raise TraceSourceError(f"There is no shape {name!r}; traces.shape is auto or one of {sorted(found)}.")
    return found[name]


def _listed(names: object) -> str:
    shown = list(names) if isinstance(names, tuple | list) else [str(names)]
    return ", ".join(map(repr, shown[:20])) + (f" and {len(shown) - 20} more" if len(shown) > 20 else "")
