#!/bin/sh
# Builds the image: build-image.sh [options of `podman build` or `docker build`]. Environment: ENGINE, BASE, COMPILE, TAG.
set -eu
cd "$(dirname "$0")/.."
engine=${ENGINE:-$(command -v podman || command -v docker || true)}
[ -n "$engine" ] || { echo "Podman or Docker is needed: apt-get install -y podman" >&2; exit 1; }
# OCI images can't carry a health check; Docker's format can.
case $engine in *podman) set -- --format docker "$@" ;; esac
[ -z "${BASE:-}" ] || set -- --build-arg "BASE=$BASE" "$@"
exec "$engine" build --build-arg "COMPILE=${COMPILE:-0}" --tag "${TAG:-localhost/wakegate}" "$@" .
