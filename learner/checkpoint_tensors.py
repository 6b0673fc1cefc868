"""A learner's state as one safetensors file and back. Nothing in a file is trusted, and nothing is unpickled."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from .checkpoint_manifest import Manifest, held_from_ranges
from .errors import CheckpointCorruptError, CheckpointError
from .state import LearnerState, RuleIdentity, RuleState, Shadow, UidStatistics

_DTYPES = {torch.float16, torch.float32, torch.float64, torch.int32, torch.int64, torch.uint8, torch.bool}
_STATISTICS = {"selections": np.int64, "rewards": np.int64, "reward_sum": np.float64, "resets": np.int64}


def pack(state: LearnerState) -> bytes:
    """All tensors and counts of the state as a safetensors file.

    Raises:
        CheckpointError: a number is not finite, or the rows are not those of the view.
    """
    rules = {"": state.rule} | {f"{label}/": shadow.rule for label, shadow in state.shadows.items()}
    tensors: dict[str, Tensor] = {}
    for owner, rule in rules.items():
        tensors |= {f"{owner}rows.{name}": tensor for name, tensor in rule.rows.items()}
        tensors |= {f"{owner}shared.{name}": tensor for name, tensor in rule.shared.items()}
    for name in _STATISTICS:
        tensors[f"statistics.{name}"] = torch.from_numpy(getattr(state.statistics, name))
    wrong = _not_finite(tensors)
    if not all(math.isfinite(stake) for stake in state.view.stake):
        wrong.append("view.stake")
    if wrong:
        raise CheckpointError(f"{', '.join(wrong)} holds numbers that are not finite; such a state is not saved")
    for rule in rules.values():
        if misfit := _misfit(rule.rows, state.view.n):
            raise CheckpointError(f"{misfit}; such a state is not saved")
    # A copy each: safetensors takes neither strided tensors nor two that share memory.
    return save({name: _copied(tensor) for name, tensor in tensors.items()})


def unpack(content: bytes, manifest: Manifest) -> LearnerState:
    """The state that `pack` was given, with what the manifest says of it.

    Raises:
        CheckpointCorruptError: the file is no safetensors file, lacks something, or does not go with the manifest.
    """
    rules, statistics = _parts(content, manifest.shadows)
    for rule in rules.values():
        if misfit := _misfit(rule.rows, manifest.view.n):
            raise CheckpointCorruptError(misfit)
    state = LearnerState(
        view=manifest.view,
        rule=rules.pop(""),
        statistics=_statistics(statistics, manifest.view.n),
        tenures=manifest.tenures.restored(),
        version=manifest.version,
        frozen=manifest.frozen,
        held=held_from_ranges(manifest.held),
        identity=RuleIdentity(manifest.rule_label, manifest.rule, manifest.rule_since),
        served_since=manifest.served_since,
        shadows={
            label: Shadow(RuleIdentity(label, manifest.shadows[label].rule, manifest.shadows[label].since), rule)
            for label, rule in rules.items()
        },
        standings=dict(manifest.standings),
    )
    if state.digest() != manifest.digest:
        raise CheckpointCorruptError("the tensors were altered: their digest is not that of the manifest")
    return state


def _not_finite(tensors: dict[str, Tensor]) -> list[str]:
    return [name for name, tensor in tensors.items() if not bool(torch.isfinite(tensor).all())]


def _misfit(rows: dict[str, Tensor], n: int) -> str | None:
    """What is wrong with the shapes of the rows of `n` uids, if anything."""
    for name, tensor in rows.items():
        if tensor.ndim == 0 or len(tensor) != n:
            return f"rows.{name} has the shape {tuple(tensor.shape)} for {n} uids"
    return None


def _copied(tensor: Tensor) -> Tensor:
    return tensor.detach().clone(memory_format=torch.contiguous_format)


def _parts(content: bytes, shadows: Iterable[str]) -> tuple[dict[str, RuleState], dict[str, Tensor]]:
    """What each rule knows, the one that serves by "" and shadows by label, and the statistics."""
    try:
        tensors = load(content)
    except (SafetensorError, ValueError, KeyError) as error:
        raise CheckpointCorruptError(f"the tensors are no safetensors file: {error}") from error
    if wrong := _not_finite(tensors):
        raise CheckpointCorruptError(f"{', '.join(wrong)} holds numbers that are not finite")
    rules = {label: RuleState({}) for label in ("", *shadows)}
    statistics: dict[str, Tensor] = {}
    parts = {f"{label}/" if label else "": {"rows": rule.rows, "shared": rule.shared} for label, rule in rules.items()}
    parts[""]["statistics"] = statistics
    for name, tensor in tensors.items():
        part, _, rest = name.rpartition("/")[2].partition(".")
        owner = name[: -len(f"{part}.{rest}")]
        if part not in parts.get(owner, {}) or tensor.dtype not in _DTYPES:
            raise CheckpointCorruptError(f"the tensors hold {name!r} of {tensor.dtype}, which is no part of a state")
        # Memory of torch's own, aligned as it was when learned live: sums over unaligned rows may round otherwise.
        parts[owner][part][rest] = _copied(tensor)
    return rules, statistics


def _statistics(tensors: dict[str, Tensor], n: int) -> UidStatistics:
    counts: dict[str, Any] = {name: tensor.numpy() for name, tensor in tensors.items()}
    if counts.keys() != _STATISTICS.keys():
        raise CheckpointCorruptError(f"statistics are {sorted(_STATISTICS)}, got {sorted(counts)}")
    for name, array in counts.items():
        if array.shape != (n,) or array.dtype != _STATISTICS[name]:
            raise CheckpointCorruptError(f"statistics.{name} is {array.dtype} {array.shape} for {n} uids")
    return UidStatistics(**counts)
