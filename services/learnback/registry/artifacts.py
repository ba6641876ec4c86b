"""Files of model versions in any fsspec store: digest on write, verified on every read.

An artifact is a folder of files. Its digest is the SHA-256 over the sorted lines
`<sha256 of the file>  <relative path>`, so it covers names and contents.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

import fsspec

from learnback.core.errors import Conflict, LearnbackError, Unavailable
from learnback.core.ids import digest_text

CHUNK = 1 << 20
MARKER = ".complete"
"""Written last, with the digest: where it is, the artifact is whole."""
UPLOADING = ".uploading"
"""Written first and removed last: what has it and no MARKER was begun by us and is not whole."""


class ArtifactCorrupt(LearnbackError):
    """An artifact's files are missing or are not what the registry says they are."""

    code, title = "artifact_corrupt", "Artifact corrupt"


def digest_folder(folder: Path) -> str:
    """The digest of a local folder; empty folders do not count."""
    lines = [
        f"{_digest_file(path)}  {path.relative_to(folder).as_posix()}" for path in _files(folder)
    ]
    return digest_text("\n".join(sorted(lines)))


def digest_model(path: str) -> str:
    """The digest that stands for a base model: of its files if local, else of its name."""
    folder = Path(path)
    return digest_folder(folder) if folder.is_dir() else digest_text(path)


