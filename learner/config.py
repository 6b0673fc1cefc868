"""What can be set about learning. Every field has its range in the type and its meaning below it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator


class StrictModel(BaseModel):
    """Immutable, and refuses keys that it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


NewRow = Literal["pool", "xavier", "zeros"]


class RuleSettings(StrictModel):
    """What every rule has."""

    label: str | None = Field(default=None, pattern=r"^[A-Za-z0-9_.-]{1,64}$")
    """What to call it where several rules learn; by default its name. It changes nothing about what is learned."""
    new_row: NewRow = "pool"
    """How the row of a new owner starts: as the mean of the rows that have learned something (`pool`), at random
    (`xavier`), or knowing nothing (`zeros`)."""


class SoftmaxMseConfig(RuleSettings):
    """The seed's rule: MSE between softmaxed scores and softmaxed rewards, SGD with momentum."""

    name: Literal["softmax_mse"] = "softmax_mse"
    learning_rate: float = Field(default=0.01, gt=0)
    """Step size of SGD."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Share of the last step that the next one keeps."""


class AdagradConfig(RuleSettings):
    """A squared-loss regression a uid, with step sizes that adapt to the uid's own gradients (AdaGrad)."""

    name: Literal["adagrad"] = "adagrad"
    learning_rate: float = Field(default=0.2, gt=0)
    """Step size before adaptation."""
    initial_score: float = 0.5
    """The score of a uid of which nothing is known: the middle of the reward range is a fair guess."""
    bonus: float = Field(default=1.0, ge=0)
    """Exploration bonus of a uid with n rewards: bonus / sqrt(n + 20). Only `explore: true` adds it."""


class PooledRidgeConfig(RuleSettings):
    """A ridge regression a uid, shrunk toward one that is fitted to the rewards of all uids, with forgetting."""

    name: Literal["pooled_ridge"] = "pooled_ridge"
    dims: int = Field(default=63, ge=1, le=255)
    """How many of the main directions of the prompts' embeddings a uid's skills are learned along. Memory grows
    with its square and time with its cube; 63 and the constant make 64 inputs."""
    ridge: float = Field(default=20.0, ge=1, le=1e6)
    """How strongly a uid is taken to be like all others at first, in rewards: with about so many of its own, both
    count the same. From 256 rewards on it is learned how alike the uids are. `new_row` says what the regression of a
    new owner is drawn to in place of the pool's."""
    pool_ridge: float = Field(default=0.1, ge=0.01, le=1e6)
    """How strongly the regression of all uids together is drawn to zero, in rewards."""
    bonus: float = Field(default=1.5, ge=0, le=1e6)
    """Exploration bonus of a uid with n rewards, faded ones counted for what is left of them, in standard deviations of
    the rewards' noise (0.5 until it is learned): bonus / sqrt(n + 20). Only `explore: true` adds it."""
    optimism: float = Field(default=0.7, ge=0, le=1e6)
    """How much more than all uids together one that was tried is taken to be worth for kinds of prompts of which it has
    earned nothing yet, in standard deviations of what sets uids apart. It is part of the score, so that the right uid
    for each kind is found also where only one is asked. With N > 32 uids it is 32 / N of that."""
    memory_rewards: float = Field(default=2_000.0, ge=10, le=20_000)
    """What a uid earned is down to 1/e of its weight after so many later rewards of its own."""
    memory_rounds: float = Field(default=500.0, ge=10, le=1e6)
    """What any uid earned is down to 1/e of its weight after so many times N learned rewards of whichever uid."""


RuleConfig = Annotated[SoftmaxMseConfig | AdagradConfig | PooledRidgeConfig, Field(discriminator="name")]
"""A rule and its settings."""


def label_of(rule: RuleConfig) -> str:
    """What the rule is called."""
    return rule.label or rule.name


def settings_of(rule: RuleConfig) -> dict[str, Any]:
    """All that makes a difference to what is learned, as checkpoints and the log keep it."""
    return rule.model_dump(exclude={"label"})


class _Chain(StrictModel):
    """What every source has."""

    on_hotkey_swap: Literal["keep", "reset"] = "keep"
    """What becomes of the row of an owner that exchanges its own hotkey: it is kept or starts afresh."""


class RosterChain(_Chain):
    """A YAML file of experts."""

    source: Literal["roster"] = "roster"
    """`roster`: a YAML file of experts, read at the start and on request."""
    roster: str = Field("roster.yaml", min_length=1)
    """Path of the roster. A relative path is looked for in the working folder, then beside the packages."""
    netuid: int = Field(0, ge=0)
    """The network's number, shown in every answer; 0 for a roster."""

    @property
    def longest_read_s(self) -> float:
        """How long one read of the source may take."""
        return 0.0


