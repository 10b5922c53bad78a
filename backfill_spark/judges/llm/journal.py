"""Answers on their way to a table, kept in small files, so that a killed task loses seconds and not a slice.

Files are JSON lines. The first line says what the writer has sent and may send until its next file (the
permit); each other line is one answer. A permit is on disk before the requests that it covers are sent: what a
killed task spent is at most its last permit.
"""

from __future__ import annotations

import posixpath
import secrets
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import orjson
from pydantic import TypeAdapter

from backfill_spark.judges.llm.messages import Answer
from backfill_spark.storage.files import filesystem_of

if TYPE_CHECKING:
    from pyarrow import fs

    from backfill_spark.settings.schema import Settings

EVERY_S = 5.0


@dataclass(frozen=True, slots=True)
class Permit:
    """What a writer has spent, and may have spent before it writes again."""

    requests: int
    cost_usd: float
    max_requests: int
    max_cost_usd: float | None
    """None where the price is unknown."""
    is_closed: bool = False
    """True in the last file of a writer that came to its end: nothing more was sent."""

    @property
    def most(self) -> tuple[int, float]:
        """Requests and cost that the writer has spent at most."""
        if self.is_closed:
            return self.requests, self.cost_usd
        return self.max_requests, self.cost_usd if self.max_cost_usd is None else self.max_cost_usd


_ANSWER = TypeAdapter(Answer)
_PERMIT = TypeAdapter(Permit)


@dataclass(frozen=True, slots=True)
class Journaled:
    """What the files of one job hold."""

    answers: list[Answer]
    """One for each question; of several the first that is an answer, else the first."""
    requests: int
    """Requests that were sent, at most."""
    cost_usd: float
    """What they cost, at most; of unknown prices only what is known."""
    writers: int
    """Tasks that wrote, however little."""


@dataclass(frozen=True, slots=True)
class Draft:
    """One file, not written yet."""

    name: str
    data: bytes
    permit: Permit


class Journal:
    """Writes the answers of one task.

    Args:
        folder: Path or URI; files lie in `{folder}/{job_id}`.
        task: Number that only attempts at this task share.
        every_s: Seconds between files.
    """

    def __init__(self, folder: str, job_id: str, task: int, *, every_s: float = EVERY_S) -> None:
        self._files, root = filesystem_of(folder)
        self._folder = posixpath.join(root, job_id)
        self._folder_given, self._task = folder, task
        # A repeated task must not write over the first one's files.
        self._stem = f"{_stem(task)}{secrets.token_hex(6)}"
        self._job_id = job_id
        self._count = 0
        self._waiting: list[Answer] = []
        self.every_s = every_s
        self._has_folder = False

    @property
    def has_answers(self) -> bool:
        """True when answers wait for the next file."""
        return bool(self._waiting)

    def earlier(self) -> Journaled:
        """Read the files of other attempts at this task; this one has written nothing yet."""
        return read_journal(self._folder_given, self._job_id, task=self._task)

    def add(self, answer: Answer) -> None:
        """Keep an answer for the next file."""
        self._waiting.append(answer)

    def draft(self, permit: Permit) -> Draft:
        """Take the permit and what waits for one new file."""
        answers, self._waiting = self._waiting, []
        head = {"job_id": self._job_id, "writer": self._stem, **asdict(permit)}
        lines = [orjson.dumps(head), *map(orjson.dumps, answers), b""]
        name = f"{self._stem}-{self._count:06d}.jsonl"
        self._count += 1
        return Draft(name, b"\n".join(lines), permit)

    def put(self, draft: Draft) -> None:
        """Write a file: all of it, or nothing that a reader would take. May run in another thread."""
        if not self._has_folder:
            self._files.create_dir(self._folder, recursive=True)
            self._has_folder = True
        _put(self._files, posixpath.join(self._folder, draft.name), draft.data)


