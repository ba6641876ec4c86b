#!/bin/sh
# Adds Learnback and the trainers to the Python that has vLLM already, and changes nothing that is there but pip, which
# goes: nothing needs it when the image runs.
#   install-gpu.sh TARGET      TARGET: folder for the bill of materials
set -eu

target="$1"
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR="${PIP_NO_CACHE_DIR:-1}" PIP_ROOT_USER_ACTION=ignore
export PIP_BREAK_SYSTEM_PACKAGES=1
scratch="$(mktemp -d)"
trap 'rm -rf "$scratch"' EXIT

python3 -m venv "$scratch/build"
"$scratch/build/bin/python" -m pip install --quiet --no-deps -r requirements/build.txt
"$scratch/build/bin/python" -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir "$scratch" .

python3 -c 'import importlib.metadata as m; print("vllm", m.version("vllm"), "torch", m.version("torch"))'
python3 -m pip install --quiet --no-deps --only-binary :all: -r requirements/gpu.txt
python3 -m pip install --quiet --no-deps "$scratch"/learnback-*.whl
python3 -m pip uninstall --quiet --yes pip

mkdir -p "$target"
python3 services/images/sbom.py "$target/sbom.cdx.json"
python3 services/images/complete.py learnback gpu train s3
