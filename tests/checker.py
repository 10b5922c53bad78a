"""The checker: reads ledger, tables and events of finished jobs, and says which promise was broken.

It uses neither the package's stores nor its folding, so that a mistake there cannot hide itself. Each function
returns sentences; none is a pass. Commit times are those of Delta's log files, and the ledger's those of the same
machine, so "after" needs no clock but one.
"""

from __future__ import annotations

import json
import urllib.parse
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from backfill_spark.settings.schema import Settings

TERMINAL = ("SUCCEEDED", "FAILED", "CANCELED")
CLOCK_S = 0.05
"""File times may lie a kernel tick behind the ledger's."""
Pair = tuple[str, str]
"""Scorer and trace."""


@dataclass(frozen=True)
class Call:
    """One line of a ledger: `scorer<TAB>trace id<TAB>nanoseconds<TAB>process`."""

    scorer: str
    trace_id: str
    at: float
    process: int

    @property
    def pair(self) -> Pair:
        return (self.scorer, self.trace_id)


@dataclass(frozen=True)
class Commit:
    """One version of a Delta table, as its log file tells it."""

    version: int
    at: float
    actions: tuple[dict[str, Any], ...]

    def of(self, kind: str) -> list[dict[str, Any]]:
        """Return the actions of one kind (add, remove, txn, commitInfo)."""
        return [a[kind] for a in self.actions if kind in a]


def calls_of(lines: Iterable[str]) -> list[Call]:
    """Read ledger lines."""
    parts = (line.split("\t") for line in lines)
    return [Call(scorer, trace_id, int(at) / 1e9, int(process)) for scorer, trace_id, at, process in parts]


def check(
    settings: Settings,
    lines: Sequence[str],
    *,
    expected: Collection[Pair] | None = None,
    extra: int = 0,
    woken: int = 0,
) -> list[str]:
    """Return everything that is broken.

    Args:
        settings: where the tables are; paths only.
        lines: of the ledger.
        expected: pairs that must have a result now; None: not looked at.
        extra: calls that the faults allow beyond one a pair.
        woken: of these, calls of pairs already staged, by a runner that was stopped and has not yet noticed.
    """
    calls = calls_of(lines)
    return [
        *duplicates(settings),
        *gaps(settings, expected or ()),
        *wrong_counts(settings),
        *over_budget(calls, extra),
        *staged_called_again(settings, calls, woken),
        *wrong_histories(settings),
        *rows_that_differ_from_events(settings),
        *commits_after_the_end(settings),
    ]


# P1


def duplicates(settings: Settings) -> list[str]:
    """Name row keys that stand twice on one date, and pairs whose ordinals are not 0, 1, …"""
    names = ["experiment_id", "trace_id", "scorer_name", "scorer_version", "trace_date"]
    by_pair: dict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
    for row in _rows(settings, "assessments", *names, "ordinal", "scored_job_id"):
        by_pair[tuple(row[n] for n in names)].append(row)
    found = []
    for (_, trace_id, scorer, version, date), rows in by_pair.items():
        pair = f"{scorer} v{version} on {trace_id} ({date})"
        times = Counter(r["ordinal"] for r in rows)
        twice = [f"P1: {n} rows for {pair} ordinal {o}" for o, n in times.items() if n > 1]
        if not twice and sorted(times) != list(range(len(times))):
            twice = [f"P1: {pair} has ordinals that are not 0, 1, …"]
        found += twice
        if len({r["scored_job_id"] for r in rows}) > 1:
            found.append(f"P1: {pair} has results of two jobs")
    return found[:20]


# P4, P5


def gaps(settings: Settings, expected: Collection[Pair]) -> list[str]:
    """Name expected pairs without a row."""
    shown = {(r["scorer_name"], r["trace_id"]) for r in _rows(settings, "assessments", "scorer_name", "trace_id")}
    missing = sorted(set(expected) - shown)
    return [f"P5: no row for {len(missing)} pairs, such as {missing[:5]}"] if missing else []


