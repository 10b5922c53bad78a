# --- monitor_sampling_config
from mlflow.genai.scorers import ScorerSamplingConfig

half = ScorerSamplingConfig(sample_rate=0.5, filter_string="trace.status = 'OK'")
shown = [half.sample_rate, half.filter_string, ScorerSamplingConfig().sample_rate, ScorerSamplingConfig() == half]

# --- monitor_before_registering
from mlflow.genai.scorers import RegexMatch, scorer


@scorer
def fresh(outputs):
    return True


shown = [
    [s.name, s.status, s.sample_rate, s.filter_string, s.scorer_version, s.is_session_level_scorer]
    for s in (fresh, RegexMatch(name="digits", pattern=r"\d"))
]

# --- monitor_start_unregistered
from mlflow.genai.scorers import ScorerSamplingConfig, scorer


@scorer
def fresh(outputs):
    return True


def look(trace):
    return fresh.update(sampling_config=ScorerSamplingConfig(sample_rate=0.5))

# --- monitor_rate_zero
from mlflow.genai.scorers import ScorerSamplingConfig, scorer


@scorer
def fresh(outputs):
    return True


def look(trace):
    return fresh.start(sampling_config=ScorerSamplingConfig(sample_rate=0))

# --- monitor_stop_unregistered
from mlflow.genai.scorers import scorer


@scorer
def fresh(outputs):
    return True


def look(trace):
    return fresh.stop()

# --- lifecycle_register
from mlflow.genai.scorers import get_scorer, list_scorers, scorer


@scorer
def long_enough(outputs):
    return len(outputs) > 3


registered = long_enough.register(name="at_least_four")
again = get_scorer(name="at_least_four")
shown = [
    [registered.name, registered.scorer_version, registered.status, long_enough.name, long_enough.status],
    [again.name, again.scorer_version, again(outputs="text"), again(outputs="no")],
    "at_least_four" in [s.name for s in list_scorers()],
]

# --- lifecycle_versions
from mlflow.genai.scorers import ResponseLength, get_scorer

first = ResponseLength(name="fits", max_length=10).register()
second = ResponseLength(name="fits", max_length=20).register()
shown = [
    [first.scorer_version, second.scorer_version],
    [get_scorer(name="fits").max_length, get_scorer(name="fits", version=1).max_length],
]

# --- lifecycle_delete
from mlflow.genai.scorers import RegexMatch, delete_scorer, list_scorers

RegexMatch(name="gone", pattern="a").register()
RegexMatch(name="gone", pattern="b").register()
delete_scorer(name="gone", version="all")
shown = ["gone" in [s.name for s in list_scorers()]]

# --- lifecycle_list_versions
from mlflow.genai.scorers import RegexMatch
from mlflow.genai.scorers.registry import list_scorer_versions

RegexMatch(name="listed", pattern="a").register()
shown = [[version, s.pattern] for s, version in list_scorer_versions(name="listed")]
