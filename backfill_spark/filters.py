"""Filters for use on one's own frames: `compile_filter("status = 'OK'").column()` over TRACES. See docs/filters.md."""

from backfill_spark.traces.filters import Filter, compile_filter

__all__ = ["Filter", "compile_filter"]
