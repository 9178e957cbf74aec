# headwise-server in a container: target `cpu` (the default, the last stage) or `gpu`. See docs/containers.md.
#
#   docker build -t headwise-server .
#
# A base needs bash, and python3, 3.11 or newer, with its venv module. All stages share one, since the server's environment
# links to its interpreter.
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS build
# Constraints through the environment, since pip's -c does not reach the build backend; new versions of pip read the
# second name for that.
ENV PIP_CONSTRAINT=/src/constraints.txt \
    PIP_BUILD_CONSTRAINT=/src/constraints.txt \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1
# pip lives in an environment of its own, so the server's has none.
RUN python3 -m venv /opt/pip && python3 -m venv --without-pip /opt/headwise
ENV PATH=/opt/pip/bin:$PATH PIP_PYTHON=/opt/headwise/bin/python
WORKDIR /src
# Dependencies come first, as a layer that changes in the code leave alone: here the project is a package without files.
# Both secrets are optional and stay out of the image: pip's settings, and a certificate bundle they may name.
COPY pyproject.toml constraints.txt ./
RUN touch README.md LICENSE

FROM build AS build-cpu
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf --mount=type=secret,id=ca.pem \
    pip install '.[server,cpu]'
# With this package, OpenVINO reports its use to its maker whenever it is imported. It runs as well without.
RUN pip uninstall --yes openvino-telemetry
COPY . .
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf --mount=type=secret,id=ca.pem \
    pip install --no-deps --force-reinstall .

# Never built, never run. CUDA and cuDNN come as NVIDIA's wheels, through ONNX Runtime's own extras, so that the base is
# the same as for the CPU. The driver comes from the host.
FROM build AS build-gpu
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf --mount=type=secret,id=ca.pem \
    pip install '.[server,gpu]'
# One path for any version of Python, for LD_LIBRARY_PATH below.
RUN ln -s /opt/headwise/lib/python3.*/site-packages/nvidia /opt/headwise/nvidia
COPY . .
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf --mount=type=secret,id=ca.pem \
    pip install --no-deps --force-reinstall .

FROM ${BASE} AS runtime
LABEL org.opencontainers.image.title="headwise-server" \
      org.opencontainers.image.description="Serves bundles of pruned vision transformers over gRPC" \
      org.opencontainers.image.licenses="Apache-2.0"
# A container has a network of its own, so listen on all of it; HTTP is for the health check below alone. pip wrote the byte code at build time. Bundles are copied
# while they are loaded, into memory, since the root may be read-only. ONNX Runtime reports its use to its maker by default.
ENV PATH=/opt/headwise/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HEADWISE_LISTEN=0.0.0.0:50051 \
    HEADWISE_HTTP_LISTEN=127.0.0.1:8080 \
    TMPDIR=/dev/shm \
    ORT_DISABLE_TELEMETRY=1
# A number, since Kubernetes' runAsNonRoot cannot check a name.
USER 65532:65532
EXPOSE 50051
STOPSIGNAL SIGTERM
# By the shell: where all cores are busy, a Python that starts every ten seconds may take longer than the check may.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 CMD ["bash", "-c", \
    "exec 3<>/dev/tcp/127.0.0.1/${HEADWISE_HTTP_LISTEN##*:} && printf 'GET /readyz HTTP/1.0\\r\\n\\r\\n' >&3 && \
    read -r _ status _ <&3 && [ \"$status\" = 200 ]"]
ENTRYPOINT ["headwise-server", "--repository", "/models"]

# Never built, never run.
FROM runtime AS gpu
# The engine `auto` means the CPU. ONNX Runtime does not look for NVIDIA's wheels by itself, so the linker has to. The
# last line is for NVIDIA's container runtime: CUDA, no graphics.
ENV HEADWISE_ENGINE=cuda \
    LD_LIBRARY_PATH=/opt/headwise/nvidia/cu13/lib:/opt/headwise/nvidia/cudnn/lib \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=build-gpu /opt/headwise /opt/headwise

FROM runtime AS cpu
COPY --from=build-cpu /opt/headwise /opt/headwise
