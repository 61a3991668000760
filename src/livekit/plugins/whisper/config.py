"""`STTConfig`: read once from code, environment, `.env` or a file; yields frozen values."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_settings import (
    BaseSettings,
    DotEnvSettingsSource,
    EnvSettingsSource,
    InitSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
    YamlConfigSettingsSource,
)

from .errors import ConfigError, did_you_mean
from .languages import parse_language
from .log import logger
from .types import DecodeOptions, Limits, ModelKey, Task, Window

PREFIX = "STT_"
CONFIG_FILE = "STT_CONFIG"
"""The environment variable that names a YAML or TOML file."""

ComputeType = Literal[
    "auto", "default", "int8", "int8_float32", "int8_float16", "int8_bfloat16",
    "int16", "float16", "bfloat16", "float32",
]  # fmt: skip

_ENGINES = {"faster-whisper": "faster-whisper", "whisper": "openai-whisper"}
_PATTERNS = {
    "device": "allowed: 'auto', 'cpu', 'cuda', 'cuda:N'",
    "host": "allowed: unix:/path/of/socket, http://name:port",
}
_NOT_INHERITED = {"provider", "fallback", "model", "revision", "compute_type"}


def _parse_language(value: object) -> object:
    return parse_language(value) if isinstance(value, str) else value


def _parse_secret(value: object, info: ValidationInfo) -> object:
    """A token that can be the header of a request."""
    if isinstance(value, SecretStr):
        value = value.get_secret_value().strip()
    if not isinstance(value, str):
        return value
    if any(ord(each) < 32 or ord(each) == 127 for each in value):
        raise ValueError("has a line break or another control character in it; allowed: one line")
    try:
        value.encode("ascii" if info.field_name == "api_key" else "utf-8")
    except UnicodeEncodeError as exc:
        raise ValueError(
            f"has a character at position {exc.start} that is not {exc.encoding.upper()}: "
            "it is sent as the header of a request"
        ) from None
    return value or None


def _parse_fallback(value: object, info: ValidationInfo) -> object:
    """A provider's name, a JSON object, a mapping or a config → a config that reads no environment.

    A bare name takes over everything from the primary but what names the weights.
    """
    if isinstance(value, str):
        text = value.strip()
        if not text:
            return None
        if text.startswith("{"):
            value = json.loads(text)
        else:
            kept = {k: v for k, v in info.data.items() if k not in _NOT_INHERITED}
            model = info.data.get("model", "")
            if text in _ENGINES and not any(mark in model for mark in "/:\\"):
                kept["model"] = model
            value = {**kept, "provider": text}
    if isinstance(value, Mapping):
        return ExplicitConfig(**_without_prefix(value))
    return value


class STTConfig(BaseSettings):
    """What to transcribe with. Every field can be set in code, else in the environment.

    Sources, the first that has a value wins: arguments, `STT_*` environment variables, `.env` in
    the working directory, the YAML or TOML file that `STT_CONFIG` names, the defaults below.

    Raises:
        ConfigError: a value is wrong; the message names the field, the value and what is allowed.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_file=".env",
        env_file_encoding="utf-8-sig",  # some editors put a byte order mark before it
        env_ignore_empty=True,
        extra="forbid",
        frozen=True,
        validate_default=False,
        hide_input_in_errors=False,
        protected_namespaces=(),
    )

    _reads_environment: ClassVar[bool] = True

    provider: str = Field(default="faster-whisper", min_length=1)
    """`faster-whisper`, `whisper`, `openai`, or a registered name."""
    model: str = Field(default="base", min_length=1)
    """Known name, `owner/repo`, directory, `.pt` file, or `package:NAME/PATH`."""
    language: Annotated[str | None, BeforeValidator(_parse_language)] = "en"
    """A code or an English name; None or `auto`: detect it for each utterance."""
    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    """`auto`, `cpu`, `cuda` or `cuda:N`."""
    compute_type: ComputeType = "auto"
    """Number format of the weights in memory."""
    revision: str | None = None
    """Commit, tag or branch of the hub repository; None: the pinned one."""
    task: Task = "transcribe"
    """`transcribe`, or `translate` into English."""
    beam_size: int = Field(default=1, ge=1, le=32)
    """Hypotheses kept while decoding; 1 is greedy and fastest."""
    prompt: str | None = Field(default=None, repr=False)
    """Text that the speech continues, which steers spelling and style."""
    hotwords: str | None = Field(default=None, repr=False)
    """Words to favour (faster-whisper only)."""
    word_timestamps: bool = False
    """Whether transcripts carry the time of each word."""
    window: Window = "adaptive"
    """Audio that the encoder sees: as much as is needed, or always 30 s (`full`)."""
    interim_results: bool = True
    """Whether a stream decodes what is being said while it is said."""
    preflight: float = Field(default=0.1, ge=0.0, le=30.0)
    """Seconds of silence after which a stream decodes what was said, before the VAD has decided
    that the speech has ended; 0: only then."""
    chat_context: bool = False
    """Whether the model is shown the last turns of the conversation, as its prompt."""
    backend: Literal["auto", "host", "process"] = "auto"
    """Where the model lives: in the machine's host, in this process, or (`auto`) in the host and,
    where there can be none, in this process."""
    workers: int = Field(default=0, ge=0, le=256)
    """Batches that one model decodes at once; 0: chosen from the machine's cores."""
    threads: int = Field(default=0, ge=0, le=1024)
    """CPU threads of each of them; 0: chosen from the machine's cores."""
    batch_size: int = Field(default=0, ge=0, le=256)
    """Utterances decoded together; 0: what suits the device."""
    queue_limit: int = Field(default=0, ge=0)
    """Utterances that may wait for one model; 0: 256. Past it they are refused, to be retried."""
    memory_limit: int = Field(default=0, ge=0)
    """MiB of models kept in one host or process; what is in use is never evicted. 0: no limit."""
    idle_timeout: float = Field(default=0.0, ge=0.0)
    """Seconds after which a model that nobody uses is given up; 0: never."""
    host: str | None = Field(default=None, pattern=r"^(unix:/.+|https?://[^/?#]+/?)$")
    """A host that you run yourself: `unix:/path` or `http://name:port`; None: the machine's own."""
    host_token: Annotated[SecretStr | None, BeforeValidator(_parse_secret)] = None
    """What that host wants to be told."""
    host_idle: float = Field(default=300.0, ge=0.0)
    """Seconds after which the machine's own host ends when nobody uses it; 0: never."""
    base_url: str | None = None
    """Address of an OpenAI-compatible server (provider `openai`)."""
    api_key: Annotated[SecretStr | None, BeforeValidator(_parse_secret)] = None
    """Key for it (provider `openai`)."""
    fallback: Annotated[STTConfig | None, NoDecode, BeforeValidator(_parse_fallback)] = None
    """Takes over when this one fails: a provider's name, a mapping, or another `STTConfig`."""

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as exc:
            raise ConfigError(_explain(exc)) from None
        except UnicodeDecodeError as exc:
            raise ConfigError(f".env: is not UTF-8 text ({exc}); save it as UTF-8") from exc
        except OSError as exc:
            raise ConfigError(
                f".env: cannot be read ({exc.strerror}); let this user read it, or remove it"
            ) from exc
        except RecursionError:
            raise ConfigError("fallback (STT_FALLBACK): contains itself") from None

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> STTConfig:
        """Reads the keys `stt_provider`, `stt_model`, … of an agent's own configuration.

        Keys that do not begin with `stt_` belong to somebody else and are left alone.

        Raises:
            ConfigError: an `stt_` key is unknown, or its value is wrong.
        """
        own = {key: value for key, value in values.items() if str(key).lower().startswith("stt_")}
        if not own and (bare := sorted(set(values) & set(cls.model_fields))):
            raise ConfigError(
                f"{bare[0]}: the keys of a mapping are spelled stt_{bare[0]}; "
                "or pass STTConfig(...) instead of a mapping"
            )
        return cls(**_without_prefix(own))

    @property
    def model_key(self) -> ModelKey:
        """The weights that this asks for.

        Raises:
            ConfigError: the provider has no model on this machine.
        """
        if not self.is_local:
            raise ConfigError(f"provider (STT_PROVIDER): {self.provider!r} has no model here")
        engine = _ENGINES[self.provider]
        return ModelKey(engine, self.model, self.revision, self.device, self.compute_type)

    @property
    def is_local(self) -> bool:
        """Whether the model runs on this machine."""
        return self.provider in _ENGINES

    @property
    def chain(self) -> tuple[STTConfig, ...]:
        """This one, its fallback, that one's fallback, and so on."""
        return (self, *(self.fallback.chain if self.fallback else ()))

    @property
    def uses_host(self) -> bool:
        """Whether a host is asked for the model, where the model runs on this machine."""
        return self.backend != "process" and os.name == "posix"

    @property
    def decode_options(self) -> DecodeOptions:
        """How utterances are decoded."""
        return DecodeOptions(
            language=self.language,
            task=self.task,
            prompt=self.prompt,
            hotwords=self.hotwords,
            beam_size=self.beam_size,
            word_timestamps=self.word_timestamps,
            window=self.window,
        )

    @property
    def limits(self) -> Limits:
        """What models may use."""
        return Limits(
            threads=self.threads,
            workers=self.workers,
            batch=self.batch_size,
            queue=self.queue_limit,
            memory=self.memory_limit * 2**20,
            idle=self.idle_timeout,
        )

    @field_validator("*", mode="before")
    @classmethod
    def _strip(cls, value: object) -> object:
        """Values come from files as well (Kubernetes), which end with a line break."""
        return value.strip() if isinstance(value, str) else value

    @field_validator("host_idle")
    @classmethod
    def _check_host_idle(cls, value: float) -> float:
        if 0 < value < 1:
            raise ValueError("allowed: 0 (never), or 1 and more")
        return value

    @field_validator("backend")
    @classmethod
    def _check_backend(cls, value: str) -> str:
        if value == "host" and os.name != "posix":
            raise ValueError("'host' needs Linux or macOS; allowed here: 'auto', 'process'")
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        if not cls._reads_environment:
            return (init_settings,)
        dotenv = _DotEnv(settings_cls)
        path = os.environ.get(CONFIG_FILE, "").strip() or dotenv.config_file
        _warn_unknown(cls, os.environ, "the environment")
        _warn_unknown(cls, dotenv.env_vars, ".env")
        file = (_file_source(settings_cls, Path(os.path.expanduser(path))),) if path else ()
        return (init_settings, env_settings, dotenv, *file)


