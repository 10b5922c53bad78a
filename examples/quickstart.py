"""From an empty folder to an answer with its error: `.venv/bin/python examples/quickstart.py`.

Each part between `# %%` lines is a cell for a notebook.
"""

# %% Where the tables live. `backfill_demo` is what `make demo` leaves; any folder or schema with traces will do.
from datetime import datetime

from backfill_spark import (
    BackfillScorerConfig,
    PIIDetection,
    ScorerSamplingConfig,
    backfill_scorers,
    configure,
    get_backfill,
    list_scorers,
    plan_backfill,
    read_assessments,
    read_traces,
    scorer,
)

configure(tables={"root": "./backfill_demo"}, timezone="UTC")


# %% A scorer is a function of any of inputs, outputs, expectations and trace. It gives a number, a boolean, a text,
# a Feedback with its rationale, or a list of Feedback.
@scorer(aggregations=["mean", "p90"])
def tool_calls(trace):
    """Calls of tools that the assistant needed for one answer."""
    return len(trace.search_spans(span_type="TOOL"))


tool_calls = tool_calls.register()
tool_calls = tool_calls.start(sampling_config=ScorerSamplingConfig(sample_rate=0.2))

clean = PIIDetection().register(name="no_personal_data")
clean = clean.start(sampling_config=ScorerSamplingConfig(sample_rate=0.1, filter_string="trace.status = 'OK'"))

for registered in list_scorers():
    print(registered.name, registered.status, registered.sample_rate, registered.filter_string)

# %% What would a backfill do? This calls no scorer.
june, july = datetime(2024, 6, 1), datetime(2024, 7, 1)
print(plan_backfill(scorers=["tool_calls", "no_personal_data"], start_time=june, end_time=july))

# %% Do it, at the rates that were registered.
job_id = backfill_scorers(scorers=["tool_calls", "no_personal_data"], start_time=june, end_time=july)
print(get_backfill(job_id).summary()[["scorer", "n", "mean", "ci_low", "ci_high"]])

# %% A wider sample pays only for the difference.
job_id = backfill_scorers(
    scorers=[BackfillScorerConfig(scorer=tool_calls, sample_rate=0.4)], start_time=june, end_time=july
)
print(get_backfill(job_id).summary()[["scorer", "n", "mean", "ci_low", "ci_high"]])

# %% The results are a frame like any other.
leaks = read_assessments(scorers=["no_personal_data"]).where("value_double = 0")
leaks.join(read_traces(), "trace_id").select("trace_id", "rationale", "response").show(5)
