"""A judge's two steps around the asking: traces to prompts, and answers to result rows. Knows nothing of Spark."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from backfill_spark.errors import JudgeOutputError, PromptTooLargeError
from backfill_spark.judges.judge import Interpretation, Judge
from backfill_spark.judges.prompt import DEFAULT_SECRET, Prompt, prompt_hash
from backfill_spark.models import ErrorCode, ScorerSpec, compact_json
from backfill_spark.scoring.arguments import FLAGS, REFUSED_FOR_KEY, REFUSED_FOR_SIZE, TOO_LARGE, UNREADABLE
from backfill_spark.scoring.feedback import ResultRow, describe, failure, failure_of, normalise
from backfill_spark.traces.assessment import Feedback
from backfill_spark.traces.decode import RawValues
from backfill_spark.traces.trace import Trace

_MLFLOW_KEYS = {
    "mlflow.assessment.judgeCost": "cost_usd",
    "mlflow.assessment.judgeInputTokens": "input_tokens",
    "mlflow.assessment.judgeOutputTokens": "output_tokens",
}
_UNASKED = "unasked"
_REFUSALS = ((UNREADABLE, REFUSED_FOR_KEY), (TOO_LARGE, REFUSED_FOR_SIZE))


@dataclass(frozen=True, slots=True)
class LoadedJudge:
    """A judge that is ready to render, or says why it is not."""

    spec: ScorerSpec
    model: str
    """Model URI that it asks: its own, or the setting's, as the job froze it."""
    judge: Judge | None
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Rendered:
    """One pair's prompt, or the outcome that it has without a call."""

    row: int
    """Row of the batch."""
    scorer_name: str
    scorer_version: int
    prompt: str
    """JSON text: what is sent; without a hash, the outcome that `fan_out` reads."""
    prompt_hash: str | None
    """None when there is nothing to ask."""
    tokens: int
    """Estimated tokens of the prompt; 0 when there is nothing to ask."""
    input_digest: str | None


def load_judges(
    specs: Iterable[ScorerSpec],
    models: Mapping[str, str],
    *,
    load: Callable[[ScorerSpec], object],
) -> tuple[LoadedJudge, ...]:
    """Make judges of their specs by `load`; one that cannot be made has a `problem`.

    `models` is scorer name → model URI.
    """
    return tuple(_loaded(spec, models[spec.name], load) for spec in specs)


def _loaded(spec: ScorerSpec, model: str, load: Callable[[ScorerSpec], object]) -> LoadedJudge:
    try:
        judge = load(spec)
    except Exception as error:
        return LoadedJudge(spec, model, None, describe(error))
    if not isinstance(judge, Judge):
        return LoadedJudge(spec, model, None, f"{spec.name!r} is no judge.")
    return LoadedJudge(spec, model, judge)


def render_batch(
    columns: Mapping[str, Sequence[Any]],
    due: Sequence[int],
    judges: Sequence[LoadedJudge],
    *,
    payload: str,
    token_cap: int,
    secret: bytes = DEFAULT_SECRET,
) -> list[Rendered]:
    """Render the prompt of each due pair.

    Args:
        columns: TRACES column → values of the batch's rows, as `worker.score_batch` takes them.
        due: A bit mask a row: bit k is judge k.
        judges: At most 64.
        payload: How recorded texts are decoded, see `trace.decode_payload`.
        token_cap: Longest prompt in estimated tokens; a longer one is `trace_too_large`.
        secret: Key of the markers; the same on all machines, or equal prompts differ.

    Never raises for what is in a trace: that pair's outcome says it.
    """
    refusals = [(columns[f], why) for f, why in _REFUSALS if f in columns]
    named = [(name, values) for name, values in columns.items() if name not in FLAGS]
    found: list[Rendered] = []
    for row, mask in enumerate(due):
        if not mask:
            continue
        trace = Trace(RawValues({name: values[row] for name, values in named}), payload=payload)
        for bit, loaded in enumerate(judges):
            if mask >> bit & 1:
                refused = next((why for masks, why in refusals if masks[row] is True or masks[row] >> bit & 1), None)
                found.append(_rendered(row, loaded, trace, refused, token_cap, secret))
    return found


