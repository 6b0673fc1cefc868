"""RemoteGatingModel: the validators' gating model, whose head and learning are a running Tidegate's.

A validator that was written for `GatingModel` changes one line:

    model = RemoteGatingModel(metagraph, config)  # config.gating.url, by default http://127.0.0.1:8000

`forward` asks the service for scores and `backward` sends it the rewards. Which uids were queried, `backward` is not
told: it gets `scores[uids]`. It reads them off autograd's graph, which leads from there back to what `forward` gave:
marks 1, 2, ... k that are sent back along it arrive at the uids that were picked.
"""

from __future__ import annotations

import argparse
import logging
import uuid
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import Parameter
from torch.nn.functional import mse_loss, softmax

from gating.config import read_setting
from gating.metagraph import plan_resync
from gating.models import BaseGatingModel, owners_of

from .client import GateClient, ProblemError, Reward
from .client.dense import DenseScores
from .client.exchange import check_address

logger = logging.getLogger(__name__)

DEFAULT_URL = "http://127.0.0.1:8000"
FORBIDDEN = 403


class RemoteGatingModel(BaseGatingModel):
    """Scores uids, learns and follows the network by asking a running Tidegate.

    Encoder, rule and learning rate are the service's. It has no parameters, so `state_dict()` is empty.

    Args:
        metagraph: taken as other gating models take it; the service knows its network by itself.
        config: `config.gating.url` says where the service listens; what else it holds is not used.
        client: asks the service, with a key or a wallet where it wants one; wins over the config.

    Raises:
        ValueError: the URL is none.
    """

    def __init__(self, metagraph: Any = None, config: Any = None, *, client: GateClient | None = None) -> None:
        super().__init__()
        self.client = GateClient(_url(config)) if client is None else client
        self._min_version = 0
        self._epoch = 0
        self._network_changes = 0

    @classmethod
    def add_args(cls, parser: argparse.ArgumentParser) -> None:
        """Add the flags of all gating models, and `--gating.url`."""
        super().add_args(parser)
        parser.add_argument("--gating.url", type=str, default=DEFAULT_URL, help="Where Tidegate listens.")

    @classmethod
    def config(cls, argv: Sequence[str] | None = None) -> SimpleNamespace:
        """A config read as `config.gating.url`: from flags, or the defaults (`sys.argv` is not read)."""
        parser = argparse.ArgumentParser(allow_abbrev=False)
        cls.add_args(parser)
        flags = vars(parser.parse_args([] if argv is None else list(argv)))
        return SimpleNamespace(
            gating=SimpleNamespace(**{name.removeprefix("gating."): value for name, value in flags.items()})
        )

    @classmethod
    def check_config(cls, config: Any) -> None:
        """Refuse settings out of range.

        Raises:
            ValueError: names the flag, the value and what is allowed.
        """
        super().check_config(config)
        _url(config)

    def forward(self, message: str) -> Float[Tensor, " uid"]:
        """The score of every uid for a message, by weights that know every reward that this model has sent.

        Raises:
            GateError: the service gave no scores.
        """
        answer = self._score(message)
        given = GivenScores(torch.from_numpy(answer.scores[0]))
        given.message, given.reward_id, given.network_changes = message, uuid.uuid4().hex, self._network_changes
        # A copy, as callers may write into what they get (-inf for those who are away, say).
        return given.clone()

    def backward(self, scores: Tensor, rewards: Tensor) -> Tensor:
        """Have the service learn; returns when the rewards are in its log, and the next `forward` knows them.

        If it raises, it may be called again: a reward is counted once for each forward and uid.

        Args:
            scores: [k] picked from what `forward` gave: `model(message)[uids]`, in any order, each uid once.
            rewards: [k] rewards of the same uids, in the service's `reward_range`.

        Returns:
            mse(softmax(scores), softmax(rewards)), the loss of the validators' rule; the service's rule may go by
            another.

        Raises:
            ValueError: shapes differ or are empty, a number is not finite or out of range, or `scores` are not such a
                pick. Nothing has changed then.
            GateError: the service did not take the rewards.
        """
        rewards = torch.as_tensor(rewards).detach().to(scores)
        if scores.ndim != 1 or scores.shape != rewards.shape or not len(scores):
            raise ValueError(
                f"scores has shape {list(scores.shape)} and rewards {list(rewards.shape)}; "
                "give one score and one reward per uid, [k] each, for at least one uid"
            )
        given = find_given(scores)
        if given.network_changes != self._network_changes:
            raise ValueError("scores are from before a resync that changed rows; score the message again")
        reward = Reward(
            find_uids(given, scores).tolist(), rewards.tolist(), reward_id=given.reward_id, message=given.message
        )
        self._send(reward)
        return mse_loss(softmax(scores.detach(), dim=0), softmax(rewards, dim=0))

    def resync(self, previous_metagraph: Any, metagraph: Any) -> None:
        """Have the service read its network now, if a uid changed owner, is new or is gone.

        That takes the scope `admin`. A caller without it is told so in the log and goes on: a service that follows a
        subnet comes to the change by itself.

        Args:
            previous_metagraph: the network that was followed so far.
            metagraph: the network now, as `GatingModel.resync` takes it.

        Raises:
            GateError: the service could not read its network.
        """
        if not plan_resync(owners_of(previous_metagraph), owners_of(metagraph)).changes_rows:
            return
        self._network_changes += 1
        try:
            summary = self.client.resync()
        except ProblemError as error:
            if error.status != FORBIDDEN:
                raise
            logger.warning("resync_not_allowed detail=%s", error.detail)
            return
        self._min_version = max(self._min_version, int(summary["seq"]))

    def _score(self, message: str) -> DenseScores:
        try:
            answer = self.client.score_dense([message], min_version=self._min_version or None)
        except ProblemError as error:
            if error.code != "version_pending":
                raise
            # A learner whose log was in memory has begun anew, and counts from 0.
            answer = self.client.score_dense([message])
            if answer.weights.epoch <= self._epoch:
                raise
            logger.warning("service_began_anew version=%d expected=%d", answer.weights.version, self._min_version)
            self._min_version = 0
        self._epoch = max(self._epoch, answer.weights.epoch)
        return answer

    def _send(self, reward: Reward) -> None:
        report = self.client.report([reward])
        for rejected in report.rejected:
            if rejected.uid is None:
                raise ValueError(f"the service refused the rewards ({rejected.code}): {rejected.detail}")
            logger.warning("reward_rejected uid=%d code=%s detail=%s", rejected.uid, rejected.code, rejected.detail)
        if report.version is not None:
            self._min_version = max(self._min_version, report.version)


