#!/bin/sh
# Makes localhost/wakegate-base, a base for the Dockerfile, from Debian's packages alone: for places without an image
# registry. Needs root (or a user namespace), mmdebstrap and Podman or Docker; then: BASE=localhost/wakegate-base make image
set -eu
name=${1:-localhost/wakegate-base}
engine=${ENGINE:-$(command -v podman || command -v docker)}
suite=${SUITE:-bookworm}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mmdebstrap --quiet --variant=minbase --include=python3,python3-venv,git,tini,ca-certificates \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' "$suite" "$work/base.tar"
"$engine" import "$work/base.tar" "$name"
