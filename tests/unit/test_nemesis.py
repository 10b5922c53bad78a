"""The nemesis on a runner that is a few lines of Python: it strikes where it says, and leaves nobody behind."""

import signal
import subprocess
import sys

import pytest

from tests.nemesis import Blow, Runner, ledger_count, torment, wait_until

# Waits for a file if it is given one. Appends lines until the ledger has enough or another one has taken over; a child
# in a session of its own lives.
WORK = """
import os, subprocess, sys, time
ledger, enough = sys.argv[1], int(sys.argv[2])
while sys.argv[3:] and not os.path.exists(sys.argv[3]):
    time.sleep(0.01)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
open(ledger + ".owner", "w").write(str(os.getpid()))
while open(ledger, "a+b").seek(0, 2) < 2 * enough and open(ledger + ".owner").read() == str(os.getpid()):
    handle = os.open(ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(handle, b"x\\n")
    os.close(handle)
    time.sleep(0.001)
child.kill()
child.wait()
print("done", flush=True)
"""


@pytest.fixture
def ledger(tmp_path):
    return tmp_path / "ledger"


def command(ledger, enough):
    return [sys.executable, "-c", WORK, str(ledger), str(enough)]


def tormented(ledger, enough, **how):
    """Torment runners that write lines, half of the blows a stop."""
    work = command(ledger, enough)
    return torment(work, lambda go: [*work, str(go)], ledger=ledger, logs=ledger.parent, stops=0.5, **how)


def is_gone(pid):
    """True when no process has this id, or only its remains."""
    said = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
    return said.strip() == "" or said.startswith("Z")


def test_a_kill_reaches_descendants_in_sessions_of_their_own(tmp_path, ledger):
    """Nobody of the family is left, whatever session it moved to."""
    with Runner(command(ledger, 10**6), log=tmp_path / "log") as runner:
        wait_until(lambda: len(runner.family()) == 2, 20, "the child")
        family = runner.family()
        runner.kill()
    assert runner.process.returncode == -signal.SIGKILL
    assert all(is_gone(pid) for pid in family)


def test_a_stopped_family_makes_no_step_until_it_is_woken(tmp_path, ledger):
    """After `stop` returns the ledger stands; after `wake` it goes on."""
    with Runner(command(ledger, 10**6), log=tmp_path / "log") as runner:
        wait_until(lambda: ledger_count(ledger) > 20, 20, "lines")
        runner.stop()
        count = ledger_count(ledger)
        with pytest.raises(TimeoutError, match=r"waited 0\.3 s for more lines"):
            wait_until(lambda: ledger_count(ledger) > count, 0.3, "more lines")
        runner.wake()
        wait_until(lambda: ledger_count(ledger) > count, 20, "more lines")


def test_leaving_the_block_leaves_no_process(tmp_path, ledger):
    """Also when the test in it failed."""
    with pytest.raises(ZeroDivisionError), Runner(command(ledger, 10**6), log=tmp_path / "log") as runner:
        pid = runner.pid
        1 / 0  # noqa: B018
    assert is_gone(pid)


def test_torment_strikes_as_often_as_asked_and_lets_the_last_runner_finish(tmp_path, ledger):
    """Kills and stops at seeded counts; each stopped runner is woken and ends by itself."""
    history = tormented(ledger, 1000, blows=5, seed=3, reach=(5, 150))
    what = [e.what.split()[0] for e in history.entries]
    assert (history.exit_code, history.blows, history.starts) == (0, 5, 6)
    assert what.count(Blow.KILL) + what.count(Blow.STOP) == 5
    assert what.count(Blow.STOP) == what.count("wake") == what.count("woken") > 0
    assert ledger_count(ledger) >= 1000
    assert (tmp_path / "runner-006.log").exists()


def test_torment_is_the_same_for_the_same_seed(tmp_path):
    """Blows of one kind in one order; where they fall depends on the machine by a few lines only."""
    kinds = []
    for turn in ("a", "b"):
        folder = tmp_path / turn
        folder.mkdir()
        history = tormented(folder / "ledger", 600, blows=4, seed=8, reach=(5, 100))
        kinds.append([e.what.split()[0] for e in history.entries if e.what.startswith("SIG")])
    assert kinds[0] == kinds[1]


def test_a_runner_that_does_not_end_is_shown_with_its_log(tmp_path, ledger):
    """The error says what it printed."""
    with Runner(
        [sys.executable, "-c", "print('here', flush=True); import time; time.sleep(60)"], log=tmp_path / "l"
    ) as r:
        r.wait_for_text("here", 20)
        with pytest.raises(TimeoutError, match=r"(?s)still running after 0.1 s.*here"):
            r.wait(0.1)
