"""What the documentation shows runs as it stands, and what it names is there.

Every fenced block of README.md and docs/ is looked at, none is left out: Python is run, agents
against the real livekit-server; of shell scripts every command is checked (ours by our parser);
YAML, TOML and JSON are parsed. What cannot run here is in `CANNOT_RUN`, and is compiled.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from livekit.plugins import whisper
from livekit.plugins.whisper import cli
from livekit.plugins.whisper.backend import LocalBackend
from livekit.plugins.whisper.host.app import create_app
from livekit.plugins.whisper.host.state import HostState
from livekit.plugins.whisper.models import HUB_REPOSITORIES, resolve
from packaging.requirements import Requirement

from scripts.room import Caller, LiveKitServer, Recording, Worker, find_server
from tests.support.documents import (
    ROOT,
    Block,
    Command,
    blocks,
    commands,
    dead_links,
    documents,
    inline,
    is_setting,
    prose,
    unknown_settings,
)
from tests.support.hub import Hub
from tests.support.weights import TINY, base_directory, recordings

CANNOT_RUN: dict[str, str] = {}
"""A part of a Python block that is found in no other → why it cannot run in a test."""
OTHERS = {
    "ffmpeg", "docker", "kubectl", "helm", "systemctl", "journalctl", "cd", "cp", "mkdir", "echo",
    "cat", "git", "apt", "apt-get", "nvidia-smi", "source", "ls", "uv", "lk",
}  # fmt: skip
"""Programs that are not ours: what is written after them is theirs to check."""
SHELLS = {"bash", "sh", "shell", "console"}
PLAIN = {"text", "mermaid", "dockerfile", "ini"}
"""Of these only the files and settings that they name are checked."""

PAGES = documents()
BLOCKS = blocks(PAGES)
PYTHON = [block for block in BLOCKS if block.language in ("python", "py")]
AGENTS = [block for block in PYTHON if "cli.run_app(" in block.code]
SCRIPTS = [block for block in PYTHON if block not in AGENTS]
COMMANDS = [
    command
    for block in BLOCKS
    if block.language in SHELLS
    for command in commands(block, block.code)
] + [
    command
    for page in PAGES
    for text in inline(page)
    if re.match(r"(livekit-whisper|make|python|pip) ", text)
    for command in commands(page.name, text.replace("…", ""))
]


@pytest.fixture(scope="module")
def published() -> Iterator[Hub]:
    """A hub that has tiny.en and base at the commits that we pin."""
    with Hub() as hub:
        for name, folder in (
            ("tiny.en", resolve(TINY.engine, TINY.model).path), ("base", base_directory()),
        ):  # fmt: skip
            repository, commit = HUB_REPOSITORIES[name]
            hub.add(repository, folder, commit)
        yield hub


def test_every_block_is_of_a_kind_that_is_checked() -> None:
    assert len(PYTHON) >= 7
    assert len(COMMANDS) >= 20
    known = {"python", "py", "yaml", "toml", "json", *SHELLS, *PLAIN}
    assert not [f"{block}: {block.language!r}" for block in BLOCKS if block.language not in known]


def test_what_cannot_run_is_one_block_each() -> None:
    for part in CANNOT_RUN:
        assert len([block for block in PYTHON if part in block.code]) == 1, part


@pytest.mark.parametrize("block", SCRIPTS, ids=str)
def test_python_runs_as_it_stands(
    block: Block, published: Hub, factory: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    compile(block.code, str(block), "exec")
    if any(part in block.code for part in CANNOT_RUN):
        return
    published.patch(monkeypatch, tmp_path)
    monkeypatch.setenv("STT_MODEL", TINY.model)
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    shutil.copy(recordings()[4], tmp_path / "talk.wav")
    script = tmp_path / "block.py"
    script.write_text(block.code)
    runpy.run_path(str(script), run_name="__main__")


@pytest.mark.skipif(find_server() is None, reason="no livekit-server: `make server` gets it")
@pytest.mark.parametrize("block", AGENTS, ids=str)
async def test_agent_runs_as_it_stands(block: Block, tmp_path: Path) -> None:
    script = tmp_path / "agent.py"
    script.write_text(block.code)
    argv = [sys.executable, str(script), "start", "--simulation"]
    environment = {"STT_MODEL": TINY.model, "OPENAI_API_KEY": "none"}
    async with LiveKitServer() as server, Worker(server, env=environment, argv=argv) as worker:
        if block is AGENTS[0]:  # others are ready for jobs; this one gets one
            async with Caller(server, "room") as caller:
                heard = await caller.play(Recording.read(recordings()[4]))
                assert heard.final_at is not None, worker.tail(60)
                assert heard.text == "He might even have been made amiable himself."
        assert "Traceback" not in worker.output()


def test_data_can_be_parsed() -> None:
    toml = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    parsers: dict[str, Callable[[str], object]] = {
        "json": json.loads,
        "toml": toml.loads,
        "yaml": lambda text: list(filter(None, yaml.safe_load_all(text))),
    }
    for block in BLOCKS:
        if block.language in parsers:
            assert parsers[block.language](block.code), block


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language in SHELLS], ids=str)
def test_shell_can_be_parsed(block: Block) -> None:
    script = "\n".join(re.sub(r"^\$ ", "", line) for line in block.code.splitlines())
    run = subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True, check=False)
    assert run.returncode == 0, run.stderr
    assert commands(block, block.code)


@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_command_is_one_that_there_is(command: Command) -> None:
    for name in command.variables:
        assert not name.startswith("STT_") or is_setting(name), name
    program, *rest = command.words
    checks = {
        "livekit-whisper": check_ours, "make": check_make, "python": check_python,
        "pip": check_pip, "curl": check_curl,
    }  # fmt: skip
    if program in checks:
        checks[program](rest)
    elif program.startswith(("scripts/", "./scripts/", ".venv/bin/", ".ci/")):
        assert (ROOT / program).exists()
    else:
        assert program in OTHERS, f"{program}: neither ours nor one of OTHERS"


def check_ours(words: list[str]) -> None:
    """The real command takes it: the subcommand, its options, their values."""
    command: Any = typer.main.get_command(cli.app)
    while getattr(command, "commands", None):
        known = {option for each in command.params for option in (*each.opts, "--help", "-h")}
        while words and words[0].startswith("-"):
            assert words.pop(0) in known
        if not words:
            return
        assert words[0] in command.commands, words[0]
        command = command.commands[words.pop(0)]
    if words:  # in the text a subcommand may be named alone
        command.make_context(command.name, list(words))


def check_make(words: list[str]) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {word for word in words if "=" not in word and not word.startswith("-")} <= targets


def check_python(words: list[str]) -> None:
    if words[0] == "-m":
        assert importlib.util.find_spec(words[1])
    elif words[0] != "-c" and words[0] != "agent.py":  # what a reader calls their own
        assert (ROOT / words[0]).is_file()


def check_pip(words: list[str]) -> None:
    pyproject = (ROOT / "pyproject.toml").read_text()
    assert words[0] == "install"
    for word in words[1:]:
        if word.startswith("-"):
            continue
        wanted = Requirement(re.sub(r"^\.", "livekit-plugins-whisper", word))
        if wanted.name == "livekit-plugins-whisper":
            extras = pyproject.partition("[project.optional-dependencies]")[2].partition("\n[")[0]
            assert wanted.extras <= set(re.findall(r"^([\w-]+) =", extras, re.MULTILINE))
        else:
            assert f"{wanted.name}==" in (ROOT / "requirements" / "dev.txt").read_text()


def check_curl(words: list[str]) -> None:
    """Of the host: the route is there, and knows what the address asks for."""
    addresses = [word for word in words if "://" in word]
    assert addresses
    paths = create_app(HostState(LocalBackend())).openapi()["paths"]
    for address in addresses:
        path, _, query = re.sub(r"^\w+://[^/]+", "", address).partition("?")
        method = "post" if any(word.startswith(("--data", "-d")) for word in words) else "get"
        if address.startswith(("http://host/", "http://127.0.0.1:8390/")):
            assert path == "/openapi.json" or method in paths.get(path, {}), address
            if query:
                known = {each["name"] for each in paths[path][method]["parameters"]}
                assert {each.partition("=")[0] for each in query.split("&")} <= known


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    assert not dead_links(page)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_settings_and_names_that_are_named_are_there(page: Path) -> None:
    assert not unknown_settings(page)
    names = set(re.findall(r"\bwhisper\.([A-Z]\w*)", " ".join(inline(page))))
    assert not [name for name in sorted(names) if not hasattr(whisper, name)]
    assert page.name != "README.md" or "STT_PROVIDER" in prose(page)


def test_agent_to_copy_is_there() -> None:
    assert "simple_main.py" in prose(ROOT / "README.md")
    assert os.access(ROOT / "simple_main.py", os.R_OK)
