# --- judge_safety
from mlflow.genai.scorers import Safety

safe = Safety(model="openai:/gpt-4o-mini")

# --- judge_guidelines
from mlflow.genai.scorers import Guidelines

friendly = Guidelines(name="friendly", guidelines=["Be friendly.", "Answer in English."], model="openai:/gpt-4o-mini")

# --- judge_one_guideline
from mlflow.genai.scorers import Guidelines

tone = Guidelines(name="tone", guidelines="The tone is professional.", model="openai:/gpt-4o-mini")
shown = [tone.name, tone.model]

# --- judge_relevance
from mlflow.genai.scorers import RelevanceToQuery

relevant = RelevanceToQuery(name="relevant", model="openai:/gpt-4o-mini")

# --- judge_correctness
from mlflow.genai.scorers import Correctness

correct = Correctness(name="correct", model="openai:/gpt-4o-mini")

# --- judge_made_literal
from typing import Literal

from mlflow.genai.judges import make_judge

coherent = make_judge(
    name="coherent",
    instructions="Is the answer coherent?\nQuestion: {{ inputs }}\nAnswer: {{ outputs }}",
    feedback_value_type=Literal["coherent", "mixed", "incoherent"],
    model="openai:/gpt-4o-mini",
)
shown = [coherent.name, coherent.model, coherent.instructions]

# --- judge_made_bool
from mlflow.genai.judges import make_judge

complete = make_judge(
    name="complete",
    instructions="Does {{ outputs }} answer all of {{ inputs }}?",
    feedback_value_type=bool,
    model="openai:/gpt-4o-mini",
    description="All parts are answered.",
)

# --- judge_made_number
from mlflow.genai.judges import make_judge

stars = make_judge(
    name="stars",
    instructions="Give one to five stars to {{ outputs }}.",
    feedback_value_type=int,
    model="openai:/gpt-4o-mini",
    inference_params={"temperature": 0.0},
)

# --- judge_made_with_expectations
from mlflow.genai.judges import make_judge

agrees = make_judge(
    name="agrees",
    instructions="Does {{ outputs }} agree with {{ expectations }}? Answer yes or no.",
    model="openai:/gpt-4o-mini",
)

# --- judge_called_by_hand
from mlflow.genai.judges import make_judge

quality = make_judge(
    name="quality", instructions="Is {{ outputs }} good for {{ inputs }}? yes or no.", model="openai:/gpt-4o-mini"
)
verdict = quality(inputs={"question": "What is Spark?"}, outputs={"response": "An engine."})
shown = [verdict.value, verdict.name]
