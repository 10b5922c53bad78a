"""Java is looked for before Spark is started; an old or missing one is named with the way out."""

from __future__ import annotations

from pathlib import Path

import pytest

from backfill_spark.errors import SessionError
from backfill_spark.session import check_java


def a_java(folder: Path, says: str) -> Path:
    """Write a program that says `says` as `java -version` does."""
    program = folder / "bin" / "java"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\necho '{says}' >&2\n")
    program.chmod(0o755)
    return program


@pytest.mark.parametrize(
    ("says", "version"),
    [('java version "1.8.0_392"', "8"), ('openjdk version "11.0.21" 2023-10-17', "11"), ("no java here", "unknown")],
)
def test_an_old_java_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says: str, version: str) -> None:
    """The message names the version that is there and what to install."""
    program = a_java(tmp_path, says)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(SessionError, match=f"is Java {version}") as raised:
        check_java()
    assert str(program) in str(raised.value)
    assert "Install Java 17 or newer" in str(raised.value)


@pytest.mark.parametrize("says", ['openjdk version "17.0.9"', 'openjdk version "21" 2023-09-19', 'version "25-ea"'])
def test_java_17_or_newer_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says: str) -> None:
    """From JAVA_HOME, or from PATH."""
    program = a_java(tmp_path, says)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    assert str(program) == check_java()
    monkeypatch.delenv("JAVA_HOME")
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    assert str(program) == check_java()


def test_no_java_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither in JAVA_HOME nor on PATH."""
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(SessionError, match="has none"):
        check_java()
    monkeypatch.delenv("JAVA_HOME")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SessionError, match="there is none on PATH"):
        check_java()
