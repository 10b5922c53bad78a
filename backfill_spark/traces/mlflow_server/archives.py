"""Spans that a server keeps in files: `traces.pb` of archived traces, `traces.json` of older clients."""

from __future__ import annotations

import logging
import posixpath
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import orjson

from backfill_spark.errors import TraceSourceError
from backfill_spark.traces.mlflow_server.otlp import take_documents, take_otlp
from backfill_spark.traces.mlflow_server.server import Left

if TYPE_CHECKING:
    from backfill_spark.traces.mlflow_server.server import Recorded

logger = logging.getLogger(__name__)

_PROXIED = "mlflow-artifacts"


class Archives:
    """Reads files where traces say that they are.

    Args:
        proxied: the folder or URI that the server shows as `mlflow-artifacts:/`; None: it is not known.
    """

    def __init__(self, proxied: str | None = None) -> None:
        self._proxied = None if proxied is None else proxied.rstrip("/")

    def fill(self, trace: Recorded) -> None:
        """Give a trace its spans, or the reason why it has none."""
        archived = trace.tags.get("mlflow.trace.spansLocation") == "ARCHIVE_REPO"
        place = trace.tags.get("mlflow.trace.archiveLocation" if archived else "mlflow.artifactLocation")
        if not place:
            trace.left = Left.ARCHIVE_GONE if archived else Left.NO_SPANS
            return
        try:
            data = self._read(place, "traces.pb" if archived else "traces.json")
        except FileNotFoundError:
            trace.left = Left.ARCHIVE_GONE
            return
        except TraceSourceError:
            raise
        except Exception as error:  # whatever a file system of any cloud raises
            logger.info("The spans of %s at %s cannot be read: %s", trace.trace_id, place, error)
            trace.left = Left.ARCHIVE_OUT_OF_REACH
            return
        try:
            if archived:
                take_otlp(trace, _spans_of_protobuf(data))
            else:
                take_documents(trace, orjson.loads(data)["spans"])
        except TraceSourceError:
            raise
        except Exception as error:  # whatever is in the file
            logger.info("The spans of %s at %s are damaged: %s", trace.trace_id, place, error)
            trace.left = Left.UNREADABLE

    def _read(self, place: str, name: str) -> bytes:
        parts = urlsplit(place)
        if parts.scheme == _PROXIED:
            if self._proxied is None:
                raise OSError("only the server knows where mlflow-artifacts:/ is; --artifacts says it")
            place = f"{self._proxied}/{parts.path.lstrip('/')}"
            parts = urlsplit(place)
        if parts.scheme in ("", "file"):
            return Path(unquote(parts.path) if parts.scheme else place, name).read_bytes()
        from pyarrow.fs import FileSystem

        system, path = FileSystem.from_uri(posixpath.join(place, name))
        with system.open_input_stream(path) as file:
            return bytes(file.read())


def _spans_of_protobuf(data: bytes) -> list[dict[str, Any]]:
    try:
        from google.protobuf.json_format import MessageToDict
        from opentelemetry.proto.trace.v1.trace_pb2 import TracesData
    except ImportError:
        raise TraceSourceError(
            "Archived traces need opentelemetry-proto, which is not installed: "
            "pip install 'backfill-spark[mlflow-sql]'."
        ) from None
    message = TracesData()
    message.ParseFromString(data)
    spans = [span for of in message.resource_spans for scope in of.scope_spans for span in scope.spans]
    return [MessageToDict(span, preserving_proto_field_name=True) for span in spans]
