"""Exports of Langfuse: which files are read, and what is refused before anything is."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, cast

import pytest

from backfill_spark.errors import TraceSourceError
from backfill_spark.traces.sources.langfuse import LEGACY, SHAPE, listed_files
from backfill_spark.traces.sources.pinned import Pinned

DAY = "2024-06-01T00-00-00"


class Files:
    """What is asked of pinned files here."""

    name = "/export"

    def __init__(
        self, *names: str, manifests: dict[str, str] | None = None, columns: frozenset[str] = frozenset()
    ) -> None:
        self.texts = manifests or {}
        self.names = frozenset({*names, *self.texts})
        self.columns = columns

    def texts_of(self, keep: Callable[[str], bool]) -> dict[str, str]:
        return {name: text for name, text in self.texts.items() if keep(name)}


def pinned(*names: str, **more: Any) -> Pinned:
    return cast("Pinned", Files(*names, **more))


def manifest(*keys: str) -> str:
    return json.dumps({"version": 1, "files": [{"key": key} for key in keys]})


@pytest.mark.parametrize("above", ["", "p1/", "bucket/p1/"])
def test_only_files_that_a_manifest_names_are_read(above: str) -> None:
    """Named from any folder above them; what a failed export left is not read."""
    good, failed = (f"{above}observations_v2/{name}.parquet" for name in (DAY, "2024-07-01T00-00-00"))
    text = manifest(f"bucket/p1/observations_v2/{DAY}.parquet")
    found = listed_files(pinned(good, failed, manifests={f"{above}manifests/{DAY}.json": text}))
    assert found == {good}


def test_two_projects_are_not_mixed_up() -> None:
    """Files of both have one name."""
    names = [f"{project}/observations_v2/{DAY}.parquet" for project in ("p1", "p2")]
    manifests = {"p1/manifests/1.json": manifest(f"x/p1/observations_v2/{DAY}.parquet")}
    assert listed_files(pinned(*names, manifests=manifests)) == {names[0]}


def test_an_export_that_is_not_whole_is_refused() -> None:
    """A file that a manifest names must be there."""
    names = (f"p1/observations_v2/{DAY}.parquet",)
    text = manifest(f"p1/observations_v2/{DAY}.parquet", f"p1/scores/{DAY}.parquet")
    with pytest.raises(TraceSourceError, match=r"not whole: 1 of the files.* 'p1/scores/2024-06-01T00-00-00.parquet'"):
        listed_files(pinned(*names, manifests={"p1/manifests/1.json": text}))


def test_an_export_without_manifests_is_refused() -> None:
    """They tell whole exports from failed ones."""
    with pytest.raises(TraceSourceError, match="has no manifests"):
        listed_files(pinned(f"observations_v2/{DAY}.parquet"))


@pytest.mark.parametrize("text", ["", "[]", '{"files": 1}', '{"files": [{}]}'])
def test_what_is_no_manifest_is_refused(text: str) -> None:
    """Its name is in the message."""
    with pytest.raises(TraceSourceError, match=r"manifests/1\.json"):
        listed_files(pinned("observations_v2/x.parquet", manifests={"manifests/1.json": text}))


def test_the_shape_is_told_by_folders_or_columns() -> None:
    """Both versions of the export, their folders, or the folder of observations alone."""
    newer = pinned("p/observations_v2/1.parquet", manifests={"p/manifests/1.json": ""})
    older = pinned("p/observations/1.parquet", "p/traces/1.parquet", manifests={"p/manifests/1.json": ""})
    alone = pinned("1.parquet", columns=frozenset({"id", "parent_observation_id", "trace_id", "is_root_observation"}))
    other = pinned("1.parquet", columns=frozenset({"trace_id", "request_time"}))
    assert [[s.tells(p).fits for s in (SHAPE, LEGACY)] for p in (newer, older, alone, other)] == [
        [True, False],
        [False, True],
        [True, True],
        [False, False],
    ]
