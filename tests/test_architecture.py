"""The picture in ARCHITECTURE.md holds: exported names, import direction, light imports."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from livekit.plugins import whisper

ROOT = Path(whisper.__file__).parent

LAYERS = [
    {"version", "build", "log", "errors"},
    {"languages", "pcm", "containers", "machine", "packages"},
    {"timeline", "links"},
    {"track"},
    {"media"},
    {"audio"},
    {"types"},
    {
        "config",
        "model_files",
        "formats",
        "metrics",
        "queueing",
        "agreement",
        "steering",
        "engines.phrases",
    },
    {"downloads", "inputs"},
    {"outputs"},
    {
        "models",
        "segmenter",
        "engines",
        "engines.quality",
        "engines.features",
        "engines.devices",
        "cache",
        "batcher",
        "cutting",
    },
    {"engines.decoding"},
    {"engines.faster_whisper", "engines.openai_whisper", "backend", "checks"},
    {"host.wire", "host.state", "host.loop", "host.environment", "host.orphans", "host.trust"},
    {"host.place", "host.exchange", "host.answers"},
    {"host.process"},
    {"host.lease", "host.guard", "host.listen"},
    {"host.connection"},
    {"host.client", "host.app"},
    {"host.serve"},
    {"host.launch"},
    {"api", "ahead", "sources", "screen", "host.commands"},
    {"stream", "doctor"},
    {"stt"},
    {"adapter"},
    {"factory"},
    {"live", "load"},
    {"transcribing"},
    {"__init__", "cli"},
    {"host"},
]
"""Imports run downwards only: a module may import from the layers before its own."""

RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}


def module_name(path: Path) -> str:
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


MODULES = {module_name(path): path for path in ROOT.rglob("*.py")}


def imported(name: str, path: Path) -> set[str]:
    """The modules of this package that a module imports, at any level of its code."""
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    package = [part for part in package if part != "__init__"]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.ImportFrom) or not node.level:
            continue
        base = package[: len(package) - node.level + 1]
        target = [*base, *(node.module.split(".") if node.module else [])]
        for alias in node.names:
            longer = ".".join([*target, alias.name])
            found.add(longer if longer in MODULES else ".".join(target))
    return found


def test_every_module_has_a_place() -> None:
    assert set(MODULES) == set(RANK)


@pytest.mark.parametrize("name", sorted(MODULES))
def test_imports_run_one_way(name: str) -> None:
    for other in imported(name, MODULES[name]):
        below = RANK[other] < RANK[name]
        within = RANK[other] == RANK[name] and (name, other) in {("engines.decoding", "engines")}
        assert below or within, f"{name} imports {other}"


def test_only_stt_stream_factory_and_init_know_livekit_agents() -> None:
    knowing = {name for name, path in MODULES.items() if "livekit.agents" in path.read_text()}
    assert knowing == {
        "api", "stt", "ahead", "stream", "adapter", "factory", "sources", "screen", "live",
        "__init__",
    }  # fmt: skip


def test_exported_names() -> None:
    assert whisper.__all__ == [
        "Audio", "AudioError", "Backend", "BackendClosed", "CacheEntry", "CacheInfo",
        "ConfigError", "DeviceError", "DownloadError", "EngineError", "FasterWhisperSTT",
        "HostCrashed", "HostUnavailable", "InstanceKey", "Limits", "LocalBackend",
        "MissingExtraError", "ModelDamaged", "ModelError", "ModelKey", "ModelNotFound",
        "Overloaded",
        "ProviderFactory", "STTConfig", "Segment", "Superseded", "Transcript", "Utterance",
        "WhisperError", "WhisperSTT", "WhisperStreamAdapter", "Word", "__version__", "load_fnc",
        "prewarm",
    ]  # fmt: skip
    assert all(hasattr(whisper, name) for name in whisper.__all__)


def test_every_module_can_be_imported() -> None:
    """Without a warning; openai-whisper's only where that is installed."""
    names = [name for name in MODULES if name != "engines.openai_whisper" or find_spec("whisper")]
    code = "import importlib, sys\nfor name in sys.argv[1:]: importlib.import_module(name)"
    package = "livekit.plugins.whisper"
    arguments = [package if name == "__init__" else f"{package}.{name}" for name in names]
    out = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *arguments],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert (out.returncode, out.stderr) == (0, "")


def test_import_starts_no_thread_and_imports_no_engine() -> None:
    code = (
        "import sys, threading\n"
        "import livekit.agents\n"
        "before = threading.active_count()\n"
        "from livekit.plugins import whisper\n"
        "heavy = {'torch', 'ctranslate2', 'faster_whisper', 'whisper', 'huggingface_hub'}\n"
        "print(threading.active_count() - before, sorted(heavy & set(sys.modules)))\n"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert out.stdout.strip() == "0 []"


def test_host_is_started_without_livekit_agents(tmp_path: Path) -> None:
    from livekit.plugins.whisper.host.process import LAUNCHER

    out = subprocess.run(
        [sys.executable, "-X", "importtime", str(LAUNCHER)],  # for want of a socket it ends there
        cwd=tmp_path, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    imports = [line.rpartition("|")[2].strip() for line in out.stderr.splitlines()]
    assert "livekit.plugins.whisper.host.serve" in imports
    assert not [name for name in imports if name.startswith(("livekit.agents", "livekit.rtc"))]


def test_plugin_can_be_imported_off_the_main_thread() -> None:
    code = (
        "import threading, importlib\n"
        "thread = threading.Thread(target=importlib.import_module, "
        "args=('livekit.plugins.whisper',))\n"
        "thread.start(); thread.join()\n"
        "from livekit.plugins import whisper\n"
        "print(whisper.__version__)\n"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert out.stdout.strip() == whisper.__version__
    assert not out.stderr
