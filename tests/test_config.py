"""Every source of a configuration, and every error in one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from livekit.plugins.whisper.config import STTConfig
from livekit.plugins.whisper.errors import ConfigError
from livekit.plugins.whisper.types import DecodeOptions, ModelKey


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_defaults() -> None:
    config = STTConfig()
    assert (config.provider, config.model, config.language) == ("faster-whisper", "base", "en")
    assert config.model_key == ModelKey("faster-whisper", "base", None, "auto", "auto")
    assert config.decode_options == DecodeOptions(language="en")
    assert config.fallback is None


def test_code_wins_over_environment_over_dotenv_over_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write(
        tmp_path / "stt.yaml",
        "model: from-file\nlanguage: de\nprompt: from-file\nbeam_size: 4\n",
    )
    write(
        tmp_path / ".env",
        "STT_CONFIG=stt.yaml\nSTT_MODEL=from-dotenv\nSTT_LANGUAGE=fr\nSTT_PROMPT=from-dotenv\n",
    )
    monkeypatch.setenv("STT_MODEL", "from-environment")
    monkeypatch.setenv("STT_LANGUAGE", "it")
    config = STTConfig(model="from-code")
    assert config.model == "from-code"
    assert config.language == "it"
    assert config.prompt == "from-dotenv"
    assert config.beam_size == 4


def test_every_field_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {
        "provider": "whisper", "model": "small", "language": "de", "device": "cuda:1",
        "compute_type": "float16", "revision": "abc", "task": "translate", "beam_size": 5,
        "prompt": "Hello", "hotwords": "LiveKit", "word_timestamps": True, "window": "full",
        "backend": "process", "host": "unix:/run/host.sock", "host_idle": 9.5, "workers": 2,
        "threads": 3, "batch_size": 8, "queue_limit": 99, "memory_limit": 2000,
        "idle_timeout": 60.5, "interim_results": False, "preflight": 0.25, "chat_context": True,
        "base_url": "http://127.0.0.1:1/v1",
    }  # fmt: skip
    for name, value in values.items():
        monkeypatch.setenv(f"STT_{name.upper()}", str(value))
    monkeypatch.setenv("STT_API_KEY", "secret")
    monkeypatch.setenv("STT_HOST_TOKEN", "another")
    monkeypatch.setenv("STT_FALLBACK", "openai")
    config = STTConfig()
    assert {name: getattr(config, name) for name in values} == values
    assert config.api_key is not None
    assert config.api_key.get_secret_value() == "secret"
    assert config.host_token is not None
    assert config.host_token.get_secret_value() == "another"
    assert "another" not in repr(config)
    assert config.fallback is not None
    assert set(STTConfig.model_fields) == {*values, "api_key", "host_token", "fallback"}


@pytest.mark.parametrize("suffix", ["yaml", "yml", "toml"])
def test_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, suffix: str) -> None:
    text = {
        "toml": 'model = "tiny"\nthreads = 2\n[fallback]\nprovider = "whisper"\nmodel = "small"\n',
    }.get(suffix, "model: tiny\nthreads: 2\nfallback:\n  provider: whisper\n  model: small\n")
    monkeypatch.setenv("STT_CONFIG", str(write(tmp_path / f"stt.{suffix}", text)))
    config = STTConfig()
    assert (config.model, config.threads) == ("tiny", 2)
    assert config.fallback is not None
    assert (config.fallback.provider, config.fallback.model) == ("whisper", "small")


def test_mapping_of_an_agents_own_configuration() -> None:
    config = STTConfig.from_mapping(
        {"stt_provider": "whisper", "stt_model": "small", "stt_language": None, "llm_model": "x"}
    )
    assert (config.provider, config.model, config.language) == ("whisper", "small", None)
    assert STTConfig.from_mapping({"llm_model": "x"}) == STTConfig()


@pytest.mark.parametrize("value", ["auto", "detect", "AUTO", "none"])
def test_language_can_be_left_to_detection(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("STT_LANGUAGE", value)
    assert STTConfig().language is None


@pytest.mark.parametrize(
    ("given", "code"),
    [("en-US", "en"), ("pt_BR", "pt"), ("DE", "de"), ("French", "fr"), ("zh-Hans-CN", "zh")],
)
def test_language_is_understood_in_every_usual_form(given: str, code: str) -> None:
    assert STTConfig(language=given).language == code


def test_fallback_by_name_takes_over_what_is_not_about_the_weights() -> None:
    config = STTConfig(
        model="small", language="de", prompt="Guten Tag", compute_type="int8", fallback="whisper"
    )
    assert config.fallback is not None
    assert config.fallback.provider == "whisper"
    assert config.fallback.model == "small"
    assert config.fallback.language == "de"
    assert config.fallback.prompt == "Guten Tag"
    assert config.fallback.compute_type == "auto"


def test_fallback_by_name_does_not_take_over_a_path(tmp_path: Path) -> None:
    config = STTConfig(model=str(tmp_path), fallback="whisper")
    assert config.fallback is not None
    assert config.fallback.model == "base"


def test_fallback_does_not_read_the_primarys_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("STT_MODEL", "small")
    monkeypatch.setenv("STT_FALLBACK", json.dumps({"provider": "whisper", "stt_language": "fr"}))
    config = STTConfig()
    assert config.model == "small"
    assert config.fallback is not None
    assert (config.fallback.model, config.fallback.language) == ("base", "fr")
    assert config.fallback.fallback is None


def test_fallbacks_can_be_chained() -> None:
    last = STTConfig(provider="openai")
    config = STTConfig(fallback=STTConfig(provider="whisper", fallback=last))
    assert config.fallback is not None
    assert config.fallback.fallback is last


def test_secrets_are_masked() -> None:
    config = STTConfig(provider="openai", api_key="sk-very-secret")
    assert "very-secret" not in repr(config)
    assert "very-secret" not in str(config.model_dump())


def test_values_are_frozen() -> None:
    with pytest.raises(Exception, match="frozen"):
        STTConfig().model = "small"


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"device": "gpu"}, r"device \(STT_DEVICE\): 'gpu': allowed: 'auto', 'cpu', 'cuda', 'cuda:N'"),
    ({"compute_type": "int4"}, r"compute_type \(STT_COMPUTE_TYPE\): 'int4': .*'int8'.*'float32'"),
    ({"language": "klingon"}, r"language \(STT_LANGUAGE\): 'klingon' is not a language"),
    ({"language": "germn"}, r"'germn'.*did you mean 'german'"),
    ({"task": "summarise"}, r"task \(STT_TASK\): 'summarise': .*'transcribe' or 'translate'"),
    ({"beam_size": 0}, r"beam_size \(STT_BEAM_SIZE\): 0: .*greater than or equal to 1"),
    ({"beam_size": "many"}, r"beam_size \(STT_BEAM_SIZE\): 'many'"),
    ({"threads": -1}, r"threads \(STT_THREADS\): -1"),
    ({"idle_timeout": -1}, r"idle_timeout \(STT_IDLE_TIMEOUT\): -1"),
    ({"window": "narrow"}, r"window \(STT_WINDOW\): 'narrow'"),
    ({"backend": "ray"}, r"backend \(STT_BACKEND\): 'ray'"),
    ({"host": "localhost"}, r"host \(STT_HOST\): 'localhost': allowed: unix:/path/of/socket, http"),
    ({"provider": ""}, r"provider \(STT_PROVIDER\)"),
    ({"modle": "tiny"}, r"unknown setting 'modle'; did you mean 'model'\?"),
    ({"fallback": {"modle": "tiny"}}, r"fallback .*unknown setting 'modle'"),
    ({"fallback": "{not json"}, r"fallback \(STT_FALLBACK\)"),
    ({"fallback": 3}, r"fallback \(STT_FALLBACK\): Input should be"),
]


@pytest.mark.parametrize(("values", "message"), WRONG)
def test_wrong_value_names_the_field_and_what_is_allowed(
    values: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        STTConfig(**values)


def test_all_wrong_values_are_named_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        STTConfig(device="gpu", beam_size=0)
    assert "STT_DEVICE" in str(caught.value)
    assert "STT_BEAM_SIZE" in str(caught.value)


def test_wrong_value_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STT_THREADS", "two")
    with pytest.raises(ConfigError, match=r"threads \(STT_THREADS\): 'two'"):
        STTConfig()


def test_secret_is_not_shown_when_it_is_wrong() -> None:
    with pytest.raises(ConfigError) as caught:
        STTConfig(api_key=["sk-very-secret"])
    assert "very-secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("stt.yaml", "modle: tiny\n", r"stt\.yaml: unknown key 'modle'; did you mean 'model'\?"),
        ("stt.toml", "frobnicate = 1\n", r"stt\.toml: unknown key 'frobnicate' \(known: provider"),
        ("stt.yaml", "model: [tiny\n", r"stt\.yaml: cannot be read"),
        ("stt.toml", "model = tiny\n", r"stt\.toml: cannot be read"),
        ("stt.ini", "", r"stt\.ini: must end in \.yaml, \.yml or \.toml"),
        ("stt.yaml", "- a\n- b\n", r"stt\.yaml: cannot be read"),
        ("stt.yaml", "device: gpu\n", r"device \(STT_DEVICE\): 'gpu'"),
    ],
)
def test_wrong_file_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, text: str, message: str
) -> None:
    monkeypatch.setenv("STT_CONFIG", str(write(tmp_path / name, text)))
    with pytest.raises(ConfigError, match=message):
        STTConfig()


def test_missing_file_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STT_CONFIG", "nowhere.yaml")
    with pytest.raises(ConfigError, match=r"STT_CONFIG=nowhere\.yaml: no such file"):
        STTConfig()


def test_unknown_variables_are_warned_of_once_and_others_left_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path / ".env", "LIVEKIT_URL=ws://x\nSTT_LANGAUGE=de\n")
    monkeypatch.setenv("STT_MODLE", "tiny")
    STTConfig()
    STTConfig()
    assert caplog.text.count("STT_MODLE in the environment is not a setting") == 1
    assert caplog.text.count("STT_LANGAUGE in .env is not a setting; did you mean 'langu") == 1
    assert "LIVEKIT" not in caplog.text


@pytest.mark.parametrize("values", [{"provider": "whisper"}, {"model": "x", "other": 1}])
def test_mapping_with_bare_names_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"spelled stt_(provider|model)"):
        STTConfig.from_mapping(values)


def test_mapping_with_an_unknown_key_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"'langage'; did you mean 'language'"):
        STTConfig.from_mapping({"stt_langage": "en"})


def test_key_of_a_fallback_is_in_no_message(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    wrong = {"provider": "openai", "api_key": "sk-very-secret", "beam_size": 99}
    monkeypatch.setenv(
        "STT_CONFIG", str(write(tmp_path / "stt.yaml", json.dumps({"fallback": wrong})))
    )
    sources: list[dict[str, Any]] = [{"fallback": wrong}, {"fallback": json.dumps(wrong)}, {}]
    sources.append({"fallback": json.dumps(wrong) + "}"})
    for values in sources:
        with pytest.raises(ConfigError) as caught:
            STTConfig(**values)
        assert "very-secret" not in str(caught.value)
        assert "fallback (STT_FALLBACK)" in str(caught.value)


def test_fallback_that_contains_itself_is_refused() -> None:
    loop: dict[str, Any] = {"provider": "whisper"}
    loop["fallback"] = loop
    with pytest.raises(ConfigError, match="contains itself"):
        STTConfig(fallback=loop)


def test_dotenv_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes("STT_PROMPT=Grüße".encode("utf-16"))
    with pytest.raises(ConfigError, match=r"\.env: is not UTF-8"):
        STTConfig()


def test_keys_that_are_no_strings_are_no_crash(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert STTConfig.from_mapping({1: 2}).model == "base"  # type: ignore[dict-item]
    monkeypatch.setenv("STT_CONFIG", str(write(tmp_path / "stt.yaml", "1: tiny\n")))
    with pytest.raises(ConfigError, match=r"stt\.yaml: (unknown key '1'|cannot be read)"):
        STTConfig()
