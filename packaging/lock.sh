#!/bin/sh
# Resolves requirements.lock (everything a developer needs), requirements-runtime.lock (what `wakegate serve`
# needs), requirements-build.lock (what makes a wheel) and requirements-fuzz.lock (what `make fuzz` needs beside the rest).
# The caller's pip configuration is left out, so that no mirror or local path can end up in a committed file.
set -eu
compile=$1
export PIP_CONFIG_FILE=/dev/null CUSTOM_COMPILE_COMMAND="make lock"
unset PIP_FIND_LINKS PIP_INDEX_URL PIP_EXTRA_INDEX_URL || true
lock() {
    "$compile" --quiet --upgrade --generate-hashes --strip-extras --no-emit-index-url --no-emit-trusted-host \
        --no-emit-find-links "$@"
}
lock --allow-unsafe --extra dev --extra bench --extra gpu --extra otel --output-file requirements.lock pyproject.toml packaging/older-python.in
lock --constraint requirements.lock --output-file requirements-runtime.lock pyproject.toml packaging/older-python.in
lock --allow-unsafe --constraint requirements.lock --output-file requirements-build.lock packaging/build.in
lock --allow-unsafe --constraint requirements.lock --output-file requirements-fuzz.lock packaging/fuzz.in
