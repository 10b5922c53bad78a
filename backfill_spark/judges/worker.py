"""A judge's two steps around the asking: traces to prompts, and answers to result rows. Knows nothing of Spark."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from backfill_spark.errors import JudgeOutputError, PromptTooLargeError
from backfill_spark.judges import Interpretation, Judge, Prompt, prompt_hash
from backfill_spark.judges.prompt import DEFAULT_SECRET
from backfill_spark.models import ErrorCode, ScorerSpec, compact_json
from backfill_spark.scoring.feedback import ResultRow, describe, failure, failure_of, normalise
from backfill_spark.scoring.worker import FLAGS, REFUSED_FOR_KEY, REFUSED_FOR_SIZE, TOO_LARGE, UNREADABLE
from backfill_spark.traces.assessment import Feedback
from backfill_spark.traces.decode import RawValues
from backfill_spark.traces.trace import Trace

COST_KEY = "mlflow.assessment.judgeCost"
INPUT_TOKENS_KEY = "mlflow.assessment.judgeInputTokens"
OUTPUT_TOKENS_KEY = "mlflow.assessment.judgeOutputTokens"
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
        loaded: The pair's judge.
        prompt: What `render_batch` gave; read only where `prompt_hash` is None.
        prompt_hash: Key of the answer; None when nothing was asked.
        input_digest: Hash of what the judge saw.
        judgement: The row of `judgements` with this key.
        cached: True when this pair caused no call: its row then shows no attempts, tokens or cost, so that sums
            over rows are what was paid.
    """
    name, version = loaded.spec.name, loaded.spec.version
    if prompt_hash is None:
        outcome = json.loads(prompt or "{}").get(_UNASKED, {})
        extra = _extra(loaded.model, None, {}, {}, cached=None)
        if "verdict" in outcome:
            value, rationale, _ = outcome["verdict"]
            settled = Feedback(value=value, rationale=rationale)
            row = normalise(settled, scorer=name, version=version, input_digest=input_digest)[0]
            return (*row[:-1], compact_json({"source_type": "CODE", "source_id": name, "attempts": 0, "cost_usd": 0.0}))
        if outcome.get("error_code") is None:
            return (*normalise(None, scorer=name, version=version, input_digest=input_digest)[0][:-1], extra)
        code = ErrorCode(outcome["error_code"])
        row = failure(code, outcome["error_message"], scorer=name, version=version, tail=(None, input_digest))
        return (*row[:-1], extra)
    if judgement is None:
        raise ValueError(f"The pair of {name!r} with the prompt {prompt_hash} has no judgement; it stays due.")
    tail = (None if cached else judgement.get("latency_ms"), input_digest)
    metadata: dict[str, str] = {}
    if judgement.get("error_code") is not None:
        code = ErrorCode(judgement["error_code"])
        row = failure(code, judgement.get("error_message") or "", scorer=name, version=version, tail=tail)
    elif loaded.judge is None:
        row = failure(ErrorCode.LOAD_FAILED, loaded.problem or "", scorer=name, version=version, tail=tail)
    else:
        try:
            value, rationale, metadata = loaded.judge.interpret(judgement["answer"])
            feedback = Feedback(name=name + loaded.judge.suffix, value=value, rationale=rationale)
            row = normalise(feedback, scorer=name, version=version, latency_ms=tail[0], input_digest=tail[1])[0]
        except (JudgeOutputError, RecursionError) as error:
            row = failure(ErrorCode.JUDGE_BAD_OUTPUT, str(error), scorer=name, version=version, tail=tail)
    return (*row[:-1], _extra(loaded.model, prompt_hash, judgement, metadata, cached=cached))


def _extra(
    model: str, key: str | None, judgement: Mapping[str, Any], metadata: dict[str, str], *, cached: bool | None
) -> str:
    """Return the JSON object of `tables.EXTRA`."""
    is_paid = cached is False
    spent = {
        "attempts": judgement.get("attempts") if is_paid else 0,
        "input_tokens": judgement.get("input_tokens") if is_paid else 0,
        "output_tokens": judgement.get("output_tokens") if is_paid else 0,
        "cost_usd": judgement.get("cost_usd") if is_paid else 0.0,
    }
    if is_paid:
        under = {
            COST_KEY: spent["cost_usd"],
            INPUT_TOKENS_KEY: spent["input_tokens"],
            OUTPUT_TOKENS_KEY: spent["output_tokens"],
        }
        metadata = metadata | {k: json.dumps(v) for k, v in under.items() if v is not None}
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
