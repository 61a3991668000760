"""The command `livekit-whisper`: transcribe, listen, manage models, look after the installation."""

from __future__ import annotations

import errno
import io
import json
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from . import doctor, models
from .config import ExplicitConfig, STTConfig
from .engines import ENGINES
from .errors import ConfigError, ModelDamaged, ModelNotFound, WhisperError
from .factory import ProviderFactory
from .formats import ALL, FORMATS
from .inputs import inputs
from .outputs import NAMES, outputs
from .stt import LocalSTT
from .transcribing import Transcribing
from .version import __version__

app = typer.Typer(
    help="Whisper on your own machines, for LiveKit Agents.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={
        "help_option_names": ["-h", "--help"],
        # As openai-whisper and whisper-ctranslate2 spell options: --output_dir, --beam_size.
        "token_normalize_func": lambda name: name.replace("_", "-"),
    },
)
models_app = typer.Typer(help="List, fetch and check models.", no_args_is_help=True)
app.add_typer(models_app, name="models")
if os.name == "posix":
    from .host.commands import app as host_app

    app.add_typer(host_app, name="host")

# Names of files and models are shown as they are: [x] is no style, :x: no picture.
_out = Console(soft_wrap=True, highlight=False, markup=False, emoji=False)
_err = Console(stderr=True, soft_wrap=True, highlight=False, markup=False, emoji=False)

EngineOption = Annotated[str, typer.Option("--engine", "-e", help=f"One of: {', '.join(ENGINES)}.")]
# Settings: each has the name of a field of `STTConfig`.
ProviderOption = Annotated[str | None, typer.Option(help="faster-whisper, whisper, …")]
ModelOption = Annotated[str | None, typer.Option("--model", "-m", help="A model reference.")]
LanguageOption = Annotated[
    str | None, typer.Option("--language", "-l", help="A code, or auto to detect it.")
]
TaskOption = Annotated[str | None, typer.Option(help="transcribe, or translate (to English).")]
DeviceOption = Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N.")]
ComputeTypeOption = Annotated[str | None, typer.Option(help="Number format of the weights.")]
ThreadsOption = Annotated[int | None, typer.Option(help="CPU threads; 0: as many as cores.")]
BeamSizeOption = Annotated[int | None, typer.Option(help="Hypotheses kept; 1 is greedy.")]
PromptOption = Annotated[
    str | None,
    typer.Option("--prompt", "--initial-prompt", help="Text that the speech continues."),
]
HotwordsOption = Annotated[str | None, typer.Option(help="Words to favour.")]

FLAGS = ("--word-timestamps", "--words", "--verbose")
"""Options that openai-whisper gives a value, `True` or `False`."""


def main() -> None:
    """Runs the command. A user's mistake ends in one line and a status other than 0."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # what the terminal cannot show is no mistake
            encoding = stream.encoding if stream.isatty() else "utf-8"
            stream.reconfigure(encoding=encoding, errors=NAMES)
    try:
        app(args=_flags(sys.argv[1:]))
    except WhisperError as exc:
        _fail(exc)
        sys.exit(1)
    except OSError as exc:
        if exc.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG):
            raise
        _fail(ConfigError(f"standard output: {exc.strerror}; write to another place"))
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is left would fail once more
        sys.exit(1)


def _flags(arguments: Sequence[str]) -> list[str]:
    """Flags with a value, as openai-whisper has them (`--word_timestamps True`), without it."""
    found: list[str] = []
    for argument in arguments:
        flag, given, value = argument.partition("=")
        if not given and found:  # a word of its own
            flag, value = found[-1], argument
        if flag.replace("_", "-") not in FLAGS or value not in ("True", "False"):
            found.append(argument)
        elif given:
            found += [flag] if value == "True" else []
        elif value == "False":
            del found[-1]
    return found


def _show_version(wanted: bool) -> None:
    if wanted:
        _out.print(__version__)
        raise typer.Exit


def _log(wanted: bool) -> None:
    """Shows what happens, once any `--verbose` asks for it."""
    level = logging.INFO if wanted else logging.ERROR
    logging.basicConfig(level=level, format="%(levelname)s %(name)s: %(message)s", force=wanted)
    # What fails is reported by the command itself, once.
    logging.getLogger("livekit.plugins.whisper").disabled = not wanted


def _log_if(wanted: bool) -> None:
    if wanted:
        _log(True)


VerboseOption = Annotated[
    bool,
    typer.Option("--verbose", "-v", help="Log what happens.", callback=_log_if, expose_value=False),
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Show errors alone.")]


@app.callback()
def common(
    ctx: typer.Context,
    quiet: QuietOption = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log what happens.")] = False,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Whisper on your own machines, for LiveKit Agents.

    The exit status is 0 if all went well, 1 if something failed (what could be done is done), 2 for
    a wrong option, 130 after Ctrl-C.
    """
    ctx.obj = quiet
    _log(verbose)


