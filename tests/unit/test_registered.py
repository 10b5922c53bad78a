"""Rows of the registry, sorted without Spark."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from backfill_spark.scorers.registered import Catalog


def version_row(name: str = "s", version: int = 1, **values: Any) -> dict[str, Any]:
    empty = ("level", "description", "aggregations", "timeout_s", "version_note", "created_by", "python_version")
    return {
        **dict.fromkeys((*empty, "source_text", "deleted_us")),
        "experiment_id": "0",
        "name": name,
        "version": version,
        "kind": "function",
        "parameters": "{}",
        "signature": '["outputs"]',
        "digest": f"d{version}",
        "created_us": version,
    } | values


def config_row(rate: float, updated_us: int, filter_string: str | None = None) -> dict[str, Any]:
    return {"name": "s", "sample_rate": rate, "filter_string": filter_string, "updated_us": updated_us}


@given(st.permutations([config_row(0.1, 1), config_row(0.2, 2, "x"), config_row(0.3, 3)]))
def test_the_latest_config_wins_in_any_order_of_rows(rows: Any) -> None:
    config = Catalog.of_rows("0", [version_row(), *rows]).config("s")

    assert (0.3, None, 3, 3) == (config.sample_rate, config.filter_string, config.updated_us, config.writes)


def test_a_deleted_version_is_not_live_and_keeps_its_number() -> None:
    catalog = Catalog.of_rows("0", [version_row(), version_row(version=2), version_row(version=2, deleted_us=9)])

    assert getattr(catalog.latest("s"), "version", None) == 1
    assert catalog.version("s", 2) is None
    assert catalog.highest("s") == 2


def test_the_newest_description_of_a_version_counts() -> None:
    rows = [version_row(description="new", created_us=5), version_row(description="old", created_us=1)]

    newest = Catalog.of_rows("0", rows).newest("s")

    assert newest is not None
    assert newest.description == "new"


def test_a_version_is_found_by_its_digest() -> None:
    catalog = Catalog.of_rows("0", [version_row(), version_row(version=2), version_row(version=3, digest="d1")])

    assert getattr(catalog.with_digest("s", "d1"), "version", None) == 3
    assert catalog.with_digest("s", "none") is None


def test_nothing_registered_is_an_empty_catalog() -> None:
    catalog = Catalog.of_rows("0", [])

    assert ([], None, {}) == (catalog.names, catalog.latest("s"), catalog.broken)
