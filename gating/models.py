"""The gating models of the text-prompting validators: a frozen encoder under a head with one row a uid.

They keep the seed's interface and formulas. The service does not use them: it learns and serves through the
parts that they are made of.
"""

from __future__ import annotations

import argparse
import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import Parameter
from torch.nn.functional import mse_loss, softmax

from gating import config as settings
from gating.encoders import Encoder, build_encoder
from gating.head import remap_rows, score, xavier_rows
from gating.metagraph import MetagraphView, plan_resync
from gating.pooling import mean_pooling

logger = logging.getLogger(__name__)


class BaseGatingModel(torch.nn.Module, ABC):
    """Scores the uids of a network for a message, learns from their rewards, follows the network."""

    @classmethod
    def add_args(cls, parser: argparse.ArgumentParser) -> None:
        """Add the flags `--gating.model_name`, `--gating.num_uids`, ... to a parser."""
        settings.add_args(parser)

    @classmethod
    def config(cls, argv: Sequence[str] | None = None) -> SimpleNamespace:
        """A config read as `config.gating.model_name`: from flags, or the defaults (`sys.argv` is not read)."""
        return settings.parse_config(argv)

    @classmethod
    def check_config(cls, config: Any) -> None:
        """Refuse settings out of range.

        Raises:
            ValueError: names the flag, the value and what is allowed.
        """
        settings.check_config(config)

    @abstractmethod
    def forward(self, message: str) -> Float[Tensor, " uid"]:
        """The score of every uid for a message."""

    @abstractmethod
    def backward(self, scores: Tensor, rewards: Tensor) -> Tensor:
        """Learn from the rewards of some uids; returns the loss."""

    @abstractmethod
    def resync(self, previous_metagraph: Any, metagraph: Any) -> None:
        """Follow the network from one state to the next."""


