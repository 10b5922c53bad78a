"""What MLflow reads in judges' replies against what is read here; docs/judges.md decides every difference."""

from __future__ import annotations

import json
import pkgutil
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import pytest

import backfill_spark
from backfill_spark.display.absent import why_absent
from backfill_spark.errors import JudgeOutputError
from backfill_spark.judges.llm.messages import Reply
from backfill_spark.judges.llm.reply import verdict_of
from backfill_spark.judges.verdict import VerdictType
from tests.judge_replies import CONTRADICTORY, STYLES, Judged, own_replies, wildbench_replies

ROOT = Path(__file__).parents[2]
MLFLOW = json.loads((ROOT / "tests/resources/mlflow.json").read_text(encoding="utf-8"))
YES_NO = VerdictType.of(Literal["yes", "no"])


def here(text: str) -> str:
    """Return the value that a job stores for a reply, or "error"."""
    _, _, verdict = verdict_of(Reply(text=text), YES_NO.schema)
    try:
        return "error" if verdict is None else str(YES_NO.read(verdict)[0])
    except JudgeOutputError:
        return "error"


def kind(reading: str, reply: Judged) -> str:
    if reading in ("error", "unknown"):
        return reading
    if reading in ("yes", "no"):
        return "the verdict" if reading == reply.says else "one of them"
    return "as it came"


def differences(replies: Iterable[Judged], readings: list[str]) -> dict[str, tuple[str, str]]:
    return {
        reply.style: (kind(theirs, reply), kind(here(reply.text), reply))
        for reply, theirs in zip(replies, readings, strict=True)
        if theirs != here(reply.text)
    }


def decided() -> dict[str, tuple[str, str]]:
    """Return the table of docs/judges.md: style, MLflow's reading, ours."""
    page = (ROOT / "docs/judges.md").read_text(encoding="utf-8")
    rows = [[c.strip() for c in line.strip("|").split("|")] for line in page.splitlines() if line.startswith("|")]
    return {row[0]: (row[1], row[2]) for row in rows if row[0] in STYLES or row[0] in CONTRADICTORY}


def test_no_reply_is_read_the_wrong_way_round() -> None:
    """What says no is never yes, and what contradicts itself is neither."""
    assert [r for r in own_replies() if here(r.text) not in (r.says, "error")] == []


def test_no_reply_of_wildbench_is_read_the_wrong_way_round(shared: Path) -> None:
    """The same over replies of a real judge, some thousand characters long."""
    assert [r.style for r in wildbench_replies(shared) if here(r.text) not in (r.says, "error")] == []


def test_every_difference_from_mlflow_is_decided() -> None:
    """The table of docs/judges.md has each of them, and no other."""
    assert differences(own_replies(), MLFLOW["own"]) == decided()


def test_every_difference_from_mlflow_in_wildbench_is_decided(shared: Path) -> None:
    """Replies of a real judge differ in the same ways."""
    assert differences(wildbench_replies(shared), MLFLOW["wildbench"]).items() <= decided().items()


def test_two_hundred_replies_are_compared() -> None:
    """As many as were asked for."""
    assert len(MLFLOW["own"]) + len(MLFLOW["wildbench"]) >= 200


OWN_MODULES = {module.name for module in pkgutil.iter_modules(backfill_spark.__path__)}


@pytest.mark.parametrize("name", sorted(set(MLFLOW["names"]) - set(backfill_spark.__all__) - OWN_MODULES))
def test_a_name_that_only_mlflow_has_is_refused_with_a_sentence(name: str) -> None:
    """Both where it is imported and where it is looked up."""
    with pytest.raises(ImportError, match=rf"has no attribute '{name}'\. \w.{{20,}}\.$"):
        exec(f"from backfill_spark import {name}")
    with pytest.raises(AttributeError, match=rf"has no attribute '{name}'\. \w.{{20,}}\.$"):
        getattr(backfill_spark, name)


def test_no_module_of_ours_is_refused() -> None:
    """`from backfill_spark import judges` is the module."""
    assert [name for name in sorted(OWN_MODULES) if why_absent(name)] == []


@pytest.mark.parametrize("name", ["Scorrer", "get_score", "list_scorer_version", "read_trace", "__wrapped__"])
def test_any_other_name_is_simply_not_there(name: str) -> None:
    """What looks like a name of ours is not sent to MLflow."""
    with pytest.raises(AttributeError, match=rf"has no attribute '{name}'$"):
        getattr(backfill_spark, name)


def test_functions_named_like_those_of_mlflow_can_be_pickled() -> None:
    """Pickling numpy's `maximum` asks every loaded module for that name."""
    import pickle

    import numpy as np

    assert pickle.loads(pickle.dumps(np.maximum)) is np.maximum
