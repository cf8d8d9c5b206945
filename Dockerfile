# Wakegate's container image. `make image` builds it; docs/operations.md says how to run it.
#
# BASE is any Debian 12 or newer; packages that it lacks are installed. Where no image registry is reachable,
# packaging/base-image.sh makes one from Debian packages (BASE=localhost/wakegate-base).
ARG BASE=docker.io/library/debian:bookworm-slim

FROM ${BASE} AS base
# git, sh and venv are for the replicas: they are cloned, built and started in here. tini is process 1 and reaps them.
RUN set -eu; export DEBIAN_FRONTEND=noninteractive; \
    if ! dpkg-query --show python3-venv git tini ca-certificates >/dev/null 2>&1; then \
        apt-get update; \
        apt-get install --yes --no-install-recommends python3 python3-venv git tini ca-certificates; \
        rm -rf /var/lib/apt/lists/*; \
    fi

FROM base AS build
# COMPILE=1 compiles the hot modules; it adds a C compiler to this stage, not to the image.
ARG COMPILE=0
RUN set -eu; export DEBIAN_FRONTEND=noninteractive; \
    if [ "$COMPILE" = 1 ]; then \
        apt-get update; apt-get install --yes --no-install-recommends gcc libc6-dev python3-dev; \
    fi
WORKDIR /src
COPY requirements-runtime.lock ./
RUN python3 -m venv /opt/wakegate \
    && /opt/wakegate/bin/pip install --no-cache-dir --no-compile --require-hashes -r requirements-runtime.lock
COPY requirements-build.lock ./
RUN python3 -m venv /opt/builder \
    && /opt/builder/bin/pip install --no-cache-dir --require-hashes -r requirements-build.lock
COPY . .
RUN WAKEGATE_COMPILE=$COMPILE /opt/builder/bin/python -m build --no-isolation --wheel \
    && /opt/wakegate/bin/pip install --no-cache-dir --no-deps dist/*.whl \
    && /opt/wakegate/bin/pip uninstall --yes --quiet pip setuptools \
    && /opt/builder/bin/python -m compileall -q /opt/wakegate/lib

FROM base
RUN useradd --uid 10001 --user-group --home-dir /data --no-create-home --shell /usr/sbin/nologin wakegate \
    && install -d -o wakegate -g wakegate -m 0700 /data
COPY --from=build /opt/wakegate /opt/wakegate
ENV PATH=/opt/wakegate/bin:/usr/local/bin:/usr/bin:/bin \
    WAKEGATE_DATA_DIR=/data \
    WAKEGATE_HTTP=0.0.0.0:8080 \
    WAKEGATE_HTTPS=0.0.0.0:8443 \
    WAKEGATE_API=0.0.0.0:8081 \
    WAKEGATE_API_INSECURE=true
USER 10001:10001
WORKDIR /data
VOLUME /data
EXPOSE 8080 8443 8081
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=4s --start-period=20s --retries=3 \
    CMD ["python3", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8081/healthz', timeout=3)"]
ENTRYPOINT ["tini", "--", "wakegate"]
CMD ["serve"]
