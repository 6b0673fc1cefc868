"""A local server that speaks OpenAI's chat completions, with models whose strengths are known."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

RIGHT, WRONG = "This is right.", "This is wrong."
QUESTIONS = {
    "maths": "Solve the equation x + {} = 12 for x.",
    "french": "Translate the word number {} into French.",
}
SUBJECTS = tuple(QUESTIONS)


class OpenAIServer:
    """Each model answers its own subject rightly; `broken` answers nothing, `judge` knows what is right."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.asked: list[dict[str, Any]] = []
        self.keys: set[str | None] = set()

    def answer(self, request: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        self.asked.append(request)
        model, question = request["model"], request["messages"][-1]["content"]
        if model == "broken":
            return 500, {"error": {"message": "out of order", "type": "server_error"}}
        if request.get("temperature", 0) > 2:
            return 400, {"error": {"message": "temperature is above 2", "type": "invalid_request_error"}}
        if model == "judge":
            text = "Score: 9.5" if RIGHT in question else "Score: 1"
        else:
            text = RIGHT if question.startswith(QUESTIONS[model][:5]) else WRONG
        message = {"role": "assistant", "content": text}
        return 200, {"object": "chat.completion", "model": model, "choices": [{"index": 0, "message": message}]}


@contextmanager
def openai_server() -> Iterator[OpenAIServer]:
    """Serves on a free port while the body runs."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/chat/completions"
            body = self.rfile.read(int(self.headers["content-length"]))
            served.keys.add(self.headers["authorization"])
            status, answer = served.answer(json.loads(body))
            content = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        served = OpenAIServer(f"http://127.0.0.1:{server.server_address[1]}/v1")
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield served
        finally:
            server.shutdown()
            thread.join()
