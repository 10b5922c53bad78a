"""Judges: scorers that ask a model."""

from backfill_spark.judges.builtin import (
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
)
from backfill_spark.judges.judge import Interpretation, Judge
from backfill_spark.judges.make_judge import InstructionsJudge, make_judge
from backfill_spark.judges.prompt import Prompt, prompt_hash, read_secret

__all__ = [
    "Completeness",
    "Correctness",
    "Equivalence",
    "ExpectationsGuidelines",
    "Fluency",
    "Guidelines",
    "InstructionsJudge",
    "Interpretation",
    "Judge",
    "Prompt",
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
    "prompt_hash",
    "read_secret",
]
