"""Artifacts on a real S3 server: what is read is what was written, whatever died or was denied."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.object_store import BUCKET, READER, ObjectStore

from learnback.core.clock import now
from learnback.core.errors import Conflict, Unavailable
from learnback.registry.artifacts import ArtifactCorrupt, ArtifactStore, digest_folder

pytestmark = pytest.mark.xdist_group("object_store")
Opened = Callable[..., ArtifactStore]


@pytest.fixture
def opened(
    object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch, request: Any
) -> Iterator[Opened]:
    """Opens the store of this test as a process with that environment would."""
    import s3fs

    def open_store(bucket: str = BUCKET, **credentials: str) -> ArtifactStore:
        for name, value in object_store.environment(**credentials).items():
            monkeypatch.setenv(name, value)
        s3fs.S3FileSystem.clear_instance_cache()
        return ArtifactStore(f"s3://{bucket}/{request.node.name}")

    yield open_store
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "made"
    (made / "inner").mkdir(parents=True)
    (made / "a.txt").write_text("a")
    (made / "inner" / "b.bin").write_bytes(os.urandom(300_000))
    return made


def test_what_is_put_can_be_fetched_and_deleted(
    opened: Opened, folder: Path, tmp_path: Path
) -> None:
    store = opened()
    digest = store.put(folder, "v1")
    assert store.put(folder, "v1") == digest == digest_folder(folder)
    assert digest_folder(store.fetch("v1", digest, tmp_path / "cache")) == digest
    assert store.names() == ["v1"]
    (folder / "a.txt").write_text("changed")
    with pytest.raises(Conflict, match="never reused"):
        store.put(folder, "v1")
    store.delete("v1")
    assert store.names() == []
    with pytest.raises(ArtifactCorrupt, match="no complete files"):
        store.fetch("v1", digest, tmp_path / "other cache")


def test_a_changed_object_is_never_given_out(opened: Opened, folder: Path, tmp_path: Path) -> None:
    store = opened()
    digest = store.put(folder, "v1")
    store.filesystem.pipe_file(f"{store.root}/v1/a.txt", b"tampered")
    with pytest.raises(ArtifactCorrupt, match="changed or are incomplete"):
        store.fetch("v1", digest, tmp_path / "cache")
    store.filesystem.rm_file(f"{store.root}/v1/a.txt")
    with pytest.raises(ArtifactCorrupt, match="changed or are incomplete"):
        store.fetch("v1", digest, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


KILLED = """
import os, signal, sys
from pathlib import Path
from learnback.registry.artifacts import ArtifactStore
store = ArtifactStore(sys.argv[1])
put, left = store.filesystem.put_file, [int(sys.argv[3])]
def dying(*args):
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    left[0] -= 1
    put(*args)
store.filesystem.put_file = dying
store.put(Path(sys.argv[2]), "v1")
"""


@pytest.mark.parametrize("files_written", [0, 1])
def test_a_killed_upload_is_no_artifact_and_can_be_repeated(
    opened: Opened, folder: Path, tmp_path: Path, files_written: int
) -> None:
    store = opened()
    command = [sys.executable, "-c", KILLED, store.url, str(folder), str(files_written)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert not store.exists("v1")
    assert store.names() == []
    assert store.abandoned(now() + timedelta(hours=1)) == ["v1"]
    assert store.abandoned(now() - timedelta(hours=1)) == []
    with pytest.raises(ArtifactCorrupt, match="no complete files"):
        store.fetch("v1", digest_folder(folder), tmp_path / "cache")
    digest = store.put(folder, "v1")
    assert digest_folder(store.fetch("v1", digest, tmp_path / "cache")) == digest
    assert store.abandoned(now() + timedelta(hours=1)) == []


def test_two_who_store_the_same_leave_it_whole(
    opened: Opened, folder: Path, tmp_path: Path
) -> None:
    store = opened()
    with ThreadPoolExecutor(2) as pool:
        digests = set(pool.map(lambda _: store.put(folder, "v1"), range(2)))
    assert digests == {digest_folder(folder)}
    store.fetch("v1", digests.pop(), tmp_path / "cache")


@pytest.mark.parametrize(
    "credentials", [{"secret": "wrong"}, {"key": "AKNOBODY"}], ids=["secret", "key"]
)
def test_wrong_credentials_are_said(
    opened: Opened, folder: Path, tmp_path: Path, credentials: dict[str, str]
) -> None:
    store = opened(**credentials)
    for act in (
        lambda: store.put(folder, "v1"),
        lambda: store.fetch("v1", "0" * 64, tmp_path / "cache"),
        lambda: store.exists("v1"),
        store.names,
    ):
        with pytest.raises(Unavailable, match=r"s3://artifacts/.* refuses us: .*AWS_ACCESS_KEY_ID"):
            act()


def test_a_key_that_may_only_read_reads(opened: Opened, folder: Path, tmp_path: Path) -> None:
    digest = opened().put(folder, "v1")
    store = opened(key=READER)
    assert store.fetch("v1", digest, tmp_path / "cache").is_dir()
    with pytest.raises(Unavailable, match=r"refuses us: Access Denied"):
        store.put(folder, "v2")


def test_missing_credentials_are_said(
    opened: Opened, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = opened()
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    with pytest.raises(Unavailable, match="Unable to locate credentials"):
        ArtifactStore(store.url).put(folder, "v1")


def test_a_missing_bucket_is_said_and_not_made(opened: Opened, folder: Path) -> None:
    store = opened(bucket="nobody-made-it")
    with pytest.raises(Unavailable, match="is not there"):
        store.put(folder, "v1")
    assert not store.filesystem.exists("nobody-made-it")


def test_a_store_that_is_away_is_said(
    opened: Opened, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = opened()
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    store.filesystem.clear_instance_cache()
    with pytest.raises(Unavailable, match="can't be used: Could not connect"):
        ArtifactStore(store.url).put(folder, "v1")
