"""API keys: making one, and finding the callers' hashes in the settings, a file or the environment."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml
from pydantic import TypeAdapter, ValidationError

from .config import ApiKeyAuthArgs, ApiKeyEntry
from .errors import CredentialsError

_ENTRIES = TypeAdapter(tuple[ApiKeyEntry, ...])


def new_key() -> str:
    """A random key of 256 bits."""
    return f"tg_{secrets.token_urlsafe(32)}"


def hash_key(key: bytes) -> str:
    """The hash that the settings hold. A plain one: keys are random, so there is nothing to guess."""
    return hashlib.sha256(key).hexdigest()


def describe_key(caller: str, key: str, scopes: Sequence[str]) -> str:
    """The entry of a key for `keys`, `keys_file` or `keys_env`, as YAML and JSON in one.

    Raises:
        CredentialsError: the caller's name or a scope is not one.
    """
    try:
        entry = ApiKeyEntry.model_validate(
            {"id": caller, "sha256": hash_key(key.encode()), "scopes": frozenset(scopes)}
        )
    except ValidationError as error:
        raise CredentialsError(_first_error(error)) from error
    listed = ", ".join(f'"{scope}"' for scope in sorted(entry.scopes))
    return f'{{"id": "{entry.id}", "sha256": "{entry.sha256}", "scopes": [{listed}]}}'


def read_keys(auth: ApiKeyAuthArgs, environment: Mapping[str, str] | None = None) -> tuple[ApiKeyEntry, ...]:
    """All keys that the settings give and name.

    Raises:
        CredentialsError: a file or variable is missing or malformed, there is no key, or two share an id or a hash.
    """
    environment = os.environ if environment is None else environment
    entries = list(auth.keys)
    if auth.keys_file is not None:
        path = Path(auth.keys_file).expanduser()
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not UTF-8"
            raise CredentialsError(f"auth.keys_file {path} cannot be read: {reason}") from None
        entries += _parse(text, f"auth.keys_file {path}")
    if auth.keys_env is not None:
        if auth.keys_env not in environment:
            raise CredentialsError(f"auth.keys_env names {auth.keys_env}, which is not set where the replicas run")
        entries += _parse(environment[auth.keys_env], f"the variable {auth.keys_env}")
    _check_distinct(entries)
    return tuple(entries)


def _parse(text: str, place: str) -> tuple[ApiKeyEntry, ...]:
    # None of these errors is passed on: they quote what was read, which may be a key.
    try:
        return _ENTRIES.validate_python(yaml.safe_load(text))
    except ValidationError as error:
        problem = _first_error(error)
    except (yaml.YAMLError, ValueError):
        problem = "it is neither YAML nor JSON"
    raise CredentialsError(
        f"{place}: {problem}; expected a list of {{id, sha256, scopes}} as `tidegate key` prints them"
    )


def _first_error(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(part) for part in first["loc"]) or "the whole"
    return f"{place}: {first['msg']}"


def _check_distinct(entries: list[ApiKeyEntry]) -> None:
    if not entries:
        raise CredentialsError("auth.mode api_key has no key; make one with `tidegate key`")
    for name in ("id", "sha256"):
        values = [getattr(entry, name) for entry in entries]
        if len(set(values)) != len(values):
            raise CredentialsError(
                f"two of the api keys share their {name}; give each caller a key and an id of its own"
            )
