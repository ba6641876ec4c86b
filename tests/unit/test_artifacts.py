"""Artifacts are whole or not there, and what is read is what was written."""

from __future__ import annotations

import shutil
from datetime import timedelta
from pathlib import Path

import pytest

from learnback.core.clock import now
from learnback.core.errors import Conflict, Unavailable
from learnback.registry import artifacts
from learnback.registry.artifacts import ArtifactCorrupt, ArtifactStore, digest_folder, digest_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "made"
    (made / "inner").mkdir(parents=True)
    (made / "a.txt").write_text("a")
    (made / "inner" / "b.bin").write_bytes(b"\x00\xff" * 1000)
    return made


@pytest.fixture(params=["file", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ArtifactStore:
    name = tmp_path.name
    roots = {"file": f"file://{tmp_path / 'store'}", "memory": f"memory://{name}"}
    return ArtifactStore(roots[request.param])


def test_what_is_put_can_be_fetched(store: ArtifactStore, folder: Path, tmp_path: Path) -> None:
    digest = store.put(folder, "v1")
    fetched = store.fetch("v1", digest, tmp_path / "cache")
    assert digest_folder(fetched) == digest == digest_folder(folder)
    assert (fetched / "inner" / "b.bin").read_bytes() == b"\x00\xff" * 1000
    assert store.exists("v1")


def test_putting_the_same_again_changes_nothing(store: ArtifactStore, folder: Path) -> None:
    assert store.put(folder, "v1") == store.put(folder, "v1")


def test_a_name_is_never_reused(store: ArtifactStore, folder: Path, tmp_path: Path) -> None:
    digest = store.put(folder, "v1")
    (folder / "a.txt").write_text("changed")
    with pytest.raises(Conflict, match="never reused"):
        store.put(folder, "v1")
    assert digest_folder(store.fetch("v1", digest, tmp_path / "cache")) == digest


def test_a_put_that_died_is_no_artifact_and_can_be_repeated(
    store: ArtifactStore, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    (other / "stray.txt").write_text("of another content")
    monkeypatch.setattr(
        ArtifactStore, "_settle", lambda self, name, files: (_ for _ in ()).throw(OSError("cut"))
    )
    with pytest.raises(Unavailable, match="cut"):
        store.put(other, "v1")
    monkeypatch.undo()
    assert not store.exists("v1")
    assert store.abandoned(now() + timedelta(hours=1)) == ["v1"]
    assert store.abandoned(now() - timedelta(hours=1)) == []
    with pytest.raises(ArtifactCorrupt, match="no complete files"):
        store.fetch("v1", "0" * 64, tmp_path / "cache")
    digest = store.put(folder, "v1")
    assert digest_folder(store.fetch("v1", digest, tmp_path / "cache")) == digest
    assert store.abandoned(now() + timedelta(hours=1)) == []


def test_files_removed_while_they_are_stored_are_noticed(
    store: ArtifactStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle = ArtifactStore._settle

    def robbed(self: ArtifactStore, name: str, files: set[str]) -> None:
        self.filesystem.rm_file(f"{self._path(name)}/a.txt")
        settle(self, name, files)

    monkeypatch.setattr(ArtifactStore, "_settle", robbed)
    with pytest.raises(Unavailable, match=r"lost 'a\.txt'"):
        store.put(folder, "v1")
    assert not store.exists("v1")


def test_only_what_is_whole_is_listed(store: ArtifactStore, folder: Path) -> None:
    assert store.names() == store.abandoned(now()) == []
    store.put(folder, "v2")
    store.put(folder, "v1")
    store.filesystem.rm_file(f"{store.root}/v2/{artifacts.MARKER}")
    store._write(f"{store.root}/of-somebody-else/file.txt", "nothing of ours")
    assert store.names() == ["v1"]
    assert store.abandoned(now() + timedelta(hours=1)) == []


def test_changed_files_are_never_given_out(folder: Path, tmp_path: Path) -> None:
    store = ArtifactStore(f"file://{tmp_path / 'store'}")
    digest = store.put(folder, "v1")
    (tmp_path / "store" / "v1" / "a.txt").write_text("tampered")
    with pytest.raises(ArtifactCorrupt, match="changed or are incomplete"):
        store.fetch("v1", digest, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_damaged_copy_is_fetched_again(
    store: ArtifactStore, folder: Path, tmp_path: Path
) -> None:
    digest = store.put(folder, "v1")
    copy = store.fetch("v1", digest, tmp_path / "cache")
    (copy / "a.txt").write_text("rotten")
    assert digest_folder(store.fetch("v1", digest, tmp_path / "cache")) == digest


def test_a_good_copy_that_is_in_use_stays(folder: Path, tmp_path: Path) -> None:
    """Two processes fetch at once: the second must not pull the files from under the first."""
    local, scratch = tmp_path / "local", tmp_path / "scratch"
    shutil.copytree(folder, local)
    shutil.copytree(folder, scratch)
    before = (local / "a.txt").stat().st_ino
    artifacts._install(scratch, local, digest_folder(folder))
    assert (local / "a.txt").stat().st_ino == before


def test_a_store_that_is_away_is_not_corrupt(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ArtifactStore(f"file://{tmp_path / 'store'}")
    digest = store.put(folder, "v1")
    monkeypatch.setattr(
        ArtifactStore, "_download", lambda *a: (_ for _ in ()).throw(PermissionError("S3 says no"))
    )
    with pytest.raises(Unavailable, match="S3 says no"):
        store.fetch("v1", digest, tmp_path / "cache")


def test_delete_forgets_the_artifact(store: ArtifactStore, folder: Path) -> None:
    store.put(folder, "v1")
    store.delete("v1")
    store.delete("v1")
    assert not store.exists("v1")


@pytest.mark.parametrize("name", ["", "..", "../outside", "a/../../b", "a//b", "./a", "/etc"])
def test_names_stay_below_the_root(store: ArtifactStore, folder: Path, name: str) -> None:
    with pytest.raises(ValueError, match="no artifact name"):
        store.put(folder, name)


def test_a_digest_covers_names_and_contents(folder: Path, tmp_path: Path) -> None:
    before = digest_folder(folder)
    (folder / "a.txt").rename(folder / "c.txt")
    renamed = digest_folder(folder)
    (folder / "c.txt").write_text("b")
    assert len({before, renamed, digest_folder(folder)}) == 3
    assert digest_model(str(folder)) == digest_folder(folder)
    assert digest_model("org/name") != digest_model("org/other")
