"""Answers in small files, and what is left of them after a kill."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from backfill_spark.judges.llm.journal import (
    Journal,
    Permit,
    delete_journal,
    forget_journaled,
    journaled_jobs,
    read_journal,
)
from backfill_spark.judges.llm.messages import Answer
from backfill_spark.models import ErrorCode


def answer(key: str, **how: Any) -> Answer:
    given: dict[str, Any] = {"verdict": '{"result":"yes"}', "attempts": 1} | how
    return Answer(key, "openai:/m", **given)


def written(journal: Journal, *answers: Answer, permit: Permit) -> None:
    for one in answers:
        journal.add(one)
    journal.put(journal.draft(permit))


@pytest.fixture
def folder(tmp_path: Path) -> Any:
    return str(tmp_path / "spool")


def test_what_was_written_is_read(folder: Any) -> None:
    first = answer("a", input_tokens=7, output_tokens=2, cost_usd=0.25, latency_ms=3.5)
    second = answer("b", verdict=None, error_code=ErrorCode.JUDGE_REFUSED, error_message="Nein — 好")
    written(Journal(folder, "bf-1", 0), first, permit=Permit(1, 0.25, 10, 2.5))
    written(Journal(folder, "bf-1", 1), second, permit=Permit(1, 0.0, 10, 2.5))
    written(Journal(folder, "bf-2", 0), answer("c"), permit=Permit(1, 0.0, 10, None))
    assert [first, second] == sorted(read_journal(folder, "bf-1").answers, key=lambda a: a.prompt_hash)


def test_a_job_without_a_spool_has_no_answers(folder: Any) -> None:
    found = read_journal(folder, "bf-1")
    assert ([], 0, 0.0) == (found.answers, found.requests, found.cost_usd)


def test_an_open_writer_may_have_spent_its_permit_and_a_closed_one_has_not(folder: Any) -> None:
    journal = Journal(folder, "bf-1", 0)
    written(journal, permit=Permit(0, 0.0, 64, 0.5))
    written(journal, answer("a"), permit=Permit(50, 0.4, 120, 0.9))
    other = Journal(folder, "bf-1", 0)
    written(other, permit=Permit(0, 0.0, 64, 0.5))
    written(other, permit=Permit(9, 0.1, 64, 0.5, is_closed=True))
    found = read_journal(folder, "bf-1")
    assert (120 + 9, 1.0) == (found.requests, found.cost_usd)


def test_a_task_that_is_repeated_writes_beside_the_first(folder: Any) -> None:
    for n in range(3):
        written(Journal(folder, "bf-1", 7), answer(f"q{n}"), permit=Permit(1, 0.0, 1, None))
    assert 3 == len(read_journal(folder, "bf-1").answers)


def test_of_two_answers_to_one_question_the_verdict_counts(folder: Any) -> None:
    written(
        Journal(folder, "bf-1", 0),
        answer("a", verdict=None, error_code=ErrorCode.JUDGE_ERROR),
        permit=Permit(1, 0.0, 1, None),
    )
    written(Journal(folder, "bf-1", 1), answer("a"), permit=Permit(1, 0.0, 1, None))
    assert [answer("a")] == read_journal(folder, "bf-1").answers


@pytest.mark.parametrize("cut", [1, 5, 40])
def test_a_line_that_is_not_whole_is_not_there(folder: Any, cut: int) -> None:
    written(Journal(folder, "bf-1", 0), answer("a"), answer("b"), permit=Permit(2, 0.0, 2, None))
    (path,) = Path(folder, "bf-1").iterdir()
    path.write_bytes(path.read_bytes()[:-cut])
    assert ["a"] == [a.prompt_hash for a in read_journal(folder, "bf-1").answers]


def test_files_that_are_still_written_are_not_read(folder: Any) -> None:
    written(Journal(folder, "bf-1", 0), answer("a"), permit=Permit(1, 0.0, 1, None))
    Path(folder, "bf-1", "_x.jsonl.tmp").write_bytes(b'{"prompt')
    assert 1 == len(read_journal(folder, "bf-1").answers)


def test_a_file_uri_is_a_folder(folder: Any) -> None:
    written(Journal(f"file://{folder}", "bf-1", 0), answer("a"), permit=Permit(1, 0.0, 1, None))
    written(Journal(f"file:{folder}", "bf-1", 0), answer("b"), permit=Permit(1, 0.0, 1, None))
    assert 2 == len(read_journal(folder, "bf-1").answers)


def test_an_answer_that_is_forgotten_is_in_no_file_and_what_was_spent_stays(folder: Any) -> None:
    for job in ("bf-1", "bf-2"):
        written(Journal(folder, job, 0), answer("gone"), answer("kept"), permit=Permit(2, 0.5, 10, 2.5))
    before = [read_journal(folder, job) for job in ("bf-1", "bf-2")]
    assert 0 == forget_journaled(folder, {"unknown"})
    assert 2 == forget_journaled(folder, {"gone"})
    assert 0 == forget_journaled("nowhere://bucket/spool", {"gone"})
    after = [read_journal(folder, job) for job in ("bf-1", "bf-2")]
    assert [[answer("kept")]] * 2 == [found.answers for found in after]
    assert [found.requests for found in before] == [found.requests for found in after]
    assert not [p for p in Path(folder).rglob("*") if p.is_file() and "gone" in p.read_text()]


def test_a_deleted_spool_is_empty(folder: Any) -> None:
    written(Journal(folder, "bf-1", 0), answer("a"), permit=Permit(1, 0.0, 1, None))
    delete_journal(folder, "bf-1")
    delete_journal(folder, "bf-1")
    assert [] == read_journal(folder, "bf-1").answers


def test_jobs_that_have_files_are_known_by_their_folders(folder: Any) -> None:
    """An address that cannot be looked at has none: upkeep of tables that lie there goes on."""
    assert set() == journaled_jobs(folder)
    written(Journal(folder, "bf-1", 0), answer("a"), permit=Permit(1, 0.0, 1, None))
    assert {"bf-1"} == journaled_jobs(folder)
    assert set() == journaled_jobs("nowhere://bucket/spool")


def test_a_kill_costs_no_more_than_what_was_not_written(folder: Any) -> None:
    """A writer that is killed at any moment leaves whole answers, and a permit that covers what it sent."""
    script = (
        "import sys, itertools\n"
        "from tests.unit.test_journal import *\n"
        "spool = Journal(sys.argv[1], 'bf-1', 0)\n"
        "for n in itertools.count():\n"
        "    written(spool, answer(f'q{n}'), permit=Permit(n + 1, 0.0, n + 2, None))\n"
        "    print(n, flush=True)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, folder], stdout=subprocess.PIPE, text=True, cwd=Path.cwd()
    )
    assert process.stdout is not None
    for line in process.stdout:
        if int(line) == 50:
            break
    time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    rest = process.stdout.read().split()
    process.stdout.close()
    process.wait()
    told = int(rest[-1]) if rest else 50
    found = read_journal(folder, "bf-1")
    assert {f"q{n}" for n in range(told + 1)} <= {a.prompt_hash for a in found.answers}
    assert found.requests >= len(found.answers)