def wrong_counts(settings: Settings) -> list[str]:
    """Name jobs whose counts do not add up, or whose SUCCEEDED leaves something."""
    found = []
    for row in _rows(settings, "jobs", "job_id", "state", "counts", "calls"):
        counts = json.loads(row["counts"])
        for scorer, c in counts.items():
            who = f"P4: {row['job_id']} {scorer}"
            ways = c["skipped"] + c["filtered_out"] + c["sampled_out"] + c["already_scored"] + c["due"]
            if c["in_window"] != ways:
                found.append(f"{who}: in_window {c['in_window']} is not {ways}")
            if c["due"] != c["scored"] + c["empty"] + c["errored"] + c["left"]:
                found.append(f"{who}: due {c['due']} is not scored + empty + errored + left: {c}")
            if sum(c["skipped_reasons"].values()) != c["skipped"]:
                found.append(f"{who}: skipped_reasons do not add up to skipped: {c}")
            if any(isinstance(n, int) and n < 0 for n in c.values()):
                found.append(f"{who}: counts below 0: {c}")
            if row["state"] == "SUCCEEDED" and c["left"]:
                found.append(f"P5: {row['job_id']} SUCCEEDED and left {c['left']} pairs of {scorer}")
        if row["state"] in TERMINAL and row["calls"] != sum(c["calls"] for c in counts.values()):
            found.append(f"P4: {row['job_id']} calls {row['calls']} is not the sum of its scorers'")
    return found


# P2, P3


def over_budget(calls: Sequence[Call], extra: int) -> list[str]:
    """Say when there are more calls beyond one a pair than the faults allow."""
    times = Counter(c.pair for c in calls)
    beyond = sum(times.values()) - len(times)
    if beyond <= extra:
        return []
    return [f"P2: {beyond} calls beyond one a pair, allowed are {extra}; most: {times.most_common(3)}"]


def staged_called_again(settings: Settings, calls: Sequence[Call], woken: int = 0) -> list[str]:
    """Name calls that began after the event that stages a result of the pair."""
    since = staged_since(settings)
    late = [c for c in calls if c.at > since.get(c.pair, float("inf")) + CLOCK_S]
    if len(late) <= woken:
        return []
    shown = [f"{c.pair} {c.at - since[c.pair]:.2f} s later" for c in late[:5]]
    return [f"P3: {len(late)} calls of staged pairs, allowed are {woken}: {shown}"]


def staged_since(settings: Settings) -> dict[Pair, float]:
    """Return when each pair was first staged, whether or not its files were dropped since."""
    import pyarrow.parquet as pq

    first: dict[Pair, float] = {}
    for at, files in staged_files(settings):
        for file in files:
            for row in pq.ParquetFile(file).read(["trace_id", "scorer_name"]).to_pylist():
                first.setdefault((row["scorer_name"], row["trace_id"]), at)
    return first


def staged_files(settings: Settings) -> Iterator[tuple[float, list[Path]]]:
    """Yield for each chunk when it was staged, and its files that are there."""
    import pyarrow.parquet as pq

    folder, results = _folder(settings, "job_events"), _folder(settings, "assessments")
    places = (results / "_staged", results, results.parent / "dropped")
    for commit in commits(folder):
        for add in commit.of("add"):
            file = pq.ParquetFile(folder / urllib.parse.unquote(add["path"]))
            for row in file.read(["event", "payload"]).to_pylist():
                if row["event"] != "chunk_staged":
                    continue
                paths = [place / path for path in json.loads(row["payload"])["files"] for place in places]
                inside = [f for path in paths if path.is_dir() for f in path.glob("*.parquet")]
                yield commit.at, [*(path for path in paths if path.is_file()), *inside]


# P5, P6


def wrong_histories(settings: Settings) -> list[str]:
    """Name jobs whose events no run of the protocol could have written."""
    by_job: dict[str, list[Any]] = defaultdict(list)
    for row in _rows(settings, "job_events", "job_id", "event", "epoch", "payload"):
        if row["event"] in ("created", "claimed", "ended"):
            by_job[row["job_id"]].append(row)
    return [problem for job_id, events in sorted(by_job.items()) for problem in _history(job_id, events)]


def _history(job_id: str, events: Sequence[Any]) -> Iterator[str]:
    claims = Counter(int(r["epoch"]) for r in events if r["event"] == "claimed")
    ends: dict[int, list[str]] = defaultdict(list)
    for row in events:
        if row["event"] == "ended":
            ends[int(row["epoch"])].append(json.loads(row["payload"])["end"])
    if sum(r["event"] == "created" for r in events) != 1:
        yield f"P5: {job_id} was not created once"
    if sorted(claims) != list(range(1, len(claims) + 1)) or set(claims.values()) - {1}:
        yield f"P5: {job_id} has claims {dict(claims)}: each epoch from 1 is claimed once"
    for epoch, how in sorted(ends.items()):
        if len(how) > 1:
            yield f"P5: epoch {epoch} of {job_id} ended {len(how)} times: {how}"
        if epoch not in claims:
            yield f"P5: epoch {epoch} of {job_id} ended {how} and was never claimed"
    for epoch in claims:
        if epoch > 1 and epoch - 1 not in ends:
            yield f"P5: epoch {epoch} of {job_id} was claimed before epoch {epoch - 1} had an end"
    final = [(epoch, h) for epoch, how in sorted(ends.items()) for h in how if h in TERMINAL]
    if len(final) > 1:
        yield f"P5: {job_id} ended for good {len(final)} times: {final}"
    if final and max(claims, default=0) > final[0][0]:
        yield f"P5: {job_id} was {final[0][1]} in epoch {final[0][0]} and was claimed again"


