"""Snippets that register, list and delete scorers, with their import lines changed, against MLflow's own values."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from backfill_spark import Scorer, configure
from backfill_spark.settings.schema import Settings
from tests import mlflow_snippets

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

SNIPPETS = {name: source for name, source in mlflow_snippets.snippets().items() if name.startswith("lifecycle")}
VALUES = mlflow_snippets.recorded("values")


def shown(name: Any) -> Any:
    source = mlflow_snippets.with_our_imports(SNIPPETS[name])
    found = mlflow_snippets.run(name, source, [], scorer_class=Scorer, score=lambda one, trace: [])
    return json.loads(json.dumps(found["shown"]))


def test_the_registry_gives_mlflows_values(spark: SparkSession, settings: Settings) -> None:
    """All snippets but one; that of `list_scorer_versions` meets scorers where MLflow has pairs (docs/mlflow.md)."""
    configure(settings)
    try:
        for name in sorted(SNIPPETS.keys() - {"lifecycle_list_versions"}):
            assert shown(name) == VALUES[name]["shown"], name
        with pytest.raises(TypeError, match=r"take s\.scorer_version"):
            shown("lifecycle_list_versions")
    finally:
        configure()
