"""Names under which older versions stored what a scorer's function refers to, and where that is now.

A stored function names classes such as `Feedback` by module and name. The tables of older versions must load, and the
digest of an unchanged function must stay what it was, or registering it again would make a version that is scored anew.
So what is stored is looked up here, and digests keep the first name that a thing ever had. A module that moves again
gets its new place here; the old names stay.
"""

from __future__ import annotations

import importlib
import io
import pickle
from typing import Any

_BUILT_IN_JUDGES = "backfill_spark.judges.builtin"
_HOMES: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("backfill_spark.assessment", "backfill_spark.traces.assessment", ()),
    ("backfill_spark.trace", "backfill_spark.traces.trace", ()),
    ("backfill_spark.span", "backfill_spark.traces.span", ()),
    ("backfill_spark.recorded", "backfill_spark.traces.decode", ()),
    ("backfill_spark.session", "backfill_spark.storage.session", ()),
    ("backfill_spark.settings", "backfill_spark.settings.schema", ()),
    ("backfill_spark.context", "backfill_spark.settings.current", ()),
    ("backfill_spark.job", "backfill_spark.jobs.job", ()),
    ("backfill_spark.plan", "backfill_spark.backfill.plan", ()),
    ("backfill_spark.registry", "backfill_spark.scorers.lookup", ()),
    ("backfill_spark.catalog", "backfill_spark.scorers.registered", ()),
    ("backfill_spark.lifecycle", "backfill_spark.scorers.lifecycle", ()),
    ("backfill_spark.scorers.definition", "backfill_spark.scorers.stored_code.pickling", ()),
    ("backfill_spark.scorers.capture", "backfill_spark.scorers.stored_code.dependencies", ()),
    ("backfill_spark.scorers.checks", "backfill_spark.scorers.validation", ()),
    ("backfill_spark.scorers.digest", "backfill_spark.scorers.stored_code.digest", ()),
    ("backfill_spark.scorers.source", "backfill_spark.scorers.stored_code.source", ()),
    ("backfill_spark.scorers.judges.judge", "backfill_spark.judges.judge", ()),
    ("backfill_spark.scorers.judges.make_judge", "backfill_spark.judges.make_judge", ()),
    ("backfill_spark.scorers.judges.prompt", "backfill_spark.judges.prompt", ()),
    ("backfill_spark.scorers.judges.verdict", "backfill_spark.judges.verdict", ()),
    ("backfill_spark.scoring.in_flight", "backfill_spark.scoring.async_calls", ()),
    ("backfill_spark.sampling", "backfill_spark.selection.sampling", ()),
    ("backfill_spark.pairs", "backfill_spark.selection.pairs", ()),
    ("backfill_spark.filters", "backfill_spark.traces.filters", ()),
    ("backfill_spark.sources", "backfill_spark.traces.sources", ()),
    ("backfill_spark.scorers.regex_match", "backfill_spark.scorers.builtin", ("RegexMatch",)),
    ("backfill_spark.scorers.response_length", "backfill_spark.scorers.builtin", ("ResponseLength",)),
    ("backfill_spark.scorers.pii_detection", "backfill_spark.scorers.builtin", ("PIIDetection", "PII_TYPES")),
    ("backfill_spark.scorers.judges.completeness", _BUILT_IN_JUDGES, ("Completeness",)),
    ("backfill_spark.scorers.judges.correctness", _BUILT_IN_JUDGES, ("Correctness",)),
    ("backfill_spark.scorers.judges.guidelines", _BUILT_IN_JUDGES, ("Guidelines",)),
    ("backfill_spark.scorers.judges.relevance_to_query", _BUILT_IN_JUDGES, ("RelevanceToQuery",)),
    ("backfill_spark.scorers.judges.retrieval_groundedness", _BUILT_IN_JUDGES, ("RetrievalGroundedness",)),
    ("backfill_spark.scorers.judges.safety", _BUILT_IN_JUDGES, ("Safety",)),
    ("backfill_spark.scorers.judges", "backfill_spark.judges", ()),
)
"""First module, module of today, and the names that this is true of; none says all."""
_RENAMED = {
    ("backfill_spark.scorers.scorer", "Registration"): ("backfill_spark.scorers.registered", "OlderRegistration"),
}
"""Module and name, and those under which it is read today."""
_TODAY = {first: today for first, today, _ in _HOMES}


def first_home(module: str, name: str = "") -> str:
    """Return the module under which `name` of `module` was first known. For digests."""
    top = name.partition(".")[0]
    for first, today, names in _HOMES:
        if today == module and (top in names or not names):
            return first
    return module


def unpickled(payload: bytes) -> Any:
    """Load what was pickled, by any version of this package."""
    return Unpickler(io.BytesIO(payload)).load()


class Unpickler(pickle.Unpickler):
    """Finds what has moved since it was pickled."""

    def find_class(self, module: str, name: str) -> Any:
        """Return the thing of this name, from where it is today."""
        if (module, name) == ("cloudpickle.cloudpickle", "subimport"):
            return _subimport
        module, name = _RENAMED.get((module, name), (module, name))
        try:
            return super().find_class(_TODAY.get(module, module), name)
        except ModuleNotFoundError as error:
            if error.name != "cloudpickle":
                raise
            return super().find_class(f"pyspark.{module}", name)  # executors may have PySpark's own copy only


def _subimport(name: str) -> Any:
    """Return a module that a function holds, as cloudpickle does."""
    return importlib.import_module(_TODAY.get(name, name))
