"""Attribute names of OpenTelemetry instrumentations: where each keeps what a span was given and what it gave.

Facts: the GenAI and OpenInference conventions, and the keys that MLflow's server translates
(`mlflow.tracing.otel.translation`), read in 2026-11.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from backfill_spark.schema import STRING
from backfill_spark.traces.texts import unquoted


@dataclass(frozen=True, slots=True)
class Instrumentation:
    """Keys of one library; the first key that a span has counts."""

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


_CLAUDE = tuple(f"{prefix}{word}" for prefix in ("", "claude_code.") for word in ("interaction", "llm_request", "tool"))
"""Values of `span.type` by which spans of Claude Code are told: its keys are words that others use, too."""
_SIDES, _SIDE = 100, 50
"""Distance of the codes of two instrumentations, and of inputs and outputs of one."""
INSTRUMENTATIONS = (
    # The first: its values are JSON texts.
    Instrumentation("MLflow", ("mlflow.spanInputs",), ("mlflow.spanOutputs",)),
    Instrumentation("OpenInference", ("input.value",), ("output.value",)),
    # Gemini CLI has the same keys.
    Instrumentation(
        "GenAI conventions",
        ("gen_ai.input.messages", "gen_ai.tool.call.arguments"),
        ("gen_ai.output.messages", "gen_ai.tool.call.result"),
    ),
    Instrumentation(
        "Claude Code",
        ("user_prompt", "tool_input", "new_context"),
        ("response.model_output",),
    ),
    Instrumentation("Traceloop", ("traceloop.entity.input",), ("traceloop.entity.output",)),
    Instrumentation(
        "Google ADK",
        ("gcp.vertex.agent.llm_request", "gcp.vertex.agent.tool_call_args"),
        ("gcp.vertex.agent.llm_response", "gcp.vertex.agent.tool_response"),
    ),
    Instrumentation(
        "Vercel AI",
        ("ai.prompt", "ai.prompt.messages", "ai.toolCall.args", "ai.value", "ai.values"),
        ("ai.response.text", "ai.toolCall.result", "ai.response.object"),
    ),
    Instrumentation(
        "LiveKit",
        ("lk.user_input", "lk.user_transcript", "lk.chat_ctx", "lk.input_text"),
        ("lk.response.text", "lk.response.function_calls"),
    ),
    Instrumentation("Laminar", ("lmnr.span.input",), ("lmnr.span.output",)),
    Instrumentation("Langfuse", ("langfuse.observation.input",), ("langfuse.observation.output",)),
    Instrumentation("VoltAgent", ("agent.messages", "llm.messages", "input"), ("output",)),
    # Before the GenAI conventions had messages; Spring AI has the same keys in events.
    Instrumentation("older GenAI", ("gen_ai.prompt",), ("gen_ai.completion",)),
)
_DIRECT = 2
"""So many of them are looked up by their two keys: nearly all spans are theirs. Of the others a table is asked."""
TYPE_KEYS = (
    "mlflow.spanType",
    "openinference.span.kind",
    "gen_ai.operation.name",
    "traceloop.span.kind",
    "ai.operationId",
    "lmnr.span.type",
    "langfuse.observation.type",
    "span.type",
    "entity.type",
)
SESSION_KEYS = (
    "mlflow.trace.session",
    "session.id",
    "gen_ai.conversation.id",
    "langfuse.session.id",
    "traceloop.association.properties.session_id",
    "ai.telemetry.metadata.sessionId",
)
USER_KEYS = ("mlflow.trace.user", "user.id", "langfuse.user.id", "traceloop.association.properties.user_id")
MODEL_TYPES = ("LLM", "CHAT_MODEL", "AGENT")
"""Types of spans whose inputs and outputs stand for those of a trace whose root has none."""
_WORDS = {
    "LLM": (
        "llm",
        "generation",
        "generate_content",
        "text_completion",
        "response",
        "llm_call",
        "llm_request",
        "claude_code.llm_request",
    ),
    "CHAT_MODEL": ("chat", "chat_model"),
    "CHAIN": ("span", "chain", "prompt"),
    "AGENT": ("agent", "invoke_agent", "create_agent", "agent_call", "interaction", "claude_code.interaction"),
    "TOOL": ("tool", "execute_tool", "tool_call", "claude_code.tool", "ai.toolcall"),
    "RETRIEVER": ("retriever", "retrieval"),
    "EMBEDDING": ("embedding", "embeddings", "ai.embed", "ai.embed.doembed", "ai.embedmany"),
    "WORKFLOW": ("workflow", "invoke_workflow"),
    "TASK": ("task",),
    "MEMORY": ("memory",),
    "RERANKER": ("reranker",),
    "PARSER": ("parser",),
    "GUARDRAIL": ("guardrail",),
    "EVALUATOR": ("evaluator",),
}
IS_PAYLOAD = (
    r"^(mlflow\.span(In|Out)puts|(input|output)(\.value)?|gen_ai\.(input|output|prompt|completion|tool\.call|tool\.def"
    r"|system_instructions)|llm\.(input|output)_messages|llm\.(prompts|messages|tools)|agent\.messages|user_prompt"
    r"|tool_input|new_context|response\.model_output|traceloop\.entity\.|gcp\.vertex\.agent\.(llm|tool)_"
    r"|ai\.(prompt|response|toolCall|value)|lk\.(user_|chat_ctx|input_text|response|instructions)|lmnr\.span\.(in|out)put"
    r"|langfuse\.(observation|trace)\.(in|out)put|retrieval\.documents)"
)
"""Begins names of attributes that hold texts of a conversation; they are no metadata."""
_TYPES = {word: kind for kind, words in _WORDS.items() for word in words}
_VERCEL_MODEL = r"^ai\.(generate|stream)(text|object)(\.do(generate|stream))?$"
_MESSAGE_EVENTS = {
    "gen_ai.system.message": "system",
    "gen_ai.user.message": "user",
    "gen_ai.assistant.message": "assistant",
}


def span_type(word: Column) -> Column:
    """Return MLflow's word for a type of span; UNKNOWN where there is none, a word in capitals as it is."""
    bare = F.trim(word, F.lit('"'))
    lower = F.lower(bare)
    table = F.expr(_table(_TYPES))
    found = F.coalesce(F.element_at(table, lower), F.when(lower.rlike(_VERCEL_MODEL), F.lit("LLM")))
    own = F.when((bare != "") & (bare == F.upper(bare)), bare)
    return F.coalesce(found, own, F.lit("UNKNOWN"))


