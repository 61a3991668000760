"""`livekit-whisper host …`: what people do with the host."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Annotated, Any

import psutil
import typer
from rich.console import Console

from ..config import STTConfig
from ..errors import ConfigError, HostUnavailable
from . import trust, wire
from .place import Place, Target, directory, places
from .process import ask, owner_pid, start_or_join

app = typer.Typer(help="One model for all processes of this machine.", no_args_is_help=True)
_out = Console(soft_wrap=True, highlight=False, markup=False, emoji=False)

STOP_SECONDS = 60.0
"""For a host to finish what is under way."""
LogOption = Annotated[int, typer.Option("--lines", "-n", min=1, help="How many of the last lines.")]


@app.command()
def start() -> None:
    """Start the host that the configuration (STT_*) asks for, unless it runs."""
    place = start_or_join(Target.of(STTConfig()).spec)
    _out.print(_line(str(place), ask(place)))


@app.command()
def status(
    as_json: Annotated[
        bool,
        typer.Option("--json", help="One JSON array: what each host says of itself (/v1/host)."),
    ] = False,
) -> None:
    """The hosts of this user, what they have loaded, and how busy they are.

    Of requests it says how many are under way, how many of those wait for a decoder, and how many
    were served since the host started. The status is 3 where no host runs.
    """
    found = [facts for place in places() if (facts := _look(place))]
    if as_json:
        _out.print(json.dumps(found))
    else:
        _show(found)
    if not found:
        raise typer.Exit(3)


def _show(found: list[dict[str, Any]]) -> None:
    if not found:
        _out.print(f"no host runs ({directory()})")
    for facts in found:
        _out.print(facts["error"] or _line(facts["address"], facts))
        for model in facts["models"]:
            size = f"{model['bytes'] / 2**20:.0f} MiB" if model["loaded"] else "not loaded"
            _out.print(f"    {model['id']}  {size}  leases={model['leases']}")


def _look(place: Place) -> dict[str, Any] | None:
    """What a host says of itself, its `address`, its `models`, and the `error` if it does not
    answer; None where there is none."""
    known: dict[str, Any] = {"address": str(place), "error": None, "models": []}
    try:
        facts = ask(place)
        models = facts and ask(place, wire.MODELS)
    except HostUnavailable as exc:
        return {**known, "error": str(exc)}
    return {**known, **facts, "models": models["data"]} if facts and models else None


@app.command()
def stop() -> None:
    """Stop the hosts of this user: each finishes what is under way, and ends."""
    deadline = time.monotonic() + STOP_SECONDS
    stopped = False
    for place in places():
        if (pid := owner_pid(place)) is None:
            continue
        stopped = True
        _terminate(pid, place)
        while _lives(pid):
            if time.monotonic() > deadline:
                raise HostUnavailable(
                    f"{place}: pid {pid} is still at work after {STOP_SECONDS:.0f} s; "
                    f"to end it without its work: kill -9 {pid}"
                )
            time.sleep(0.02)
        _out.print(f"stopped pid={pid}")
    if not stopped:
        _out.print("no host runs")


@app.command()
def logs(lines: LogOption = 50) -> None:
    """The last lines of the hosts' logs. What was said is in none of them."""
    for place in places():
        try:
            with os.fdopen(trust.open_own(place.log, os.O_RDONLY), errors="replace") as file:
                text = file.read()
        except FileNotFoundError:
            continue
        except OSError as exc:
            _out.print(f"{place.log}: not shown: {exc.strerror}")
            continue
        _out.print(f"==> {place.log} <==")
        for line in text.splitlines()[-lines:]:
            _out.print(line)


@app.command()
def run(
    socket: Annotated[
        Path | None, typer.Option(help="Unix socket to serve on; the machine's own if left out.")
    ] = None,
    tcp: Annotated[
        str | None, typer.Option(help="NAME:PORT to serve on instead (token: STT_HOST_TOKEN).")
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option("--model", "-m", help="Loaded at once; may be repeated.")
    ] = None,
) -> None:
    """Serve in the foreground, for systemd and containers, until it is told to end."""
    from .listen import TcpListener, UnixListener  # a server is imported by whoever serves
    from .serve import log_to_stderr, serve

    config = STTConfig()
    if socket and tcp:
        raise ConfigError("--socket and --tcp: choose one of them")
    target = Target.of(config)
    token = target.token if tcp else None
    place = Place(socket.absolute()) if socket else Place.of(target.spec)
    listener = TcpListener(tcp, token) if tcp else UnixListener(place, create=True)
    log_to_stderr()
    keys = [config.model_copy(update={"model": name}).model_key for name in model or [config.model]]
    asyncio.run(serve(target.spec, listener, models=keys, token=token, forever=True))


def _line(address: str, facts: Any) -> str:
    if not facts:
        return f"{address}  has ended"
    age = time.time() - facts["started"]
    return (
        f"{address}  pid={facts['pid']}  version={facts['version']}  up={age:.0f}s  "
        f"load={facts['load']:.2f}  leases={facts['leases']}  requests={facts['requests']} "
        f"(waiting {facts.get('waiting', '?')}, served {facts.get('served', '?')})"
    )


def _terminate(pid: int, place: Place) -> None:
    """Tells a host to end, and surely no other process that has got its number meanwhile.

    Raises:
        HostUnavailable: it is not ours.
    """
    with suppress(ProcessLookupError), ExitStack() as stack:
        handle = None
        if sys.platform == "linux":
            with suppress(AttributeError, PermissionError):  # an old kernel, a strict sandbox
                handle = os.pidfd_open(pid)
                stack.callback(os.close, handle)
        if not trust.listens(pid, place.socket):
            if _lives(pid):
                raise HostUnavailable(f"{place}: pid {pid} is no host of yours; it was left alone")
        elif sys.platform == "linux" and handle is not None:
            signal.pidfd_send_signal(handle, signal.SIGTERM)
        else:
            os.kill(pid, signal.SIGTERM)


def _lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
