"""Small tables without Spark; tests/spark/test_small_tables.py asks the same of Spark's engine."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
from deltalake import DeltaTable, TableFeatures

from backfill_spark import schema
from backfill_spark.errors import SchemaVersionError
from backfill_spark.settings.locations import Location
from backfill_spark.settings.schema import Settings
from backfill_spark.storage import deltalake_table, reach
from backfill_spark.storage.deltalake_table import DeltalakeTable
from backfill_spark.storage.reach import is_reached, local_folder
from backfill_spark.storage.small_table import Txn
from tests.faulty_store import Fault, FaultPlan, FaultyDeltalakeTable, Kind, Operation

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)


def opened(folder: Path, table: schema.Table = schema.JOB_EVENTS, *faults: Fault) -> DeltalakeTable:
    """A table in a folder of its own, with a storage that has faults."""
    location = Location.of_path(str(folder / table.name))
    made = FaultyDeltalakeTable(table, location, folder / table.name)
    made.plan = FaultPlan(*faults)
    return made


def event(job_id: str, n: int = 0) -> dict[str, Any]:
    return {"job_id": job_id, "event": "created", "epoch": 0, "n": n, "at": NOON, "payload": "{}"}


def count(table: DeltalakeTable) -> int:
    return len(table.read())


def test_rows_come_back_as_they_were(tmp_path: Path) -> None:
    table = opened(tmp_path)
    assert (table.exists(), table.read(), table.stamp()) == (False, [], None)
    assert table.append([event("a"), event("b")])
    assert table.append([event("c")])
    found = table.read({"job_id": ["a", "c"]})
    assert sorted(found, key=lambda row: row["job_id"]) == [event("a"), event("c")]
    assert table.read({"job_id": ["a"], "event": ["ended"]}) == []
    assert table.read({"job_id": []}) == []
    (row,) = table.read({"job_id": ["b"]}, seen=True)
    assert abs(row["seen"] - datetime.now(UTC).timestamp()) < 60


def test_a_file_in_place_of_the_folder_above_is_no_table(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert not opened(tmp_path / "file").exists()


def test_the_newest_rows_are_those_with_the_highest_values(tmp_path: Path) -> None:
    """In files in any order, some with several."""
    table = opened(tmp_path)
    for names in ("dh", "a", "bg", "c", "fe"):
        table.append([event(name) for name in names])
    assert [row["job_id"] for row in table.read(newest=("job_id", 4))] == list("hgfe")
    assert [row["job_id"] for row in table.read({"job_id": list("abd")}, newest=("job_id", 2))] == list("db")


def test_a_transaction_lands_once(tmp_path: Path) -> None:
    """A version that is not higher than the last one is not written."""
    table = opened(tmp_path)
    assert table.append([event("a")], txn=Txn("job", 5))
    assert not table.append([event("b")], txn=Txn("job", 5))
    assert not table.append([event("b")], txn=Txn("job", 4))
    assert table.append([event("c")], txn=Txn("other", 1))
    assert table.append([], txn=Txn("job", 6))
    assert [row["job_id"] for row in table.read()] in (["a", "c"], ["c", "a"])


@pytest.mark.parametrize("txn", [None, Txn("job", 1)])
def test_a_write_whose_reply_was_lost_has_landed(tmp_path: Path, txn: Txn | None) -> None:
    """Once, and it is known whose it was."""
    table = opened(tmp_path, schema.JOB_EVENTS, Fault("job_events", Operation.APPEND, Kind.LOSE_REPLY))
    assert table.append([event("a")], txn=txn)
    assert count(table) == 1


def test_a_commit_that_another_one_was_put_over_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Spark on a local disk renames its file to a version that it saw free."""
    table, rival = opened(tmp_path).ensure(), opened(tmp_path)
    save, log = table._save, tmp_path / "job_events" / "_delta_log"

    def overwritten(*args: Any, **mode: Any) -> None:
        monkeypatch.setattr(table, "_save", save)
        save(*args, **mode)
        (log / f"{1:020}.json").rename(tmp_path / "ours")
        rival.append([event("rival")])

    monkeypatch.setattr(table, "_save", overwritten)
    assert table.append([event("a")], txn=Txn("job", 1))
    assert sorted(row["job_id"] for row in table.read()) == ["a", "rival"]


