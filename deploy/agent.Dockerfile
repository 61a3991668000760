# An agent as a container, with its model in the image: it starts the machine's host by itself, inside of the container.
#
#   docker build -f deploy/agent.Dockerfile --build-arg STT_MODEL=base -t agent .
#   docker run --read-only --tmpfs /tmp -e LIVEKIT_URL=wss://… -e LIVEKIT_API_KEY=… -e LIVEKIT_API_SECRET=… agent
#
# To use the host of deploy/Dockerfile instead: -e STT_BACKEND=host -e STT_HOST=http://NAME:8390 -e STT_HOST_TOKEN=…
# With an agent of yours, replace simple_main.py, and the line that installs.

FROM python:3.11-slim AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN python -m venv /opt/agent \
    && /opt/agent/bin/pip install --no-cache-dir ".[faster-whisper,openai]" livekit-plugins-silero

FROM python:3.11-slim
COPY --from=build /opt/agent /opt/agent
ENV PATH=/opt/agent/bin:$PATH PYTHONUNBUFFERED=1 ORT_DISABLE_TELEMETRY=1
# The model that it is built with; another one at run time would have to be fetched.
ARG STT_MODEL=base
ENV STT_MODEL=$STT_MODEL HF_HOME=/opt/models
RUN python -m livekit.agents download-files
ENV HF_HUB_OFFLINE=1
RUN useradd --no-create-home --uid 10001 agent
USER 10001
WORKDIR /app
COPY simple_main.py agent.py
EXPOSE 8081
HEALTHCHECK --start-period=60s CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8081/')"]
# LiveKit waits so many seconds for conversations to end before it ends them; give `docker stop --time` more.
CMD ["python", "agent.py", "start", "--drain-timeout", "600"]