def read_journal(folder: str, job_id: str, *, task: int | None = None) -> Journaled:
    """Read what the tasks of a job wrote, or one of them; a line that is not whole is not there.

    Args:
        folder: Path or URI, as the writers were given it.
        task: Read the files of this task only.
    """
    from pyarrow import fs

    files, root = filesystem_of(folder)
    selector = fs.FileSelector(posixpath.join(root, job_id), allow_not_found=True)
    start = "" if task is None else _stem(task)
    names = [f.base_name for f in files.get_file_info(selector)]
    found = [name for name in names if name.endswith(".jsonl") and name.startswith(start)]
    answers: dict[str, Answer] = {}
    permits: dict[str, Permit] = {}
    for name in sorted(found):
        with files.open_input_stream(posixpath.join(root, job_id, name)) as stream:
            lines = stream.read().split(b"\n")[:-1]
        head, *rest = [_object(line) for line in lines] or [None]
        if head is not None:
            permits[head["writer"]] = _PERMIT.validate_python(head)
        for answer in (_ANSWER.validate_python(line) for line in rest if line is not None):
            kept = answers.get(answer.prompt_hash)
            if kept is None or (kept.verdict is None and answer.verdict is not None):
                answers[answer.prompt_hash] = answer
    spent = [permit.most for permit in permits.values()]
    return Journaled(list(answers.values()), sum(s[0] for s in spent), sum(s[1] for s in spent), len(permits))


def delete_journal(folder: str, job_id: str) -> None:
    """Delete a job's files, after their answers are in a table."""
    from pyarrow import fs

    files, root = filesystem_of(folder)
    path = posixpath.join(root, job_id)
    if files.get_file_info(path).type is fs.FileType.Directory:
        files.delete_dir(path)


def forget_journaled(folder: str, hashes: set[str]) -> int:
    """Take the answers to these prompts out of every job's files; return how many there were."""
    files, found = _found(folder, recursive=True)
    count = 0
    for path in (f.path for f in found if f.base_name.endswith(".jsonl")):
        with files.open_input_stream(path) as stream:
            lines = stream.read().split(b"\n")
        kept = [line for line in lines if (_object(line) or {}).get("prompt_hash") not in hashes]
        if len(kept) < len(lines):
            count += len(lines) - len(kept)
            _put(files, path, b"\n".join(kept))
    return count


def journal_folder(settings: Settings) -> str:
    """Folder of answers that are not committed yet; beside the tables where these lie in a folder."""
    own = settings.judge.spool
    folder = f"{settings.root.rstrip('/')}/spool" if own is None else settings.absolute(own)
    return f"{folder.rstrip('/')}/{settings.tables.prefix}answers"


def journaled_jobs(folder: str) -> set[str]:
    """Return the ids of the jobs that have files; none where the folder cannot be looked at, as without judges."""
    return {f.base_name for f in _found(folder)[1]}


def _found(folder: str, *, recursive: bool = False) -> tuple[fs.FileSystem, list[fs.FileInfo]]:
    from pyarrow import fs

    try:
        files, root = filesystem_of(folder)
        return files, files.get_file_info(fs.FileSelector(root, allow_not_found=True, recursive=recursive))
    except Exception:  # an address that pyarrow does not know, or no way to its storage
        return fs.LocalFileSystem(), []


def _put(files: fs.FileSystem, final: str, data: bytes) -> None:
    if files.type_name != "local":
        # An object appears whole or not at all.
        with files.open_output_stream(final) as stream:
            stream.write(data)
        return
    folder, name = posixpath.split(final)
    draft = posixpath.join(folder, f"_{name}.tmp")
    with files.open_output_stream(draft) as stream:
        stream.write(data)
    files.move(draft, final)


def _stem(task: int) -> str:
    return f"{task:012d}-"


def _object(line: bytes) -> dict[str, Any] | None:
    try:
        found = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    return found if isinstance(found, dict) else None
