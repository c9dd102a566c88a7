"""An endpoint on this machine that says what a test wants."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = Callable[[dict[str, Any], int], tuple[int, dict[str, str], Any]]


class Endpoint:
    """Answers chat requests as ``answer(request, number)`` says, and counts."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.starts: list[float] = []
        self.most_at_once = 0
        self.answer: Answer = lambda request, number: said("Score: 5")
        self._at_once = 0
        self._lock = threading.Lock()
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with endpoint._lock:
                    endpoint.requests.append(request)
                    endpoint.starts.append(time.monotonic())
                    number = len(endpoint.requests)
                    endpoint._at_once += 1
                    endpoint.most_at_once = max(endpoint.most_at_once, endpoint._at_once)
                status, headers, body = endpoint.answer(request, number)
                with endpoint._lock:
                    endpoint._at_once -= 1
                data = json.dumps(body).encode()
                self.send_response(status)
                for name, value in {"Content-Type": "application/json", **headers}.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


def said(content: str, finish: str = "stop") -> tuple[int, dict[str, str], Any]:
    message = {"role": "assistant", "content": content}
    choice = {"index": 0, "message": message, "finish_reason": finish}
    body = {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
    return 200, {}, body


def error(status: int, **headers: str) -> tuple[int, dict[str, str], Any]:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return status, names, {"error": {"message": "not now"}}
