"""Judges: scorers that ask a model, a file each."""

from backfill_spark.scorers.judges.completeness import Completeness
from backfill_spark.scorers.judges.correctness import Correctness
from backfill_spark.scorers.judges.guidelines import Guidelines
from backfill_spark.scorers.judges.judge import Judge
from backfill_spark.scorers.judges.make_judge import InstructionsJudge, make_judge
from backfill_spark.scorers.judges.prompt import Prompt, prompt_hash, read_secret
from backfill_spark.scorers.judges.relevance_to_query import RelevanceToQuery
from backfill_spark.scorers.judges.retrieval_groundedness import RetrievalGroundedness
from backfill_spark.scorers.judges.safety import Safety

__all__ = [
    "Completeness",
    "Correctness",
    "Guidelines",
    "InstructionsJudge",
    "Judge",
    "Prompt",
    "RelevanceToQuery",
    "RetrievalGroundedness",
    "Safety",
    "make_judge",
    "prompt_hash",
    "read_secret",
]
