"""`load_fnc`: how busy speech recognition is, for LiveKit's dispatcher."""

from __future__ import annotations

import asyncio
import threading
import time

from . import models
from .backend import process_backend
from .checks import absolute_key, check
from .config import STTConfig
from .errors import ConfigError, HostUnavailable, WhisperError
from .factory import ProviderFactory
from .log import logger
from .machine import CpuLoad

ANSWER_SECONDS = 0.5
"""For the host's answer; LiveKit asks in a thread, every few seconds and before each job."""
RETRY_SECONDS, MAX_RETRY_SECONDS = 15.0, 240.0
"""After so long a model that could not be had is asked for again; each time after twice as long."""
FULL = 1.0

_cpu = CpuLoad()


def load_fnc(server: object = None, *, cpu: bool = True) -> float:
    """An `AgentServer(load_fnc=…)`: the load of the host, with the environment's configuration.

    LiveKit sends no more jobs to a worker whose load is above its `load_threshold` (0.7). Its own
    measure, the CPU, is high while a model loads, and low on a GPU that is busy.

    Where the configuration is wrong, or its model cannot be had (it is looked after in the
    background, from the first call on), no speech could be recognized: the load is full until it
    can.

    Args:
        server: what LiveKit passes; not needed.
        cpu: whether the CPU's load counts where there is no host to ask; without, only what makes
            it full does.

    Returns:
        0.0, idle, to 1.0, saturated: how busy the decoders were in the last seconds (interim
        results apart, which give way), or how long (in seconds) a final would wait, whichever is
        more. With models in the job processes themselves, which cannot be asked, the load of this
        container's CPUs (outside of one, of the machine's), and full where the model's files are
        not to be had.
    """
    try:
        config = STTConfig()
        instance, load = _host(config) if config.uses_host else (None, None)
        if _watched(config, instance).fails:
            return FULL
        if load is None:
            load = _cpu() if cpu else 0.0
        return max(load, process_backend(config.limits).load())
    except Exception as exc:  # LiveKit asks no more once this has raised
        return _refuse(exc)


class _Watch:
    """Whether the model of a configuration can be had, or one of its fallbacks'.

    What was found holds for as long as the host lives that it was found with; a failure until it
    is time to try again.
    """

    def __init__(self, config: STTConfig) -> None:
        self.config = config
        self.fails = False
        self.looking: threading.Thread | None = None
        self._again, self._pause = 0.0, RETRY_SECONDS
        self._instance: object = None

    def look(self, instance: object) -> None:
        """Finds it out in the background, if it is time to.

        Args:
            instance: which host answers; None: none.
        """
        if self.looking and self.looking.is_alive():
            return
        another = instance not in (None, self._instance)
        if time.monotonic() >= self._again or another:
            self._instance = instance
            self.looking = threading.Thread(target=self._look, name="whisper-watch", daemon=True)
            self.looking.start()

    def _look(self) -> None:
        try:
            _obtain(self.config)
        except Exception as exc:
            self.fails = True
            self._again = time.monotonic() + self._pause
            self._pause = min(2 * self._pause, MAX_RETRY_SECONDS)
            _refuse(exc)
        else:
            if self.fails:
                logger.info("load_fnc: no longer full, the model is there")
            if self.config.uses_host:
                self._instance = _host(self.config)[0]
            self.fails, self._again, self._pause = False, float("inf"), RETRY_SECONDS
            _told.clear()


_watch: _Watch | None = None
_told: set[str] = set()


def _watched(config: STTConfig, instance: object) -> _Watch:
    global _watch
    if _watch is None or _watch.config != config:
        _watch = _Watch(config)
    _watch.look(instance)
    return _watch


def _refuse(exc: Exception) -> float:
    """Says why the load is full, once."""
    message = str(exc) or type(exc).__name__
    if message not in _told:
        _told.add(message)
        logger.error(
            "load_fnc reports full load, since speech could not be recognized: %s", message
        )
    return FULL


def _obtain(config: STTConfig) -> None:
    """Returns once the first provider of a configuration that can work is ready to.

    Raises:
        WhisperError: none can; the first one's error.
    """
    first: WhisperError | None = None
    for each in config.chain:
        try:
            return _obtain_one(each)
        except WhisperError as exc:
            first = first or exc
    assert first
    raise first


def _obtain_one(config: STTConfig) -> None:
    if not config.is_local:
        if config.provider not in ProviderFactory.providers():
            raise ConfigError(f"provider (STT_PROVIDER): {config.provider!r} is not known")
        return
    check(config)
    if config.uses_host:
        try:
            return asyncio.run(_prewarm_host(config))
        except HostUnavailable:
            if config.backend == "host":
                raise
    # Whether it loads is for the job processes to find out: this one has no use for the model.
    key = config.model_key
    models.resolve(key.engine, key.model, key.revision)


async def _prewarm_host(config: STTConfig) -> None:
    from .host.client import HostBackend  # POSIX only
    from .host.place import Target

    target = Target.of(config)
    backend = HostBackend(target.spec, address=target.address, token=target.token)
    try:
        await backend.prewarm(absolute_key(config))
    finally:
        await backend.aclose()


def _host(config: STTConfig) -> tuple[str | None, float | None]:
    """Which host answers, and its load; None where it cannot be had."""
    from .host.place import Target
    from .host.process import ask_configured

    try:
        answer = ask_configured(Target.of(config), timeout=ANSWER_SECONDS)
        if answer is None:  # nobody has needed it yet, or it is about to start again
            return None, 0.0
        return str(answer["instance"]), min(1.0, max(0.0, float(answer["load"])))
    except Exception as exc:
        logger.debug("[WHISPER-HOST] its load cannot be had: %s", exc)
        return None, None