class ExplicitConfig(STTConfig):
    """An `STTConfig` that reads no environment and no file: a fallback, or arguments in code."""

    _reads_environment: ClassVar[bool] = False


class _DotEnv(DotEnvSettingsSource):
    """`.env` is shared with other programs: only our own fields are taken from it."""

    def __call__(self) -> dict[str, Any]:
        return EnvSettingsSource.__call__(self)

    @property
    def config_file(self) -> str | None:
        return self.env_vars.get(CONFIG_FILE.lower())


class _File(InitSettingsSource):
    """The values of a configuration file, checked for unknown keys so that errors name the file."""


def _file_source(settings_cls: type[BaseSettings], path: Path) -> PydanticBaseSettingsSource:
    kinds = {
        ".toml": TomlConfigSettingsSource,
        ".yaml": YamlConfigSettingsSource,
        ".yml": YamlConfigSettingsSource,
    }
    kind = kinds.get(path.suffix.lower())
    if kind is None:
        raise ConfigError(f"{CONFIG_FILE}={path}: must end in .yaml, .yml or .toml")
    if not path.is_file():
        raise ConfigError(f"{CONFIG_FILE}={path}: no such file")
    try:
        values = dict(kind(settings_cls, path)())
    except Exception as exc:
        raise ConfigError(f"{CONFIG_FILE}={path}: cannot be read: {exc}") from exc
    values = _without_prefix(values)
    for key in values:
        if key not in settings_cls.model_fields:
            raise ConfigError(f"{CONFIG_FILE}={path}: unknown key {key!r}{_near(key)}")
    return _File(settings_cls, init_kwargs=values)


