"""Writes what MLflow makes of the replies in tests/judge_replies.py, and its public names.

`python -m scripts.mlflow_readings FOLDER_OF_SHARED_DATA`, with the Python of an environment that has mlflow 3.17.2.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.judge_replies import own_replies, wildbench_replies

RESOURCE = Path(__file__).parents[1] / "tests" / "resources" / "mlflow.json"
MODULES = ("mlflow", "mlflow.entities", "mlflow.genai", "mlflow.genai.judges", "mlflow.genai.scorers")
said = {"text": ""}


class Model(BaseHTTPRequestHandler):
    """Answers every question with `said`."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": said["text"]}}
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        body = {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "usage": usage, "choices": [choice]}
        data = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def read(text: str) -> str:
    """Return the value that MLflow's own Safety gives for a reply, or "error"."""
    from mlflow.genai.scorers import Safety

    said["text"] = text
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            return str(Safety(model="openai:/m")(outputs="x").value)
    except Exception:
        return "error"


def main() -> None:
    """Write the resource."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Model)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    os.environ |= {"OPENAI_API_KEY": "none", "OPENAI_API_BASE": f"http://127.0.0.1:{server.server_port}/v1"}
    import mlflow

    names = {n for module in MODULES for n in importlib.import_module(module).__all__ if not n.startswith("_")}
    found = {
        "mlflow": mlflow.__version__,
        "names": sorted(names),
        "own": [read(reply.text) for reply in own_replies()],
        "wildbench": [read(reply.text) for reply in wildbench_replies(Path(sys.argv[1]))],
    }
    RESOURCE.parent.mkdir(exist_ok=True)
    RESOURCE.write_text(json.dumps(found) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
