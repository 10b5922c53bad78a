"""The registry on Delta: versions, configs, the seed page's lifecycle, and two users at once."""

from __future__ import annotations

import dataclasses
import os
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from backfill_spark import (
    PIIDetection,
    RegexMatch,
    ScorerSamplingConfig,
    ScorerStatus,
    configure,
    delete_scorer,
    get_scorer,
    list_scorer_versions,
    list_scorers,
    scorer,
    set_experiment,
)
from backfill_spark.backfill.tables import Tables
from backfill_spark.errors import (
    FilterError,
    ScorerLifecycleError,
    ScorerLoadError,
    ScorerNotFoundError,
)
from backfill_spark.schema import SCORER_CONFIGS, SCORERS
from backfill_spark.scorers.registry import Registry
from backfill_spark.storage.delta_table import Store

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from backfill_spark.settings.schema import Settings


@pytest.fixture(autouse=True)
def _context(spark: SparkSession, settings: Settings) -> Iterator[None]:
    configure(settings)
    yield
    configure()
    set_experiment(None)


@pytest.fixture
def registry(spark: SparkSession, settings: Settings) -> Registry:
    return Tables(spark, settings).registry


@scorer(aggregations=["mean", "min", "max"])
def response_length(outputs: Any) -> Any:
    """Measure response length in characters"""
    return len(outputs)


def numbered(number: int) -> Any:
    """Return a scorer whose definition differs by `number`."""

    def score(outputs: Any) -> Any:
        return number

    return scorer(name="numbered")(score)


def test_the_lifecycle_of_the_seed_page() -> None:
    registered = response_length.register(name="length")
    assert response_length.status is ScorerStatus.UNREGISTERED
    assert ("length", 1, 0.0, ScorerStatus.STOPPED) == (
        registered._server_name,
        registered.scorer_version,
        registered.sample_rate,
        registered.status,
    )

    active = registered.start(
        sampling_config=ScorerSamplingConfig(sample_rate=0.5, filter_string="trace.status = 'OK'")
    )
    updated = active.update(sampling_config=ScorerSamplingConfig(sample_rate=0.8))
    assert (0.5, 0.8) == (active.sample_rate, updated.sample_rate)
    assert updated.filter_string == "trace.status = 'OK'"

    stopped = updated.stop()
    assert (0, ScorerStatus.STOPPED, "trace.status = 'OK'") == (
        stopped.sample_rate,
        stopped.status,
        stopped.filter_string,
    )

    existing = get_scorer(name="length")
    assert ["mean", "min", "max"] == existing.aggregations
    assert existing(outputs="abcd") == 4
    assert [("length", 0.0)] == [(s._server_name, s.sample_rate) for s in list_scorers()]

    delete_scorer(name="length")
    assert list_scorers() == []
    with pytest.raises(ScorerNotFoundError, match="Scheduled scorer 'length' not found in experiment '0'"):
        get_scorer(name="length")


def test_an_equal_definition_makes_no_version_and_another_keeps_rate_and_filter(
    registry: Registry, spark: SparkSession, settings: Settings
) -> None:
    config = ScorerSamplingConfig(0.25, "trace.status = 'OK'")
    first = numbered(1).register().start(sampling_config=config)
    same = numbered(1).register()
    second = numbered(2).register()

    assert [1, 1, 2] == [s.scorer_version for s in (first, same, second)]
    assert (0.25, "trace.status = 'OK'") == (second.sample_rate, second.filter_string)
    assert [1, 2] == [s.scorer_version for s in list_scorer_versions(name="numbered")]
    assert Store(spark, SCORERS, settings).read().count() == 2
    assert get_scorer(name="numbered", version=1)(outputs="") == 1
    assert get_scorer(name="numbered")(outputs="") == 2


def test_a_new_description_of_the_same_definition_is_kept_without_a_new_version() -> None:
    numbered(1).register()

    again = scorer(name="numbered", description="said later", timeout=3)(numbered(1).function).register()

    assert again.scorer_version == 1
    kept = get_scorer(name="numbered")
    assert ("said later", 3.0, 1) == (kept.description, kept.timeout, kept.scorer_version)


