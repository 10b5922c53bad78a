"""Run in an environment that has MLflow: log traces, score them by `mlflow.genai.evaluate`, print its seconds."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{sys.argv[2]}"
os.environ["MLFLOW_GENAI_EVAL_SKIP_TRACE_VALIDATION"] = "true"
# With its own default, 10, they wait for the 15 connections that it has to sqlite, 30 s each time.
os.environ["MLFLOW_GENAI_EVAL_MAX_WORKERS"] = "4"

import mlflow
from mlflow.genai import scorer


@scorer  # type: ignore[untyped-decorator]
def answer_length(outputs: Any) -> Any:
    return len(outputs)


@scorer  # type: ignore[untyped-decorator]
def says_sorry(outputs: Any) -> Any:
    return "sorry" in outputs.lower()


@scorer  # type: ignore[untyped-decorator]
def question_words(inputs: Any) -> Any:
    return len(inputs["question"].split())


mlflow.set_experiment("bench")
rows = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
data = [{"inputs": {"question": row["request"]}, "outputs": row["response"]} for row in rows]
began = time.perf_counter()
mlflow.genai.evaluate(data=data, scorers=[answer_length, says_sorry, question_words])
print(time.perf_counter() - began)
