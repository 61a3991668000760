"""What documentation and deployment files state is so: settings, defaults, routes, links."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from livekit.plugins.whisper import cli
from livekit.plugins.whisper.backend import LocalBackend
from livekit.plugins.whisper.config import CONFIG_FILE, PREFIX, STTConfig
from livekit.plugins.whisper.host.app import create_app
from livekit.plugins.whisper.host.serve import DRAIN_SECONDS
from livekit.plugins.whisper.host.state import HostState
from pydantic import SecretStr
from pydantic_core import to_json

from scripts.room import Caller, LiveKitServer, Recording, Worker, find_server
from tests.support.documents import ROOT, blocks, dead_links, is_setting, unknown_settings
from tests.support.weights import REFERENCES, TINY, recordings

OTHERS = sorted({*ROOT.glob("*.md"), *ROOT.glob("tests/**/*.md")} - {ROOT / "README.md"})
"""Pages that `tests/test_readme.py` does not look at."""
DEPLOY = sorted(path for path in (ROOT / "deploy").iterdir() if path.is_file())
NONE, NO_DEFAULT = "–", "No default"
"""How the settings' table, and a comment in `.env.example`, say that a field has no default."""
AGENT_PORT = 8081
"""Of LiveKit's own server for probes, in production: its one route for them is `/`."""


def as_text(value: Any) -> str:
    """A setting's value as one writes it into an environment variable."""
    text = value if isinstance(value, str) else to_json(value).decode()
    return text.removesuffix(".0")


def defaults() -> dict[str, str]:
    """Every field's default as text; "" where there is none."""
    found = {}
    for name, field in STTConfig.model_fields.items():
        found[name] = "" if field.default is None else as_text(field.default)
    return found


def shown(page: str, language: str) -> list[str]:
    """The blocks of a language in a page of docs/."""
    return [each.code for each in blocks([ROOT / "docs" / page]) if each.language == language]


def test_settings_table_has_every_field_with_its_default() -> None:
    stated = {}
    for line in (ROOT / "docs" / "settings.md").read_text(encoding="utf-8").splitlines():
        if match := re.match(r"\| `(\w+)` \| `(\w+)` \| (?:`(.+)`|(\S+)) \| \S", line):
            name, variable, default, none = match.groups()
            assert variable == PREFIX + name.upper()
            assert none in (None, NONE), line
            stated[name] = default or ""
    assert stated == defaults()


def test_env_example_has_every_field_with_its_default() -> None:
    stated: dict[str, str] = {}
    comment = ""
    for line in (ROOT / ".env.example").read_text(encoding="utf-8").splitlines():
        match = re.fullmatch(rf"#?{PREFIX}(\w+)=(.*)", line)
        if match and PREFIX + match[1] != CONFIG_FILE:
            assert comment, f"{match[1]}: nothing says what it is"
            name, value = match[1].lower(), match[2]
            stated[name] = "" if comment.startswith(NO_DEFAULT) else value
            STTConfig(**{name: value})  # raises where the example is none
        comment = line[2:] if line.startswith("# ") else ""
    assert stated == defaults()


