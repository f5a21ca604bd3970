"""A stand-in for an OpenAI-compatible service on this computer, which answers as a test wants."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

Answer = Callable[[BaseHTTPRequestHandler], None]


@dataclass
class LanguageModel:
    """What was asked, and how it answers: by the model's name in the request."""

    answers: dict[str, Answer]
    requests: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    address: str = ""


def says(text: Any, status: int = 200) -> Answer:
    """Answers as services do."""
    return sends(json.dumps({"choices": [{"message": {"content": text}}]}).encode(), status)


def sends(body: bytes, status: int = 200, **headers: str) -> Answer:
    """Answers with any bytes."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body)

    return answer


def silent(handler: BaseHTTPRequestHandler) -> None:
    """Says nothing until the client goes."""
    handler.connection.recv(1)


def drips(handler: BaseHTTPRequestHandler) -> None:
    """Answers without an end, too slowly for any single wait to fail."""
    handler.send_response(200)
    handler.end_headers()
    while True:
        handler.wfile.write(b" ")
        handler.wfile.flush()
        time.sleep(0.05)


def floods(handler: BaseHTTPRequestHandler) -> None:
    """Answers without an end, as fast as it is read."""
    handler.send_response(200)
    handler.end_headers()
    while True:
        handler.wfile.write(b" " * (64 << 10))


@contextmanager
def language_model(**answers: Answer) -> Iterator[LanguageModel]:
    """Serves until the end of the block."""
    model = LanguageModel(answers)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            model.requests.append({**asked, "path": self.path})
            model.keys.append(self.headers["Authorization"])
            try:
                model.answers[asked["model"]](self)
            except OSError:  # the client has gone
                self.close_connection = True

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    model.address = f"http://127.0.0.1:{server.server_port}/v1"
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield model
    finally:
        server.shutdown()
        server.server_close()
