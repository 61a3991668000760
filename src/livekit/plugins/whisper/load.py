"""`load_fnc`: how busy speech recognition is, for LiveKit's dispatcher."""

from __future__ import annotations

import os

import psutil

from .backend import process_backend
from .config import STTConfig
from .errors import HostUnavailable

ANSWER_SECONDS = 0.5
"""For the host's answer; LiveKit asks in a thread, every few seconds and before each job."""


def load_fnc(server: object = None) -> float:
    """An `AgentServer(load_fnc=…)`: the load of the host, with the environment's configuration.

    LiveKit sends no more jobs to a worker whose load is above its `load_threshold` (0.7). Its own
    measure, the CPU, is high while a model loads, and low on a GPU that is busy.

    Args:
        server: what LiveKit passes; not needed.

    Returns:
        0.0, idle, to 1.0, saturated: how busy the decoders were in the last seconds, or how long
        (in seconds) a final would wait, whichever is more. With models in the job processes
        themselves, which cannot be asked, the CPU's load.

    Raises:
        ConfigError: the environment's configuration is wrong.
    """
    config = STTConfig()
    here: float = process_backend(config.limits).load()
    if config.backend != "process" and os.name == "posix":
        from .host.process import ask, configured

        where, token = configured(config)
        try:
            answer = ask(where, timeout=ANSWER_SECONDS, token=token)
        except HostUnavailable:
            answer = {"load": _cpu()}
        busy = float(answer["load"]) if answer else 0.0
        return max(here, busy)
    return max(here, _cpu())


def _cpu() -> float:
    """Since it was asked last; 0 the first time."""
    return float(psutil.cpu_percent()) / 100
