# Two targets; neither was built where this was written, which has no Docker:
#     docker build --target cpu -t yoloprune .
#     docker build --target cuda -t yoloprune:cuda .
#     docker run --rm -v "$PWD:/work" yoloprune slim mine.pt --macs 0.5 --calib pictures/
# and the tests inside:
#     docker run --rm --entrypoint make -w /src yoloprune test

FROM python:3.11-slim AS base
# git for the set-up of the tests, make for their commands, the libraries that OpenCV opens windows with
RUN apt-get update \
    && apt-get install -y --no-install-recommends git make libgl1 libglib2.0-0 \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
ENV PATH="/src/.venv/bin:$PATH"

FROM base AS cuda
RUN TORCH=index make setup && rm -rf /root/.cache/pip
WORKDIR /work
ENTRYPOINT ["yoloprune"]
CMD ["--help"]

FROM base AS cpu
RUN TORCH=cpu make setup && rm -rf /root/.cache/pip
WORKDIR /work
ENTRYPOINT ["yoloprune"]
CMD ["--help"]
