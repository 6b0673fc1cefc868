"""Settings of a gating model, and the dotted command-line flags that older validators read them from."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gating.errors import ConfigError


class GatingConfig(BaseModel):
    """Settings of a gating model. Values are not converted: "5" or True is no number here."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True, protected_namespaces=()
    )

    model_name: str = Field("EleutherAI/gpt-neo-125m", min_length=1)
    """The encoder: a Hugging Face name, a local folder, or `package:NAME` for weights inside a Python package."""

    num_uids: int = Field(4096, ge=1)
    """Rows of the head, one a uid; at least 1."""

    learning_rate: float = Field(0.01, gt=0, allow_inf_nan=False)
    """Step size of SGD on the head; above 0."""

    momentum: float = Field(0.9, ge=0, lt=1, allow_inf_nan=False)
    """Momentum of SGD on the head; at least 0 and below 1."""

    device: str = Field("auto", min_length=1)
    """Where to compute: "auto" (an accelerator if there is one), "cpu", "cuda", "cuda:1", ..."""

    dtype: Literal["fp32", "bf16", "fp16", "auto"] = "fp32"
    """Precision of the encoder's weights; "auto" is bf16 where the processor has it. The head is always fp32."""


_ALLOWED = {
    "model_name": "a name that is not empty",
    "num_uids": "an integer, at least 1",
    "learning_rate": "a finite number above 0",
    "momentum": "a number, at least 0 and below 1",
    "device": '"auto" or the name of a torch device',
    "dtype": '"fp32", "bf16", "fp16" or "auto"',
}
_OPTIONAL = frozenset({"device", "dtype"})


def add_args(parser: argparse.ArgumentParser) -> None:
    """Add the flags `--gating.model_name`, `--gating.num_uids`, ... with their defaults to a parser."""
    for name, field in GatingConfig.model_fields.items():
        kind = type(field.default)
        parser.add_argument(f"--gating.{name}", type=kind, default=field.default, help=field.description)


def parse_config(argv: Sequence[str] | None = None) -> SimpleNamespace:
    """A config to be read, and changed, as `config.gating.model_name`.

    Args:
        argv: flags; without them every setting has its default (`sys.argv` is not read).
    """
    parser = argparse.ArgumentParser(allow_abbrev=False)
    add_args(parser)
    flags = vars(parser.parse_args([] if argv is None else list(argv)))
    return SimpleNamespace(gating=SimpleNamespace(**{name: flags[f"gating.{name}"] for name in _ALLOWED}))


def check_config(config: Any) -> None:
    """Refuse settings that no gating model can have.

    Raises:
        ConfigError: names the flag, the value and what is allowed.
    """
    read_config(config)


def read_config(config: Any) -> GatingConfig:
    """The settings that an object holds; the object is left as it is.

    Args:
        config: a `GatingConfig`; or any object with a `gating` attribute that has the settings as attributes
            (`bt.Config`, nested namespaces); or argparse's own namespace, whose attributes have dotted names.
            Without a gating device, `neuron.device` counts. Attributes of other parts are ignored.

    Raises:
        ConfigError: names the flag, the value and what is allowed.
    """
    if isinstance(config, GatingConfig):
        return config
    values = {name: read_setting(config, "gating", name) for name in _ALLOWED}
    if values["device"] is None:
        values["device"] = read_setting(config, "neuron", "device")
    missing = [name for name, value in values.items() if value is None and name not in _OPTIONAL]
    if missing:
        raise ConfigError(
            f"--gating.{missing[0]} is missing from the config; build one with GatingModel.config(), "
            f"or give it a `gating` attribute that has {', '.join(missing)}"
        )
    return build_config({name: value for name, value in values.items() if value is not None})


def build_config(values: Mapping[str, Any]) -> GatingConfig:
    """Settings from values by name.

    Raises:
        ConfigError: names the flag, the value and what is allowed.
    """
    try:
        return GatingConfig(**values)
    except ValidationError as error:
        name = str(error.errors()[0]["loc"][0])
        raise ConfigError(
            f"--gating.{name} is {values[name]!r}; give {_ALLOWED.get(name, 'only settings that exist')}"
        ) from error


def read_setting(config: Any, part: str, name: str) -> Any:
    """`config.part.name`, or the attribute "part.name", or None, which bt.Config answers too."""
    value = getattr(getattr(config, part, None), name, None)
    return getattr(config, f"{part}.{name}", None) if value is None else value
