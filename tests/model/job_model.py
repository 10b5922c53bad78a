"""The job protocol as an explicit-state model: every interleaving of two runners, a canceller and their faults.

A step is one Delta commit, one read or one batch of scorer calls, as `jobs/store.py` and `backfill/steps.py` make them:

- claim: look; end a dead runner's epoch LOST (compare-and-set); append `claimed` (compare-and-set on the epoch, and a
  wall for all that is appended to the events); wall on assessments; read what is left.
- chunk: call the scorer, write files; append the event that names them; MERGE into assessments (insert-only by key).
- end: compare-and-set on the epoch's end. SUCCEEDED deletes the job's own staged files.

A transaction's version is reduced to its epoch, since within an epoch n rises: a write supersedes its runner's earlier
ones. Faults: a crash before any step (what the runner was writing did not land, or lands later), a lease that expires
under a live runner, a write whose reply is lost (it landed) or whose outcome is unknown (it lands later or never), an
interrupt that releases the lease, and another job over the pairs of chunk 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import NamedTuple

CHUNKS = 2
ALL = (1 << CHUNKS) - 1


class Guard(StrEnum):
    """What the protocol does against faults; a mutant lacks one of them."""

    FENCE = "MERGE carries the job's transaction"
    WALL_ASSESSMENTS = "a claim puts its epoch into assessments"
    FENCE_STAGING = "the event that stages a chunk carries the job's transaction, as a claim does"
    READ_BACK = "a claimer reads back who has the epoch"
    END_ONCE = "the end of an epoch is a compare-and-set"
    LEASE = "only a dead runner's job is claimed"
    STAGING_ANTI_JOIN = "what is staged is not due"
    STAGING_READ_BACK = "a staging event whose reply was lost is looked for"
    MERGE_KEY = "MERGE inserts only what is not there"
    DEDUPLICATION = "the MERGE source has each pair once"
    DUE_PER_CHUNK = "before each chunk, what other jobs have staged or merged meanwhile is taken out"
    KEEP_STAGING = "only SUCCEEDED deletes staged files"
    CANCEL_CLAIMS = "a canceller claims the epoch that it ends CANCELED"
    REFUSAL_SEEN = "a write that was skipped is told from one that landed"
    SILENT_IS_DEAD = "a runner that never sent a heartbeat is dead after a lease"
    WALL_GIVES_WAY = "a claimer that finds a higher wall goes away"
    SETTLE = "a write of unknown outcome is superseded before going on"


class Broken(StrEnum):
    """What must never happen."""

    TERMINAL_CHANGED = "a terminal state changed, or a job ended twice"
    COMMIT_AFTER_END = "assessments changed after a terminal end"
    TWO_ROW_SETS = "a pair has two row sets"
    STAGED_CALLED = "a staged pair was called again"
    TOO_MANY_CALLS = "more calls than the faults allow"
    GAP = "SUCCEEDED without a row for each pair"
    PAID_WORK_LOST = "a staged result is neither staged nor merged"
    STUCK = "without a further fault no terminal state is reached: no step is left"
    LOOP = "without a further fault no terminal state is reached: steps go round"


class End(IntEnum):
    """How the newest epoch ended; from SUCCEEDED on terminal."""

    OPEN = 0
    LOST = 1
    REST = 2  # PARTIAL or RELEASED
    SUCCEEDED = 3
    FAILED = 4
    CANCELED = 5


class At(IntEnum):
    """The step that a process does next."""

    IDLE = 0
    GONE = 1
    DECIDE = 2
    CLAIM = 3
    WALL_ASSESSMENTS = 4
    READ = 5
    NEXT = 6
    STAGE = 7
    MERGE = 8
    SETTLE = 9
    END = 10
    CLEAN = 11


class Process(NamedTuple):
    """A runner or the canceller."""

    at: int = At.IDLE
    epoch: int = 0
    due: int = 0  # chunks that it will call
    unmerged: int = 0  # chunks that it knows to be staged and not merged
    how: int = End.OPEN  # the end that it is about to write


class Late(NamedTuple):
    """A write that may still land; its writer is dead or does not know."""

    at: int
    epoch: int
    chunks: int
    how: int


class State(NamedTuple):
    """Tables, faults so far, and processes."""

    epoch: int = 0  # the newest claimed
    end: int = End.OPEN
    lapsed: int = 0  # the newest epoch's runner is dead, or its lease expired
    canceling: int = 0
    staging_wall: int = 0
    assessments_wall: int = 0
    staged: int = 0
    foreign: int = 0  # staged by the other job
    merged: int = 0
    calls: tuple[int, ...] = (0,) * CHUNKS
    crashes: int = 0
    expiries: int = 0
    lost: int = 0
    late: int = 0
    rests: int = 0
    other: int = 0  # steps that the other job made
    pending: Late | None = None
    runners: tuple[Process, Process] = (Process(), Process())
    canceller: Process = Process()
    broken: Broken | None = None  # by the step that led here


@dataclass(frozen=True)
class Bounds:
    """How many faults of each kind a history may have."""

    crashes: int = 2
    expiries: int = 2
    lost: int = 1
    late: int = 0
    rests: int = 0
    other_job: bool = False
    cancel: bool = True


Step = tuple[str, State, bool]
"""Name, next state, and whether it is a fault or somebody's wish, on which no progress may depend."""
Move = tuple[str, State, Process, bool]
"""The same with what becomes of the process."""