class BittensorChain(_Chain):
    """A subnet of a Bittensor network, followed while the learner runs."""

    source: Literal["bittensor"]
    """`bittensor`: a subnet's metagraph, read from a node of its chain."""
    network: str = Field("finney", min_length=1)
    """`finney`, `test`, `local`, or the ws:// or wss:// endpoint of a node."""
    fallback_endpoints: tuple[str, ...] | None = None
    """Nodes of the same chain to turn to when the first one fails; by default the SDK's own for the network."""
    netuid: int = Field(ge=0, le=65_535)
    """The subnet's number."""
    resync_interval_blocks: int = Field(25, ge=1)
    """Read the metagraph again after this many blocks (of about 12 s)."""
    resync_interval_s: float | None = Field(None, gt=0)
    """Read it again after this long instead."""
    finalized: bool = True
    """Read at the last finalized block rather than at the newest one, which the chain may still take back."""
    call_timeout_s: float = Field(30.0, gt=0, le=600)
    """How long the node may take to connect, to tell a block and to tell the metagraph, each."""
    vpermit_tao_limit: float = Field(4096.0, ge=0)
    """A uid with a validator permit and more stake than this is a validator, and is not selected."""
    exclude: tuple[Annotated[int, Field(ge=0)], ...] = ()
    """Uids that are never selected."""

    @model_validator(mode="after")
    def _has_one_interval(self) -> BittensorChain:
        if self.resync_interval_s is not None and "resync_interval_blocks" in self.model_fields_set:
            raise ValueError("give either resync_interval_blocks or resync_interval_s")
        return self

    @property
    def longest_read_s(self) -> float:
        """How long one read of the source may take."""
        return 3 * self.call_timeout_s


def _source_of(chain: Any) -> Any:
    """A chain that names no source is a roster."""
    return chain.get("source", "roster") if isinstance(chain, dict) else getattr(chain, "source", None)


ChainConfig = Annotated[
    Annotated[RosterChain, Tag("roster")] | Annotated[BittensorChain, Tag("bittensor")], Discriminator(_source_of)
]
"""Where the network's uids come from."""


MEMORY_URL = "memory"
"""The URL of a log that lives as long as its process."""


class LogConfig(StrictModel):
    """Where decisions, rewards and everything else that changes weights is kept."""

    url: str = Field("sqlite:///tidegate-data/{app}/events.db", min_length=1)
    """`sqlite:///PATH` (relative) or `sqlite:////PATH`, `postgresql://USER@HOST/DATABASE`, or `memory`, which keeps
    nothing over a restart. `{app}` stands for the application's name. A password belongs into libpq's own places
    (PGPASSWORD, PGPASSFILE) on the learner's node."""
    retention_days: float = Field(30.0, gt=0)
    """Decisions and events are kept at least this long; afterwards they go once a checkpoint has them."""
    lease_s: float = Field(5.0, ge=0.5, le=600)
    """A learner that does not renew its claim on the log for so long may be replaced by another."""


class CheckpointConfig(StrictModel):
    """Where what has been learned is saved, so that a restart replays only the end of the log."""

    url: str = Field("tidegate-data/{app}/checkpoints", min_length=1)
    """A path, or any URL that fsspec knows (`file://`, `s3://`, `gs://`). `{app}` is the application's name."""
    interval_s: float = Field(60.0, gt=0)
    """Longest time between two checkpoints while something is learned."""
    interval_events: int = Field(20_000, ge=1)
    """Most events between two checkpoints: what a restart has to replay."""
    keep: int = Field(5, ge=1)
    """How many of the newest checkpoints are kept."""


class TrustConfig(StrictModel):
    """How far one author's rewards are believed, where at least `min_authors` report. Below that all of it is off."""

    enabled: bool = True
    """Off: every reward counts in full, whoever reports it, but for authors whom an operator distrusts."""
    min_authors: int = Field(3, ge=3, le=1000)
    """With fewer active authors nobody is throttled or quarantined: of two that disagree, who is right?"""
    window_s: float = Field(3600.0, ge=1, le=30 * 86_400)
    """What `recent` means here: what an author reported is down to 1/e after this long."""
    active_rewards: float = Field(20.0, ge=1, le=1e6)
    """An author with at least so many recent rewards is active."""
    max_row_share: float = Field(0.5, ge=0.34, lt=1)
    """One author's share of what has counted recently for a uid, at most; this and `max_stream_share` hold while at
    least `min_authors` active authors are not held."""
    max_stream_share: float = Field(0.9, ge=0.34, lt=1)
    """One author's share of all that has counted recently, at most."""
    free_rewards: float = Field(50.0, ge=1, le=1e6)
    """So many recent rewards of an author count for each uid whatever its share, and so many times as many uids as it
    reports on in all: somebody has to be the first."""
    clip: float = Field(5.0, ge=1, le=100)
    """A reward further than so many standard deviations from what was expected counts less, in proportion."""
    memory_events: float = Field(300.0, ge=20, le=100_000)
    """How an author agrees is judged by about so many of its last reports."""
    min_events: int = Field(20, ge=10, le=100_000)
    """No author is quarantined on fewer reports."""
    quarantine_at: float = Field(3.0, ge=2, le=20)
    """An author is quarantined once its reports contradict what was expected by so many standard deviations, while
    those of the others agree by as many. Its reports count less from the first on that makes it likelier to contradict
    than to agree as the others do."""
    release_at: float = Field(2.0, ge=0, le=20)
    """A quarantined author is released once its reports agree again by so many standard deviations."""


