"""A judge that is not there: an OpenAI-compatible endpoint on this machine that answers as it is told."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

Answerer = Callable[[str], "str | int | bytes | float"]
"""From a prompt to the reply's text, a status without success, a body as it is, or seconds of silence."""


@dataclass
class Endpoint:
    """What was asked of it.

    Attributes:
        url: What `judge` must be.
        bodies: Requests, as JSON.
        headers: Their headers.
    """

    url: str = ""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)

    @property
    def prompts(self) -> list[str]:
        return [body["messages"][0]["content"] for body in self.bodies]


@contextmanager
def serving(answerer: Answerer) -> Iterator[Endpoint]:
    """Serve while the block lasts."""
    endpoint = Endpoint()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            assert self.path == "/v1/chat/completions"
            endpoint.bodies.append(body)
            endpoint.headers.append(dict(self.headers))
            given = answerer(body["messages"][0]["content"])
            if isinstance(given, float):
                time.sleep(given)
                given = ""
            status = given if isinstance(given, int) else 200
            if isinstance(given, str):
                given = json.dumps({"choices": [{"message": {"role": "assistant", "content": given}}]}).encode()
            try:
                self.send_response(status)
                if status in (301, 302):
                    self.send_header("Location", f"{endpoint.url}/elsewhere")
                self.end_headers()
                self.wfile.write(given if isinstance(given, bytes) else b'{"error": "no"}')
            except OSError:
                pass  # The client has left.

        def log_message(self, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    endpoint.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield endpoint
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
