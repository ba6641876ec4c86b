"""A pooling engine without a model: vLLM's `/classify` and its adapters, over real sockets.

A text's logit is the number of its words, times a factor of the adapter's own.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from learnback.models.pooling_reward import engine_name

BASE_DIGEST = "ab" * 32
MAX_WORDS = 400


@dataclass
class FakePooling:
    """`fails` are statuses that come before any answer, one a request; `delay_s` is for each."""

    served: str = engine_name("tiny", BASE_DIGEST)
    loaded: dict[str, float] = field(default_factory=dict)
    unloaded: list[str] = field(default_factory=list)
    fails: list[int] = field(default_factory=list)
    delay_s: float = 0.0
    most_at_once: int = 0
    refuses: bool = False
    url: str = ""
    _now: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def answer(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        """Status and JSON."""
        with self._lock:
            if self.fails:
                return self.fails.pop(0), {"error": {"message": "not now"}}
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
        try:
            time.sleep(self.delay_s)
            return self._routes(path, body)
        finally:
            with self._lock:
                self._now -= 1

    def _routes(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        if path == "/v1/models":
            return 200, {"data": [{"id": self.served}]}
        if path == "/v1/load_lora_adapter":
            return self._load(body["lora_name"], Path(body["lora_path"]))
        if path == "/v1/unload_lora_adapter":
            self.unloaded.append(body["lora_name"])
            self.loaded.pop(body["lora_name"], None)
            return 200, "done"
        return self._classify(body)

    def _load(self, name: str, path: Path) -> tuple[int, Any]:
        if self.refuses or not path.is_dir():
            return 400, {"error": {"message": "no adapter there"}}
        if name in self.loaded:
            return 400, {"error": {"message": f"{name} has already been loaded."}}
        self.loaded[name] = float((path / "factor").read_text())
        return 200, "done"

    def _classify(self, body: dict[str, Any]) -> tuple[int, Any]:
        factor = self.loaded.get(body["model"])
        if factor is None:
            return 404, {"error": {"message": "no such model"}}
        assert body["use_activation"] is False
        words = sum(len(m["content"].split()) for m in body["messages"])
        if words > MAX_WORDS:
            return 400, {"error": {"message": f"at most {MAX_WORDS} tokens"}}
        usage = {"prompt_tokens": words, "total_tokens": words}
        return 200, {"data": [{"index": 0, "probs": [factor * words]}], "usage": usage}


@contextmanager
def running(engine: FakePooling, port: int = 0) -> Iterator[FakePooling]:
    """Serve it on a port of its own for the length of the block."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._respond({})

        def do_POST(self) -> None:
            self._respond(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def _respond(self, body: dict[str, Any]) -> None:
            status, said = engine.answer(self.path, body)
            content = json.dumps(said).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    engine.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield engine
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def an_adapter(folder: Path, factor: float, **changes: Any) -> Path:
    """A neural reward model for this engine."""
    folder.mkdir(parents=True)
    (folder / "factor").write_text(str(factor))
    description = {
        "kind": "neural",
        "base_model": "tiny",
        "base_digest": BASE_DIGEST,
        "temperature": 2.0,
        "center": 1.0,
        "max_length": 300,
    }
    (folder / "reward.json").write_text(json.dumps(description | changes))
    return folder
