"""Who shares a host: processes whose libraries go by the same, and no others."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from livekit.plugins.whisper.host import environment
from livekit.plugins.whisper.host.client import HostBackend
from livekit.plugins.whisper.host.place import HostSpec

from tests.support.hosts import Hosts
from tests.support.weights import TINY, openai_tiny


def fingerprint() -> str:
    return HostSpec().fingerprint


PARTING = {
    "LD_LIBRARY_PATH": "/opt/cuda/lib64", "LD_PRELOAD": "/usr/lib/libjemalloc.so",
    "NVIDIA_VISIBLE_DEVICES": "1", "CUDA_VISIBLE_DEVICES": "1", "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
    "http_proxy": "http://user:secret@proxy:3128", "HTTPS_PROXY": "http://proxy:3128",
    "https_proxy": "http://proxy:3128", "ALL_PROXY": "socks5://proxy", "no_proxy": "hub.local",
    "NO_PROXY": "hub.local", "SSL_CERT_FILE": "/etc/company.pem", "SSL_CERT_DIR": "/etc/certs",
    "REQUESTS_CA_BUNDLE": "/etc/company.pem", "CURL_CA_BUNDLE": "/etc/company.pem",
    "TORCH_HOME": "/data/torch", "HF_HOME": "/data/hub", "HF_HUB_CACHE": "/data/hub",
    "HUGGINGFACE_HUB_CACHE": "/data/hub", "HF_ENDPOINT": "http://hub.local", "HF_TOKEN": "hf_x",
    "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_XET": "1", "TRANSFORMERS_CACHE": "/data/hub",
    "XDG_CACHE_HOME": "/data/cache", "HOME": "/home/else", "PYTHONPATH": "/opt/patched",
    "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True", "CT2_USE_MKL": "0",
    "CT2_FORCE_CPU_ISA": "GENERIC", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1",
    "NUM_CPUS": "1",
}  # fmt: skip
HARMLESS = {
    "LIVEKIT_URL": "ws://one", "LIVEKIT_API_SECRET": "secret", "LIVEKIT_WORKER_TOKEN": "x",
    "PROMETHEUS_MULTIPROC_DIR": "/tmp/x", "CUDA_MODULE_LOADING": "LAZY", "OPENAI_API_KEY": "sk-x",
    "LANG": "de_DE.UTF-8", "TERM": "xterm", "PWD": "/else", "OLDPWD": "/else", "SHLVL": "3",
    "_": "/usr/bin/python", "PYTHONUNBUFFERED": "1", "PYTHONHASHSEED": "0", "PATH": "/usr/bin",
    "SSH_AUTH_SOCK": "/tmp/agent", "COLUMNS": "80", "VIRTUAL_ENV": "/venv", "INVOCATION_ID": "9f",
    "SSL_CERT_FILE": "/venv/lib/site-packages/certifi/cacert.pem",
}  # fmt: skip


@pytest.mark.parametrize("name", PARTING)
def test_what_libraries_go_by_parts_processes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(name, raising=False)
    before = fingerprint()
    monkeypatch.setenv(name, PARTING[name])
    assert fingerprint() != before
    monkeypatch.setenv(name, PARTING[name] + "x")
    assert fingerprint() != before
    monkeypatch.setenv(name, "")
    assert fingerprint() == before


@pytest.mark.parametrize("name", HARMLESS)
def test_what_differs_from_job_to_job_does_not(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(name, raising=False)
    before = fingerprint()
    monkeypatch.setenv(name, HARMLESS[name])
    assert fingerprint() == before


def test_places_are_compared_wherever_a_process_was_started(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "lib").mkdir()
    for name, value in (("LD_LIBRARY_PATH", "lib:"), ("HF_HOME", "lib"), ("SSL_CERT_FILE", "lib")):
        monkeypatch.setenv(name, value)
    before = fingerprint()
    monkeypatch.chdir(tmp_path / "lib")
    assert fingerprint() != before
    monkeypatch.setenv("LD_LIBRARY_PATH", f":{tmp_path}/lib")
    monkeypatch.setenv("HF_HOME", f"{tmp_path}/lib/")
    monkeypatch.setenv("SSL_CERT_FILE", "../lib")
    assert fingerprint() == before
    monkeypatch.setenv("HF_HOME", "~/hub")  # its library's own way of writing a home
    assert environment.relevant()["HF_HOME"] == "~/hub"


def test_loading_a_model_does_not_part_a_process_from_the_others() -> None:
    """The engines put nothing into the environment that the fingerprint sees."""
    code = (
        "import sys; from livekit.plugins.whisper import engines, models\n"
        "from livekit.plugins.whisper.types import ModelKey\n"
        "from livekit.plugins.whisper.host.place import HostSpec\n"
        "from livekit.plugins.whisper.engines import faster_whisper\n"
        "flags = set(open('/proc/cpuinfo').read().split())\n"
        "faster_whisper._has_fast_avx512 = lambda: faster_whisper.AVX512 <= flags\n"
        "before = HostSpec().fingerprint\n"
        "for engine, model in zip(sys.argv[1::2], sys.argv[2::2]):\n"
        "    engines.load(models.resolve(engine, model), ModelKey(engine, model))\n"
        "print(HostSpec().fingerprint == before)\n"
    )
    keys = [part for key in (TINY, openai_tiny()) for part in (key.engine, key.model)]
    environment = {k: v for k, v in os.environ.items() if k != "CT2_FORCE_CPU_ISA"}
    done = subprocess.run(
        [sys.executable, "-c", code, *keys], env=environment,
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.stdout.strip() == "True", done.stderr


async def test_host_has_the_environment_of_who_starts_it_and_others_get_their_own(
    hosts: Hosts, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", f"{tmp_path}:")
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("PYTHONPATH", ":")
    first = HostBackend()
    first.hold(TINY)
    await first.prewarm(TINY)
    found = Path(f"/proc/{hosts.pid}/environ").read_bytes().split(b"\0")
    assert f"LD_LIBRARY_PATH={tmp_path}".encode() in found
    assert b"https_proxy=http://127.0.0.1:9" in found
    assert any(each.startswith(b"OPENBLAS_NUM_THREADS=") for each in found)
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:10")
    second = HostBackend()
    await second.prewarm(TINY)
    assert len(hosts.places()) == 2
    await first.aclose()
    await second.aclose()
