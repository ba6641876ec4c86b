"""The lock files are whole on every Python that we promise, not only on the one that wrote them."""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

LOCKS = Path(__file__).parents[2] / "requirements"
PYTHONS = ("3.11.0", "3.11.2", "3.12.0", "3.13.0")


def locked(file: str) -> list[Requirement]:
    lines = (LOCKS / file).read_text().splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def test_what_locked_packages_need_on_other_pythons_is_locked_too() -> None:
    files = [*locked("platform.txt"), *locked("dev.txt")]
    names = {canonicalize_name(requirement.name) for requirement in files}
    missing = {
        f"{needed} on Python {python}, for {requirement.name}"
        for requirement in files
        for python in PYTHONS
        for needed in _needs(requirement.name, python)
        if canonicalize_name(Requirement(needed).name) not in names
    }
    assert missing == set()


def _needs(name: str, python: str) -> list[str]:
    """What is asked for only because of the Python."""
    environment = {
        "python_full_version": python,
        "python_version": ".".join(python.split(".")[:2]),
        "extra": "",
    }
    try:
        wanted = metadata.requires(name) or []
    except metadata.PackageNotFoundError:
        return []  # for another Python than this one
    return [
        line
        for line in wanted
        if re.search("python_(full_)?version", line)
        and (marker := Requirement(line).marker) is not None
        and marker.evaluate(environment)
    ]