class JobModel:
    """The protocol without the guards in `without`."""

    def __init__(self, bounds: Bounds, without: frozenset[Guard] = frozenset()) -> None:
        self.bounds = bounds
        self.without = without

    def steps(self, s: State) -> Iterator[Step]:
        """Yield every step that is possible in `s`; the next state says when it broke an invariant."""
        first, second = s.runners
        for name, after, moved, fault in self._moves(s, first, canceller=False):
            yield name, self._tidied(after, moved, second, after.canceller), fault
        if second != first:
            for name, after, moved, fault in self._moves(s, second, canceller=False):
                yield name, self._tidied(after, first, moved, after.canceller), fault
        if s.canceling:
            for name, after, moved, fault in self._moves(s, s.canceller, canceller=True):
                yield f"canceller: {name}", self._tidied(after, first, second, moved), fault
        for name, after, fault in self._outside(s):
            yield name, self._tidied(after, first, second, after.canceller), fault

    def _outside(self, s: State) -> Iterator[Step]:
        if s.pending is not None:
            yield f"a late {At(s.pending.at).name} of epoch {s.pending.epoch} lands", self._landed_late(s), True
        if s.end >= End.SUCCEEDED:
            return
        if self.bounds.cancel and not s.canceling:
            yield "a cancel is requested", s._replace(canceling=1), True
        if s.epoch and not s.end and not s.lapsed and s.expiries < self.bounds.expiries:
            yield "the lease expires under a live runner", s._replace(lapsed=1, expiries=s.expiries + 1), True
        if self.bounds.other_job:
            yield from self._other_job(s)

    def _tidied(self, s: State, first: Process, second: Process, canceller: Process) -> State:
        """Put the processes in order (the runners are alike), and take at once what is certain to be refused."""
        if self._is_beaten(s, first):
            first = Process()
        if self._is_beaten(s, second):
            second = Process()
        if self._is_beaten(s, canceller):
            canceller = Process(At.GONE) if canceller.at == At.END else Process()
        return s._replace(runners=(first, second) if first <= second else (second, first), canceller=canceller)

    def _is_beaten(self, s: State, p: Process) -> bool:
        """True when the next step changes nothing and never will: a refused write, a claim that came too late."""
        at = p.at
        if at < At.DECIDE or at in (At.NEXT, At.READ):
            return False
        if at == At.DECIDE:
            return p.epoch < s.epoch and Guard.END_ONCE not in self.without
        if at == At.CLAIM:
            return p.epoch <= s.epoch and Guard.READ_BACK not in self.without
        if at == At.MERGE:
            return p.epoch < s.assessments_wall and not self.without & {Guard.FENCE, Guard.REFUSAL_SEEN}
        if at == At.STAGE:
            return p.epoch < s.staging_wall and Guard.REFUSAL_SEEN not in self.without
        if at == At.WALL_ASSESSMENTS:
            return p.epoch < s.assessments_wall and Guard.WALL_GIVES_WAY not in self.without
        if at == At.END:
            return (p.epoch < s.epoch or s.end != End.OPEN) and Guard.END_ONCE not in self.without
        return p.epoch < s.staging_wall

    def _moves(self, s: State, p: Process, *, canceller: bool) -> Iterator[Move]:
        at = p.at
        if at == At.IDLE:
            yield from self._look(s)
            return
        if at == At.GONE:
            return
        away = Process(At.GONE) if canceller else Process()
        if s.end < End.SUCCEEDED:
            yield from self._crash(s, p, away)
        if at == At.DECIDE:
            yield self._decide(s, p, canceller=canceller)
        elif at == At.CLAIM:
            yield self._claim(s, p)
        elif at == At.WALL_ASSESSMENTS:
            yield self._wall_assessments(s, p, canceller=canceller)
        elif at == At.READ:
            yield self._read(s, p)
        elif at == At.NEXT:
            yield from self._next(s, p)
        elif at == At.STAGE:
            yield from self._stage(s, p)
        elif at == At.MERGE:
            yield from self._merge(s, p)
        elif at == At.SETTLE:
            yield self._settle(s, p)
        elif at == At.END:
            yield self._end(s, p, away)
        elif at == At.CLEAN:
            yield self._clean(s, p)

    # Claiming.

    def _look(self, s: State) -> Iterator[Move]:
        if s.end >= End.SUCCEEDED:
            return
        if s.epoch == 0 or s.end != End.OPEN:
            yield f"sees that epoch {s.epoch + 1} can be claimed", s, Process(At.CLAIM, s.epoch + 1), False
        elif s.lapsed or Guard.LEASE in self.without:
            yield f"sees no life in epoch {s.epoch}", s, Process(At.DECIDE, s.epoch), False

    def _decide(self, s: State, p: Process, *, canceller: bool) -> Move:
        if canceller and Guard.CANCEL_CLAIMS in self.without:
            return self._end(s, p._replace(how=End.CANCELED), Process(At.GONE))
        if (s.epoch == p.epoch and s.end == End.OPEN) or Guard.END_ONCE in self.without:
            return f"ends epoch {p.epoch} LOST", s._replace(end=End.LOST), Process(At.CLAIM, p.epoch + 1), False
        if s.epoch == p.epoch and s.end < End.SUCCEEDED:
            return f"reads how epoch {p.epoch} ended", s, Process(At.CLAIM, p.epoch + 1), False
        return f"is too late to end epoch {p.epoch}", s, Process(), False

    def _claim(self, s: State, p: Process) -> Move:
        name = f"claims epoch {p.epoch}"
        if p.epoch > s.epoch:
            return name, self._claimed(s, p.epoch), Process(At.WALL_ASSESSMENTS, p.epoch), False
        if Guard.READ_BACK in self.without:
            return f"thinks that it has epoch {p.epoch}", s, Process(At.WALL_ASSESSMENTS, p.epoch), False
        return f"reads that epoch {p.epoch} is another's", s, Process(), False

    def _claimed(self, s: State, epoch: int) -> State:
        if s.end >= End.SUCCEEDED:
            return s._replace(broken=Broken.TERMINAL_CHANGED)
        if Guard.FENCE_STAGING not in self.without:
            s = _raised(s, At.STAGE, epoch)
        return s._replace(epoch=epoch, end=End.OPEN, lapsed=0)

    def _wall_assessments(self, s: State, p: Process, *, canceller: bool) -> Move:
        if p.epoch < s.assessments_wall:
            return "finds a higher wall in assessments", s, self._given_way(p), False
        if Guard.WALL_ASSESSMENTS not in self.without:
            s = _raised(s, At.MERGE, p.epoch)
        moved = p._replace(at=At.READ)
        if canceller:
            moved = Process(At.END, p.epoch, how=End.CANCELED)
        return f"wall {p.epoch} in assessments", s, moved, False

    def _given_way(self, p: Process) -> Process:
        return p if Guard.WALL_GIVES_WAY in self.without else Process()

    # Working.

    def _left(self, s: State) -> tuple[int, int]:
        staged = s.staged | s.foreign
        due = ALL & ~s.merged
        return (due if Guard.STAGING_ANTI_JOIN in self.without else due & ~staged), staged & ~s.merged

    def _read(self, s: State, p: Process) -> Move:
        due, unmerged = self._left(s)
        return f"reads: due {due:02b}, to merge {unmerged:02b}", s, Process(At.NEXT, p.epoch, due, unmerged), False

    def _next(self, s: State, p: Process) -> Iterator[Move]:
        # A heartbeat may come late: going on without one is always possible.
        if s.epoch > p.epoch or s.end != End.OPEN:
            yield "heartbeat: the epoch is over", s, Process(), False
        elif s.canceling:
            yield "heartbeat: sees the cancel", s, Process(At.END, p.epoch, how=End.CANCELED), False
        if s.rests < self.bounds.rests and s.end < End.SUCCEEDED:
            yield "is interrupted", s._replace(rests=s.rests + 1), Process(At.END, p.epoch, how=End.REST), True
        if Guard.DUE_PER_CHUNK not in self.without and p.due & (s.foreign | s.merged):
            due = p.due & ~(s.foreign | s.merged)
            p = p._replace(due=due, unmerged=p.unmerged | (p.due & s.foreign & ~s.merged))
        if p.due:
            yield self._call(s, p)
        if p.unmerged:
            yield "begins a MERGE", s, p._replace(at=At.MERGE), False
        elif not p.due:
            yield "is done", s, Process(At.END, p.epoch, how=End.SUCCEEDED), False
            yield "is done, with too many errors", s, Process(At.END, p.epoch, how=End.FAILED), True

    def _call(self, s: State, p: Process) -> Move:
        chunk = p.due & -p.due
        i = chunk.bit_length() - 1
        name = f"epoch {p.epoch} calls chunk {i}"
        # A runner that lost its lease may not know what its follower staged: that is in the bound below.
        broken = Broken.STAGED_CALLED if p.epoch == s.epoch and chunk & (s.staged | s.foreign | s.merged) else None
        calls = (*s.calls[:i], s.calls[i] + 1, *s.calls[i + 1 :])
        if sum(calls) > CHUNKS + s.crashes + s.expiries + s.late:  # each fault costs the chunk that was in flight
            broken = broken or Broken.TOO_MANY_CALLS
        return name, s._replace(calls=calls, broken=broken), p._replace(at=At.STAGE), False

    def _stage(self, s: State, p: Process) -> Iterator[Move]:
        chunk = p.due & -p.due
        name = f"epoch {p.epoch} stages {chunk:02b}"
        onward = Process(At.NEXT, p.epoch, p.due & ~chunk, p.unmerged | chunk)
        if p.epoch < s.staging_wall:
            yield f"{name}: refused", s, onward if Guard.REFUSAL_SEEN in self.without else Process(), False
            return
        landed = _raised(s, At.STAGE, p.epoch)._replace(staged=s.staged | chunk)
        yield name, landed, onward, False
        if s.lost < self.bounds.lost and Guard.STAGING_READ_BACK in self.without:
            yield f"{name}: reply lost", landed._replace(lost=s.lost + 1), p._replace(at=At.NEXT), True

    def _merge(self, s: State, p: Process) -> Iterator[Move]:
        name = f"epoch {p.epoch} merges {p.unmerged:02b}"
        onward = Process(At.NEXT, p.epoch, p.due, 0)
        if p.epoch < s.assessments_wall and Guard.FENCE not in self.without:
            yield f"{name}: refused", s, onward if Guard.REFUSAL_SEEN in self.without else Process(), False
            return
        landed = self._merged(s, p.epoch, p.unmerged)
        yield name, landed, onward, False
        if s.lost < self.bounds.lost:
            yield f"{name}: reply lost", landed._replace(lost=s.lost + 1), p, True

    def _merged(self, s: State, epoch: int, chunks: int) -> State:
        if s.end >= End.SUCCEEDED:
            return s._replace(broken=Broken.COMMIT_AFTER_END)
        own, foreign = s.staged & chunks, s.foreign & chunks
        if (own & foreign and Guard.DEDUPLICATION in self.without) or (
            (own | foreign) & s.merged and Guard.MERGE_KEY in self.without
        ):
            return s._replace(broken=Broken.TWO_ROW_SETS)
        if Guard.FENCE not in self.without:
            s = _raised(s, At.MERGE, epoch)
        return s._replace(merged=s.merged | own | foreign)

    # Ending.

    def _end(self, s: State, p: Process, away: Process) -> Move:
        name = f"epoch {p.epoch} ends {End(p.how).name}"
        if Guard.END_ONCE not in self.without and (s.epoch > p.epoch or s.end != End.OPEN):
            return f"{name}: too late", s, away, False
        after = _ended(s, p.how)
        cleans = p.how == End.SUCCEEDED or Guard.KEEP_STAGING in self.without
        return name, after, Process(At.CLEAN, p.epoch) if cleans else away, False

    def _clean(self, s: State, p: Process) -> Move:
        name = f"epoch {p.epoch} deletes its staged files"
        if p.epoch < s.staging_wall:
            return f"{name}: refused", s, Process(), False
        broken = Broken.PAID_WORK_LOST if s.staged & ~s.merged else None
        return name, _raised(s, At.STAGE, p.epoch)._replace(staged=0, broken=broken), Process(), False

    # Faults.

    def _crash(self, s: State, p: Process, away: Process) -> Iterator[Move]:
        owns = p.epoch == s.epoch and p.at >= At.WALL_ASSESSMENTS
        if Guard.SILENT_IS_DEAD in self.without:
            owns = owns and p.at >= At.NEXT  # where the first heartbeat is
        writes = Late(p.at, p.epoch, p.unmerged if p.at == At.MERGE else p.due & -p.due, p.how)
        may_land_late = s.late < self.bounds.late and s.pending is None
        # Who has written nothing yet and is about to look again: a crash is the same as being slow.
        if s.crashes < self.bounds.crashes and (p.at >= At.WALL_ASSESSMENTS or may_land_late):
            dead = s._replace(crashes=s.crashes + 1, lapsed=1 if owns else s.lapsed)
            if p.at >= At.WALL_ASSESSMENTS:
                yield f"crash of epoch {p.epoch} before {At(p.at).name}", dead, away, True
            if may_land_late and p.at in (At.CLAIM, At.STAGE, At.MERGE, At.END):
                name = f"crash of epoch {p.epoch} in {At(p.at).name}"
                yield name, dead._replace(pending=writes, late=s.late + 1), away, True
        if may_land_late and p.at in (At.STAGE, At.MERGE):
            unknown = s._replace(pending=writes, late=s.late + 1)
            name = f"epoch {p.epoch} does not know what became of its {At(p.at).name}"
            yield name, unknown, Process(At.SETTLE, p.epoch), True
            yield f"{name}, and is interrupted", unknown, Process(At.END, p.epoch, how=End.REST), True

    def _settle(self, s: State, p: Process) -> Move:
        if p.epoch < s.staging_wall or p.epoch < s.assessments_wall:
            return "finds a higher wall", s, Process(), False
        if Guard.SETTLE not in self.without:
            s = _raised(_raised(s, At.STAGE, p.epoch), At.MERGE, p.epoch)
        return f"own wall of epoch {p.epoch}", s, Process(At.READ, p.epoch), False

    def _landed_late(self, s: State) -> State:
        late, s = s.pending, s._replace(pending=None)
        assert late is not None
        if late.at == At.STAGE and late.epoch >= s.staging_wall:
            return _raised(s, At.STAGE, late.epoch)._replace(staged=s.staged | late.chunks)
        if late.at == At.MERGE and late.epoch >= s.assessments_wall:
            return self._merged(s, late.epoch, late.chunks)
        if late.at == At.CLAIM and late.epoch > s.epoch:
            return self._claimed(s, late.epoch)._replace(lapsed=1)
        if late.at == At.END and late.epoch == s.epoch and s.end == End.OPEN:
            return _ended(s, late.how)
        return s

    def _other_job(self, s: State) -> Iterator[Step]:
        if s.other == 0 and not (s.staged | s.merged) & 1:
            yield "the other job calls chunk 0", s._replace(other=1), True
        elif s.other == 1:
            yield "the other job stages chunk 0", s._replace(other=2, foreign=1), True
        elif s.other == 2:
            yield "the other job merges chunk 0", s._replace(other=3, merged=s.merged | 1), True
        elif s.other == 3:
            yield "the other job deletes its staged files", s._replace(other=4, foreign=0), True


def _raised(s: State, table: At, epoch: int) -> State:
    """A write of `epoch` lands on the table that the step `table` writes: what is older can no longer land."""
    late = s.pending
    if late is not None and late.at == table and late.epoch <= epoch:
        s = s._replace(pending=None)
    if table == At.STAGE:
        return s if s.staging_wall >= epoch else s._replace(staging_wall=epoch)
    return s if s.assessments_wall >= epoch else s._replace(assessments_wall=epoch)


def _ended(s: State, how: int) -> State:
    if s.end >= End.SUCCEEDED:
        return s._replace(broken=Broken.TERMINAL_CHANGED)
    if how == End.SUCCEEDED and s.merged != ALL:
        return s._replace(broken=Broken.GAP)
    return s._replace(end=how, lapsed=0)
