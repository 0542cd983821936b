# featcache on the CPU, or on NVIDIA GPUs with `--build-arg DEVICE=cuda`; see docs/guides/scripts.md.
FROM python:3.12-slim

# "cpu" or "cuda": the wheels of PyTorch. Those for CUDA bring its libraries, so the base image needs none.
ARG DEVICE=cpu
ARG EXTRAS=heic,parquet,text

ENV PIP_NO_CACHE_DIR=1 \
    PYTHONUNBUFFERED=1 \
    MPLBACKEND=Agg

WORKDIR /src
# PyTorch first: a change of the code does not download it again.
RUN if [ "$DEVICE" = cpu ]; then \
        pip install "torch>=2.11" "torchvision>=0.26" --index-url https://download.pytorch.org/whl/cpu; \
    elif [ "$DEVICE" = cuda ]; then \
        pip install "torch>=2.11" "torchvision>=0.26"; \
    else \
        echo "DEVICE is $DEVICE; it must be cpu or cuda" >&2; exit 1; \
    fi

COPY pyproject.toml README.md LICENSE ./
COPY featcache ./featcache
COPY cli ./cli
# hadolint ignore=DL3013
RUN pip install ".[$EXTRAS]"

# A user without rights; converted networks and downloads go where any user may write.
RUN useradd --create-home --uid 1000 featcache && install -d -m 1777 /cache
ENV XDG_CACHE_HOME=/cache \
    TORCH_HOME=/cache/torch \
    HF_HOME=/cache/huggingface
USER 1000
WORKDIR /data
ENTRYPOINT ["featcache"]
CMD ["--help"]
