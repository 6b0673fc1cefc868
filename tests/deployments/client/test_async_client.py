"""What is of AsyncGateClient alone; what both clients do is in test_clients."""

from __future__ import annotations

import asyncio
import inspect

import httpx
import pytest

from deployments.client import AsyncGateClient, GateClient

from .scripted import ScriptedServer, answer, problem


async def test_calls_of_one_client_run_at_the_same_time() -> None:
    both = asyncio.Barrier(2)

    async def gate(request: httpx.Request) -> httpx.Response:
        # Only two requests that are on their way together get past this.
        await both.wait()
        return httpx.Response(200, json={"path": request.url.path})

    async with AsyncGateClient(transport=httpx.MockTransport(gate)) as client:
        async with asyncio.timeout(10):
            answers = await asyncio.gather(client.state(), client.decision("r-1"))
    assert [found["path"] for found in answers] == ["/v1/state", "/v1/decisions/r-1"]


async def test_a_call_that_waits_to_try_again_can_be_cancelled() -> None:
    server = ScriptedServer([problem(503, "learner_away", **{"retry-after": "9"})])
    waits = asyncio.Event()

    async def sleep(_seconds: float) -> None:
        waits.set()
        await asyncio.Event().wait()

    async with AsyncGateClient(transport=httpx.MockTransport(server), sleep=sleep) as client:
        call = asyncio.create_task(client.state())
        await waits.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        server.outcomes = [answer({"degraded": False})]
        assert await client.state() == {"degraded": False}


def test_both_clients_have_the_same_methods_with_the_same_arguments() -> None:
    def methods(client: type) -> dict[str, str]:
        return {
            name: str(inspect.signature(value))
            for name, value in vars(client).items()
            if callable(value) and not name.startswith("_") and name not in ("close", "aclose")
        }

    assert methods(GateClient) == methods(AsyncGateClient)
    assert methods(GateClient).keys() >= {"select", "report", "rollback"}
    assert "messages" in methods(GateClient)["select"]
    assert "SelectResult" in methods(GateClient)["select"]


def test_every_method_says_what_it_does() -> None:
    for client in (GateClient, AsyncGateClient):
        for name, value in vars(client).items():
            assert name.startswith("_") or not callable(value) or inspect.getdoc(value), name