def test_deleted_numbers_are_never_used_again_and_rate_and_filter_go_with_the_last() -> None:
    numbered(1).register().start()
    numbered(2).register()
    delete_scorer(name="numbered", version=2)
    assert get_scorer(name="numbered").scorer_version == 1
    assert numbered(2).register().scorer_version == 3
    with pytest.raises(ScorerNotFoundError, match="no version 2"):
        delete_scorer(name="numbered", version=2)
    delete_scorer(name="numbered")

    again = numbered(1).register()

    assert (4, 0.0) == (again.scorer_version, again.sample_rate)


def test_start_works_on_the_object_whose_registered_copy_was_dropped() -> None:
    response_length.register()

    started = response_length.start()

    assert (1.0, 1) == (started.sample_rate, started.scorer_version)
    assert response_length.sample_rate is None


def test_start_of_an_object_registered_under_another_name_names_the_copy() -> None:
    response_length.register(name="x")

    with pytest.raises(ScorerLifecycleError, match=r"registered as 'x'.*keep it"):
        response_length.start()
    assert response_length.start(name="x").name == "x"


def test_start_of_another_definition_names_the_registered_copy() -> None:
    numbered(1).register()

    with pytest.raises(ScorerLifecycleError, match=r"registered copy 'numbered' .version 1. has another definition"):
        numbered(2).start()
    with pytest.raises(ScorerLifecycleError, match="call register"):
        response_length.start()


def test_update_keeps_what_is_none_and_clears_with_an_empty_filter() -> None:
    active = numbered(1).register().start(sampling_config=ScorerSamplingConfig(0.5, "trace.status = 'OK'"))

    assert (0.5, None) == _config(active.update(sampling_config=ScorerSamplingConfig(filter_string="")))
    filtered = active.update(sampling_config=ScorerSamplingConfig(filter_string="trace.status = 'ERROR'"))
    assert (0.5, "trace.status = 'ERROR'") == _config(filtered)
    assert (1.0, "trace.status = 'ERROR'") == _config(filtered.stop().start())
    assert (1.0, "trace.status = 'ERROR'") == _config(get_scorer(name="numbered"))


def test_a_filter_that_does_not_parse_is_refused_and_nothing_is_written(
    spark: SparkSession, settings: Settings
) -> None:
    registered = numbered(1).register()

    with pytest.raises(FilterError):
        registered.start(sampling_config=ScorerSamplingConfig(0.5, "status ="))
    assert not Store(spark, SCORER_CONFIGS, settings).exists()


def test_versions_and_configs_belong_to_an_experiment() -> None:
    numbered(1).register(experiment_id="7").start()
    set_experiment("8")

    assert list_scorers() == []
    assert [("7", 1.0)] == [(s.experiment_id, s.sample_rate) for s in list_scorers(experiment_id="7")]


def test_a_builtin_comes_back_from_its_parameters() -> None:
    RegexMatch(pattern="^A", aggregations=["mean"], timeout=2).register(name="starts_with_a").start()
    PIIDetection(pii_types=["email"]).register()

    back = get_scorer(name="starts_with_a")

    assert isinstance(back, RegexMatch)
    assert ("^A", "starts_with_a", ["mean"], 2.0, 1.0) == (
        back.pattern,
        back.name,
        back.aggregations,
        back.timeout,
        back.sample_rate,
    )
    assert back(outputs="Answer").name == "starts_with_a"
    assert RegexMatch(pattern="^A").register(name="starts_with_a").scorer_version == 1
    assert RegexMatch(pattern="^B").register(name="starts_with_a").scorer_version == 2


def test_a_broken_row_hides_no_other(registry: Registry, spark: SparkSession, settings: Settings) -> None:
    numbered(1).register()
    response_length.register()
    store = Store(spark, SCORERS, settings)
    row = {"experiment_id": "0", "kind": "function", "signature": '["outputs"]', "digest": "d", "parameters": "{}"}
    store.append(
        store.frame(
            [
                row | {"name": "bad_code", "version": 1, "definition": "%%% no base64"},
                row | {"name": "bad_row", "version": 1, "signature": "{"},
                row | {"name": "bad_kind", "version": 1, "kind": "future"},
                row | {"name": "bad_class", "version": 1, "kind": "builtin", "parameters": '{"class": "os"}'},
                row | {"name": None, "version": 1},
            ]
        )
    )

    listed = {s.name: s for s in list_scorers()}
    catalog = registry.catalog("0")

    assert ["bad_class", "bad_code", "bad_kind", "bad_row", "numbered", "response_length"] == sorted(listed)
    for name in ("bad_class", "bad_code", "bad_kind", "bad_row"):
        with pytest.raises(ScorerLoadError, match=name):
            listed[name](outputs="")
    assert {"bad_kind", "bad_row"} == catalog.broken.keys()
    assert catalog.latest("bad_row") is None
    numbered_spec = catalog.latest("numbered")
    assert numbered_spec is not None
    assert numbered_spec.version == 1
    assert all(repr(s) and s._repr_html_() for s in listed.values())


