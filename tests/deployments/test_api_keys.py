from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import yaml

from deployments.api_keys import describe_key, hash_key, new_key, read_keys
from deployments.config import ApiKeyAuthArgs, ApiKeyEntry
from deployments.errors import CredentialsError

SECRET = "tg_this-is-the-key-itself"


def entry(caller: str = "alice", key: str = SECRET, scopes: tuple[str, ...] = ("score",)) -> dict[str, object]:
    return {"id": caller, "sha256": hashlib.sha256(key.encode()).hexdigest(), "scopes": list(scopes)}


def settings(**given: object) -> ApiKeyAuthArgs:
    return ApiKeyAuthArgs.model_validate({"mode": "api_key", **given})


def test_new_keys_are_long_and_differ() -> None:
    keys = {new_key() for _ in range(100)}
    assert len(keys) == 100
    assert all(len(key) >= 43 for key in keys)


def test_the_described_entry_is_yaml_and_json_and_holds_only_the_hash() -> None:
    text = describe_key("alice", SECRET, ["reward", "score"])
    assert json.loads(text) == yaml.safe_load(text) == entry(scopes=("reward", "score"))
    assert SECRET not in text


@pytest.mark.parametrize(("caller", "scopes"), [("", ["score"]), ("a b", ["score"]), ("a", []), ("a", ["everything"])])
def test_a_bad_name_or_scope_is_refused(caller: str, scopes: list[str]) -> None:
    with pytest.raises(CredentialsError):
        describe_key(caller, SECRET, scopes)


def test_keys_come_from_the_settings_a_file_and_the_environment_together(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    path.write_text(yaml.safe_dump([entry("bob", "2"), entry("carol", "3", ("reward", "admin"))]), encoding="utf-8")
    auth = settings(keys=[entry("alice", "1")], keys_file=str(path), keys_env="MY_KEYS")
    found = read_keys(auth, {"MY_KEYS": json.dumps([entry("dave", "4")])})
    assert [key.id for key in found] == ["alice", "bob", "carol", "dave"]
    assert found[2] == ApiKeyEntry(id="carol", sha256=hash_key(b"3"), scopes=frozenset(["reward", "admin"]))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[", "it is neither YAML nor JSON"),
        (f"- {{id: alice, key: {SECRET}, scopes: [score]}}", "0.sha256: Field required"),
        (f"- {{id: alice, sha256: {SECRET}, scopes: [score]}}", "0.sha256: String should match pattern"),
        (f"- {SECRET}", "0: "),
        (SECRET, "the whole: "),
        (f'"{SECRET}', "it is neither YAML nor JSON"),
        ("", "the whole: "),
    ],
)
def test_a_malformed_list_is_refused_by_place_without_showing_what_it_holds(
    tmp_path: Path, content: str, message: str
) -> None:
    path = tmp_path / "keys.yaml"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(CredentialsError) as caught:
        read_keys(settings(keys_file=str(path)))
    assert str(caught.value).startswith(f"auth.keys_file {path}: {message}")
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None
    with pytest.raises(CredentialsError) as caught:
        read_keys(settings(keys_env="MY_KEYS"), {"MY_KEYS": content})
    assert str(caught.value).startswith(f"the variable MY_KEYS: {message}")
    assert SECRET not in str(caught.value)


def test_a_file_or_variable_that_is_missing_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(CredentialsError, match=r"auth\.keys_file /nowhere/keys\.yaml cannot be read: No such file"):
        read_keys(settings(keys_file="/nowhere/keys.yaml"))
    with pytest.raises(CredentialsError, match="names MY_KEYS, which is not set"):
        read_keys(settings(keys_env="MY_KEYS"), {})
    path = tmp_path / "keys.yaml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(CredentialsError, match="it is not UTF-8"):
        read_keys(settings(keys_file=str(path)))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ([], "has no key"),
        ([entry("a", "1"), entry("a", "2")], "share their id"),
        ([entry("a", "1"), entry("b", "1")], "share their sha256"),
    ],
)
def test_keys_must_be_there_and_distinct(keys: list[object], message: str) -> None:
    with pytest.raises(CredentialsError, match=message):
        read_keys(settings(keys_env="MY_KEYS"), {"MY_KEYS": json.dumps(keys)})