def test_a_storage_that_is_away_is_an_error(tmp_path: Path) -> None:
    table = opened(tmp_path, schema.JOB_EVENTS, Fault("job_events", Operation.APPEND, Kind.AWAY))
    with pytest.raises(OSError, match="does not answer"):
        table.append([event("a")])
    assert count(table) == 0


def test_of_many_at_once_each_lands_once(tmp_path: Path) -> None:
    """Each has a table of its own, as processes do."""
    opened(tmp_path).ensure()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: opened(tmp_path).append([event(f"j{i}")]), range(40)))
    assert sorted(row["job_id"] for row in opened(tmp_path).read()) == sorted(f"j{i}" for i in range(40))
    assert opened(tmp_path).version() == 40


def test_of_many_with_one_transaction_one_lands(tmp_path: Path) -> None:
    opened(tmp_path).ensure()
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda i: opened(tmp_path).append([event(f"j{i}")], txn=Txn("job", 1)), range(8)))
    assert won.count(True) == count(opened(tmp_path)) == 1


def test_two_processes_make_a_table_at_once(tmp_path: Path) -> None:
    """Both go on with the one that is there."""
    code = f"""
        from pathlib import Path
        from tests.unit.test_deltalake_table import event, opened
        import sys
        sys.stdin.readline()
        opened(Path({str(tmp_path)!r})).append([event(sys.argv[1])])
    """
    made = [
        subprocess.Popen([sys.executable, "-c", textwrap.dedent(code), name], stdin=subprocess.PIPE, text=True)
        for name in "ab"
    ]
    for process in made:
        process.communicate("go\n", timeout=60)
    assert [process.returncode for process in made] == [0, 0]
    assert sorted(row["job_id"] for row in opened(tmp_path).read()) == ["a", "b"]


def job(state: str, epoch: int = 1, **more: Any) -> dict[str, Any]:
    return {"job_id": "it's", "state": state, "epoch": epoch, "created_at": NOON} | more


def put(table: DeltalakeTable, row: dict[str, Any], is_newer: Callable[[Any], bool] = lambda _: True) -> None:
    table.put(row, key="job_id", guard=("state", "epoch"), is_newer=is_newer)


def test_the_row_of_a_key_is_replaced_where_it_is_older(tmp_path: Path) -> None:
    """Columns that the new row does not have stay; other rows, too."""
    table = opened(tmp_path, schema.JOBS)
    table.append([job("RUNNING") | {"job_id": "other"}])
    put(table, job("PENDING", 0, request="{}"))
    put(table, job("RUNNING"))
    put(table, job("FAILED"), lambda row: row["state"] != "RUNNING")
    found = {row["job_id"]: row for row in table.read()}
    assert {name: row["state"] for name, row in found.items()} == {"other": "RUNNING", "it's": "RUNNING"}
    assert found["it's"]["request"] == "{}"


def test_of_many_puts_at_once_the_highest_stays(tmp_path: Path) -> None:
    """Each looks at the row that it replaces."""
    put(opened(tmp_path, schema.JOBS), job("RUNNING", 0))

    def one(epoch: int) -> None:
        put(opened(tmp_path, schema.JOBS), job("RUNNING", epoch), lambda row: row["epoch"] < epoch)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(one, [3, 8, 1, 7, 2, 6, 4, 5]))
    (row,) = opened(tmp_path, schema.JOBS).read()
    assert row["epoch"] == 8


def test_a_table_made_anew_in_its_place_is_seen(tmp_path: Path) -> None:
    """By a process that knows the old one."""
    table = opened(tmp_path)
    table.append([event("a")])
    first = table.stamp()
    (tmp_path / "job_events").rename(tmp_path / "gone")
    assert table.read() == []
    table.append([event("b")])
    assert [row["job_id"] for row in table.read()] == ["b"]
    assert table.stamp() != first


def grown(name: str = "later") -> schema.Table:
    """The table `job_events` as a next version has it."""
    import dataclasses

    from pyspark.sql import types as T

    fields = [*schema.JOB_EVENTS.schema.fields, T.StructField(name, T.StringType())]
    return dataclasses.replace(schema.JOB_EVENTS, schema=T.StructType(fields), added=((), (name,)))


