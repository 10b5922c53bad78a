"""The nemesis: runs a runner as processes of their own, and kills, stops and wakes all of them at ledger counts.

Waits are for lines of files or for the end of a process, with a limit; none is for a time to pass.
"""

from __future__ import annotations

import contextlib
import os
import random
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Self

POLL_S = 0.01


class Blow(StrEnum):
    """What the nemesis does to a runner."""

    KILL = "SIGKILL"
    STOP = "SIGSTOP"


@dataclass(frozen=True)
class Entry:
    """One line of a history."""

    what: str
    at: int
    """Ledger lines when it happened."""
    time: float
    """Seconds since the epoch."""


@dataclass
class History:
    """What the nemesis did, and how the last runner ended."""

    entries: list[Entry] = field(default_factory=list)
    exit_code: int | None = None
    blows: int = 0
    starts: int = 0

    def note(self, what: str, at: int) -> None:
        """Add a line."""
        self.entries.append(Entry(what, at, time.time()))

    def __str__(self) -> str:
        return "\n".join(f"{e.at:>7} {e.what}" for e in self.entries)


class Runner:
    """A command and everything that it starts: driver, JVM, Python workers, their children."""

    def __init__(self, command: Sequence[str], *, log: Path, environment: Mapping[str, str] | None = None) -> None:
        self.log = log
        with log.open("ab") as out:
            self.process = subprocess.Popen(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
            )
        self.pid = self.process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def family(self) -> list[int]:
        """Return the living processes of this runner's session and their descendants, itself included."""
        return [pid for pid, _ in _family(self.pid)]

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the whole family, the eldest first."""
        for pid in self.family():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def kill(self) -> None:
        """SIGKILL the family until nobody is left."""
        # Nobody may start a child between being listed and being killed.
        self.signal(signal.SIGSTOP)
        deadline = time.monotonic() + 60
        while self.family():
            self.signal(signal.SIGKILL)
            self.process.poll()
            if time.monotonic() > deadline:
                raise TimeoutError(f"processes {self.family()} survive SIGKILL")
            time.sleep(POLL_S)
        self.process.wait()

    def stop(self) -> None:
        """SIGSTOP the family until all of it stands."""

        def stands() -> bool:
            # A child may be born between being listed and its parent's stop: it is told at the next look.
            moving = [pid for pid, state in _family(self.pid) if state not in "TtZX"]
            for pid in moving:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGSTOP)
            return not moving

        wait_until(stands, 30, "the runner to stand")

    def wake(self) -> None:
        """SIGCONT the family."""
        self.signal(signal.SIGCONT)

    def wait(self, timeout: float) -> int:
        """Wait for the command's end; return its exit code.

        Raises:
            TimeoutError: it is still there; the end of its log is in the message.
        """
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"still running after {timeout} s; its log ends:\n{self.said()[-4000:]}") from None

    def said(self) -> str:
        """Return what the command printed."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def wait_for_text(self, text: str, timeout: float) -> None:
        """Wait until the command has printed `text`, or has ended."""
        wait_until(lambda: text in self.said() or self.process.poll() is not None, timeout, f"{text!r} in {self.log}")
        if text not in self.said():
            raise AssertionError(f"{text!r} was not printed:\n{self.said()[-4000:]}")


def wait_until(is_so: Callable[[], bool], timeout: float, what: str) -> None:
    """Look until `is_so`; the interval grows from 10 to 200 ms.

    Raises:
        TimeoutError: it was not so for `timeout` seconds.
    """
    deadline = time.monotonic() + timeout
    pause = POLL_S
    while not is_so():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout} s for {what}")
        select.select([], [], [], pause)
        pause = min(pause * 1.2, 0.2)


def ledger_count(path: str | Path) -> int:
    """Return the number of lines that a ledger has now."""
    try:
        return Path(path).read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0


