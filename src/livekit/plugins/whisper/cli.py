"""The command `livekit-whisper`: transcribe, listen, manage models, look after the installation."""

from __future__ import annotations

import asyncio
import io
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from . import audio, doctor, models
from .config import ExplicitConfig, STTConfig
from .engines import ENGINES
from .errors import AudioError, ConfigError, ModelDamaged, ModelNotFound, WhisperError
from .factory import ProviderFactory
from .formats import FORMATS, SUFFIXES
from .stt import FasterWhisperSTT, WhisperSTT
from .types import Audio, Transcript
from .version import __version__

app = typer.Typer(
    help="Whisper on your own machines, for LiveKit Agents.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
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
PromptOption = Annotated[str | None, typer.Option(help="Text that the speech continues.")]
HotwordsOption = Annotated[str | None, typer.Option(help="Words to favour.")]


def main() -> None:
    """Runs the command. A user's mistake ends in one line and a status other than 0."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # what the terminal cannot show is no mistake
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        app()
    except WhisperError as exc:
        _fail(exc)
        sys.exit(1)


def _show_version(wanted: bool) -> None:
    if wanted:
        _out.print(__version__)
        raise typer.Exit


@app.callback()
def common(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log what happens.")] = False,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Whisper on your own machines, for LiveKit Agents."""
    level = logging.INFO if verbose else logging.ERROR
    logging.basicConfig(level=level, format="%(levelname)s %(name)s: %(message)s")
    # What fails is reported by the command itself, once.
    logging.getLogger("livekit.plugins.whisper").disabled = not verbose


@app.command()
def transcribe(
    ctx: typer.Context,
    files: Annotated[list[Path], typer.Argument(help="Audio or video, in any usual container.")],
    form: Annotated[
        str, typer.Option("--format", "-f", help=f"One of: {', '.join(FORMATS)}.")
    ] = "text",
    output_dir: Annotated[
        Path | None, typer.Option("--output-dir", "-o", help="Write a file for each one there.")
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
    word_timestamps: Annotated[
        bool | None, typer.Option("--words", help="Times of words (in JSON).")
    ] = None,
) -> None:
    """Transcribe files. Settings that are left out come from the environment (STT_MODEL, …)."""
    config = _config(ctx)
    if config.backend == "auto":  # a command leaves nothing running
        config = config.model_copy(update={"backend": "process"})
    if form not in FORMATS:
        raise ConfigError(f"--format: {form!r}: allowed: {', '.join(FORMATS)}")
    targets = _targets(files, form, output_dir)
    stt = ProviderFactory.cached_stt(config)
    if not isinstance(stt, (FasterWhisperSTT, WhisperSTT)):
        raise ConfigError(
            f"--provider: {config.provider!r} does not run here; allowed: faster-whisper, whisper"
        )
    if not asyncio.run(_transcribe_all(stt, files, targets, form)):
        raise typer.Exit(1)


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
) -> None:
    """Show what the microphone hears (or a file holds) while it is said, as an agent gets it.

    In a pipe: a line for each final transcript. Ctrl-C still waits for the last one.
    """
    from . import live  # with what only this needs

    raise typer.Exit(live.listen(_config(ctx), file, _out, _err))


@models_app.command("list")
def list_models(engine: EngineOption = "faster-whisper") -> None:
    """The names that an engine knows, and which of them are on this machine."""
    _check_engine(engine)
    for name in models.known_names(engine):
        try:
            size = models.resolve(engine, name, offline=True).size
            _out.print(f"{name:22}{size / 2**20:8.0f} MiB  here")
        except ModelNotFound:
            _out.print(f"{name:22}{'':12}  not fetched")
        except ModelDamaged as exc:
            _out.print(f"{name:22}{'':12}  damaged: {exc}")


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


async def _transcribe_all(
    stt: FasterWhisperSTT | WhisperSTT, files: list[Path], targets: list[Path | None], form: str
) -> bool:
    """Transcribes one after the other; a file that fails does not stop the others."""
    good = True
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    progress = Progress(
        *columns,
        console=_err,
        transient=True,
        disable=not _err.is_terminal,
        # Lets text and bar share a terminal; it would take from a file what is meant for it.
        redirect_stdout=sys.stdout.isatty(),
    )
    with progress:
        for file, target in zip(files, targets, strict=True):
            heard: list[Transcript] = []
            try:
                async for part in _parts(stt, file, progress):
                    heard.append(part)  # noqa: PERF401 (kept when a later part fails)
            except WhisperError as exc:
                if not isinstance(exc, AudioError):
                    raise
                good = False
                _fail(exc)
                if not heard:
                    continue
            text = FORMATS[form](join(heard))
            if target:
                try:
                    target.write_text(text, encoding="utf-8")
                except OSError as exc:
                    good = False
                    _fail(ConfigError(f"--output-dir: {target}: {exc.strerror}; name another"))
                else:
                    _err.print(f"{file} → {target}")
            else:
                if len(files) > 1 and form != "json":
                    print(f"==> {file} <==")  # noqa: T201
                print(text, end="", flush=True)  # noqa: T201
    return good


async def _parts(stt: FasterWhisperSTT | WhisperSTT, file: Path, progress: Progress) -> Any:
    total = await asyncio.to_thread(audio.probe, file)
    task = progress.add_task(file.name, total=total)
    windows: Iterator[tuple[float, Audio]] = audio.windows(audio.blocks(file))
    language: str | None = None
    while window := await asyncio.to_thread(next, windows, None):
        start, sound = window
        part = await stt.transcribe(sound, start=start, language=language)
        progress.update(task, completed=start + sound.duration)
        if part.text:
            language = part.language  # a recording is in one language: the first one heard
        yield part


def join(parts: list[Transcript]) -> Transcript:
    """Consecutive transcripts of one recording as one."""
    spoken = [part for part in parts if part.segments]
    segments = tuple(segment for part in spoken for segment in part.segments)
    text = " ".join(part.text for part in spoken)
    language = (spoken or parts)[0].language if parts else ""
    weight = sum(len(part.text) for part in spoken)
    confidence = sum(part.confidence * len(part.text) for part in spoken) / (weight or 1)
    return Transcript(text, language, segments, confidence)


def _targets(files: list[Path], form: str, folder: Path | None) -> list[Path | None]:
    """Where each transcript goes: two files must not overwrite each other's."""
    if folder is None:
        return [None] * len(files)
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"--output-dir: {folder} is a file; name a folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise ConfigError(f"--output-dir: {folder} cannot be made ({exc.strerror})") from exc
    targets = [folder / (file.stem + SUFFIXES[form]) for file in files]
    for target in targets:
        if targets.count(target) > 1:
            raise ConfigError(f"--output-dir: two files would both be written to {target}")
    return list(targets)


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
