#!/bin/sh
# Adds Debian packages that a slim base image lacks and compiled packages load.
#   libraries.sh ROOT PACKAGE...      ROOT: / of the image
set -eu

root="${1%/}"
shift

export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -qq --yes --no-install-recommends "$@"
rm -rf "$root"/var/lib/apt/lists/*