def torment(
    first: Sequence[str],
    again: Callable[[Path], Sequence[str]],
    *,
    ledger: str | Path,
    logs: Path,
    blows: int,
    seed: int,
    stops: float = 0.3,
    reach: tuple[int, int] = (20, 400),
    timeout: float = 600,
    environment: Mapping[str, str] | None = None,
) -> History:
    """Run `first`, then `again` until it exits 0; strike `blows` times after a random number of further calls.

    A stopped runner is woken when its follower has made calls or has ended, and must end by itself.

    Args:
        first: starts the job. Its end before the first blow is an end like any other.
        again: gives the command that takes the job up again once the file is there that it is given; started
            while the runner before it works, to lose no time. It waits by itself until that one's lease has run out.
        ledger: counts the calls.
        logs: folder of the runners' outputs.
        blows: how often to strike.
        seed: of the choices.
        stops: share of the blows that stop a runner instead of killing it.
        reach: fewest and most calls between a runner's first one and its blow.
        timeout: longest life of one runner, in seconds.
        environment: of the runners.

    Returns:
        The history; `exit_code` is the last runner's.
    """
    choose = random.Random(seed)
    history = History()
    stopped: Runner | None = None
    with contextlib.ExitStack() as stack:

        def start(command: Sequence[str], number: int) -> Runner:
            log = logs / f"runner-{number:03}.log"
            return stack.enter_context(Runner(command, log=log, environment=environment))

        runner = start(first, 1)
        while True:
            history.starts += 1
            begun = ledger_count(ledger)
            history.note(f"start {history.starts}", begun)
            wait_until(_has_called(runner, ledger, begun + 1), timeout, f"a call: {runner.log}")
            if stopped is not None:
                _wake(stopped, history, ledger, timeout)
                stopped = None
            go = logs / f"go-{history.starts + 1:03}"
            follower = None
            if history.blows < blows:
                follower = start(again(go), history.starts + 1)
                aim = ledger_count(ledger) + choose.randint(*reach)
                wait_until(_has_called(runner, ledger, aim), timeout, f"{aim} calls: {runner.log}")
            if follower is None or runner.process.poll() is not None:
                history.exit_code = runner.wait(timeout)
                history.note(f"end {history.starts}: exit {history.exit_code}", ledger_count(ledger))
                if history.exit_code == 0 or history.starts > 2 * blows + 5:
                    return history
            else:
                blow = Blow.STOP if choose.random() < stops else Blow.KILL
                history.blows += 1
                if blow is Blow.KILL:
                    runner.kill()
                else:
                    runner.stop()
                    stopped = runner
                history.note(f"{blow} {history.starts}", ledger_count(ledger))
            go.touch()
            runner = follower or start(again(go), history.starts + 1)


def _has_called(runner: Runner, ledger: str | Path, count: int) -> Callable[[], bool]:
    return lambda: ledger_count(ledger) >= count or runner.process.poll() is not None


def _wake(runner: Runner, history: History, ledger: str | Path, timeout: float) -> None:
    history.note(f"wake {runner.log.stem}", ledger_count(ledger))
    runner.wake()
    code = runner.wait(timeout)
    history.note(f"woken {runner.log.stem} exits {code}", ledger_count(ledger))


def _family(root: int) -> list[tuple[int, str]]:
    """Return pid and state of each living process of `root`'s session, or below one of them."""
    parents: dict[int, int] = {}
    states: dict[int, str] = {}
    members: set[int] = set()
    for pid, parent, session, state in _processes():
        parents[pid], states[pid] = parent, state
        if root in (session, pid):
            members.add(pid)
    grown = True
    while grown:
        below = {pid for pid, parent in parents.items() if parent in members and pid not in members}
        grown = bool(below)
        members |= below
    return [(pid, states[pid]) for pid in sorted(members) if pid in states and states[pid] not in "ZX"]


def _processes() -> Iterator[tuple[int, int, int, str]]:
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            text = (entry / "stat").read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        state, parent, _, session = text.rpartition(")")[2].split()[:4]
        yield int(entry.name), int(parent), int(session), state
