"""backfill_spark: applies GenAI scorers to traces recorded in the past, on Spark and Delta.

Importing it configures nothing and starts nothing; names are loaded when they are first used.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

from backfill_spark import errors as _errors
from backfill_spark.display.absent import why_absent

if TYPE_CHECKING:
    from backfill_spark.api import (
        backfill_scorers,
        cancel_backfill,
        get_backfill,
        list_backfills,
        plan_backfill,
        read_assessments,
        read_traces,
        resume_backfill,
        wait_for_backfill,
    )
    from backfill_spark.backfill.plan import BackfillPlan
    from backfill_spark.errors import (
        BackfillError,
        BackfillFailedError,
        BackfillRefusedError,
        FilterError,
        JobNotFoundError,
        LeaseLostError,
        NameRefusedError,
        SchemaVersionError,
        ScorerDefinitionError,
        ScorerLifecycleError,
        ScorerLoadError,
        ScorerNotFoundError,
        SessionError,
        SettingsError,
        SourceGoneError,
        TraceSourceError,
        TraceUnreadableError,
    )
    from backfill_spark.jobs.job import BackfillJob
    from backfill_spark.judges import (
        Completeness,
        Correctness,
        Equivalence,
        ExpectationsGuidelines,
        Fluency,
        Guidelines,
        RelevanceToQuery,
        RetrievalGroundedness,
        RetrievalRelevance,
        RetrievalSufficiency,
        Safety,
        Summarization,
        ToolCallCorrectness,
        ToolCallEfficiency,
        get_all_scorers,
        make_judge,
    )
    from backfill_spark.models import BackfillScorerConfig, JobState, ScorerSamplingConfig, ScorerStatus
    from backfill_spark.scorers import PIIDetection, RegexMatch, ResponseLength, Scorer, scorer
    from backfill_spark.scorers.lookup import delete_scorer, get_scorer, list_scorer_versions, list_scorers
    from backfill_spark.settings.current import configure, set_experiment
    from backfill_spark.settings.schema import Settings
    from backfill_spark.storage.session import get_spark
    from backfill_spark.traces.assessment import (
        Assessment,
        AssessmentError,
        AssessmentSource,
        AssessmentSourceType,
        CategoricalRating,
        Expectation,
        Feedback,
        IssueReference,
    )
    from backfill_spark.traces.span import (
        Document,
        Link,
        Span,
        SpanAttributeKey,
        SpanEvent,
        SpanLogLevel,
        SpanStatus,
        SpanStatusCode,
        SpanType,
    )
    from backfill_spark.traces.trace import Trace, TraceData, TraceInfo, TraceLocation, TraceState

_HOMES = {
    "api": (
        "backfill_scorers",
        "cancel_backfill",
        "get_backfill",
        "list_backfills",
        "plan_backfill",
        "read_assessments",
        "read_traces",
        "resume_backfill",
        "wait_for_backfill",
    ),
    "traces.assessment": (
        "Assessment",
        "AssessmentError",
        "AssessmentSource",
        "AssessmentSourceType",
        "CategoricalRating",
        "Expectation",
        "Feedback",
        "IssueReference",
    ),
    "settings.current": ("configure", "set_experiment"),
    "errors": tuple(
        n for n, v in vars(_errors).items() if isinstance(v, type) and issubclass(v, _errors.BackfillError)
    ),
    "jobs.job": ("BackfillJob",),
    "models": ("BackfillScorerConfig", "JobState", "ScorerSamplingConfig", "ScorerStatus"),
    "backfill.plan": ("BackfillPlan",),
    "scorers.lookup": ("delete_scorer", "get_scorer", "list_scorer_versions", "list_scorers"),
    "judges": (
        "Completeness",
        "Correctness",
        "Equivalence",
        "ExpectationsGuidelines",
        "Fluency",
        "Guidelines",
        "RelevanceToQuery",
        "RetrievalGroundedness",
        "RetrievalRelevance",
        "RetrievalSufficiency",
        "Safety",
        "Summarization",
        "ToolCallCorrectness",
        "ToolCallEfficiency",
        "get_all_scorers",
        "make_judge",
    ),
    "scorers": ("PIIDetection", "RegexMatch", "ResponseLength", "Scorer", "scorer"),
    "storage.session": ("get_spark",),
    "settings.schema": ("Settings",),
    "traces.span": (
        "Document",
        "Link",
        "Span",
        "SpanAttributeKey",
        "SpanEvent",
        "SpanLogLevel",
        "SpanStatus",
        "SpanStatusCode",
        "SpanType",
    ),
    "traces.trace": ("Trace", "TraceData", "TraceInfo", "TraceLocation", "TraceState"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Assessment",
    "AssessmentError",
    "AssessmentSource",
    "AssessmentSourceType",
    "BackfillError",
    "BackfillFailedError",
    "BackfillJob",
    "BackfillPlan",
    "BackfillRefusedError",
    "BackfillScorerConfig",
    "CategoricalRating",
    "Completeness",
    "Correctness",
    "Document",
    "Equivalence",
    "Expectation",
    "ExpectationsGuidelines",
    "Feedback",
    "FilterError",
    "Fluency",
    "Guidelines",
    "IssueReference",
    "JobNotFoundError",
    "JobState",
    "LeaseLostError",
    "Link",
    "NameRefusedError",
    "PIIDetection",
    "RegexMatch",
    "RelevanceToQuery",
    "ResponseLength",
    "RetrievalGroundedness",
    "RetrievalRelevance",
    "RetrievalSufficiency",
    "Safety",
    "SchemaVersionError",
    "Scorer",
    "ScorerDefinitionError",
    "ScorerLifecycleError",
    "ScorerLoadError",
    "ScorerNotFoundError",
    "ScorerSamplingConfig",
    "ScorerStatus",
    "SessionError",
    "Settings",
    "SettingsError",
    "SourceGoneError",
    "Span",
    "SpanAttributeKey",
    "SpanEvent",
    "SpanLogLevel",
    "SpanStatus",
    "SpanStatusCode",
    "SpanType",
    "Summarization",
    "ToolCallCorrectness",
    "ToolCallEfficiency",
    "Trace",
    "TraceData",
    "TraceInfo",
    "TraceLocation",
    "TraceSourceError",
    "TraceState",
    "TraceUnreadableError",
    "backfill_scorers",
    "cancel_backfill",
    "configure",
    "delete_scorer",
    "get_all_scorers",
    "get_backfill",
    "get_scorer",
    "get_spark",
    "list_backfills",
    "list_scorer_versions",
    "list_scorers",
    "make_judge",
    "plan_backfill",
    "read_assessments",
    "read_traces",
    "resume_backfill",
    "scorer",
    "set_experiment",
    "wait_for_backfill",
]


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        message = f"module {__name__!r} has no attribute {name!r}"
        told = why_absent(name)
        if told is None:
            raise AttributeError(message)
        # Python drops the words of an AttributeError where a name is imported; `_handle_fromlist` is where it asks.
        is_import = sys._getframe(1).f_code.co_name == "_handle_fromlist"  # noqa: SLF001
        raise (ImportError if is_import else AttributeError)(f"{message}. {told}")
    value = getattr(importlib.import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
