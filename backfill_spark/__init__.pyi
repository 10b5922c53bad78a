# The public names and their modules: the one list. `__init__.py` reads it when it is imported, type checkers always.

from backfill_spark.api import (
    backfill_scorers as backfill_scorers,
    cancel_backfill as cancel_backfill,
    deliver_backfill as deliver_backfill,
    get_backfill as get_backfill,
    inspect_traces as inspect_traces,
    list_backfills as list_backfills,
    plan_backfill as plan_backfill,
    read_assessments as read_assessments,
    read_traces as read_traces,
    resume_backfill as resume_backfill,
    wait_for_backfill as wait_for_backfill,
)
from backfill_spark.backfill.plan import BackfillPlan as BackfillPlan
from backfill_spark.delivery.deliver import Delivery as Delivery
from backfill_spark.errors import (
    BackfillError as BackfillError,
    BackfillFailedError as BackfillFailedError,
    BackfillInterrupted as BackfillInterrupted,
    BackfillRefusedError as BackfillRefusedError,
    DeliveryStoppedError as DeliveryStoppedError,
    FilterError as FilterError,
    JobNotFoundError as JobNotFoundError,
    LeaseLostError as LeaseLostError,
    NameRefusedError as NameRefusedError,
    SchemaVersionError as SchemaVersionError,
    ScorerDefinitionError as ScorerDefinitionError,
    ScorerLifecycleError as ScorerLifecycleError,
    ScorerLoadError as ScorerLoadError,
    ScorerNotFoundError as ScorerNotFoundError,
    SessionError as SessionError,
    SettingsError as SettingsError,
    SourceGoneError as SourceGoneError,
    TraceImportError as TraceImportError,
    TraceSourceError as TraceSourceError,
    TraceUnreadableError as TraceUnreadableError,
)
from backfill_spark.jobs.job import BackfillJob as BackfillJob
from backfill_spark.judges import (
    Completeness as Completeness,
    Correctness as Correctness,
    Equivalence as Equivalence,
    ExpectationsGuidelines as ExpectationsGuidelines,
    Fluency as Fluency,
    Guidelines as Guidelines,
    RelevanceToQuery as RelevanceToQuery,
    RetrievalGroundedness as RetrievalGroundedness,
    RetrievalRelevance as RetrievalRelevance,
    RetrievalSufficiency as RetrievalSufficiency,
    Safety as Safety,
    Summarization as Summarization,
    ToolCallCorrectness as ToolCallCorrectness,
    ToolCallEfficiency as ToolCallEfficiency,
    get_all_scorers as get_all_scorers,
    make_judge as make_judge,
)
from backfill_spark.models import (
    BackfillScorerConfig as BackfillScorerConfig,
    JobState as JobState,
    ScorerSamplingConfig as ScorerSamplingConfig,
    ScorerStatus as ScorerStatus,
)
from backfill_spark.scorers import (
    PIIDetection as PIIDetection,
    RegexMatch as RegexMatch,
    ResponseLength as ResponseLength,
    Scorer as Scorer,
    scorer as scorer,
)
from backfill_spark.scorers.lookup import (
    delete_scorer as delete_scorer,
    get_scorer as get_scorer,
    list_scorer_versions as list_scorer_versions,
    list_scorers as list_scorers,
)
from backfill_spark.settings.current import (
    configure as configure,
    set_experiment as set_experiment,
)
from backfill_spark.settings.schema import Settings as Settings
from backfill_spark.storage.session import get_spark as get_spark
from backfill_spark.traces.assessment import (
    Assessment as Assessment,
    AssessmentError as AssessmentError,
    AssessmentSource as AssessmentSource,
    AssessmentSourceType as AssessmentSourceType,
    CategoricalRating as CategoricalRating,
    Expectation as Expectation,
    Feedback as Feedback,
    IssueReference as IssueReference,
)
from backfill_spark.traces.span import (
    Document as Document,
    Link as Link,
    Span as Span,
    SpanAttributeKey as SpanAttributeKey,
    SpanEvent as SpanEvent,
    SpanLogLevel as SpanLogLevel,
    SpanStatus as SpanStatus,
    SpanStatusCode as SpanStatusCode,
    SpanType as SpanType,
)
from backfill_spark.traces.trace import (
    Trace as Trace,
    TraceData as TraceData,
    TraceInfo as TraceInfo,
    TraceLocation as TraceLocation,
    TraceState as TraceState,
)

__all__: list[str]  # noqa: PYI035 - the names above
