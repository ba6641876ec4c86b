#!/bin/sh
# Adds Debian packages that a slim base image lacks and compiled packages load.
#   libraries.sh PACKAGE...
set -eu

export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -qq --yes --no-install-recommends "$@"
rm -rf /var/lib/apt/lists/*
