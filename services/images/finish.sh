#!/bin/sh
# The last step of an image: a user, and no pip.
#   finish.sh ROOT PREFIX      ROOT: / of the image; PREFIX: of the Python that loses pip, or - where it has none
set -eu

root="${1%/}"
prefix="$2"

# vLLM and torch ask for the name of their user, so it needs an entry; the number is that of the chart
echo 'learnback:x:10001:10001:Learnback:/tmp:/usr/sbin/nologin' >> "$root/etc/passwd"
echo 'learnback:x:10001:' >> "$root/etc/group"
mkdir -p "$root/var/lib/learnback"
chmod 0777 "$root/var/lib/learnback"

if [ "$prefix" != - ]; then
    rm -f "$prefix"/bin/pip*
    for library in "$prefix"/lib/python3.*; do
        rm -rf "$library/ensurepip" "$library"/site-packages/pip "$library"/site-packages/pip-* \
            "$library"/site-packages/setuptools "$library"/site-packages/setuptools-* \
            "$library"/site-packages/wheel "$library"/site-packages/wheel-*
    done
fi