def _rendered(
    row: int, loaded: LoadedJudge, trace: Trace, refused: tuple[ErrorCode, str] | None, token_cap: int, secret: bytes
) -> Rendered:
    name, version, judge = loaded.spec.name, loaded.spec.version, loaded.judge
    if judge is None:
        outcome = _unasked(ErrorCode.LOAD_FAILED, loaded.problem or "")
    elif refused is not None:
        outcome = _unasked(*refused)
    else:
        try:
            given = {part: trace if part == "trace" else getattr(trace, part) for part in judge.signature}
            prompt = judge.render(**given, secret=secret, token_cap=token_cap)
            if isinstance(prompt, Prompt):
                key = prompt_hash(loaded.model, prompt.parameters, prompt)
                return Rendered(row, name, version, prompt.to_json(), key, prompt.tokens, prompt.input_digest)
            outcome = _unasked(None, "", prompt)
        except PromptTooLargeError as error:
            outcome = _unasked(ErrorCode.TRACE_TOO_LARGE, str(error))
        except Exception as error:
            outcome = _unasked(*failure_of(error))
    return Rendered(row, name, version, outcome, None, 0, None)


def _unasked(code: ErrorCode | None, message: str, verdict: Interpretation | None = None) -> str:
    settled = {} if verdict is None else {"verdict": verdict}
    return compact_json({_UNASKED: {"error_code": code, "error_message": message} | settled})


def fan_out(
    loaded: LoadedJudge,
    *,
    prompt: str | None,
    prompt_hash: str | None,
    input_digest: str | None,
    judgement: Mapping[str, Any] | None,
    cached: bool,
) -> ResultRow:
    """Return the result row of one pair, in the order of `feedback.FIELD_NAMES`.

    Args:
        prompt: What `render_batch` gave; read only where `prompt_hash` is None.
        prompt_hash: Key of the answer; None when nothing was asked.
        judgement: The row of `judgements` with this key.
        cached: True when this pair caused no call: its row then shows no attempts, tokens or cost, so that sums
            over rows are what was paid.
    """
    spec, latency = loaded.spec, None
    feedback: Feedback | None = None
    metadata: dict[str, str] = {}
    if prompt_hash is None:
        outcome = json.loads(prompt or "{}").get(_UNASKED, {})
        code, message = outcome.get("error_code"), outcome.get("error_message")
        extra = _extra(loaded.model, None, {}, {}, cached=None)
        if "verdict" in outcome:
            value, rationale, _ = outcome["verdict"]
            feedback = Feedback(value=value, rationale=rationale)
            extra = compact_json({"source_type": "CODE", "source_id": spec.name, "attempts": 0, "cost_usd": 0.0})
    elif judgement is None:
        raise ValueError(f"The pair of {spec.name!r} with the prompt {prompt_hash} has no judgement; it stays due.")
    else:
        latency = None if cached else judgement.get("latency_ms")
        code, message = judgement.get("error_code"), judgement.get("error_message")
        if code is None and loaded.judge is None:
            code, message = ErrorCode.LOAD_FAILED, loaded.problem
        elif code is None and loaded.judge is not None:
            try:
                value, rationale, metadata = loaded.judge.interpret(judgement["answer"])
                feedback = Feedback(name=spec.name + loaded.judge.suffix, value=value, rationale=rationale)
            except (JudgeOutputError, RecursionError) as error:
                code, message = ErrorCode.JUDGE_BAD_OUTPUT, str(error)
        extra = _extra(loaded.model, prompt_hash, judgement, metadata, cached=cached)
    given: dict[str, Any] = {"scorer": spec.name, "version": spec.version}
    if code is None:
        row = normalise(feedback, **given, latency_ms=latency, input_digest=input_digest)[0]
    else:
        row = failure(ErrorCode(code), message or "", **given, tail=(latency, input_digest))
    return (*row[:-1], extra)


def _extra(
    model: str, key: str | None, judgement: Mapping[str, Any], metadata: dict[str, str], *, cached: bool | None
) -> str:
    """Return the JSON object of `schema.EXTRA`."""
    spent: dict[str, Any] = {"attempts": 0, "input_tokens": 0, "output_tokens": 0, "cost_usd": 0.0}
    if cached is False:
        spent = {name: judgement.get(name) for name in spent}
        metadata = metadata | {k: json.dumps(spent[n]) for k, n in _MLFLOW_KEYS.items() if spent[n] is not None}
    said = {
        "source_type": "LLM_JUDGE",
        "source_id": model,
        "model": model,
        "metadata": metadata or None,
        "cached": cached,
        "prompt_hash": key,
        **spent,
    }
    return compact_json({k: v for k, v in said.items() if v is not None})