def _without_prefix(values: Mapping[str, Any]) -> dict[str, Any]:
    return {str(key).lower().removeprefix(PREFIX.lower()): v for key, v in values.items()}


def _near(name: str) -> str:
    fields = [*STTConfig.model_fields]
    return did_you_mean(name, fields) or f" (known: {', '.join(fields)})"


_warned: set[str] = set()


def _warn_unknown(cls: type[STTConfig], variables: Mapping[str, str | None], where: str) -> None:
    # A warning, not an error: STT_* variables can belong to another program.
    for variable in variables:
        name = variable.upper()
        if not name.startswith(PREFIX) or name == CONFIG_FILE or name in _warned:
            continue
        field = name.removeprefix(PREFIX).lower()
        if field not in cls.model_fields:
            _warned.add(name)
            logger.warning("%s in %s is not a setting%s", name, where, _near(field))


def _explain(exc: ValidationError) -> str:
    """One line for each wrong field: its name, the value, and what is allowed."""
    lines = []
    for error in exc.errors(include_url=False):
        field = ".".join(map(str, error["loc"])) or "configuration"
        if error["type"] == "extra_forbidden":
            lines.append(f"unknown setting {field!r}{_near(field)}")
            continue
        message = error["msg"].removeprefix("Value error, ")
        if error["type"] == "string_pattern_mismatch":
            message = _PATTERNS[field]
        # Of a fallback, what is wrong inside is told by its own message; it can hold a key.
        value = "" if field in ("api_key", "host_token", "fallback") else f"{error['input']!r}: "
        message = message if message.startswith(repr(error["input"])) else value + message
        lines.append(f"{field} ({PREFIX}{field.upper()}): {message}")
    return "\n".join(lines)
