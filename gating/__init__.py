"""What a gate computes: text -> embedding -> a score per uid, and the models that learn it.

Pure torch and numpy: no Ray, no bittensor, no state of its own.
"""

from gating.config import GatingConfig, add_args, check_config, read_config
from gating.encoders import Encoder, TokenizedText, build_encoder, resolve_device, resolve_dtype
from gating.errors import ConfigError, GatingError, ModelNotFoundError
from gating.head import remap_rows, score, xavier_rows
from gating.metagraph import NO_HOTKEY, MetagraphView, ResyncPlan, plan_resync
from gating.models import BaseGatingModel, GatingModel, SentenceEmbedGatingModel
from gating.packing import plan_batches
from gating.pooling import last_token, mean_pooling

__all__ = [
    "NO_HOTKEY",
    "BaseGatingModel",
    "ConfigError",
    "Encoder",
    "GatingConfig",
    "GatingError",
    "GatingModel",
    "MetagraphView",
    "ModelNotFoundError",
    "ResyncPlan",
    "SentenceEmbedGatingModel",
    "TokenizedText",
    "add_args",
    "build_encoder",
    "check_config",
    "last_token",
    "mean_pooling",
    "plan_batches",
    "plan_resync",
    "read_config",
    "remap_rows",
    "resolve_device",
    "resolve_dtype",
    "score",
    "xavier_rows",
]