def is_model(word: Column) -> Column:
    """True for the words of MODEL_TYPES."""
    lower = F.lower(F.trim(word, F.lit('"')))
    return lower.isin(*(text for kind in MODEL_TYPES for text in _WORDS[kind])) | lower.rlike(_VERCEL_MODEL)


def first_text(attributes: Column, keys: Sequence[str]) -> Column:
    """Return the first attribute of `keys` that is there; NULL where none is."""
    return F.coalesce(*(attributes[key] for key in keys))


def with_inputs_and_outputs(spans: DataFrame) -> DataFrame:
    """Add `_inputs` and `_outputs`: both by the keys of the first instrumentation of which a span has any.

    Needs `_attributes` (MAP<STRING,STRING>) and `_events` (ARRAY<STRUCT<name, attributes>>), which may be NULL.
    """
    keys = [(*one.inputs, *one.outputs) for one in INSTRUMENTATIONS[:_DIRECT]]
    attributes, codes = F.col("_attributes"), _codes(claude=False) | _codes(claude=True)
    spans = spans.withColumns({f"_{key}": _filled(attributes[key]) for one in keys for key in one})
    direct = [[F.col(f"`_{key}`") for key in one] for one in keys]
    has = [F.coalesce(*each).isNotNull() for each in direct]
    # Not a chain of coalesce over all keys: the code that Spark generates of it took seconds in each task.
    # As text: a call into Java for each key would take longer than a small job has.
    ranked = F.expr(
        "transform(map_entries(map_filter(_attributes, (key, text) -> text NOT IN ('', '<REDACTED>') AND"
        f" (key IN {_quoted(_codes(claude=False))} OR"
        f" (_attributes['span.type'] IN {_quoted(_CLAUDE)} AND key IN {_quoted(_codes(claude=True))})))),"
        f" entry -> struct({_table(codes)}[entry.key] AS code, entry.value AS text))"
    )
    spans = spans.withColumn("_ranked", F.when(~(has[0] | has[1]), ranked))
    spans = spans.withColumn("_first", F.floor(F.array_min("_ranked")["code"] / F.lit(_SIDES)) * F.lit(_SIDES))
    given, gave = (_smallest(F.col("_first") + F.lit(side)) for side in (0, _SIDE))
    others = _others(attributes, F.col("_events"))
    (json, plain), is_ranked = direct, F.col("_first").isNotNull()
    return spans.withColumns(
        {
            name: F.when(has[0], unquoted(json[side]))
            .when(has[1], plain[side])
            .when(is_ranked, of_ranked)
            .otherwise(others[side])
            for side, (name, of_ranked) in enumerate({"_inputs": given, "_outputs": gave}.items())
        }
    )