def test_listing_and_planning_load_no_code(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    from backfill_spark.scorers.stored_code import moved

    numbered(1).register().start()
    monkeypatch.setattr(moved, "unpickled", lambda payload: pytest.fail("loaded"))

    list_scorers()
    get_scorer(name="numbered")
    spec = registry.catalog("0").latest("numbered")

    assert spec is not None
    assert (1.0, None) == (spec.sample_rate, spec.definition)
    assert registry.definitions("0", [("numbered", 1), ("gone", 1)]).keys() == {("numbered", 1)}


def test_two_registrations_at_once_lose_nothing(spark: SparkSession, settings: Settings) -> None:
    barrier = threading.Barrier(3)
    done: list[Any] = []

    def register(number: int) -> None:
        own = Tables(spark.newSession(), settings).registry
        barrier.wait()
        new = dataclasses.replace(numbered(number).to_register(), experiment_id="0")
        done.append((number, own.register(new).spec.version))

    threads = [threading.Thread(target=register, args=(number,)) for number in (1, 2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [1, 2, 3] == sorted(version for _, version in done)
    stored = {s.scorer_version: s(outputs="") for s in list_scorer_versions(name="numbered")}
    assert {version: number for number, version in done} == stored


def test_two_configs_at_once_lose_nothing(spark: SparkSession, settings: Settings) -> None:
    numbered(1).register()
    changes = [(0.5, None), (None, "trace.status = 'OK'")]
    barrier = threading.Barrier(2)

    def write(rate: float | None, text: str | None) -> None:
        own = Tables(spark.newSession(), settings).registry
        barrier.wait()
        own.configure("numbered", "0", rate, text)

    threads = [threading.Thread(target=write, args=change) for change in changes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert (0.5, "trace.status = 'OK'") == _config(get_scorer(name="numbered"))


def test_names_that_share_a_claim_do_not_block_each_other() -> None:
    scorer(name="b/c")(numbered(1).function).register(experiment_id="a")

    made = scorer(name="c")(numbered(2).function).register(experiment_id="a/b")

    assert get_scorer(name="c", experiment_id="a/b").scorer_version == made.scorer_version


def test_a_scorer_from_the_registry_can_be_registered_again_without_loading_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from backfill_spark.scorers.stored_code import moved

    original = numbered(1).register()
    monkeypatch.setattr(moved, "unpickled", lambda payload: pytest.fail("loaded"))

    copied = get_scorer(name="numbered").register(name="copy")

    assert (original.digest, "copy", 1) == (copied.digest, copied.name, copied.scorer_version)


def test_a_session_scorer_can_be_registered() -> None:
    @scorer
    def whole_session(session: Any) -> Any:
        return len(session)

    assert whole_session.register().scorer_version == 1


@pytest.mark.parametrize("name", ["", "   ", "a\nb", "x" * 251, 7])
def test_a_name_that_no_scorer_may_have_is_refused(name: Any) -> None:
    with pytest.raises(ScorerLifecycleError, match="name"):
        response_length.register(name=name)


def _config(found: Any) -> tuple[float | None, str | None]:
    return found.sample_rate, found.filter_string


def test_tables_by_a_relative_path_are_found_again(
    spark: SparkSession, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a process that has not made them."""
    from backfill_spark import schema
    from backfill_spark.storage import delta_table

    Path("build").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir="build") as folder:
        near = settings.model_copy(
            update={"tables": settings.tables.model_copy(update={"root": os.path.relpath(folder)})}
        )
        delta_table.Store(spark, schema.JOBS, near).ensure()
        monkeypatch.setattr(delta_table, "_opened", set())
        assert delta_table.Store(spark, schema.JOBS, near).ensure().read().count() == 0
