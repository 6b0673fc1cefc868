"""What a gate computes: text -> embedding -> a score per uid, and the models that learn it.

Pure torch and numpy: no Ray, no bittensor, no state of its own.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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

_MODULES = {
    "config": ("GatingConfig", "add_args", "check_config", "read_config"),
    "encoders": ("Encoder", "TokenizedText", "build_encoder", "resolve_device", "resolve_dtype"),
    "errors": ("ConfigError", "GatingError", "ModelNotFoundError"),
    "head": ("remap_rows", "score", "xavier_rows"),
    "metagraph": ("NO_HOTKEY", "MetagraphView", "ResyncPlan", "plan_resync"),
    "models": ("BaseGatingModel", "GatingModel", "SentenceEmbedGatingModel"),
    "packing": ("plan_batches",),
    "pooling": ("last_token", "mean_pooling"),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import a name's module when the name is first asked for.

    So that who needs none of it, as a process that only reads a configuration, does not pay for torch.
    """
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