def rows_that_differ_from_events(settings: Settings) -> list[str]:
    """Name jobs whose row shows another terminal state than their events, or that have not one row."""
    created, told = set(), {}
    for row in _rows(settings, "job_events", "job_id", "event", "payload"):
        if row["event"] == "created":
            created.add(row["job_id"])
        if row["event"] == "ended" and (how := json.loads(row["payload"])["end"]) in TERMINAL:
            told[row["job_id"]] = how
    shown: dict[str, list[str]] = defaultdict(list)
    for row in _rows(settings, "jobs", "job_id", "state"):
        shown[row["job_id"]].append(row["state"])
    found = [f"P5: {j} has {len(shown[j])} rows in jobs" for j in sorted(created) if len(shown[j]) != 1]
    return found + [
        f"P5: {j} is {states[0]} in jobs and {told.get(j, 'not terminal')} in its events"
        for j, states in sorted(shown.items())
        if (states[0] if states[0] in TERMINAL else None) != told.get(j)
    ]


def commits_after_the_end(settings: Settings) -> list[str]:
    """Name commits of a job to `assessments` after its terminal end."""
    ended: dict[str, tuple[float, str]] = {}
    for job_id, how, at in _ends(settings):
        if how in TERMINAL:
            ended.setdefault(job_id, (at, how))
    found = []
    for commit in commits(_folder(settings, "assessments")):
        for txn in commit.of("txn"):
            at, how = ended.get(txn["appId"], (float("inf"), ""))
            if commit.at > at:
                found.append(f"P5: {txn['appId']} wrote version {commit.version} {commit.at - at:.3f} s after {how}")
    return found


def _ends(settings: Settings) -> Iterator[tuple[str, str, float]]:
    import pyarrow.parquet as pq

    folder = _folder(settings, "job_events")
    for commit in commits(folder):
        for add in commit.of("add"):
            if not any("/end/" in str(txn["appId"]) for txn in commit.of("txn")):
                continue
            file = pq.ParquetFile(folder / urllib.parse.unquote(add["path"]))
            for row in file.read(["job_id", "event", "payload"]).to_pylist():
                if row["event"] == "ended":
                    yield row["job_id"], json.loads(row["payload"])["end"], commit.at


# Tables


def commits(folder: Path) -> Iterator[Commit]:
    """Yield the versions of a local Delta table, oldest first."""
    for file in sorted((folder / "_delta_log").glob("*.json")):
        if file.stem.isdecimal():
            actions = tuple(json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line)
            yield Commit(int(file.stem), file.stat().st_mtime, actions)


def transactions(settings: Settings, table: str, app_id: str) -> list[tuple[int, int]]:
    """Return (epoch, n) of each commit of `app_id`, in the order of the table's versions."""
    txns = [t for c in commits(_folder(settings, table)) for t in c.of("txn") if t["appId"] == app_id]
    return [divmod(int(t["version"]), 1 << 32) for t in txns]


def _folder(settings: Settings, table: str) -> Path:
    return Path(settings.tables.root.removeprefix("file:")) / f"{settings.tables.prefix}{table}"


def _rows(settings: Settings, table: str, *names: str) -> Iterator[dict[str, Any]]:
    """Yield the rows of every file that was added and not removed: the table as its log tells it."""
    import pyarrow.parquet as pq

    folder = _folder(settings, table)
    files: dict[str, dict[str, str]] = {}
    for commit in commits(folder):
        for file in commit.of("remove"):
            files.pop(file["path"], None)
        files |= {add["path"]: add["partitionValues"] for add in commit.of("add")}
    for path, of_folder in files.items():
        inside = pq.ParquetFile(folder / urllib.parse.unquote(path)).read([n for n in names if n not in of_folder])
        yield from ({**of_folder, **row} for row in inside.to_pylist())
