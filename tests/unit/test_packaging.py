"""What surrounds the code agrees with it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

from backfill_spark.settings.schema import Settings
from backfill_spark.storage.start_spark import LATE_COMPILING, UNNEEDED_ARCHIVES

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PACKAGE = sorted((ROOT / "backfill_spark").rglob("*.py"))
SAYS_NOTHING = {"util", "utils", "common", "helper", "helpers", "base", "core", "manager", "engine", "misc"}


def our_files() -> list[Path]:
    """Text files of the repository, without what runs made."""
    if shutil.which("git") and (ROOT / ".git").exists():
        listed = subprocess.run(
            ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        files = [ROOT / name for name in listed.split("\0") if name]
    else:
        folders = ("backfill_spark", "benchmarks", "conf", "docs", "examples", "jobs", "scripts", "tests")
        files = [file for folder in folders for file in (ROOT / folder).rglob("*")]
    texts = {".py", ".md", ".toml", ".yaml", ".conf", ".properties", ".txt", ""}
    return [file for file in files if file.is_file() and file.suffix in texts and "__pycache__" not in file.parts]


def pins() -> dict[str, Version]:
    """Name to version of constraints.txt."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = (line.split("==") for line in lines if line and not line.startswith("#"))
    return {normal(name): Version(version) for name, version in pairs}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def requirements() -> list[Requirement]:
    project = PROJECT["project"]
    texts = [*project["dependencies"], *(t for extra in project["optional-dependencies"].values() for t in extra)]
    return [Requirement(text) for text in texts]


def test_commented_settings_are_the_defaults(tmp_path: Path) -> None:
    """conf/backfill.yaml holds every setting with its default."""
    written = yaml.safe_load((ROOT / "conf" / "backfill.yaml").read_text(encoding="utf-8"))

    (tmp_path / "empty.yaml").touch()

    defaults = Settings.load(str(tmp_path / "empty.yaml")).model_dump(by_alias=True, mode="json")

    assert defaults == written


def test_commented_settings_explain_each_line() -> None:
    """Each setting of conf/backfill.yaml has a comment beside or above it."""
    lines = (ROOT / "conf" / "backfill.yaml").read_text(encoding="utf-8").splitlines()

    bare = [
        line
        for before, line in zip(["", *lines], lines, strict=False)
        if re.match(r"\s*\w+: \S", line) and "#" not in line and not before.strip().startswith("#")
    ]

    assert [] == bare


@pytest.mark.parametrize("requirement", requirements(), ids=str)
def test_pinned_versions_lie_in_their_ranges(requirement: Requirement) -> None:
    """constraints.txt pins every dependency inside the range of pyproject.toml."""
    assert requirement.specifier.contains(pins()[normal(requirement.name)])


def test_spark_defaults_name_the_pinned_delta() -> None:
    """conf/spark-defaults.conf asks for the Delta of constraints.txt, and leaves out what the session leaves out."""
    lines = (ROOT / "conf" / "spark-defaults.conf").read_text(encoding="utf-8").splitlines()
    values = dict(line.split(None, 1) for line in lines if line and not line.startswith("#"))
    spark, delta = pins()["pyspark"], pins()["delta-spark"]

    assert f"io.delta:delta-spark_{spark.major}.{spark.minor}_2.13:{delta}" == values["spark.jars.packages"].strip()
    assert UNNEEDED_ARCHIVES == values["spark.jars.excludes"].strip()


def test_spark_defaults_work_from_any_folder() -> None:
    """They turn Spark's own log off, and name no file: what they say holds wherever spark-submit finds them."""
    text = (ROOT / "conf" / "spark-defaults.conf").read_text(encoding="utf-8")
    values = dict(line.split(None, 1) for line in text.splitlines() if line and not line.startswith("#"))

    assert f"-Dlog4j2.level=OFF {LATE_COMPILING}" == values["spark.driver.extraJavaOptions"].strip()
    assert not [value for value in values.values() if "file:" in value or value.startswith((".", "/"))]


def test_log_settings_are_those_of_the_package() -> None:
    """conf/log4j2.properties is what sessions built here use."""
    ours = (ROOT / "backfill_spark" / "storage" / "log4j2.properties").read_text(encoding="utf-8")

    assert ours == (ROOT / "conf" / "log4j2.properties").read_text(encoding="utf-8")