def _quoted(words: Iterable[str]) -> str:
    return "(" + ", ".join(f"'{word}'" for word in words) + ")"


def _table(values: Mapping[str, str | int]) -> str:
    """Return a map as SQL."""
    return "map(" + ", ".join(f"{key!r}, {value!r}" for key, value in values.items()) + ")"


def _filled(text: Column) -> Column:
    return F.when((text != "") & (text != "<REDACTED>"), text)


def _codes(*, claude: bool) -> dict[str, int]:
    """Key: a number that sorts by instrumentation, then inputs before outputs, then the order of its keys."""
    return {
        key: number * _SIDES + side + place
        for number, one in enumerate(INSTRUMENTATIONS[_DIRECT:])
        if (one.name == "Claude Code") == claude
        for side, keys in ((0, one.inputs), (_SIDE, one.outputs))
        for place, key in enumerate(keys)
    }


def _smallest(code: Column) -> Column:
    """The text of the first key of a side."""
    of_side = F.filter(F.col("_ranked"), lambda one: (one["code"] >= code) & (one["code"] < code + F.lit(_SIDE)))
    return F.array_min(of_side)["text"]


def _others(attributes: Column, events: Column) -> tuple[Column, Column]:
    """Return inputs and outputs of messages that are spread over numbered keys, or stand in events."""
    given, gave = _numbered(attributes, "gen_ai.prompt"), _numbered(attributes, "gen_ai.completion")
    prompt = _event_text(events, "gen_ai.content.prompt", "gen_ai.prompt")
    completion = _event_text(events, "gen_ai.content.completion", "gen_ai.completion")
    return (
        F.coalesce(given, prompt, _event_messages(events, _MESSAGE_EVENTS)),
        F.coalesce(gave, completion, _event_messages(events, {"gen_ai.choice": "assistant"})),
    )


def _numbered(attributes: Column, prefix: str) -> Column:
    """Return the messages `<prefix>.0.role`, `<prefix>.0.content`, … as JSON text."""

    def message(n: Column) -> Column:
        at = F.concat(F.lit(f"{prefix}."), n.cast(STRING))
        role, content = (F.try_element_at(attributes, F.concat(at, F.lit(f".{m}"))) for m in ("role", "content"))
        return F.struct(role.alias("role"), content.alias("content"))

    numbers = F.regexp_extract_all(
        F.array_join(F.map_keys(attributes), " "), F.lit(rf"(?:^| ){prefix.replace('.', '[.]')}[.](\d{{1,4}})[.]")
    )
    messages = F.transform(F.sequence(F.lit(0), F.array_max(numbers.cast("array<int>"))), message)
    return F.when(F.size(numbers) > 0, F.to_json(messages))


def _event_text(events: Column, name: str, key: str) -> Column:
    of_name = F.filter(events, lambda event: event["name"] == name)
    return F.get(of_name, F.lit(0))["attributes"][key]


def _event_messages(events: Column, roles: dict[str, str]) -> Column:
    def message(event: Column) -> Column:
        role = F.coalesce(*(F.when(event["name"] == name, F.lit(said)) for name, said in roles.items()))
        content = event["attributes"]["content"]
        return F.struct(F.coalesce(event["attributes"]["role"], role).alias("role"), content.alias("content"))

    chosen = F.filter(events, lambda event: event["name"].isin(*roles) & event["attributes"]["content"].isNotNull())
    return F.when(F.size(chosen) > 0, F.to_json(F.transform(chosen, message)))
