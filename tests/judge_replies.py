"""Replies of judges, in the styles that models have; some say yes, some no, some contradict themselves."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

WILDBENCH = "data/wildbench_judge_replies.jsonl.gz"
ROWS = 120
"""Rows of WildBench that become replies, each in one style."""
OTHER = {"yes": "no", "no": "yes"}


class Judged(NamedTuple):
    """A reply, and what it says."""

    style: str
    text: str
    says: str | None
    """yes or no; None where it contradicts itself, or gives no verdict."""


def _object(why: str, result: object, **more: object) -> str:
    return json.dumps({"rationale": why, "result": result} | more, ensure_ascii=False)


def _raw(why: str, result: str) -> str:
    """Return the object with line breaks and tabs as they are."""
    text = json.dumps(why, ensure_ascii=False)[1:-1].replace("\\n", "\n").replace("\\t", "\t")
    return f'{{"rationale": "{text}\n\t(end)", "result": "{result}"}}'


# style: what makes a reply of (reason, verdict); the other verdict is what is quoted, drafted or contradicted.
STYLES: dict[str, Callable[[str, str], str]] = {
    "one object": _object,
    "one object over several lines": lambda w, v: json.dumps({"rationale": w, "result": v}, indent=2),
    "result before rationale": lambda w, v: json.dumps({"result": v, "rationale": w}),
    "further keys": lambda w, v: _object(w, v, confidence=0.9, quote={"result": OTHER[v]}),
    "fenced as json": lambda w, v: f"```json\n{_object(w, v)}\n```",
    "fenced without a language": lambda w, v: f"```\n{_object(w, v)}\n```",
    "fenced on one line": lambda w, v: f"```json {_object(w, v)}```",
    "words before a fence": lambda w, v: f"Here is my evaluation:\n```json\n{_object(w, v)}\n```",
    "line break or tab in a text": _raw,
    "a quoted object in the rationale": lambda w, v: _object(f'{w} It asks for {{"result": "{OTHER[v]}"}}.', v),
    "result in capitals": lambda w, v: _object(w, v.upper()),
    "result with a full stop": lambda w, v: _object(w, f" {v.capitalize()}. "),
    "no rationale": lambda w, v: json.dumps({"result": v}),
    "rationale null": lambda w, v: json.dumps({"rationale": None, "result": v}),
    "rationale a list": lambda w, v: json.dumps({"rationale": [w], "result": v}),
    "words around one object": lambda w, v: f"Let me see. {_object(w, v)} I hope that helps.",
    "thoughts before": lambda w, v: f"<think>Perhaps {_object('draft', OTHER[v])}? No.</think>\n{_object(w, v)}",
    "thoughts before, no opening tag": lambda w, v: f"Perhaps {_object('draft', OTHER[v])}?\n</think>\n{_object(w, v)}",
    "channels of gpt-oss": lambda w, v: (
        f"<|channel|>analysis<|message|>{_object('draft', OTHER[v])}<|end|><|start|>assistant"
        f"<|channel|>final<|message|>{_object(w, v)}"
    ),
    "a quoted verdict, then its own": lambda w, v: f'It asks for {{"result": "{OTHER[v]}"}}. {_object(w, v)}',
    "the form, then the object": lambda w, v: f'Form: {{"rationale": "...", "result": "..."}}\n{_object(w, v)}',
    "the same object twice": lambda w, v: f"{_object(w, v)}\n{_object(w, v)}",
    "a list of one object": lambda w, v: f"[{_object(w, v)}]",
    "trailing comma": lambda w, v: _object(w, v)[:-1] + ",}",
    "invalid escape": lambda w, v: _object(f"{w} @", v).replace("@", "\\d"),
    "true or false as a text": lambda w, v: _object(w, {"yes": "true", "no": "false"}[v]),
    "pass or fail": lambda w, v: _object(w, {"yes": "pass", "no": "fail"}[v]),
    "true or false": lambda w, v: _object(w, v == "yes"),
    "1 or 0": lambda w, v: _object(w, int(v == "yes")),
}
CONTRADICTORY: dict[str, Callable[[str, str], str]] = {
    "two objects that differ": lambda w, v: f"{_object(w, v)}{_object(w, OTHER[v])}",
    "a list of two that differ": lambda w, v: f"[{_object(w, v)}, {_object(w, OTHER[v])}]",
    "two fences that differ": lambda w, v: f"```json\n{_object(w, v)}\n```\nNo:\n```json\n{_object(w, OTHER[v])}\n```",
    "two results in one object": lambda w, v: _object(w, v)[:-1] + f', "result": "{OTHER[v]}"}}',
    "a quoted verdict, its own in words": lambda w, v: f'It asks for {{"result": "{v}"}}, so my answer is {OTHER[v]}.',
    "thoughts that never end": lambda w, v: f"<think>Perhaps {_object('draft', v)}?",
    "thoughts without an answer": lambda w, v: f"<think>Perhaps {_object('draft', v)}?</think>",
    "nested": lambda w, v: json.dumps({"evaluation": {"rationale": w, "result": v}}),
    "another verdict": lambda w, v: _object(w, f"maybe {v}"),
    "result null": lambda w, v: _object(w, None),
    "result empty": lambda w, v: _object(w, ""),
    "result missing": lambda w, v: json.dumps({"rationale": w, "verdict": v}),
    "cut off": lambda w, v: _object(w, v)[:-4],
    "single quotes": lambda w, v: f"{{'rationale': 'fine', 'result': '{v}'}}",
    "words only": lambda w, v: f"My verdict: {v}.",
    "a refusal": lambda w, v: "I'm sorry, but I can't help with that.",
    "empty": lambda w, v: "",
}
WHYS = {"yes": 'All is well: "fine", it says {so}.\nNothing else.', "no": "The second claim\tis wrong; see [1]."}


def own_replies() -> Iterator[Judged]:
    """Give each style with both verdicts."""
    for verdict, why in WHYS.items():
        for style, made in STYLES.items():
            yield Judged(style, made(why, verdict), verdict)
        for style, made in CONTRADICTORY.items():
            yield Judged(style, made(why, verdict), None)


def wildbench_replies(shared: Path) -> Iterator[Judged]:
    """Give the first rows of WildBench as judges would have said them: a score above 5 is a yes."""
    styles = [*STYLES.items(), *CONTRADICTORY.items()]
    with gzip.open(shared / WILDBENCH, "rt", encoding="utf-8") as lines:
        for number, line in zip(range(ROWS), lines, strict=False):
            said = json.loads(line)["judge_output"]
            style, made = styles[number % len(styles)]
            verdict = "yes" if float(said["score"]) > 5 else "no"
            why = f"{said['strengths']}\n\n{said['weaknesses']}"
            yield Judged(style, made(why, verdict), verdict if style in STYLES else None)