@pytest.mark.parametrize("form", ["toml", "yaml"])
def test_settings_files_that_are_shown_are_read(
    form: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for code in shown("settings.md", form):
        path = tmp_path / f"stt.{form}"
        path.write_text(code)
        monkeypatch.setenv(CONFIG_FILE, str(path))
        config = STTConfig()
        assert config.model_fields_set
        assert not isinstance(config.api_key, SecretStr)


def test_names_of_settings_are_settings() -> None:
    for path in [*OTHERS, *DEPLOY]:
        assert not unknown_settings(path)


@pytest.mark.parametrize("page", OTHERS, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    assert not dead_links(page)


def test_every_page_is_linked_from_the_readme() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for page in (ROOT / "docs").glob("*.md"):
        assert f"](docs/{page.name}" in readme, page.name


def manifests() -> list[dict[str, Any]]:
    text = (ROOT / "deploy" / "kubernetes.yaml").read_text(encoding="utf-8")
    return list(yaml.safe_load_all(text))


def pods() -> Iterator[dict[str, Any]]:
    """The pods' descriptions in the manifest, and the sidecar's in the documentation."""
    for manifest in manifests():
        if manifest["kind"] == "Deployment":
            yield manifest["spec"]["template"]["spec"]
    for code in shown("deployment.md", "yaml"):
        yield yaml.safe_load(code)["spec"]


def containers() -> list[dict[str, Any]]:
    kinds = ("initContainers", "containers")
    return [each for pod in pods() for kind in kinds for each in pod.get(kind, ())]


def test_containers_have_real_settings_and_probes() -> None:
    routes = create_app(HostState(LocalBackend())).openapi()["paths"]
    found = containers()
    assert len(found) == 4
    for container in found:
        variables = {each["name"]: each.get("value") for each in container["env"]}
        ours = {name: value for name, value in variables.items() if name.startswith(PREFIX)}
        assert ours and all(map(is_setting, ours))
        STTConfig(**{name.removeprefix(PREFIX).lower(): v for name, v in ours.items() if v})
        for name, probe in container.items():
            if name.endswith("Probe"):
                path, port = probe["httpGet"]["path"], probe["httpGet"]["port"]
                assert path == "/" if port == AGENT_PORT else path in routes


def test_agents_and_hosts_of_the_manifest_belong_together() -> None:
    host, agent = (pod["containers"][0] for pod in list(pods())[:2])
    service = next(each for each in manifests() if each["kind"] == "Service")
    variables = {each["name"]: each.get("value") for each in agent["env"]}
    port = host["ports"][0]["containerPort"]
    assert service["spec"]["ports"][0]["port"] == port
    assert variables["STT_HOST"] == f"http://{service['metadata']['name']}:{port}"
    models = [e["value"] for each in (host, agent) for e in each["env"] if e["name"] == "STT_MODEL"]
    assert len(models) == 2 and len(set(models)) == 1  # a host on TCP loads no other
    secrets = [
        e["valueFrom"]["secretKeyRef"]
        for each in (host, agent) for e in each["env"] if e["name"] == "STT_HOST_TOKEN"
    ]  # fmt: skip
    assert secrets[0] == secrets[1]
    for pod in pods():
        mounts = {m["name"] for c in pod["containers"] for m in c.get("volumeMounts", ())}
        assert "volumes" not in pod or mounts == {each["name"] for each in pod["volumes"]}
    grace = next(pods())["terminationGracePeriodSeconds"]
    assert grace > DRAIN_SECONDS


@pytest.mark.parametrize("name", ["Dockerfile", "agent.Dockerfile"])
def test_dockerfile_copies_what_is_there_and_starts_what_there_is(name: str) -> None:
    text = (ROOT / "deploy" / name).read_text(encoding="utf-8").replace("\\\n", " ")
    kept = {
        line[1:]
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    for line in re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE):
        for source in line.split():
            assert (ROOT / source).exists() and source in kept, source
    starts = re.findall(r'^(?:ENTRYPOINT|CMD) (\[".+"\])$', text, re.MULTILINE)
    words = yaml.safe_load(starts[-1])
    if words[0] == "livekit-whisper":
        check_command(words[1:])
    else:
        assert words[:3] == ["python", "agent.py", "start"]
        agent = next(each for each in containers() if each["image"] == "agent:latest")
        assert agent["name"] == "agent"
        grace = list(pods())[1]["terminationGracePeriodSeconds"]
        assert grace > int(words[words.index("--drain-timeout") + 1])


def test_systemd_unit_starts_what_there_is() -> None:
    text = (ROOT / "deploy" / "livekit-whisper.service").read_text(encoding="utf-8")
    (start,) = re.findall(r"^ExecStart=(.+)$", text, re.MULTILINE)
    program, *words = shlex.split(start)
    assert Path(program).name == "livekit-whisper"
    check_command(words)
    (stop,) = re.findall(r"^TimeoutStopSec=(\d+)$", text, re.MULTILINE)
    assert int(stop) > DRAIN_SECONDS


def check_command(words: list[str]) -> None:
    """The real command takes it."""
    command: Any = typer.main.get_command(cli.app)
    while getattr(command, "commands", None):
        command = command.commands[words.pop(0)]
    command.make_context(command.name, words)


def test_the_test_without_a_model_passes(tmp_path: Path) -> None:
    (tmp_path / "test_agent.py").write_text(shown("testing.md", "python")[0])
    shutil.copy(recordings()[4], tmp_path / "talk.wav")
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_agent.py"],
        cwd=tmp_path,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "1 passed" in run.stdout


@pytest.mark.skipif(find_server() is None, reason="no livekit-server: `make server` gets it")
async def test_agent_for_everybody_hears_both_and_whoever_comes_back(tmp_path: Path) -> None:
    script = tmp_path / "agent.py"
    script.write_text(shown("sessions.md", "python")[0])
    argv = [sys.executable, str(script), "start", "--simulation"]
    recording = Recording.read(recordings()[4])
    said = REFERENCES[recordings()[4].name]
    async with (
        LiveKitServer() as server,
        Worker(server, env={"STT_MODEL": TINY.model}, argv=argv) as worker,
        Caller(server, "room", identity="ben") as ben,
    ):
        async with Caller(server, "room", identity="anna") as anna:
            utterances = await asyncio.gather(anna.play(recording), ben.play(recording))
            assert all(each.final_at for each in utterances), worker.tail(60)
            by_whom = {heard.speaker for heard in anna.heard if heard.final}
            assert by_whom == {"anna", "ben"}
        async with Caller(server, "room", identity="anna") as anna:
            back = await anna.play(recording)
        assert back.text.lower().rstrip(".") == said.lower().rstrip(".")
        assert "Traceback" not in worker.output()
