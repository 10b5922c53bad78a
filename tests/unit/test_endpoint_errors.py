# ruff: noqa: E501 - what servers say is not broken
"""What the errors of many providers and gateways mean, each as the server sends it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from backfill_spark.judges.llm.endpoints import Endpoint, Service, Shape
from backfill_spark.judges.llm.error_body import status_told
from backfill_spark.judges.llm.providers import wire_of
from backfill_spark.judges.llm.reply import verdict_of
from backfill_spark.judges.llm.retry import Action, fault_of
from backfill_spark.models import ErrorCode

LARGE = (Action.ROW, ErrorCode.TRACE_TOO_LARGE)
REFUSED = (Action.ROW, ErrorCode.JUDGE_REFUSED)
ROW = (Action.ROW, ErrorCode.JUDGE_ERROR)
UNSURE = (Action.UNSURE, ErrorCode.JUDGE_REFUSED)
SLOW = (Action.SLOW, ErrorCode.JUDGE_RATE_LIMITED)
RETRY = (Action.RETRY, ErrorCode.JUDGE_ERROR)
STOP = (Action.STOP, ErrorCode.JUDGE_ERROR)


def error(message: str, **more: Any) -> dict[str, Any]:
    return {"error": {"message": message, **more}}


PAGE = b"<html><head><title>Attention Required!</title></head><body>Sorry, you have been blocked.</body></html>"

TOO_LONG = {
    "openai": (400, error("This model's maximum context length is 8192 tokens.", code="context_length_exceeded")),
    "anthropic": (400, error("prompt is too long: 210000 tokens > 200000 maximum", type="invalid_request_error")),
    "anthropic with its limit": (400, error("input length and `max_tokens` exceed context limit: 199900 + 500 > 200000")),
    "gemini": (400, error("The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).")),
    "vllm": (400, {"object": "error", "message": "The decoder prompt (length 9000) is longer than the maximum model length of 8192.", "code": 400}),
    "vllm with max_tokens": (400, error("'max_tokens' is too large: 500. This model's maximum context length is 512 tokens and your request has 400 input tokens.")),
    "tgi": (422, {"error": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. Given: 5000 `inputs` tokens and 500 `max_new_tokens`", "error_type": "validation"}),
    "llama.cpp": (400, error("the request exceeds the available context size, try increasing it", type="exceed_context_size_error")),
    "bedrock": (400, {"message": "Input is too long for requested model."}),
    "xai": (400, {"code": "invalid-argument", "error": "This model's maximum prompt length is 131072 but the request contains 537812 tokens."}),
    "sglang": (400, {"message": "The input (9000 tokens) is longer than the model's context length (8192 tokens)."}),
    "cohere": (400, {"message": "too many tokens: size limit exceeded by 1200 tokens."}),
    "a proxy that wraps it": (500, error("ContextWindowExceededError: maximum context length is 8192 tokens")),
    "a web server": (413, b"<html><title>413 Request Entity Too Large</title></html>"),
    "openai's rate": (429, error("Request too large for m on tokens per min (TPM): Limit 30000, Requested 45000. The input or output tokens must be reduced.", code="rate_limit_exceeded")),
    "another rate": (429, error("Tokens per minute limit: 6,000, requested: 7,200. Please shorten the prompt.", code="tokens")),
}  # fmt: skip

WITHHELD = {
    "openai": (400, error("Invalid prompt: your prompt was flagged as potentially violating our usage policy.", code="invalid_prompt")),
    "azure": (400, error("The response was filtered due to the prompt triggering Azure OpenAI's content management policy.", code="content_filter", innererror={"code": "ResponsibleAIPolicyViolation"})),
    "anthropic": (400, error("Output blocked by content filtering policy", type="invalid_request_error")),
    "openrouter": (403, error("Your chosen model requires moderation and your input was flagged", code=403, metadata={"reasons": ["violence"], "flagged_input": "…"})),
    "deepseek": (400, error("Content Exists Risk", type="invalid_request_error")),
    "dashscope": (400, {"code": "DataInspectionFailed", "message": "Input data may contain inappropriate content."}),
    "xai": (403, {"code": "forbidden", "error": "Content violates usage guidelines. Failed check: SAFETY_CHECK_TYPE_CSAM"}),
    "a gateway's guardrail": (446, error("The guardrail checks failed", type="hooks_failed")),
    "another gateway": (424, {"error": [{"code": 2016, "message": "Prompt blocked due to security configurations"}]}),
}  # fmt: skip

PERHAPS_FORBIDDEN = {
    "a page": (403, PAGE),
    "a load balancer": (403, {"message": "Forbidden"}),
    "for legal reasons": (451, b"Unavailable For Legal Reasons"),
    "a text": (403, b"Request blocked by rule 949110"),
}

GOES_ON_SLOWER = {
    "plain": (429, error("Rate limit reached.", code="rate_limit_exceeded"), None),
    "quota of a minute": (429, error("You exceeded your current quota: 15 requests per minute.", code="insufficient_quota"), None),
    "gemini": (429, error("You exceeded your current quota, please check your plan and billing details.", status="RESOURCE_EXHAUSTED", details=[{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "34s"}]), 34.0),
    "gemini's own words": (429, error("You exceeded your current quota. Please retry in 34.5s.", code=429), 34.5),
    "gemini's metric": (429, error("Quota exceeded", details=[{"violations": [{"quotaId": "GenerateRequestsPerMinutePerProjectPerModel"}]}]), None),
    "azure": (429, error("Requests have exceeded call rate limit of your current pricing tier. Please retry after 26 seconds.", code="429"), 26.0),
    "openai": (429, error("Rate limit reached for m on tokens per min (TPM): Limit 30000, Used 29900, Requested 500. Please try again in 1m0.8s.", code="rate_limit_exceeded"), 60.8),
    "milliseconds": (429, error("Rate limit reached. Please try again in 350ms."), 0.35),
    "a field": (429, {"detail": "Too many requests", "retry_after": 5}, 5.0),
    "openrouter": (429, error("Provider returned error", code=429, metadata={"raw": '{"error": {"message": "Quota exceeded. Try again in 20 seconds"}}'}), 20.0),
    "anthropic": (429, error("This request would exceed your organization's rate limit of 40,000 input tokens per minute. Please reduce the prompt length.", type="rate_limit_error"), None),
    "bedrock": (429, {"__type": "ThrottlingException", "message": "Too many tokens, please wait before trying again."}, None),
}  # fmt: skip

ENDS_THE_ASKING = {
    "no quota": (429, error("You exceeded your current quota, please check your plan.", code="insufficient_quota")),
    "quota of a day": (429, error("Quota exceeded", details=[{"violations": [{"quotaId": "GenerateRequestsPerDayPerProject"}]}])),
    "no credit": (400, error("Your credit balance is too low to access the API.", type="invalid_request_error")),
    "no team credits": (403, {"code": "permission", "error": "Your newly created team doesn't have any credits yet: no credits."}),
    "wants money": (402, error("Insufficient Balance")),
    "wrong key": (401, error("Incorrect API key provided.", code="invalid_api_key")),
    "key without permission": (403, error("Your API key does not have permission.", type="permission_error")),
    "google's permission": (403, error("Permission denied on resource.", status="PERMISSION_DENIED")),
    "no such model": (404, error("The model does not exist.", code="model_not_found")),
}  # fmt: skip


def classified(status: int, body: Any, shape: Shape = Shape()) -> Any:  # noqa: B008 - frozen
    return fault_of(status, {}, body if isinstance(body, bytes) else json.dumps(body).encode(), shape)


def cases(table: dict[str, Any]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("sent", table.values(), ids=table.keys())


@cases(TOO_LONG)
def test_a_prompt_that_never_fits_is_a_row_at_once(sent: Any) -> None:
    """Neither asked again nor a reason to slow down or to ask others otherwise."""
    fault = classified(*sent)
    assert LARGE == (fault.action, fault.code)


@cases(WITHHELD)
def test_a_prompt_that_a_provider_withholds_is_a_row(sent: Any) -> None:
    """Whatever the status."""
    fault = classified(*sent)
    assert REFUSED == (fault.action, fault.code)


@cases(PERHAPS_FORBIDDEN)
def test_a_call_that_is_forbidden_without_a_reason_waits_for_the_others_answers(sent: Any) -> None:
    """A firewall in front of the model knows no API."""
    fault = classified(*sent)
    assert UNSURE == (fault.action, fault.code)


@cases(GOES_ON_SLOWER)
def test_a_limit_that_passes_slows_down_and_the_wait_is_read_where_it_stands(sent: Any) -> None:
    """Also where it is worded as a quota."""
    status, body, seconds = sent
    fault = classified(status, body)
    assert SLOW == (fault.action, fault.code)
    assert seconds == (fault.retry_after if seconds is None else pytest.approx(fault.retry_after))


@cases(ENDS_THE_ASKING)
def test_what_no_pause_mends_ends_the_asking(sent: Any) -> None:
    """Its question stays due."""
    fault = classified(*sent)
    assert STOP == (fault.action, fault.code)


TOLD = {
    "gateway": (error("Upstream error: overloaded", code=502), RETRY),
    "code as text": (error("Upstream died", code="502"), RETRY),
    "code as a word": (error("Slow down", code="rate_limit_exceeded"), SLOW),
    "words only": ({"error": "Rate limit exceeded upstream"}, SLOW),
    "anthropic": ({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}, RETRY),
    "databricks": ({"error_code": "REQUEST_LIMIT_EXCEEDED", "message": "Exceeded the limit"}, SLOW),
    "vllm": ({"object": "error", "message": "bad", "type": "BadRequestError", "code": 400}, ROW),
    "a list": ([{"error": {"code": 503, "message": "The model is overloaded.", "status": "UNAVAILABLE"}}], RETRY),
    "in a choice": ({"choices": [{"error": {"code": 429, "message": "x"}, "message": {"content": ""}}]}, SLOW),
    "a choice that ended by one": ({"choices": [{"finish_reason": "error", "message": {"content": None}}]}, RETRY),
    "too long": (error("This model's maximum context length is 8192 tokens.", code=400), LARGE),
    "withheld": (error("Input was flagged by moderation", code=403), REFUSED),
    "a key": (error("No auth credentials found", code=401), STOP),
    "unknown": (error("Something went wrong"), RETRY),
}


@cases(TOLD)
def test_an_error_told_with_status_200_is_what_its_code_says(sent: Any) -> None:
    """In the body, in a list, or in a choice; by number or by word."""
    body, expected = sent
    status = status_told(body)
    assert status is not None
    fault = fault_of(status, {}, json.dumps(body).encode(), Shape(), sent=200)
    assert expected == (fault.action, fault.code)


ANSWERS = {
    "an answer": {"choices": [{"message": {"content": "{}"}, "finish_reason": "stop"}], "error": None},
    "no choices": {"choices": None, "message": "ok"},
    "ollama": {"message": {"role": "assistant", "content": "{}"}},
    "anthropic": {"type": "message", "content": [{"type": "text", "text": "{}"}]},
    "a text": "data: {}",
}


@cases(ANSWERS)
def test_what_tells_of_no_error_is_read_as_an_answer(sent: Any) -> None:
    """An `error` of null is none."""
    assert status_told(sent) is None


def test_the_message_shows_what_the_server_said() -> None:
    """With the status that was sent and the one that was told, and nothing of the prompt."""
    body = json.dumps(error("Upstream died", code=502, metadata={"flagged_input": "secret prompt"})).encode()
    assert "HTTP 200 (502): Upstream died" == fault_of(502, {}, body, Shape(), sent=200).message
    assert "HTTP 503: Attention Required!" == fault_of(503, {}, PAGE, Shape()).message


def test_words_of_a_prompt_in_a_message_stop_nothing() -> None:
    """A server that repeats what was sent: a quota is looked for where a quota may be told."""
    fault = classified(400, error("Invalid message content: 'My billing shows a usage limit and 20 requests per day'"))
    assert ROW == (fault.action, fault.code)


def test_a_field_that_is_named_by_its_place_is_reshaped() -> None:
    """As servers do that check requests by a schema."""
    body = {
        "detail": [{"type": "extra_forbidden", "loc": ["body", "max_tokens"], "msg": "Extra inputs are not permitted"}]
    }
    assert Shape(limit_field=None) == classified(422, body).shape


@pytest.mark.parametrize(
    ("message", "field"),
    [
        ("Unsupported parameter: 'max_tokens' is not supported. Use 'max_completion_tokens' instead.", "max_completion_tokens"),
        ("Unrecognized request argument supplied: max_tokens", None),
        ("max_tokens is too large: 500. This model supports at most 256 completion tokens.", "max_tokens"),
        ("Invalid 'max_tokens': integer above maximum value. Expected a value <= 256, but got 500 instead.", "max_tokens"),
    ],
)  # fmt: skip
def test_the_limit_of_an_answer_is_dropped_only_where_its_field_is_unknown(message: str, field: str | None) -> None:
    """A value that does not fit says nothing about the field."""
    fault = classified(400, error(message))
    assert field == (fault.shape or Shape()).limit_field


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        ("SAFETY", ErrorCode.JUDGE_REFUSED),
        ("PROHIBITED_CONTENT", ErrorCode.JUDGE_REFUSED),
        ("content_filter: RECITATION", ErrorCode.JUDGE_REFUSED),
        ("guardrail_intervened", ErrorCode.JUDGE_REFUSED),
        ("input_guardrail_triggered", ErrorCode.JUDGE_REFUSED),
        ("sensitive", ErrorCode.JUDGE_REFUSED),
        ("MAX_TOKENS", ErrorCode.JUDGE_BAD_OUTPUT),
        ("model_length", ErrorCode.JUDGE_BAD_OUTPUT),
    ],
)
def test_every_providers_word_for_the_end_of_an_answer_is_known(reason: str, code: ErrorCode) -> None:
    """A filter is a refusal, a limit an answer that was cut off."""
    wire = wire_of(Service(Endpoint(name="e", provider="openai", base_url="http://h/v1"), "m"), None)
    reply = wire.reply({"choices": [{"finish_reason": reason, "message": {"content": ""}}]})
    assert code is verdict_of(reply)[0]
