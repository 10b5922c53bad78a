"""RetrievalGroundedness: does the output stand on what was retrieved?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from backfill_spark.scorers.judges.judge import Judge
from backfill_spark.scorers.judges.prompt import shown

_TASK = """\
Decide whether the outputs are grounded in the retrieved documents: each claim of fact in the outputs must be stated in
them, or follow from them. Whether a claim is true elsewhere does not count. Greetings, questions back, and saying that
something is not known make no claim.
"yes": every claim is supported by the documents. "no": at least one is not; name it in the rationale."""


class RetrievalGroundedness(Judge):
    """Says "yes" when the outputs claim nothing that the outputs of the trace's RETRIEVER spans do not support.

    A trace without retrieval has nothing to judge. All retrieved documents count together: one verdict a trace.
    """

    takes: ClassVar[tuple[str, ...]] = ("inputs", "outputs", "trace")
    default_name: ClassVar[str] = "retrieval_groundedness"
    about: ClassVar[str] = "Is every claim of the output supported by the retrieved documents?"

    @property
    def task(self) -> str:
        return _TASK

    def sections(self, *, inputs: Any, outputs: Any, expectations: Any, trace: Any) -> dict[str, str] | None:
        del expectations
        if trace is None:
            raise self._missing("the spans")
        found = [span.outputs for span in trace.search_spans(span_type="RETRIEVER")]
        documents = [text for outputs_of_span in found for text in _documents(outputs_of_span)]
        if outputs is None or not documents:
            return None
        return {"inputs": shown(inputs), "outputs": shown(outputs), "documents": "\n\n".join(documents)}


def _documents(outputs: Any) -> list[str]:
    """Return the texts of retrieved documents, however they were recorded."""
    if outputs is None:
        return []
    if isinstance(outputs, Mapping):
        inner = next((outputs[k] for k in ("documents", "chunks", "results") if isinstance(outputs.get(k), list)), None)
        if inner is not None:
            return _documents(inner)
    items = outputs if isinstance(outputs, list) else [outputs]
    return [text for text in map(_document, items) if text.strip()]


def _document(item: Any) -> str:
    if isinstance(item, Mapping):
        for key in ("page_content", "content", "text"):
            if isinstance(item.get(key), str):
                return shown(item[key])
    return shown(item)
