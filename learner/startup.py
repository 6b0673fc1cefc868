"""From settings to a learner that knows all that is in its log, in the network of now."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import gating
from gating.message import message
from gating.policies import Policy, TailExploration

from .chain import build_source
from .checkpoint import Expected
from .config import ChainConfig, LearnerConfig, LoggingConfig, settings_of
from .core import Learner
from .errors import ChainError, ConfigMismatchError, EncoderMismatchError, RosterError, StaleViewError
from .event_log import Genesis
from .follower import ChainFollower, build_schedule
from .log_check import log_url
from .restore import Restorer
from .rules import build_rule
from .storage import Storage
from .tracing import Tracer

logger = logging.getLogger(__name__)

_FIRST_VIEW_PATIENCE_S = 30.0
_NEXT_VIEW_PATIENCE_S = 2.0


@message
class Terms:
    """What a replica and the learner that it uses must agree on. All else takes effect when the learner is handed over.

    Attributes:
        fingerprint: the encoder's.
        log_url: where the learner's log is.
        network: which one the uids are of.
    """

    fingerprint: str
    log_url: str
    network: str


@dataclass(frozen=True, slots=True)
class LearnerArgs:
    """Everything that a learner is created from."""

    app: str
    chain: ChainConfig
    config: LearnerConfig
    dim: int
    fingerprint: str
    policy: Policy = field(default_factory=TailExploration)
    """How replicas choose by the scores. The learner only compares rules by it, so it may differ."""
    logging: LoggingConfig = field(default_factory=LoggingConfig)
    """What it writes to its log. Whoever creates the learner decides; it may differ."""
    tracing: Callable[[str], Tracer] | None = None
    """Makes the tracer of an application's learner; None: it is not traced. As with `logging`."""

    @property
    def terms(self) -> Terms:
        """What a learner of these must have in common with whoever uses it."""
        network = f"{self.chain.source} {self.chain.netuid}"
        return Terms(self.fingerprint, log_url(self.config, self.app), network)

    def digest(self) -> str:
        """What tells this learner from one with other settings or of other code, in hex."""
        digest = hashlib.sha256(code_digest().encode())
        for part in (self.app, self.chain.model_dump_json(), self.config.model_dump_json(), repr(self.policy)):
            digest.update(f"{part}\n{self.dim}\n{self.fingerprint}\n".encode())
        return digest.hexdigest()[:16]


def check_terms(args: LearnerArgs, terms: Terms) -> None:
    """Whether who has these terms can use a learner of those settings.

    Raises:
        EncoderMismatchError, ConfigMismatchError: it cannot; the message says what to do.
    """
    mine = args.terms
    if terms.fingerprint != mine.fingerprint:
        raise EncoderMismatchError(
            f"the learner of application {args.app!r} learns for encoder {mine.fingerprint[:12]}, the replica has "
            f"{terms.fingerprint[:12]}; deploy another encoder as another application"
        )
    for what in ("log_url", "network"):
        has, wants = getattr(mine, what), getattr(terms, what)
        if has != wants:
            raise ConfigMismatchError(
                f"the learner of application {args.app!r} has the {what} {has!r}, the replica {wants!r}; that cannot "
                "be handed over: stop the learner with `tidegate down`, or deploy this as another application"
            )


@cache
def code_digest() -> str:
    """SHA-256 in hex of the code that a learner runs: the packages `gating` and `learner` as they are on the disk."""
    digest = hashlib.sha256()
    for folder in (Path(str(gating.__file__)).parent, Path(__file__).parent):
        for path in sorted(folder.rglob("*.py")):
            digest.update(f"{path.relative_to(folder)}\n".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()


def start_learner(
    args: LearnerArgs, storage: Storage, clock: Callable[[], float], *, on_crash: Callable[[], None]
) -> tuple[Learner, ChainFollower]:
    """The learner, up to the end of its log, and what follows the network for it.

    The network is read before anything is learned; one that was read before will do while it cannot be read now.

    Raises:
        RuleMismatchError: the rule that serves in the log is not among the configured ones.
        LearnerError: the state cannot be restored, or there is no network to start from.
    """
    log, rule = storage.log, build_rule(args.config.rule)
    used = log.genesis
    restorer = Restorer(log, rule, _expected(args, log.id), storage.checkpoints)
    started_s = time.monotonic()
    restored = restorer.newest() if used is not None else None
    source = build_source(args.chain, after_block=restored.state.view.block if restored else 0)
    follower = ChainFollower(source, build_schedule(args.chain), on_crash=on_crash)
    if restored is None:
        view = follower.first_view(_FIRST_VIEW_PATIENCE_S)
        log.begin(Genesis(view, args.config.seed, settings_of(args.config.rule)))
        restored = restorer.newest()
    took_s = time.monotonic() - started_s
    logger.info("restored version=%d epoch=%d took_s=%.3f", restored.state.version, log.epoch, took_s)
    learner = Learner(
        config=args.config,
        restored=restored,
        restorer=restorer,
        dim=args.dim,
        fingerprint=args.fingerprint,
        log=log,
        clock=clock,
        on_hotkey_swap=args.chain.on_hotkey_swap,
        policy=args.policy,
    )
    if used is not None:
        _follow_on(learner, follower)
    learner.take_configured_shadows()
    return learner, follower


def _expected(args: LearnerArgs, log_id: str) -> Expected:
    return Expected(
        application=args.app,
        log_id=log_id,
        rule=settings_of(args.config.rule),
        fingerprint=args.fingerprint,
        dim=args.dim,
        shadows=tuple(map(settings_of, args.config.shadow)),
    )


def _follow_on(learner: Learner, follower: ChainFollower) -> None:
    """Read the network anew; the view in the log stays in use if that cannot be had."""
    try:
        learner.resync(follower.first_view(_NEXT_VIEW_PATIENCE_S))
    except (ChainError, StaleViewError, RosterError) as error:
        logger.error("started_with_logged_view block=%d error=%s", learner.view.block, error)