class ArtifactStore:
    """Artifacts under one root URL (`file:///...`, `s3://bucket/prefix`)."""

    def __init__(self, root: str) -> None:
        self.url = root
        options = {"auto_mkdir": True} if root.startswith("file://") else {}
        self.filesystem, self.root = fsspec.core.url_to_fs(root, **options)
        self._failures = _failures(root)

    def put(self, folder: Path, name: str) -> str:
        """Store a folder as `name` and return its digest. The same content again is a no-op.

        The name appears last: a store that died half-way holds no artifact of that name. Other
        content under a name that is taken is refused (Conflict): names are never reused. Raises
        Unavailable if the store can't be written.
        """
        digest = digest_folder(folder)
        try:
            with self._reached():
                if self._whole(name):
                    self._check_same(name, digest)
                else:
                    self._upload(folder, name, digest)
        except FileNotFoundError as error:
            raise Unavailable(f"The artifact store {self.url} is not there: {error}") from error
        return digest

    def fetch(self, name: str, digest: str, cache: Path) -> Path:
        """A local, verified copy of an artifact; ArtifactCorrupt if it is not what it should be.

        Copies are kept in `cache` under their digest and verified again each time; see `copies`.
        """
        local = cache / digest
        if _signed(local) and digest_folder(local) == digest:
            return local
        cache.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=".fetching-", dir=cache))
        try:
            self._download_or_say(name, scratch)
            found = digest_folder(scratch)
            if found != digest:
                raise ArtifactCorrupt(
                    f"The files of {name!r} have the digest {found[:12]}, not {digest[:12]}: "
                    "they were changed or are incomplete. Restore them or train again."
                )
            return _install(scratch, local, digest)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def exists(self, name: str) -> bool:
        """Whether an artifact of that name is complete."""
        with self._reached():
            return self._whole(name)

    def delete(self, name: str) -> None:
        """Remove an artifact; only after every replica has unloaded it.

        Half an artifact never looks whole: if this dies half-way, it is one that was abandoned.
        """
        target = self._path(name)
        try:
            with self._reached():
                if self._whole(name):
                    self._write(f"{target}/{UPLOADING}", "")
                    self.filesystem.rm_file(f"{target}/{MARKER}")
                if self.filesystem.exists(target):
                    self.filesystem.rm(target, recursive=True)
        except FileNotFoundError as error:
            raise Unavailable(f"{name!r} changed while it was removed; try again.") from error

    def names(self) -> list[str]:
        """The artifacts that are complete."""
        with self._reached():
            return [name for name in self._folders() if self._whole(name)]

    def abandoned(self, before: datetime) -> list[str]:
        """What was begun before a moment and never finished: its writer is long dead."""
        with self._reached():
            return [name for name in self._folders() if self._abandoned(name, before)]

    def _folders(self) -> list[str]:
        self.filesystem.invalidate_cache(self.root)
        if not self.filesystem.exists(self.root):
            return []
        listed = self.filesystem.ls(self.root, detail=True)
        return sorted(
            entry["name"].rstrip("/").rsplit("/", 1)[-1]
            for entry in listed
            if entry["type"] == "directory"
        )

    def _abandoned(self, name: str, before: datetime) -> bool:
        begun = f"{self._path(name)}/{UPLOADING}"
        if self._whole(name) or not self.filesystem.exists(begun):
            return False
        return bool(self.filesystem.modified(begun) < before)

    def _whole(self, name: str) -> bool:
        target = self._path(name)
        self.filesystem.invalidate_cache(target)  # others write here too
        return bool(self.filesystem.exists(f"{target}/{MARKER}"))

    def _upload(self, folder: Path, name: str, digest: str) -> None:
        target = self._path(name)
        files = {path.relative_to(folder).as_posix(): path for path in _files(folder)}
        self._write(f"{target}/{UPLOADING}", digest)
        for relative, path in files.items():
            self.filesystem.put_file(str(path), f"{target}/{relative}")
        self._settle(name, set(files))
        self._write(f"{target}/{MARKER}", digest)
        self.filesystem.rm_file(f"{target}/{UPLOADING}")

    def _write(self, path: str, text: str) -> None:
        with self.filesystem.open(path, "w") as file:
            file.write(text)

    @contextmanager
    def _reached(self) -> Iterator[None]:
        """Says in words what a store does that is away or does not want us."""
        try:
            yield
        except FileNotFoundError:
            raise
        except PermissionError as error:
            raise Unavailable(
                f"The artifact store {self.url} refuses us: {error}. For S3 see to the access key "
                "(AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, or the pod's role) and to its rights."
            ) from error
        except self._failures as error:
            raise Unavailable(f"The artifact store {self.url} can't be used: {error}") from error

    def _check_same(self, name: str, digest: str) -> None:
        with self.filesystem.open(f"{self._path(name)}/{MARKER}", "r") as marker:
            there = marker.read().strip()
        if there != digest:
            raise Conflict(
                f"The artifact {name!r} holds other content ({there[:12]}, not {digest[:12]}). "
                "Names are content-addressed and never reused: take another one."
            )

    def _settle(self, name: str, files: set[str]) -> None:
        """Remove what an earlier store of other content left half-way; all of ours must be there.

        Raises Unavailable if somebody removed some of it meanwhile.
        """
        target = self._path(name)
        self.filesystem.invalidate_cache(target)
        there = {path[len(target) :].lstrip("/"): path for path in self.filesystem.find(target)}
        for relative in there.keys() - files - {UPLOADING}:
            self.filesystem.rm_file(there[relative])
        if missing := files - there.keys():
            raise Unavailable(f"{name!r} lost {min(missing)!r} while it was stored; try again.")

    def _download_or_say(self, name: str, folder: Path) -> None:
        try:
            with self._reached():
                self._download(name, folder)
        except FileNotFoundError as error:
            raise ArtifactCorrupt(f"Files of {name!r} are missing: {error}") from error

    def _download(self, name: str, folder: Path) -> None:
        remote = self._path(name)
        if not self._whole(name):
            raise ArtifactCorrupt(f"There are no complete files for {name!r} at {remote}.")
        for path in self.filesystem.find(remote):
            relative = path[len(remote) :].lstrip("/")
            if relative in {MARKER, UPLOADING}:
                continue
            if ".." in relative.split("/"):
                raise ArtifactCorrupt(f"The store lists {relative!r} in {name!r}: outside of it.")
            local = folder / relative
            local.parent.mkdir(parents=True, exist_ok=True)
            self.filesystem.get_file(path, str(local))

    def _path(self, name: str) -> str:
        if not name or any(part in {"", ".", ".."} for part in name.split("/")):
            raise ValueError(f"{name!r} is no artifact name")
        return f"{self.root}/{name}"


def _failures(root: str) -> tuple[type[Exception], ...]:
    """What a store's client raises: that of S3 lets errors of the library below it through."""
    if not root.startswith("s3://"):
        return (OSError,)
    from botocore.exceptions import BotoCoreError  # type: ignore[import-untyped]

    return (OSError, BotoCoreError)


def _signed(local: Path) -> bool:
    """Whether there is a copy; from now on it is not one that nobody has held for long."""
    with suppress(OSError):  # none is there, or it is another user's to look after
        os.utime(local)
    return local.is_dir()


def _install(scratch: Path, local: Path, digest: str) -> Path:
    """Rename into place. A good copy of a rival stays, since an engine may be reading it."""
    scratch.chmod(0o755)  # mkdtemp makes it 0700, and the engine may run as another user
    if local.exists():
        if local.is_dir() and digest_folder(local) == digest:
            return local
        grave = Path(tempfile.mkdtemp(prefix=".damaged-", dir=local.parent))
        os.replace(local, grave / "old")
        shutil.rmtree(grave, ignore_errors=True)
    try:
        os.replace(scratch, local)
    except OSError:
        if not local.is_dir():
            raise
    return local


def _files(folder: Path) -> Iterable[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file())


def _digest_file(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