class LoggingConfig(StrictModel):
    """What is written to the log, of which each process has a file of its own, and how."""

    format: Literal["json", "text"] = "json"
    """`json`: an object a line; `text`: for people."""
    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """What is less important is not written. Warnings and errors go to standard error as well."""
    requests: bool = False
    """A line for every request: its id, route, status, how long it took, how many texts, its decisions."""
    log_prompts: bool = False
    """The texts of each request in its line, and what unexpected errors say, which may quote them."""
    folder: str | None = Field(None, pattern=r"^[/~]")
    """Absolute path of a folder on every node; null: `tidegate` in the logs of the Ray session."""

    @model_validator(mode="after")
    def _prompts_need_lines(self) -> LoggingConfig:
        if self.log_prompts and not self.requests:
            raise ValueError("log_prompts puts texts into the lines of requests; set requests: true as well")
        return self


_GREATEST_REWARD = 1e6
"""Sums of squares of greater ones would leave float32."""


class LearnerConfig(StrictModel):
    """How rewards are taken, learned, kept and published."""

    rule: RuleConfig = PooledRidgeConfig()
    """The learning rule and its settings."""
    shadow: tuple[RuleConfig, ...] = ()
    """Further rules, which learn from the same rewards without serving anybody; `tidegate promote` lets one serve."""
    compare_interval_s: float = Field(5.0, gt=0)
    """How often what was rewarded meanwhile is judged: `baselines` in `/v1/state` and, with shadows, the rules."""
    log: LogConfig = LogConfig()
    """The event log."""
    checkpoints: CheckpointConfig = CheckpointConfig()
    """Saved states. Not used with a log in memory."""
    trust: TrustConfig = TrustConfig()
    """How far each author's rewards are believed."""
    publish_interval_ms: float = Field(50.0, ge=1, le=60_000)
    """Least time between two published versions."""
    batch_rewards: int = Field(2048, ge=1, le=65_536)
    """Most reward events learned in one step; what is logged together is learned together."""
    reward_range: tuple[float, float] = (0.0, 1.0)
    """Least and greatest reward that is accepted."""
    reward_window_s: float = Field(600.0, gt=0)
    """How long after a decision its rewards are learned; later ones are logged as `late`."""
    default_reward: float | None = None
    """What a chosen uid is taken to have earned when no reward came within the window; null: nothing is learned."""
    decision_wait_s: float = Field(1.0, ge=0, le=60)
    """How long a reward waits for its decision to arrive from a live replica."""
    heartbeat_s: float = Field(2.0, gt=0, le=60)
    """Replicas hear from the learner at least this often, also when nothing changed."""
    idle_exit_s: float = Field(120.0, gt=0)
    """The learner exits after this long without a subscriber."""
    seed: int = Field(0, ge=0, lt=2**32)
    """Seed of fresh rows."""

    @model_validator(mode="after")
    def _rules_can_be_told_apart(self) -> LearnerConfig:
        rules = (self.rule, *self.shadow)
        for what, names in (("label", list(map(label_of, rules))), ("setting", list(map(settings_of, rules)))):
            twice = next((name for place, name in enumerate(names) if name in names[:place]), None)
            if twice is not None:
                raise ValueError(
                    f"two rules have the same {what}s: {twice}; give each a `label` and settings of its own"
                )
        return self

    @model_validator(mode="after")
    def _range_is_ordered(self) -> LearnerConfig:
        low, high = self.reward_range
        if not low < high:
            raise ValueError(f"reward_range must go from a smaller to a greater number, got [{low}, {high}]")
        if max(abs(low), abs(high)) > _GREATEST_REWARD:
            raise ValueError(f"reward_range must lie within {_GREATEST_REWARD:g} of 0, got [{low:g}, {high:g}]")
        if self.default_reward is not None and not low <= self.default_reward <= high:
            raise ValueError(f"default_reward {self.default_reward:g} lies outside reward_range [{low:g}, {high:g}]")
        return self
