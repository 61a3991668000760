"""`load_fnc`: how busy speech recognition is, for LiveKit's dispatcher."""

from __future__ import annotations

import os

from .backend import process_backend
from .config import STTConfig
from .log import logger
from .machine import CpuLoad

ANSWER_SECONDS = 0.5
"""For the host's answer; LiveKit asks in a thread, every few seconds and before each job."""
_cpu = CpuLoad()


def load_fnc(server: object = None) -> float:
    """An `AgentServer(load_fnc=…)`: the load of the host, with the environment's configuration.

    LiveKit sends no more jobs to a worker whose load is above its `load_threshold` (0.7). Its own
    measure, the CPU, is high while a model loads, and low on a GPU that is busy.

    Args:
        server: what LiveKit passes; not needed.

    Returns:
        0.0, idle, to 1.0, saturated: how busy the decoders were in the last seconds (interim
        results apart, which give way), or how long (in seconds) a final would wait, whichever is
        more. With models in the job processes themselves, which cannot be asked, the load of this
        container's CPUs (outside of one, of the machine's).

    Raises:
        ConfigError: the environment's configuration is wrong.
    """
    config = STTConfig()
    here = process_backend(config.limits).load()
    if config.backend == "process" or os.name != "posix":
        return max(here, _cpu())
    try:
        return max(here, _host(config))
    except Exception as exc:  # LiveKit asks no more once this has raised
        logger.debug("[WHISPER-HOST] its load cannot be had: %s", exc)
        return max(here, _cpu())


def _host(config: STTConfig) -> float:
    from .host.place import Target
    from .host.process import ask_configured

    answer = ask_configured(Target.of(config), timeout=ANSWER_SECONDS)
    if answer is None:  # nobody has needed it yet, or it is about to start again
        return 0.0
    return min(1.0, max(0.0, float(answer["load"])))
