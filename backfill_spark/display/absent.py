"""Names that pasted MLflow code imports and that are not here: what to say of each."""

from __future__ import annotations

import re

# Names of modules of this package (`judges`, `scorers`) stay out: they are imported from it, too.
_TABLE = r"""
Conversation\w+|KnowledgeRetention|UserFrustration|Session\w*|search_sessions
    Scorers of whole sessions are not there yet; a judge here sees one trace (make_judge and the built-in ones).
is_safe|is_correct|is_grounded|is_context_\w+|is_tool_call_\w+|meets_guidelines
    A judge is not called by hand here: it asks within a job and its budget. Register and start {}.
custom_prompt_judge
    Use make_judge(name=…, instructions=…, feedback_value_type=Literal[…]).
Judge|BuiltInScorer|InstructionsJudge
    Make a judge with make_judge, and a scorer with @scorer.
JudgeField|ModelAPI
    Name the model with model='<endpoint>:/<model>'; the settings judge.endpoints say where it is.
AlignmentOptimizer|optimize_prompts?
    Aligning judges and optimizing prompts are not there yet: keep mlflow's.
make_scorer_ensemble|agg_all|agg_any|majority_vote|maximum|mean|minimum
    Ensembles of scorers are not there yet: call the functions inside one @scorer, and return one value.
ScorerScheduleConfig|\w+_scheduled_scorers?
    Use Scorer.register, start, update and stop, and backfill_scorers for the past.
ScorerVersion
    Use list_scorer_versions(name=…).
evaluate|validate_evaluation_results|to_predict_fn
    To score recorded traces use backfill_scorers(scorers=[…]); to run an application over a data set keep mlflow's.
get_trace|search_traces|TraceArchivalConfig
    Traces are read as tables: read_traces() gives them as a DataFrame, and Trace(row) makes one.
\w+_assessment|log_feedback|log_expectation|override_feedback|log_issue|Issue\w*
    Feedback is written by jobs and read with read_assessments(); to annotate traces by hand keep mlflow's.
trac(?:e|ing)|context|\w+_active_span|start_span\w*|\w+_active_trace_id|(?:add|log|update_current)_trace|\w+_trace_tag
    Traces are recorded by your application, and only read here: keep mlflow's.
flush_\w+|autolog
    Traces are recorded by your application, and only read here: keep mlflow's.
LiveSpan|NoOpSpan
    A recorded Trace and its Spans give it; there is nothing to construct here.
\w*Location\w*|UnityCatalog
    Where traces lie is a setting: traces.path or traces.table.
MlflowException
    Errors here are BackfillError and its subclasses.
MlflowClient
    Use backfill_scorers, list_scorers, read_traces and read_assessments.
\w+_(?:tracking|registry)_uri\w*
    There is no server: tables lie under the setting tables.root or tables.schema (configure, Settings).
Experiment\w*|\w+_experiments?\w*
    An experiment is only an id here: set_experiment(experiment_id=…).
genai|entities|mlflow|client
    All public names are imported from backfill_spark itself.
(?i:\w*(?:dataset|label|review|gateway|budget|guardrail|mcp|prompt|webhook|workspace|fallback|routing|agent|simulat)\w*)
    It is no part of scoring traces: keep mlflow's.
(?:Run|Metric|Param|Logged|Input|Image|Active|FileInfo|View|Source|Lifecycle|Entity|ConnectOption)\w*
    Runs, metrics and models are not kept here: use mlflow's.
(?!\w*scorer)\w+_(?:run|metric|param|artifact|tag|table|text|dict|figure|image|input|output|model|stream)\w*
    Runs, metrics and models are not kept here: use mlflow's.
import_checkpoints
    Runs, metrics and models are not kept here: use mlflow's.
run|pyfunc|login|test|doctor|\w+_system_metrics\w*
    It is no part of scoring traces: keep mlflow's.
"""
_JUDGES = {
    "is_safe": "Safety()",
    "is_correct": "Correctness()",
    "is_grounded": "RetrievalGroundedness()",
    "is_context_relevant": "RetrievalRelevance() or RelevanceToQuery()",
    "is_context_sufficient": "RetrievalSufficiency()",
    "is_tool_call_correct": "ToolCallCorrectness()",
    "is_tool_call_efficient": "ToolCallEfficiency()",
    "meets_guidelines": "Guidelines(guidelines=[…])",
}


def why_absent(name: str) -> str | None:
    """The sentence on a name that only MLflow has: what to use instead. None for any other name."""
    lines = _TABLE.strip().splitlines()
    for pattern, said in zip(lines[::2], lines[1::2], strict=True):
        if re.fullmatch(pattern, name):
            return said.strip().format(_JUDGES.get(name, "a built-in judge"))
    return None
