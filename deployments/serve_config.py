"""Reading serve_config.yaml strictly: Serve itself ignores keys that it does not know."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from ray.serve.schema import DeploymentSchema, HTTPOptionsSchema, ServeApplicationSchema, ServeDeploySchema

from .config import ServeArgs

IMPORT_PATH = "deployments.app:build_app"


class ServeConfigError(Exception):
    """The Serve config cannot be used; the message names the key and the remedy."""


def read_serve_config(path: Path) -> ServeDeploySchema:
    """Read and check a Serve config.

    Raises:
        ServeConfigError: it is missing, is not YAML, or has a key or value that is not right.
    """
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ServeConfigError(f"{path} cannot be read: {error.strerror}; name one with --config") from error
    except yaml.YAMLError as error:
        raise ServeConfigError(f"{path} is not YAML: {error}") from error
    if not isinstance(raw, dict):
        raise ServeConfigError(f"{path} must hold a mapping with `applications:`, got {type(raw).__name__}")
    return check_serve_config(raw)


def check_serve_config(raw: Mapping[str, Any]) -> ServeDeploySchema:
    """Check a Serve config key by key, the arguments of Tidegate's applications included.

    Raises:
        ServeConfigError: see `read_serve_config`.
    """
    _refuse_unknown(raw, ServeDeploySchema, "")
    _refuse_unknown(raw.get("http_options") or {}, HTTPOptionsSchema, "http_options.")
    for index, application in enumerate(raw.get("applications") or []):
        place = f"applications.{index}."
        _refuse_unknown(application, ServeApplicationSchema, place)
        for number, deployment in enumerate(application.get("deployments") or []):
            _refuse_unknown(deployment, DeploymentSchema, f"{place}deployments.{number}.")
        if application.get("import_path") == IMPORT_PATH:
            parse_args(application.get("args") or {}, place=f"{place}args.")
    try:
        return ServeDeploySchema.model_validate(raw)
    except ValidationError as error:
        raise ServeConfigError(_first_error(error, "")) from error


def parse_args(raw: Mapping[str, Any], *, place: str = "args.") -> ServeArgs:
    """The arguments of one application.

    Raises:
        ServeConfigError: a key or value is not right.
    """
    try:
        return ServeArgs.model_validate(raw)
    except ValidationError as error:
        raise ServeConfigError(_first_error(error, place)) from error


def _refuse_unknown(raw: Any, model: type[BaseModel], place: str) -> None:
    if not isinstance(raw, Mapping):
        raise ServeConfigError(f"{place.rstrip('.') or 'the config'} must be a mapping, got {raw!r}")
    for key in raw:
        if key not in model.model_fields:
            raise ServeConfigError(f"{place}{key} is not a setting{_did_you_mean(str(key), model.model_fields)}")


def _first_error(error: ValidationError, place: str) -> str:
    first = error.errors(include_url=False)[0]
    loc = [str(part) for part in first["loc"]]
    name = place + ".".join(loc)
    if first["type"] == "extra_forbidden":
        return f"{name} is not a setting{_did_you_mean(loc[-1], _siblings(ServeArgs, loc[:-1]))}"
    return f"{name}: {first['msg']}, got {first['input']!r}"


def _siblings(model: type[BaseModel], loc: list[str]) -> Iterable[str]:
    """The keys that may stand where `loc` leads to, as far as plain nesting goes."""
    for part in loc:
        annotation = model.model_fields[part].annotation if part in model.model_fields else None
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        model = annotation
    return model.model_fields


def _did_you_mean(key: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(key, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else f"; known are {', '.join(sorted(known))}" if known else ""