class _EncoderGatingModel(BaseGatingModel):
    """What both models share; they differ in how the encoder makes one vector of a message.

    Attributes:
        config: `config.gating` is the resolved `GatingConfig`.
        encoder: frozen; no part of `parameters()` and `state_dict()`.
        linear: the head, fp32, `num_uids` rows.
        optimizer: SGD over the head's parameters.
        num_uids: rows of the head.
        device: where encoder and head are.
    """

    encoder_kind: ClassVar[Literal["sentence", "causal"]]
    mean_pooling = staticmethod(mean_pooling)

    def __init__(
        self, metagraph: Any, config: Any = None, model_name: str | None = None, num_uids: int | None = None
    ) -> None:
        """Load the encoder and start a head.

        Args:
            metagraph: the network at the start (anything `resync` takes), or None. It decides nothing yet, as
                rows follow `num_uids`; a warning says if it has more uids.
            config: settings (see `gating.config.read_config`); without it the defaults. Not changed.
            model_name: the encoder; wins over the config.
            num_uids: rows of the head; wins over the config.

        Raises:
            ValueError: a setting is out of range, or the metagraph has no clear owner for each uid.
            ModelNotFoundError: the encoder cannot be loaded; says what was tried.
        """
        super().__init__()
        given = {"model_name": model_name, "num_uids": num_uids}
        values = settings.read_config(self.__class__.config() if config is None else config).model_dump()
        gating = settings.build_config(values | {name: value for name, value in given.items() if value is not None})
        network_size = 0 if metagraph is None else owners_of(metagraph).n
        if network_size > gating.num_uids:
            logger.warning("head_too_small uids=%d num_uids=%d", network_size, gating.num_uids)

        # As in the seed, what a model was built from hides the class's `config()`.
        self.config = SimpleNamespace(gating=gating)  # type: ignore[assignment, method-assign]
        self.num_uids = gating.num_uids
        self.encoder: Encoder = build_encoder(
            self.encoder_kind, gating.model_name, device=gating.device, dtype=gating.dtype
        )
        self.device = self.encoder.device
        self.linear = torch.nn.Linear(self.encoder.dim, self.num_uids, device=self.device)
        self.optimizer = torch.optim.SGD(self.linear.parameters(), lr=gating.learning_rate, momentum=gating.momentum)

    def forward(self, message: str) -> Float[Tensor, " uid"]:
        """The score of every uid for a message, with gradient to the head."""
        return self.forward_batch([message])[0]

    def forward_batch(self, messages: Sequence[str]) -> Float[Tensor, "batch uid"]:
        """The scores of every uid for each message: the numbers that `forward` gives for one at a time."""
        embeddings = self.encoder.encode(messages).to(self.linear.weight.device)
        return score(embeddings, self.linear.weight, self.linear.bias)

    def backward(self, scores: Tensor, rewards: Tensor) -> Tensor:
        """One SGD step on mse(softmax(scores), softmax(rewards)), from this call's gradient alone.

        Args:
            scores: [k] scores by this model, of all uids or of some (`model(message)[uids]`).
            rewards: [k] rewards of the same uids, finite.

        Returns:
            The loss before the step, without gradient.

        Raises:
            ValueError: shapes differ or are empty, a number is not finite, or the scores are not those of the
                head as it is now. Nothing has changed then.
        """
        rewards = torch.as_tensor(rewards).detach().to(scores)
        if scores.ndim != 1 or scores.shape != rewards.shape or not len(scores):
            raise ValueError(
                f"scores has shape {list(scores.shape)} and rewards {list(rewards.shape)}; "
                "give one score and one reward per uid, [k] each, for at least one uid"
            )
        if not (torch.isfinite(scores).all() and torch.isfinite(rewards).all()):
            raise ValueError("scores or rewards hold NaN or infinity; give finite numbers")
        loss = mse_loss(softmax(scores, dim=0), softmax(rewards, dim=0))
        gradients = self._gradients(loss)
        for parameter, gradient in zip(self.linear.parameters(), gradients, strict=True):
            parameter.grad = gradient
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.detach()

    def resync(self, previous_metagraph: Any, metagraph: Any) -> None:
        """Reset the rows of uids that changed owner, are new or are gone; add rows if the network outgrew the head.

        A reset row has a Xavier-uniform weight, a zero bias and no momentum. All other rows keep theirs to the
        bit; the head never loses rows. Scores from before a resync that changed rows cannot be learned from
        any more, as they may be a former owner's.

        Args:
            previous_metagraph: the network that the head follows so far.
            metagraph: the network now; like the previous one a `MetagraphView`, or an object with `hotkeys`,
                and with `uids` unless the hotkeys are in uid order.

        Raises:
            ValueError: a uid is negative or repeated, or there is not one hotkey per uid.
        """
        source = self._row_sources(owners_of(previous_metagraph), owners_of(metagraph))
        if source == list(range(self.num_uids)):
            return
        reset = source.count(-1)
        weight = xavier_rows(reset, self.linear.in_features)
        self.linear.weight = self._remap(self.linear.weight, source, weight)
        self.linear.bias = self._remap(self.linear.bias, source, torch.zeros(reset))
        logger.info("resync reset=%d rows=%d added=%d", reset, len(source), len(source) - self.num_uids)
        self.num_uids = self.linear.out_features = len(source)

    def _gradients(self, loss: Tensor) -> list[Tensor]:
        """The loss's gradient in each parameter of the head; what their `.grad` holds does not count.

        The graph is kept, as the validators' models keep it: scores of one forward may be learned from in parts.
        """
        gradients: Sequence[Tensor | None] = [None]
        if loss.requires_grad:
            gradients = torch.autograd.grad(loss, list(self.linear.parameters()), allow_unused=True, retain_graph=True)
        present = [gradient for gradient in gradients if gradient is not None]
        if len(present) < len(gradients):
            raise ValueError(
                "scores have no gradient to the head as it is now (they were computed under no_grad, detached, or "
                "are from before a resync that changed rows); score the message again"
            )
        return present

    def _row_sources(self, previous: MetagraphView, current: MetagraphView) -> list[int]:
        """For each row after a resync the row it is now, or -1 for a fresh one."""
        plan = plan_resync(previous, current)
        beyond = range(current.n, max(current.n, self.num_uids))
        sources = [*plan.source, *(-1 if uid in plan.removed else uid for uid in beyond)]
        return [row if row < self.num_uids else -1 for row in sources]

    def _remap(self, parameter: Tensor, source: list[int], fresh: Tensor) -> Parameter:
        """A parameter with remapped rows that takes the old one's place, momentum included, in the optimizer."""
        remapped = Parameter(remap_rows(parameter.detach(), source, fresh))
        for group in self.optimizer.param_groups:
            group["params"] = [remapped if known is parameter else known for known in group["params"]]
        momentum = self.optimizer.state.pop(parameter, {}).get("momentum_buffer")
        if momentum is not None:
            self.optimizer.state[remapped]["momentum_buffer"] = remap_rows(momentum, source, torch.zeros_like(fresh))
        return remapped


class GatingModel(_EncoderGatingModel):
    """Scores from a causal language model's state of the message's last token."""

    encoder_kind = "causal"


class SentenceEmbedGatingModel(_EncoderGatingModel):
    """Scores from a sentence encoder's mean-pooled embedding of the message."""

    encoder_kind = "sentence"


def owners_of(metagraph: Any) -> MetagraphView:
    """Who holds which uid. Of an SDK's metagraph the hotkey alone tells owners apart, as in the seed."""
    if isinstance(metagraph, MetagraphView):
        return metagraph
    return MetagraphView.from_hotkeys(MetagraphView.from_metagraph(metagraph).hotkeys)