class GivenScores(Parameter):
    """All scores that the service gave for a message: where the graph of whatever is picked from them begins.

    Attributes:
        message: what they answer.
        reward_id: under which their rewards are reported, so that each counts once.
        network_changes: how many changes of the network there had been.
    """

    message: str
    reward_id: str
    network_changes: int


def find_given(scores: Tensor) -> GivenScores:
    """The scores from which these were computed.

    Raises:
        ValueError: there are none, or those of several messages.
    """
    found = {id(leaf): leaf for leaf in _leaves(scores) if isinstance(leaf, GivenScores)}
    if not found:
        raise ValueError(
            "scores have no gradient to what a RemoteGatingModel gave (they were computed under no_grad, detached, "
            "or are another model's); score the message again"
        )
    if len(found) > 1:
        raise ValueError(f"scores come from {len(found)} messages; call backward once for each")
    return next(iter(found.values()))


def find_uids(given: GivenScores, scores: Float[Tensor, " k"]) -> Int[Tensor, " k"]:
    """The uid of each score.

    Raises:
        ValueError: they are not the given scores of distinct uids, as they were given.
    """
    marks = torch.arange(1, len(scores) + 1, dtype=scores.dtype, device=scores.device)
    # The graph stays, so that a report that failed can be made again.
    (arrived,) = torch.autograd.grad(scores, given, grad_outputs=marks, retain_graph=True)
    picked = arrived.nonzero().flatten()
    order = arrived[picked].argsort()
    uids = picked[order]
    is_pick = torch.equal(arrived[uids], marks.to(arrived))
    if not is_pick or not torch.equal(given.detach()[uids].to(scores), scores.detach()):
        raise ValueError(
            f"the {len(scores)} scores are not those that forward gave for {len(scores)} different uids: they were "
            "changed or combined, or a uid is there twice; give model(message)[uids]"
        )
    return uids


def _leaves(scores: Tensor) -> Iterator[Tensor]:
    """Every leaf of the graph that a tensor was computed by."""
    if scores.requires_grad and scores.grad_fn is None:
        yield scores
    waiting, seen = [scores.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            yield node.variable
        waiting += [before for before, _ in node.next_functions]


def _url(config: Any) -> str:
    return check_address(read_setting(config, "gating", "url") or DEFAULT_URL)