def test_an_older_table_gets_what_it_lacks(tmp_path: Path) -> None:
    """Its rows stay; a process of the older version is refused from then on, and reads what it had opened."""
    old = opened(tmp_path)
    old.append([event("a")])
    new = opened(tmp_path, grown())
    assert new.read() == [event("a") | {"later": None}]
    assert new.append([event("b") | {"later": "x"}])
    assert sorted((row["job_id"], row["later"]) for row in new.read()) == [("a", None), ("b", "x")]
    deltalake_table._ensured.clear()
    with pytest.raises(SchemaVersionError, match="has schema version 3; this backfill_spark knows 2"):
        opened(tmp_path).ensure()


def test_a_table_with_other_columns_is_refused(tmp_path: Path) -> None:
    opened(tmp_path, grown("instead")).ensure()
    (tmp_path / "job_events").rename(tmp_path / "jobs")
    with pytest.raises(SchemaVersionError, match="lacks the columns"):
        opened(tmp_path, schema.JOBS).check_columns()


def test_what_it_does_not_reach_is_left_to_spark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names, other file systems, folders without links, and tables with features that it does not know."""
    folder, plain = tmp_path / "t", Settings()
    hadoop = Settings(spark={"spark.hadoop.fs.defaultFS": "hdfs://house"})
    assert local_folder(Location.of_path(str(folder)), hadoop) is None
    assert local_folder(Location.of_path(str(folder)), plain) == folder
    assert local_folder(Location.of_path(f"file:{folder}"), plain) == folder
    assert local_folder(Location.of_name("main.jobs"), plain) is None
    assert local_folder(Location.of_path("s3a://bucket/t"), plain) is None
    monkeypatch.setenv("HADOOP_CONF_DIR", "/etc/hadoop")
    assert local_folder(Location.of_path(str(folder)), plain) is None
    assert local_folder(Location.of_path(f"file:{folder}"), plain) == folder
    assert is_reached(folder)
    assert is_reached(tmp_path / "é b=c")
    assert not (tmp_path / "t").exists()
    for name in ("100%", "%41", "a#b", "a?b", "a[b]"):
        assert not is_reached(tmp_path / name)

    def no_links(*_: Any) -> None:
        raise PermissionError("links are not supported")

    monkeypatch.setattr(reach, "_reached", {})
    monkeypatch.setattr("os.link", no_links)
    assert not is_reached(folder)


def files(table: DeltalakeTable, *days: str) -> list[dict[str, Any]]:
    """Empty files, which nobody reads."""
    made = []
    for number, day in enumerate(days):
        path = table.folder / f"trace_date={day}" / f"{number}-{table.version()}.parquet"
        path.parent.mkdir(exist_ok=True)
        path.touch()
        made.append({"path": f"trace_date={day}/{path.name}", "part": day, "size": 0, "stats": '{"numRecords":0}'})
    return made


class TestFiles:
    """Results are committed as files where nobody else has written to their dates."""

    @pytest.fixture
    def table(self, tmp_path: Path) -> DeltalakeTable:
        return opened(tmp_path, schema.ASSESSMENTS).ensure()

    @staticmethod
    def add(table: DeltalakeTable, *days: str, after: int = 0, txn: Txn, own_from: int = 100) -> bool | None:
        return table.add_files(files(table, *days), txn=txn, after=after, own_from=own_from)

    def test_own_commits_are_no_conflict(self, table: DeltalakeTable) -> None:
        assert self.add(table, "2026-01-01", "2026-01-02", txn=Txn("me", 101))
        assert self.add(table, "2026-01-02", txn=Txn("me", 102))

    def test_a_commit_of_others_to_the_same_date_is(self, table: DeltalakeTable) -> None:
        """To another date it is not; nor is one that was there when the pairs were counted."""
        assert self.add(table, "2026-01-01", txn=Txn("other", 101))
        assert self.add(table, "2026-01-02", txn=Txn("me", 101))
        assert self.add(table, "2026-01-01", txn=Txn("me", 102)) is None
        assert self.add(table, "2026-01-01", after=1, txn=Txn("me", 102))

    @pytest.mark.parametrize(("first", "last", "rows"), [(1, 1, 1), (2, 8, 0), (1, 9, 2), (9, 9, 1), (10, 11, 0)])
    def test_what_is_known_of_other_dates(self, table: DeltalakeTable, first: int, last: int, rows: int) -> None:
        """A plan of one night does not look at the results of all others."""
        assert self.add(table, "2026-01-01", "2026-01-09", txn=Txn("me", 101))
        assert table.files_with({}, table.version(), (date(2026, 1, first), date(2026, 1, last))).rows == rows
        assert table.files_with({}, table.version()).rows == 2

    def test_files_tell_all_unless_rows_of_them_can_be_deleted(self, table: DeltalakeTable) -> None:
        assert self.add(table, "2026-01-01", txn=Txn("me", 101))
        assert table.files_with({}, table.version()).is_plain
        made = DeltaTable(str(table.folder))
        made.alter.add_feature(TableFeatures.DeletionVectors, allow_protocol_versions_increase=True)
        assert not table.files_with({}, table.version()).is_plain

    def test_nothing_is_a_commit_too(self, table: DeltalakeTable) -> None:
        """Which is refused like any other."""
        assert self.add(table, txn=Txn("me", 101))
        assert self.add(table, txn=Txn("me", 101)) is False
        assert table.version() == 1
        assert table.read() == []

    def test_so_is_one_of_an_earlier_runner_of_the_job(self, table: DeltalakeTable) -> None:
        """What it had staged may be what it wrote."""
        assert self.add(table, "2026-01-01", txn=Txn("me", 99), own_from=90)
        assert self.add(table, "2026-01-01", txn=Txn("me", 101)) is None

    def test_a_runner_that_was_replaced_writes_nothing(self, table: DeltalakeTable) -> None:
        """The claim of the next one is an empty commit with a higher version."""
        assert table.append([], txn=Txn("me", 200))
        assert self.add(table, "2026-01-01", txn=Txn("me", 101)) is False

    def test_a_commit_that_comes_between_look_and_commit(
        self, table: DeltalakeTable, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It is looked at again: of another date it is passed, of the same date it is a conflict."""
        commit, rival = table._commit, opened(table.folder.parent, schema.ASSESSMENTS)

        def overtaken(day: str) -> Any:
            def first_the_rival(*args: Any) -> None:
                monkeypatch.setattr(table, "_commit", commit)
                assert self.add(rival, day, txn=Txn(f"other-{day}", 1), own_from=1)
                commit(*args)

            return first_the_rival

        monkeypatch.setattr(table, "_commit", overtaken("2026-01-05"))
        assert self.add(table, "2026-01-01", txn=Txn("me", 101))
        monkeypatch.setattr(table, "_commit", overtaken("2026-01-02"))
        assert self.add(table, "2026-01-02", txn=Txn("me", 102)) is None

    @pytest.mark.parametrize("kind", [Kind.AWAY, Kind.LOSE_REPLY])
    def test_files_of_which_nobody_knows_whether_a_commit_names_them_stay(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Kind
    ) -> None:
        """The storage is away before or after the commit, and for the look after it."""
        fault = Fault("assessments", Operation.MERGE, kind)
        table = opened(tmp_path, schema.ASSESSMENTS, fault).ensure()
        written = files(table, "2026-01-01")

        def away(*_: Any) -> bool:
            raise OSError("the storage does not answer")

        monkeypatch.setattr(table, "_landed", away)
        with pytest.raises(OSError, match="does not answer"):
            table.add_files(written, txn=Txn("me", 101), after=0, own_from=100)
        assert (table.folder / written[0]["path"]).exists()

    def test_files_that_others_were_before_are_left_to_a_merge(self, table: DeltalakeTable) -> None:
        """They are its source."""
        assert self.add(table, "2026-01-01", txn=Txn("other", 101))
        written = files(table, "2026-01-01")
        assert table.add_files(written, txn=Txn("me", 101), after=0, own_from=100) is None
        assert (table.folder / written[0]["path"]).exists()

    def test_a_commit_whose_reply_was_lost_has_landed(self, tmp_path: Path) -> None:
        fault = Fault("assessments", Operation.MERGE, Kind.LOSE_REPLY)
        table = opened(tmp_path, schema.ASSESSMENTS, fault).ensure()
        assert self.add(table, "2026-01-01", txn=Txn("me", 101))
        assert table.version() == 1
