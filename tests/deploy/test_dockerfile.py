"""What matters in the Dockerfile. `hadolint deploy/Dockerfile` knows more, and is quiet too."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from deploy.fetch_encoder import fetch
from deployments import haproxy
from tests.deploy.manifests import DEPLOY, ROOT

DOCKERFILE = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
TARGETS = ("cpu", "cuda")


def instructions() -> list[tuple[str, str]]:
    """Keyword and arguments of each instruction, lines that go on joined and comments left out."""
    text = re.sub(r"^#.*\n", "", DOCKERFILE, flags=re.MULTILINE).replace("\\\n", " ")
    return [(keyword, rest) for line in text.splitlines() if line for keyword, _, rest in [line.partition(" ")]]


def stages() -> dict[str, tuple[str, list[tuple[str, str]]]]:
    """What each stage is made from, and its instructions."""
    found: dict[str, tuple[str, list[tuple[str, str]]]] = {}
    for keyword, rest in instructions():
        if keyword == "FROM":
            image, _as, name = rest.split()
            found[name] = (image, [])
        else:
            next(reversed(found.values()))[1].append((keyword, rest))
    return found


def all_of(target: str) -> list[tuple[str, str]]:
    """A target's instructions, those of the stages that it is made from first."""
    image, own = stages()[target]
    return [*(all_of(image) if image in stages() else []), *own]


def test_the_image_that_it_begins_with_is_pinned() -> None:
    outside = [image for image, _ in stages().values() if image not in stages()]
    assert len(outside) == 1
    assert re.fullmatch(r"python:\d+\.\d+\.\d+-slim-[a-z]+(@sha256:[0-9a-f]{64})?", outside[0])


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_runs_as_nobody_special_and_can_tell_its_health(target: str) -> None:
    last = dict(all_of(target))
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", last["USER"])
    assert "/readyz" in last["HEALTHCHECK"]
    assert "/opt/tidegate/one_machine.sh" in last["CMD"]
    # Whoever copies after USER gives root's files, which is what is wanted; whoever runs would run as the user.
    assert "RUN" not in [keyword for keyword, _ in stages()[target][1]]


def test_every_package_is_of_the_lock() -> None:
    installs = [part for _, rest in instructions() for part in rest.split("&&") if "pip install" in part]
    assert len(installs) == 4
    for install in installs:
        assert "--no-cache-dir" in install
        assert "--constraint requirements.lock" in install or "requirements.lock)" in install


def test_the_targets_differ_in_torch() -> None:
    built = {name: " ".join(rest for _, rest in stages()[f"packages-{name}"][1]) for name in TARGETS}
    assert "download.pytorch.org/whl/cpu" in built["cpu"]
    assert "download.pytorch.org" not in built["cuda"]
    for target in TARGETS:
        assert ("COPY", f"--from=packages-{target} /opt/tidegate/venv /opt/tidegate/venv") in stages()[target][1]


def test_no_secret_is_baked_in() -> None:
    for keyword, rest in instructions():
        if keyword in ("ENV", "ARG"):
            assert not re.search(r"(?i)password|secret|token|key", rest), rest
    assert "ADD" not in dict(instructions())


def test_no_list_of_packages_of_the_system_stays() -> None:
    for keyword, rest in instructions():
        if keyword == "RUN" and "apt-get" in rest:
            assert "rm -rf /var/lib/apt/lists" in rest


def test_what_is_copied_is_there_and_let_in() -> None:
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines() if line.startswith("!")}
    copied = set()
    for keyword, rest in instructions():
        if keyword == "COPY" and "--from" not in rest:
            *sources, _target = rest.split()
            copied |= set(sources)
    assert copied == let_in
    assert all((ROOT / name).exists() for name in copied)


def test_what_is_installed_has_every_folder_and_file_of_the_code() -> None:
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]
    data = {
        ROOT.joinpath(*name.split("."), glob) for name, globs in setuptools["package-data"].items() for glob in globs
    }
    tree = [
        path for name in ("gating", "learner", "deployments") for path in (ROOT / name).rglob("*") if path.is_file()
    ]
    tree = [path for path in tree if "__pycache__" not in path.parts]
    packages = {".".join(path.parent.relative_to(ROOT).parts) for path in tree if path.suffix == ".py"}
    assert packages == set(setuptools["packages"])
    assert not [path for path in tree if path.suffix != ".py" and not any(path.match(str(one)) for one in data)]


def test_weights_come_at_a_commit_or_not_at_all(tmp_path: Path) -> None:
    fetch(tmp_path / "encoder", "", "")
    assert list((tmp_path / "encoder").iterdir()) == []
    with pytest.raises(ValueError, match="must be a commit of some/model"):
        fetch(tmp_path / "encoder", "some/model", "main")


def test_haproxy_is_started_by_the_command_that_the_image_has() -> None:
    [folder] = re.findall(r"python -m venv (\S+)", DOCKERFILE)
    for manifest in ("docker-compose.yaml", "kuberay/environment.yaml"):
        text = (DEPLOY / manifest).read_text(encoding="utf-8")
        assert f"{haproxy.VARIABLE}: {folder}/bin/{haproxy.NAME}\n" in text


def test_the_script_is_one_of_bash() -> None:
    subprocess.run(["bash", "-n", str(DEPLOY / "one_machine.sh")], check=True)
