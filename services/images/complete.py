"""Fails if a package lacks what it asks for, or has it too old: `complete.py NAME EXTRA...`.

Images are installed with --no-deps, from lock files; this tells whether a lock fits the base image.
"""

from __future__ import annotations

import sys
from importlib import metadata

from packaging.requirements import Requirement


def problems(name: str, extras: list[str]) -> list[str]:
    """What is missing of the package's own requirements, or does not fit them."""
    found = []
    for line in metadata.requires(name) or []:
        wanted = Requirement(line)
        marker = wanted.marker
        if marker and not any(marker.evaluate({"extra": extra}) for extra in ["", *extras]):
            continue
        try:
            version = metadata.version(wanted.name)
        except metadata.PackageNotFoundError:
            found.append(f"{wanted.name} is missing")
            continue
        if not wanted.specifier.contains(version, prereleases=True):
            found.append(f"{wanted.name} is {version}, not {wanted.specifier}")
    return found


if __name__ == "__main__":
    sys.exit("\n".join(problems(sys.argv[1], sys.argv[2:])) or None)
