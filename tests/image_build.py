"""What an image is built from: the files that a build sends, and an index of stand-in packages."""

from __future__ import annotations

import csv
import io
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterable, Mapping
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "services" / "images"
Command = tuple[str, ...]
"""A script of services/images and its arguments, as a RUN line has them."""


def context(target: Path) -> Path:
    """The tree as .dockerignore leaves it: what a script does not find here, no build has."""
    kept = (ROOT / ".dockerignore").read_text().splitlines()
    for pattern in (line[1:] for line in kept if line.startswith("!")):
        for found in ROOT.glob(pattern):
            to = target / found.relative_to(ROOT)
            to.parent.mkdir(parents=True, exist_ok=True)
            if found.is_dir():
                shutil.copytree(found, to, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy2(found, to)
    return target


def run(
    command: Command, places: Mapping[str, Path], tree: Path, **more: str
) -> subprocess.CompletedProcess[str]:
    """Run a command of a RUN line in `tree`, with paths of an image replaced by `places`."""
    script, *arguments = command
    python = str(Path(sys.executable).parent)
    left_out = ("PYTHONPATH", "VIRTUAL_ENV")
    inherited = {k: v for k, v in os.environ.items() if k not in left_out}
    path = f"{more.pop('first', python)}:{inherited['PATH']}"
    return subprocess.run(
        [str(tree / "services/images" / script), *(str(places.get(a, a)) for a in arguments)],
        cwd=tree,
        env=inherited | {"PATH": path, "PIP_NO_CACHE_DIR": "0"} | more,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


def locked(lock: str) -> set[str]:
    """What pip installs from a lock file with this Python: name==version."""
    lines = (ROOT / "requirements" / f"{lock}.txt").read_text().splitlines()
    found = [Requirement(line) for line in lines if not line.startswith("#")]
    return {f"{r.name}{r.specifier}" for r in found if r.marker is None or r.marker.evaluate()}


def index(folder: Path, locks: Iterable[str], real: Iterable[str]) -> dict[str, str]:
    """pip's environment for an index in a folder: packages of `locks` that have only their names,
    those of `real` as they are installed here."""
    whole = set(real)
    for lock in locks:
        for line in locked(lock):
            name, _, version = line.partition("==")
            if name not in whole:
                stand_in(folder, name, version)
    for name in whole:
        _repacked(folder, distribution(name))
    return {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(folder)}


def stand_in(folder: Path, name: str, version: str, source: str = "") -> Path:
    """A wheel with a name, a version, and a module, empty unless `source` is given."""
    module = name.replace("-", "_")
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    tag = "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    info = f"{module}-{version}.dist-info"
    files = {f"{module}/__init__.py": source.encode(), f"{info}/METADATA": metadata.encode()}
    path = folder / f"{module}-{version}-py3-none-any.whl"
    return _write(path, info, {**files, f"{info}/WHEEL": tag.encode()})


def _repacked(folder: Path, package: Distribution) -> Path:
    """An installed package that is only Python, as a wheel again."""
    made_by_pip = {"RECORD", "INSTALLER", "REQUESTED", "direct_url.json"}
    files = {
        str(file): Path(str(file.locate())).read_bytes()
        for file in package.files or []
        if ".." not in file.parts and file.name not in made_by_pip and file.suffix != ".pyc"
    }
    (info,) = {name.split("/")[0] for name in files if ".dist-info/" in name}
    return _write(folder / f"{info.removesuffix('.dist-info')}-py3-none-any.whl", info, files)


def _write(path: Path, info: str, files: Mapping[str, bytes]) -> Path:
    record = io.StringIO()
    csv.writer(record).writerows([name, "", ""] for name in [*files, f"{info}/RECORD"])
    with zipfile.ZipFile(path, "w") as wheel:
        for name, content in files.items():
            wheel.writestr(name, content)
        wheel.writestr(f"{info}/RECORD", record.getvalue())
    return path
