"""Puts promtool into a virtual environment's bin folder: `python requirements/promtool.py BIN`.

No package of PyPI carries it. Taken from PATH where it is there, else out of Debian's or Ubuntu's
package `prometheus`, which is unpacked and not installed: no service starts and no root is needed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

WAY_OUT = (
    "promtool is not on PATH and could not be got with apt: install Prometheus 2.42 or newer "
    "(your distribution's package, or a release of the project) so that `promtool` is on PATH"
)


def main(target: Path) -> None:
    """Make `target`/promtool, unless it is there."""
    wanted = target / "promtool"
    if wanted.exists():
        return
    found = shutil.which("promtool")
    if found:
        wanted.symlink_to(found)
        return
    with tempfile.TemporaryDirectory() as folder:
        unpacked = _unpack(Path(folder))
        shutil.copy2(unpacked / "usr/bin/promtool", wanted)


def _unpack(folder: Path) -> Path:
    """The files of the package `prometheus`. SystemExit with the way out if it can't be had."""
    if not all(shutil.which(tool) for tool in ("apt-get", "dpkg-deb")):
        sys.exit(WAY_OUT)
    if not _download(folder) and os.geteuid() == 0:  # an image without package lists
        subprocess.run(["apt-get", "update", "-qq"], check=False)
        _download(folder)
    packages = list(folder.glob("prometheus_*.deb"))
    if not packages:
        sys.exit(WAY_OUT)
    subprocess.run(["dpkg-deb", "-x", str(packages[0]), str(folder / "files")], check=True)
    return folder / "files"


def _download(folder: Path) -> bool:
    command = ["apt-get", "download", "-qq", "prometheus"]
    done = subprocess.run(command, cwd=folder, check=False, capture_output=True)
    return done.returncode == 0


if __name__ == "__main__":
    main(Path(sys.argv[1]))
