#!/bin/sh
# Installs Learnback from a lock file into a new virtual environment without pip.
#   install.sh LOCK TARGET     LOCK: control or cpu (requirements/LOCK.txt); TARGET: the environment's folder
# Run it in the repository's root with the Python that the image will have. PIP_EXTRA_INDEX_URL may name PyTorch's index
# of CPU builds.
set -eu

lock="requirements/$1.txt"
target="$2"
scratch="$(mktemp -d)"
trap 'rm -rf "$scratch"' EXIT
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR="${PIP_NO_CACHE_DIR:-1}" PIP_ROOT_USER_ACTION=ignore

python3 -m venv "$scratch/build"
"$scratch/build/bin/python" -m pip install --quiet --no-deps -r requirements/build.txt
"$scratch/build/bin/python" -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir "$scratch" .

python3 -m venv --without-pip "$target"
"$scratch/build/bin/python" -m pip --python "$target/bin/python" install \
    --quiet --no-deps --only-binary :all: -r "$lock"
"$scratch/build/bin/python" -m pip --python "$target/bin/python" install \
    --quiet --no-deps "$scratch"/learnback-*.whl

if [ "$1" = cpu ] && ! "$target/bin/python" -c 'import torch'; then
    echo "torch can't be loaded: PIP_EXTRA_INDEX_URL must name PyTorch's index of CPU builds" >&2
    exit 1
fi
"$target/bin/python" services/images/sbom.py "$target/sbom.cdx.json"
"$target/bin/learnback" --version
