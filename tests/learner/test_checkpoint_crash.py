"""Writers that die, fail or meet while they write."""

from __future__ import annotations

import builtins
import os
import pathlib
import shutil
import threading
import uuid

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from learner import checkpoint_files
from learner.checkpoint import CheckpointStore
from learner.errors import CheckpointError

from .checkpoints import Files, content, expected, learned, save


class Killed(BaseException):
    """The process is gone: nothing tidies up."""


class Steps:
    """Counts what is done to the files, and stops at one of the steps, before it or half through it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, places: list[tuple[object, str]]) -> None:
        self.names: list[str] = []
        self._stop_at: int | None = None
        self._error: type[BaseException] = Killed
        for owner, name in places:
            real = getattr(builtins if owner is checkpoint_files else owner, name)
            monkeypatch.setattr(owner, name, self._step(name, real), raising=False)

    def stop_at(self, step: int | None, error: type[BaseException]) -> None:
        """Count anew, and fail at this step."""
        self.names, self._stop_at, self._error = [], step, error

    def reached(self, name: str) -> None:
        """One more step."""
        self.names.append(name)
        if len(self.names) - 1 == self._stop_at:
            raise self._error("stopped")

    def _step(self, name: str, real):
        def step(*args, **kwargs):
            self.reached(name)
            result = real(*args, **kwargs)
            return HalfWriting(result, self) if name == "open" and args[1:] == ("xb",) else result

        return step


class HalfWriting:
    """A file of which half is written before the step counts."""

    def __init__(self, file, steps: Steps) -> None:
        self._file, self._steps = file, steps

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._file.close()

    def write(self, data: bytes) -> None:
        self._file.write(data[: len(data) // 2])
        self._steps.reached("write")
        self._file.write(data[len(data) // 2 :])

    def __getattr__(self, name: str):
        return getattr(self._file, name)


LOCAL = [
    (checkpoint_files, "open"),
    (os, "fsync"),
    (os, "rename"),
    (os, "scandir"),
    (pathlib.Path, "mkdir"),
    (shutil, "rmtree"),
]
CALLS = ("pipe_file", "rm_file", "ls", "find", "cat_file", "invalidate_cache")
OBJECTS = [(MemoryFileSystem, name) for name in CALLS]


@pytest.fixture(params=["path", "memory"])
def place(request, tmp_path):
    if request.param == "path":
        return str(tmp_path / "checkpoints"), LOCAL
    return f"memory://{uuid.uuid4().hex}/checkpoints", OBJECTS


@pytest.mark.parametrize("error", [Killed, OSError])
def test_a_save_that_stops_anywhere_leaves_what_was_there(place, error, monkeypatch):
    url, places = place
    store = CheckpointStore(url, keep=2)
    for version in (1, 2):
        save(store, learned(version=version, seed=version))
    steps = Steps(monkeypatch, places)
    steps.stop_at(None, error)
    save(store, learned(version=3, seed=3))
    count = len(steps.names)
    assert {"path": {"open", "write", "fsync", "rename"}, "memory": {"pipe_file", "rm_file"}}[
        "path" if places is LOCAL else "memory"
    ] <= set(steps.names)

    for step in range(count):
        before = store.list()[0]
        steps.stop_at(step, error)
        stopped = None
        try:
            save(store, learned(version=before.version + 1, seed=before.version + 1))
        except (Killed, CheckpointError) as caught:
            stopped = caught
        steps.stop_at(None, error)
        if error is Killed:
            assert isinstance(stopped, Killed), step

        state, newest = store.newest(expected())
        assert newest.version - before.version in ((0, 1) if stopped else (1,)), (step, steps.names)
        assert content(state) == content(learned(version=newest.version, seed=newest.version))
        assert all(store.load(manifest, expected()) for manifest in store.list())

        after = save(store, learned(version=newest.version + 1, seed=newest.version + 1))
        assert store.newest(expected())[1] == after
        assert Files(url).names() == {manifest.name for manifest in store.list()}
        assert len(store.list()) == 2


def test_a_failed_write_takes_no_room(tmp_path, monkeypatch):
    store = CheckpointStore(str(tmp_path), keep=2)
    steps = Steps(monkeypatch, LOCAL[1:3])
    steps.stop_at(1, OSError)
    with pytest.raises(CheckpointError, match="cannot write checkpoints"):
        save(store)
    assert list(tmp_path.iterdir()) == []


def test_files_and_folders_are_flushed_before_and_after_the_renaming(tmp_path, monkeypatch):
    store = CheckpointStore(str(tmp_path), keep=2)
    order: list[str] = []
    fsync, rename = os.fsync, os.rename

    def flushed(descriptor: int) -> None:
        order.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    def renamed(source: object, target: object) -> None:
        order.append("rename")
        rename(source, target)

    monkeypatch.setattr(os, "fsync", flushed)
    monkeypatch.setattr(os, "rename", renamed)
    manifest = save(store)
    aside = os.path.dirname(order[0])
    assert os.path.basename(aside).startswith(".tmp-")
    assert order == [f"{aside}/{manifest.tensors}", f"{aside}/manifest.json", aside, "rename", str(tmp_path)]


@pytest.mark.parametrize("order", [1, -1])
def test_the_manifest_goes_last_into_an_object_store_and_first_out(order, monkeypatch):
    done: list[tuple[str, str]] = []

    def noted(name: str):
        real = getattr(MemoryFileSystem, name)

        def step(self, path, *args, **kwargs):
            done.append((name, path.rpartition("/")[2].partition("-")[0]))
            return real(self, path, *args, **kwargs)

        return step

    for name in ("pipe_file", "rm_file", "cp_file"):
        monkeypatch.setattr(MemoryFileSystem, name, noted(name))
    find = MemoryFileSystem.find
    monkeypatch.setattr(MemoryFileSystem, "find", lambda self, path: find(self, path)[:: -turns[0]])
    turns = [1]
    store = CheckpointStore(f"memory://{uuid.uuid4().hex}", keep=1)
    save(store)
    assert done == [("pipe_file", "tensors"), ("pipe_file", "manifest.json")]
    done.clear()
    save(store)
    assert done[2:] == [("rm_file", "manifest.json"), ("rm_file", "tensors")]
    done.clear()
    store.set_aside(None)
    assert done == [
        ("cp_file", "tensors"),
        ("cp_file", "manifest.json"),
        ("rm_file", "manifest.json"),
        ("rm_file", "tensors"),
    ]


def test_what_is_deleted_by_half_is_no_checkpoint(tmp_path, monkeypatch):
    def stop(path: object, **_: object) -> None:
        raise Killed

    store = CheckpointStore(str(tmp_path), keep=1)
    save(store)
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", stop)
        with pytest.raises(Killed):
            save(store)
    assert [manifest.number for manifest in store.list()] == [2]
    assert len(list(tmp_path.iterdir())) == 2
    manifest = save(store)
    assert [path.name for path in tmp_path.iterdir()] == [manifest.name]


def test_leftovers_go_at_the_next_save(tmp_path):
    store = CheckpointStore(str(tmp_path), keep=2)
    (tmp_path / ".tmp-old").mkdir()
    (tmp_path / ".tmp-old" / "manifest.json").write_bytes(b"{}")
    (tmp_path / "notes.txt").write_bytes(b"mine")
    (tmp_path / "notes").mkdir()
    manifest = save(store)
    assert {path.name for path in tmp_path.iterdir()} == {manifest.name, "notes", "notes.txt"}


def test_two_writers_of_one_checkpoint_do_not_overwrite_each_other(place, monkeypatch):
    url, places = place
    both = threading.Barrier(2, timeout=60)
    owner, last_step = (os, "rename") if places is LOCAL else (MemoryFileSystem, "pipe_file")
    real = getattr(owner, last_step)
    met, turn = threading.local(), threading.Lock()

    def meet(*args, **kwargs):
        if not getattr(met, "before", False):
            met.before = True
            both.wait()
        # fsspec's memory looks and writes in two steps; real storage does it in one.
        with turn:
            return real(*args, **kwargs)

    monkeypatch.setattr(owner, last_step, meet)
    outcomes: dict[int, object] = {}

    def write(seed: int) -> None:
        try:
            outcomes[seed] = save(CheckpointStore(url, keep=2), learned(seed=seed))
        except CheckpointError as error:
            outcomes[seed] = error

    threads = [threading.Thread(target=write, args=(seed,)) for seed in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    (winner,) = [seed for seed, outcome in outcomes.items() if not isinstance(outcome, CheckpointError)]
    assert len(outcomes) == 2
    store = CheckpointStore(url, keep=2)
    state, manifest = store.newest(expected())
    assert manifest == outcomes[winner]
    assert store.list() == [manifest]
    assert content(state) == content(learned(seed=winner))


def test_what_another_writer_has_just_begun_is_left_alone(monkeypatch):
    url = f"memory://{uuid.uuid4().hex}/checkpoints"
    store, files = CheckpointStore(url, keep=2), Files(url)
    write = store._folders.write

    def both_write(name: str, content: dict[str, bytes]) -> None:
        write(name, content)
        files.put("00000001-v99", "tensors-other.safetensors", b"half of it")

    monkeypatch.setattr(store._folders, "write", both_write)
    save(store)
    assert files.read("00000001-v99", "tensors-other.safetensors") == b"half of it"


def test_a_folder_of_the_same_name_is_not_overwritten(tmp_path, monkeypatch):
    store = CheckpointStore(str(tmp_path), keep=2)
    first = save(store)
    before = {path.name: path.read_bytes() for path in (tmp_path / first.name).iterdir()}
    monkeypatch.setattr(store, "_names", list)
    with pytest.raises(CheckpointError, match="cannot write checkpoints"):
        save(store, learned(seed=5))
    assert {path.name: path.read_bytes() for path in (tmp_path / first.name).iterdir()} == before


@pytest.mark.parametrize("credentials", ["", "user:hunter2@"])
def test_what_an_object_store_raises_is_told_without_the_password(credentials, monkeypatch):
    url = f"memory://{credentials}{uuid.uuid4().hex}/checkpoints"

    class SdkError(Exception):
        """No OSError."""

    def refuse(self, path, *args, **kwargs):
        raise SdkError(f"denied at {url}")

    store = CheckpointStore(url, keep=1)
    monkeypatch.setattr(MemoryFileSystem, "ls", refuse)
    with pytest.raises(CheckpointError, match=r"cannot list checkpoints at memory://.*: SdkError") as caught:
        save(store)
    assert ("denied at" in str(caught.value)) is not bool(credentials)
    assert "hunter2" not in str(caught.value)
    assert caught.value.__suppress_context__ is bool(credentials) or caught.value.__cause__ is not None
