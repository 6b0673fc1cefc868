"""Real prompts with the reward of each of several models: what the demo streams.

Whatever is missing or malformed raises `DataError`, a `ValueError` that names the file, the row and the field.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

PARETOBANDIT_FILES = ("val.jsonl", "test_holdout.jsonl")


class DataError(ValueError):
    """The data is missing or malformed; the message names the file, the row and the field."""


@dataclass(frozen=True)
class RewardTable:
    """Every prompt with every model's reward, so that any choice's reward is known, and so is the best.

    Attributes:
        prompts: the texts.
        models: names, in the order of the columns.
        rewards: [n_prompts][n_models], in [0, 1].
    """

    prompts: Sequence[str]
    models: tuple[str, ...]
    rewards: Sequence[tuple[float, ...]]

    def take(self, rows: Iterable[int]) -> RewardTable:
        """The table of these rows, in this order."""
        rows = list(rows)
        return RewardTable([self.prompts[row] for row in rows], self.models, [self.rewards[row] for row in rows])

    @cached_property
    def model_means(self) -> tuple[float, ...]:
        """Mean reward of always asking the same model, per model."""
        return tuple(math.fsum(column) / len(self.rewards) for column in zip(*self.rewards, strict=True))

    @property
    def random_mean(self) -> float:
        """Expected reward of asking a model at random."""
        return math.fsum(self.model_means) / len(self.models)

    @property
    def best_fixed_model(self) -> str:
        """The one model that is best on the whole table."""
        return self.models[self.model_means.index(self.best_fixed_mean)]

    @property
    def best_fixed_mean(self) -> float:
        """Reward of always asking that model."""
        return max(self.model_means)

    @cached_property
    def oracle_mean(self) -> float:
        """Reward of asking the best model for every prompt: what no gate can beat."""
        return math.fsum(max(row) for row in self.rewards) / len(self.rewards)


def load_paretobandit() -> RewardTable:
    """The 3,609 prompts with 3 models that the PyPI package `paretobandit` carries (Apache-2.0).

    Raises:
        DataError: the package is not installed.
    """
    # Found, not imported: importing it brings scikit-learn and more.
    spec = find_spec("pareto_bandit")
    if spec is None or not spec.submodule_search_locations:
        raise DataError(
            "the demo's data comes with the package paretobandit, which is not installed; "
            "run `pip install 'tidegate[demo]'`, or give a file of your own with --data"
        )
    folder = Path(spec.submodule_search_locations[0]) / "data" / "examples"
    rows: list[tuple[Any, dict[Any, Any]]] = []
    for name in PARETOBANDIT_FILES:
        # By newline alone: the prompts hold other characters that str.splitlines would break at.
        for line in _read(folder / name).split("\n"):
            if line:
                row = json.loads(line)
                rows.append((row["prompt"], {model: arm["reward"] for model, arm in row["arms"].items()}))
    return _build_table(rows, source="paretobandit")


def load_table(path: str | Path) -> RewardTable:
    """Read `[{"question": str, "scores": {model: reward}}, ...]`; other fields are passed over.

    Models are told apart by name, and columns follow the order of the first row.

    Raises:
        DataError: no such file, not of this form, or rows that disagree on the models.
    """
    try:
        document = json.loads(_read(Path(path)))
    except json.JSONDecodeError as error:
        raise DataError(f"{path} is not JSON: {error}") from error
    if not isinstance(document, list) or not document:
        raise DataError(f"{path} holds no rows; expected a JSON list of {{question, scores: {{model: reward}}}}")
    rows = [_question_and_scores(row, f"{path} row {number}") for number, row in enumerate(document, start=1)]
    return _build_table(rows, source=str(path))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def _question_and_scores(row: Any, where: str) -> tuple[Any, dict[Any, Any]]:
    if not isinstance(row, dict):
        raise DataError(f"{where} is {row!r:.60}; expected an object with question and scores")
    scores = row.get("scores")
    if not isinstance(scores, dict) or not scores:
        raise DataError(f"{where}: scores is {scores!r:.60}; expected an object of model names and rewards")
    return row.get("question"), scores


def _build_table(rows: Sequence[tuple[Any, dict[Any, Any]]], *, source: str) -> RewardTable:
    models = tuple(rows[0][1])
    prompts, rewards = [], []
    for number, (prompt, scores) in enumerate(rows, start=1):
        where = f"{source} row {number}"
        prompts.append(_checked_prompt(prompt, where))
        if scores.keys() != set(models):
            differing = sorted(scores.keys() ^ set(models))
            raise DataError(f"{where}: scores has other models than row 1; they differ in {', '.join(differing)}")
        rewards.append(tuple(_checked_reward(scores[model], f"{where}: scores[{model!r}]") for model in models))
    return RewardTable(prompts, models, rewards)


def _checked_prompt(prompt: Any, where: str) -> str:
    if not isinstance(prompt, str) or not prompt.strip():
        raise DataError(f"{where}: question is {prompt!r:.60}; expected a text that is not empty")
    try:
        prompt.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{where}: question holds half a character that UTF-8 cannot carry: {error}") from error
    return prompt


def _checked_reward(reward: Any, where: str) -> float:
    # bool is an int to Python, but hardly a reward that somebody meant. NaN fails the comparison.
    if isinstance(reward, bool) or not isinstance(reward, int | float) or not 0 <= reward <= 1:
        raise DataError(f"{where} is {reward!r:.60}; expected a number in [0, 1]")
    return float(reward)