@app.command()
def transcribe(
    ctx: typer.Context,
    files: Annotated[
        list[str],
        typer.Argument(
            help="Audio or video in any usual container: files, folders, patterns, pipes, or - for "
            "standard input."
        ),
    ],
    form: Annotated[
        str,
        typer.Option(
            "--format", "-f", "--output-format", help=f"One of: {', '.join(FORMATS)}, {ALL}."
        ),
    ] = "text",
    output_dir: Annotated[
        Path | None, typer.Option("--output-dir", "-o", help="Write a file for each one there.")
    ] = None,
    provider: ProviderOption = None,
    model: ModelOption = None,
    language: Annotated[
        str | None, typer.Option("--language", "-l", help="A code; left out, it is detected.")
    ] = None,
    task: TaskOption = None,
    device: DeviceOption = None,
    compute_type: ComputeTypeOption = None,
    threads: ThreadsOption = None,
    beam_size: BeamSizeOption = None,
    prompt: PromptOption = None,
    hotwords: HotwordsOption = None,
    word_timestamps: Annotated[
        bool | None,
        typer.Option("--words", "--word-timestamps", help="Times of words (in JSON and WebVTT)."),
    ] = None,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Transcribe files. Settings that are left out come from the environment (STT_MODEL, …).

    The language of each file is detected, unless STT_LANGUAGE or -l names it. Words are written as
    they are heard; a file that fails does not stop the others.
    """
    config = _config(ctx)
    changes: dict[str, Any] = {}
    if config.backend == "auto":  # a command leaves nothing running
        changes["backend"] = "process"
    if "language" not in config.model_fields_set:  # a recording may be in any, a room is not
        changes["language"] = None
    config = config.model_copy(update=changes)
    if form not in (*FORMATS, ALL):
        raise ConfigError(f"--format: {form!r}: allowed: {', '.join((*FORMATS, ALL))}")
    quiet = quiet or ctx.obj
    given, passed_over = inputs(files)
    targets = outputs(given, form, output_dir)
    stt = ProviderFactory.cached_stt(config)
    if not isinstance(stt, LocalSTT):
        raise ConfigError(
            f"--provider: {config.provider!r} does not run here; allowed: faster-whisper, whisper"
        )
    if not quiet:
        for note in passed_over:
            _err.print(note)
    work = Transcribing(stt, detects=config.language is None, err=_err, quiet=quiet)
    if status := work.run(given, targets):
        raise typer.Exit(status)


@app.command()
def listen(
    ctx: typer.Context,
    file: Annotated[
        Path | None,
        typer.Option("--file", "-f", help="Audio or video, heard as fast as it was spoken."),
    ] = None,
    provider: ProviderOption = None,
    model: ModelOption = None,
    language: LanguageOption = None,
    task: TaskOption = None,
    device: DeviceOption = None,
    compute_type: ComputeTypeOption = None,
    threads: ThreadsOption = None,
    beam_size: BeamSizeOption = None,
    prompt: PromptOption = None,
    hotwords: HotwordsOption = None,
    verbose: VerboseOption = False,
) -> None:
    """Show what the microphone hears (or a file holds) while it is said, as an agent gets it.

    In a pipe: a line for each final transcript. Ctrl-C still waits for the last one.
    """
    from . import live  # with what only this needs

    raise typer.Exit(live.listen(_config(ctx), file, _out, _err))


@models_app.command("list")
def list_models(
    engine: EngineOption = "faster-whisper",
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON array: name, state, bytes, problem.")
    ] = False,
) -> None:
    """The names that an engine knows, and which of them are on this machine."""
    _check_engine(engine)
    found = [_look(engine, name) for name in models.known_names(engine)]
    if as_json:
        _out.print(json.dumps(found, ensure_ascii=False))
        return
    for each in found:
        size = f"{each['bytes'] / 2**20:8.0f} MiB" if each["bytes"] is not None else ""
        problem = f": {each['problem']}" if each["problem"] else ""
        _out.print(f"{each['name']:22}{size:12}  {each['state']}{problem}")


def _look(engine: str, name: str) -> dict[str, Any]:
    """A model's `name`, `state` (here, not fetched, damaged), size in `bytes`, and `problem`."""
    found: dict[str, Any] = {"name": name, "state": "here", "bytes": None, "problem": None}
    try:
        found["bytes"] = models.resolve(engine, name, offline=True).size
    except ModelNotFound:
        found["state"] = "not fetched"
    except ModelDamaged as exc:
        found |= {"state": "damaged", "problem": str(exc)}
    return found


@models_app.command()
def fetch(
    names: Annotated[list[str], typer.Argument(help="Model references.")],
    engine: EngineOption = "faster-whisper",
    revision: Annotated[str | None, typer.Option(help="Commit, tag or branch.")] = None,
) -> None:
    """Download models into the engine's usual cache, unless they are here."""
    _check_engine(engine)
    for name in names:
        files = models.resolve(engine, name, revision)
        _out.print(f"{name}: {files.path} ({files.size / 2**20:.0f} MiB)")


@models_app.command()
def check(
    names: Annotated[list[str], typer.Argument(help="Model references.")],
    engine: EngineOption = "faster-whisper",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
) -> None:
    """Check a model's files, load it, and decode something with it. Downloads nothing."""
    _check_engine(engine)
    provider = "whisper" if engine == "openai-whisper" else engine
    for name in names:
        key = ExplicitConfig(provider=provider, model=name, device=device).model_key
        report = doctor.check_model(key)
        _out.print(f"{name}: {report}")


@app.command("doctor")
def run_doctor() -> None:
    """Look over the installation, and say how to mend what is not right."""
    findings = doctor.examine(ProviderFactory.providers())
    for finding in findings:
        style = {"ok": "green", "note": "yellow", "bad": "red"}[finding.state]
        _out.print(f"{finding.state:4}", style=style, end="")
        _out.print(f"  {finding.subject}: {finding.fact}")
        if finding.remedy:
            _out.print(f"      → {finding.remedy}")
    if any(finding.state == "bad" for finding in findings):
        raise typer.Exit(1)


def _config(ctx: typer.Context) -> STTConfig:
    """The environment's configuration, and over it the settings among a command's options."""
    given = {name: ctx.params.get(name) for name in STTConfig.model_fields}
    settings: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    return STTConfig(**settings)


def _check_engine(engine: str) -> None:
    if engine not in ENGINES:
        raise ConfigError(f"--engine: {engine!r}: allowed: {', '.join(ENGINES)}")


def _fail(exc: WhisperError) -> None:
    _err.print(f"error: {exc}", style="red")