def test_the_wheel_holds_what_spark_submit_is_given(tmp_path: Path) -> None:
    """A wheel has the package with its types, and each file of conf/ and jobs/ that git knows."""
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    ours = {file.relative_to(ROOT) for file in our_files()}
    shared = {
        f"backfill_spark-{PROJECT['project']['version']}.data/data/share/backfill_spark/{f}"
        for f in ours
        if f.parts[0] in {"conf", "jobs"}
    }

    assert {"backfill_spark/py.typed", "backfill_spark/__init__.pyi", *shared} <= names
    assert shared == {name for name in names if "/share/" in name}

    # As executors have it: a zip file of their folder, on the path.
    modules = (
        "backfill_spark, backfill_spark.scoring.worker, backfill_spark.judges.builtin, backfill_spark.judges.spark"
    )
    look = (
        f"import sys; sys.path.insert(0, './{wheel.name}'); import {modules}; print(backfill_spark.Feedback.__module__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"{look}; print(backfill_spark.__file__)"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert f"./{wheel.name}/backfill_spark/__init__.py" in done.stdout


def test_readme_tells_the_two_commands() -> None:
    """The README's first commands are make's targets, and CI runs the one that tests."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")

    for command in ("demo", "test"):
        assert f"make {command}" in readme
        assert re.search(rf"^{command}:", makefile, re.MULTILINE)
    assert "make check" in ci
    assert "make test" in ci


def test_make_alone_lists_its_targets() -> None:
    """Every target has its line of help."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    phony = set(re.findall(r"^\.PHONY: (\S+)$", makefile, re.MULTILINE))
    explained = set(re.findall(r"^([a-z-]+):.*## ", makefile, re.MULTILINE))

    assert phony == explained
    assert ".DEFAULT_GOAL := help" in makefile


def test_no_module_has_a_name_that_says_nothing() -> None:
    """There is no home for homeless code."""
    named = [
        str(file.relative_to(ROOT))
        for file in PACKAGE
        if {*file.relative_to(ROOT).with_suffix("").parts} & SAYS_NOTHING
    ]

    assert [] == named


def test_nothing_is_left_unfinished() -> None:
    """No file promises what it does not hold."""
    marks = re.compile(r"\bTO" + r"DO\b|\bFIX" + r"ME\b|NotImplemented" + r"Error|coming " + "soon")

    found = [str(f.relative_to(ROOT)) for f in our_files() if marks.search(f.read_text(encoding="utf-8"))]

    assert [] == found


def test_no_file_names_one_machine() -> None:
    """Files name no machine's folders and no registry's host."""
    places = re.compile(
        r"(^|[^\w.-])/(work|farm|root|home/[a-z]+)/|" + r"pypi\." + r"org|repo1?\.maven|maven" + r"\.org"
    )

    found = [str(f.relative_to(ROOT)) for f in our_files() if places.search(f.read_text(encoding="utf-8"))]

    assert [] == found


def test_importing_the_package_is_quick_and_light() -> None:
    """`import backfill_spark` takes at most 0.4 s of processor time and loads neither Spark nor pandas nor MLflow."""
    code = (
        "import sys, time; began = time.process_time(); import backfill_spark; "
        "print(time.process_time() - began, *sorted({m.split('.')[0] for m in sys.modules}))"
    )

    said = [
        subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.split()
        for _ in range(3)
    ]

    assert {"pyspark", "pandas", "pyarrow", "mlflow", "delta"}.isdisjoint(said[0][1:])
    assert min(float(words[0]) for words in said) <= 0.4


def test_python_versions_agree() -> None:
    """The classifiers start where requires-python does, and the set-up script looks for the same."""
    lowest = PROJECT["project"]["requires-python"].removeprefix(">=")
    classifiers = [c.rsplit(" ", 1)[1] for c in PROJECT["project"]["classifiers"] if "Python :: 3." in c]
    major, minor = lowest.split(".")

    assert lowest == classifiers[0]
    assert f"({major}, {minor})" in (ROOT / "scripts" / "setup").read_text(encoding="utf-8")
