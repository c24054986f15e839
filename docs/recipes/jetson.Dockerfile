# edgeattn on a Jetson with JetPack 6: TensorRT 10.3, CUDA 12.6, the plugin for its GPU inside.
#
#   docker build -f docs/recipes/jetson.Dockerfile -t edgeattn .
#   docker run --rm --runtime nvidia -v "$PWD":/work edgeattn doctor
#
# Built from a checkout, on a board or with `docker buildx build --platform linux/arm64`: nothing in
# it needs a GPU until it runs. docs/containers.md says what changes for other JetPacks.
ARG BASE=nvcr.io/nvidia/l4t-tensorrt:r10.3.0-devel
FROM ${BASE}

# What pycuda, cuda-python and NumPy may be follows from the base's CUDA and TensorRT.
ARG PACKAGES="pycuda numpy<2 cuda-python==12.6.*"
ARG TARGET=jetson-agx-orin

SHELL ["/bin/bash", "-o", "pipefail", "-c"]
ENV PATH=/opt/edgeattn/bin:/usr/local/cuda/bin:${PATH} \
    XDG_CACHE_HOME=/opt/cache

# Their versions are those of the base's own releases.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends g++ python3-dev python3-venv \
 && rm -rf /var/lib/apt/lists/*

COPY . /tmp/source
# TensorRT's bindings are the base's: the environment has to see them. Words are split on purpose.
# hadolint ignore=SC2086,DL3013
RUN python3 -m venv --system-site-packages /opt/edgeattn \
 && set -f \
 && pip install --no-cache-dir "/tmp/source[plugin]" ${PACKAGES} \
 && rm -rf /tmp/source \
 && edgeattn plugin build --target "${TARGET}" \
 && chmod -R a+rX "${XDG_CACHE_HOME}"

WORKDIR /work
ENTRYPOINT ["edgeattn"]
CMD ["--help"]
