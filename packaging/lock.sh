#!/bin/sh
# Resolves requirements.lock (everything a developer needs) and requirements-runtime.lock (what `wakegate serve` needs).
# The caller's pip configuration is left out, so that no mirror or local path can end up in a committed file.
set -eu
compile=$1
export PIP_CONFIG_FILE=/dev/null CUSTOM_COMPILE_COMMAND="make lock"
unset PIP_FIND_LINKS PIP_INDEX_URL PIP_EXTRA_INDEX_URL || true
lock() {
    "$compile" --quiet --upgrade --generate-hashes --strip-extras --no-emit-index-url --no-emit-trusted-host \
        --no-emit-find-links "$@" pyproject.toml
}
lock --allow-unsafe --extra dev --extra bench --output-file requirements.lock
lock --constraint requirements.lock --output-file requirements-runtime.lock
