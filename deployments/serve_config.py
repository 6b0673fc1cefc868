"""Reading serve_config.yaml strictly: Serve itself ignores keys that it does not know."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError
from ray.serve.schema import ServeApplicationSchema, ServeDeploySchema

from .config import ServeArgs

IMPORT_PATH = "deployments.app:build_app"
_SQLITE = "sqlite:///"


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
    except (yaml.YAMLError, ValueError) as error:
        raise ServeConfigError(f"{path} is not YAML: {error}") from error
    if not isinstance(raw, dict):
        raise ServeConfigError(f"{path} must hold a mapping with `applications:`, got {type(raw).__name__}")
    return check_serve_config(raw)


def check_serve_config(raw: Mapping[str, Any]) -> ServeDeploySchema:
    """Check a Serve config key by key, the arguments of Tidegate's applications included.

    Raises:
        ServeConfigError: see `read_serve_config`.
    """
    _refuse_unknown(raw, [ServeDeploySchema], "")
    try:
        config = ServeDeploySchema.model_validate(raw)
    except ValidationError as error:
        raise ServeConfigError(_first_error(error, "")) from error
    # Serve takes any number, and the socket then none.
    if not 0 < config.http_options.port < 2**16:
        raise ServeConfigError(f"http_options.port: expected 1 to 65535, got {config.http_options.port}")
    if not config.applications:
        raise ServeConfigError(f"applications is empty; name at least one with import_path: {IMPORT_PATH}")
    for index, application in enumerate(config.applications):
        if application.import_path == IMPORT_PATH:
            place = f"applications.{index}."
            args = parse_args(raw["applications"][index].get("args", {}), place=f"{place}args.")
            if args.replica.autoscaling is not None:
                _refuse_another_number(application, place)
    return config


def _refuse_another_number(application: ServeApplicationSchema, place: str) -> None:
    """Refuse overrides that Serve would not let count, or would put in the place of the policy without a word."""
    for index, deployment in enumerate(application.deployments):
        for name in sorted({"num_replicas", "autoscaling_config"} & deployment.model_fields_set):
            raise ServeConfigError(
                f"{place}deployments.{index}.{name} and {place}args.replica.autoscaling both say how many replicas"
                " there are; leave one out"
            )


def parse_args(raw: Mapping[str, Any], *, place: str = "args.") -> ServeArgs:
    """The arguments of one application.

    Raises:
        ServeConfigError: a key or value is not right.
    """
    _refuse_unknown(raw, [ServeArgs], place)
    try:
        return ServeArgs.model_validate(raw)
    except ValidationError as error:
        raise ServeConfigError(_first_error(error, place)) from error


def with_absolute_paths(config: ServeDeploySchema, folder: Path) -> ServeDeploySchema:
    """The config with the paths of event logs and checkpoints made absolute: Ray's workers have folders of their own.

    Args:
        config: as `read_serve_config` gives it.
        folder: where relative paths begin.
    """
    applications = [
        application.model_copy(update={"args": _absolute_args(application.args, folder)})
        if application.import_path == IMPORT_PATH
        else application
        for application in config.applications
    ]
    return config.model_copy(update={"applications": applications})


def _absolute_args(args: Mapping[str, Any] | BaseModel, folder: Path) -> dict[str, Any]:
    given = dict(args.model_dump() if isinstance(args, BaseModel) else args)
    learner = parse_args(given).learner
    return {
        **given,
        "learner": {
            **given.get("learner", {}),
            "log": {**_section(given, "log"), "url": absolute_log_url(learner.log.url, folder)},
            "checkpoints": {
                **_section(given, "checkpoints"),
                "url": absolute_checkpoints_url(learner.checkpoints.url, folder),
            },
        },
    }


def _section(args: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section: Mapping[str, Any] = args.get("learner", {}).get(name, {})
    return section


def absolute_log_url(url: str, folder: Path) -> str:
    """An SQLite URL with a relative path, with an absolute one; any other as it is."""
    path = url.removeprefix(_SQLITE)
    if path == url or not path:
        return url
    return f"{_SQLITE}{folder / path}"


def absolute_checkpoints_url(url: str, folder: Path) -> str:
    """A relative path as an absolute one; any other path or URL as it is."""
    return url if "://" in url or url.startswith("~") else str(folder / url)


def _refuse_unknown(raw: Any, models: Sequence[type[BaseModel]], place: str) -> None:
    """Refuse keys that none of the models has, at every level. What is of another type is left to validation."""
    if isinstance(raw, list):
        for index, item in enumerate(raw):
            _refuse_unknown(item, models, f"{place}{index}.")
    elif models and isinstance(raw, Mapping):
        known = {name: field for model in models for name, field in model.model_fields.items()}
        for key, value in raw.items():
            if key not in known:
                raise ServeConfigError(f"{place}{key} is not a setting{_did_you_mean(str(key), known)}")
            _refuse_unknown(value, _models_in(known[key].annotation), f"{place}{key}.")


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    """The models that an annotation mentions: itself, a list's items, or the choices of a union."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _models_in(argument)]


def _first_error(error: ValidationError, place: str) -> str:
    first = error.errors(include_url=False)[0]
    name = (place + ".".join(str(part) for part in first["loc"])).rstrip(".")
    if first["type"] == "extra_forbidden":
        return f"{name} is not a setting"
    if first["loc"][:1] == ("auth",):
        # Whoever put a key where its hash or a path belongs must not find it in a log.
        return f"{name}: {first['msg'].removeprefix('Value error, ')}"
    return f"{name}: {first['msg']}, got {first['input']!r}"


def _did_you_mean(key: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(key, known, n=1)
    return f"; did you mean {close[0]}?" if close else f"; known are {', '.join(sorted(known))}"
