"""An OpenAI-compatible proxy that asks the model which Tidegate selects, and sends the judge's score back.

    python examples/route_openai.py --upstream https://openrouter.ai/api/v1 --judge openai/gpt-4o-mini

Then point any OpenAI client (`openai`, LangChain, LiteLLM) at http://127.0.0.1:4000/v1. The experts' names in
Tidegate's roster are the upstream's names for its models; what a caller says in `model` does not count. The upstream's
API key is read from OPENAI_API_KEY, Tidegate's, where it asks for one, from TIDEGATE_API_KEY.

A caller gets the answer first and does not wait for the judge. Streaming is left out.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import httpx
import typer
import uvicorn
from fastapi import BackgroundTasks, FastAPI, Request
from fastapi.responses import JSONResponse

from deployments.client import AsyncGateClient, GateError, Reward, Selection

logger = logging.getLogger(__name__)

UPSTREAM_TIMEOUT_S = 120.0
JUDGE_PROMPT = """How well does the answer serve the question? Reply with a number from 0 (of no use) to 10 (perfect).

Question:
{question}

Answer:
{answer}"""


class Router:
    """Routes chat completions among models.

    Args:
        gate: chooses the models, and learns from the judge.
        upstream: the OpenAI-compatible API that serves all of them.
        judge: the upstream's name for the model that scores answers.
    """

    def __init__(self, gate: AsyncGateClient, upstream: httpx.AsyncClient, *, judge: str) -> None:
        self._gate = gate
        self._upstream = upstream
        self._judge = judge
        self._names: dict[int, str] = {}
        self._names_of_block: int | None = None

    async def complete(self, request: dict[str, Any]) -> tuple[httpx.Response, Selection, int]:
        """The answer of the best model, or, if it fails, of the second best; a failure earns nothing.

        Returns:
            The upstream's answer, the selection, and which of its uids gave the answer.

        Raises:
            GateError: the gate did not select.
            LookupError: it has no model to select.
        """
        result = await self._gate.select([question_of(request)], k=2)
        names = await self._names_at(result.metagraph.block)
        selection = result.selections[0]
        for uid in selection.uids:
            answer = await self._ask({**request, "model": names[uid]})
            if not is_models_failure(answer) or uid == selection.uids[-1]:
                break
            await self.failed(selection, uid)
        else:
            raise LookupError("no model is available; see Tidegate's roster")
        return answer, selection, uid

    async def judge(self, question: str, answer: str, selection: Selection, uid: int) -> None:
        """Have the judge score an answer from 0 to 1, and report that as what the uid has earned."""
        prompt = JUDGE_PROMPT.format(question=question, answer=answer)
        said = await self._ask({"model": self._judge, "messages": [{"role": "user", "content": prompt}]})
        score = re.search(r"\d+(\.\d+)?", text_of(said.json())) if said.is_success else None
        if score is None:
            # No score is no reward: it would say something about the judge, not about the model.
            logger.warning("judge_failed status=%d", said.status_code)
            return
        await self._report(selection, uid, min(float(score[0]) / 10.0, 1.0))

    async def failed(self, selection: Selection, uid: int) -> None:
        """Report that a model gave no answer."""
        logger.warning("model_failed model=%s decision=%s", self._names.get(uid), selection.decision_id)
        await self._report(selection, uid, 0.0)

    async def _names_at(self, block: int | None) -> dict[int, str]:
        """The models' names by uid; read again whenever the roster was."""
        if not self._names or block != self._names_of_block:
            self._names = {row["uid"]: row["hotkey"] for row in await self._gate.uids()}
            self._names_of_block = block
        return self._names

    async def _ask(self, request: dict[str, Any]) -> httpx.Response:
        try:
            return await self._upstream.post("chat/completions", json=request)
        except httpx.TransportError as error:
            return httpx.Response(502, json={"error": {"message": str(error), "type": "upstream_error"}})

    async def _report(self, selection: Selection, uid: int, reward: float) -> None:
        try:
            await self._gate.report([Reward([uid], [reward], decision_id=selection.decision_id)])
        except GateError:
            # Who asked has had an answer; the gate will learn from others.
            logger.warning("reward_lost decision=%s", selection.decision_id, exc_info=True)


def is_models_failure(answer: httpx.Response) -> bool:
    """Whether another model might have answered; what is wrong with the request itself is nobody's failure."""
    return answer.status_code == httpx.codes.TOO_MANY_REQUESTS or answer.is_server_error


def question_of(request: dict[str, Any]) -> str:
    """What a request asks: the text of the last message by a user."""
    for message in reversed(request["messages"]):
        if message["role"] == "user":
            content = message["content"]
            parts = [content] if isinstance(content, str) else [part.get("text", "") for part in content]
            return "\n".join(parts)
    raise KeyError("no message has the role user")


def text_of(completion: dict[str, Any]) -> str:
    """The text of a chat completion."""
    return completion["choices"][0]["message"]["content"] or ""


def build_proxy(gate: AsyncGateClient, upstream: httpx.AsyncClient, *, judge: str) -> FastAPI:
    """The proxy as an ASGI application."""
    router = Router(gate, upstream, judge=judge)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with gate, upstream:
            yield

    proxy = FastAPI(lifespan=lifespan)

    @proxy.post("/v1/chat/completions")
    async def complete(http_request: Request, after: BackgroundTasks) -> JSONResponse:
        request = await http_request.json()
        if request.get("stream"):
            return refusal(400, "this proxy does not stream; leave `stream` out")
        try:
            question = question_of(request)
        except (KeyError, TypeError, AttributeError):
            return refusal(400, "messages must be a list of {role, content}, one of them by a user")
        try:
            answer, selection, uid = await router.complete(request)
        except (GateError, LookupError) as error:
            return refusal(503, str(error))
        completion = answer.json()
        if answer.is_success:
            after.add_task(router.judge, question, text_of(completion), selection, uid)
        elif is_models_failure(answer):
            after.add_task(router.failed, selection, uid)
        headers = {"X-Tidegate-Decision": selection.decision_id}
        return JSONResponse(completion, answer.status_code, headers)

    return proxy


def refusal(status: int, message: str) -> JSONResponse:
    """An error as OpenAI's API has them."""
    return JSONResponse({"error": {"message": message, "type": "invalid_request_error"}}, status)


def main(
    upstream: Annotated[str, typer.Option(help="The OpenAI-compatible API, up to its /v1.")],
    judge: Annotated[str, typer.Option(help="The upstream's model that scores answers.")],
    gate: Annotated[str, typer.Option(help="Where Tidegate listens.")] = "http://127.0.0.1:8000",
    port: Annotated[int, typer.Option(help="Where the proxy listens, on loopback.")] = 4000,
) -> None:
    """Route chat completions among the models of Tidegate's roster."""
    key = os.environ.get("OPENAI_API_KEY")
    client = httpx.AsyncClient(
        # httpx resolves paths below a base URL that ends with a slash.
        base_url=upstream.rstrip("/") + "/",
        headers={"Authorization": f"Bearer {key}"} if key else None,
        timeout=UPSTREAM_TIMEOUT_S,
    )
    models = AsyncGateClient(gate, api_key=os.environ.get("TIDEGATE_API_KEY"))
    uvicorn.run(build_proxy(models, client, judge=judge), host="127.0.0.1", port=port)


if __name__ == "__main__":
    typer.run(main)
