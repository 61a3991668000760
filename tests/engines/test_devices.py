"""Devices that lack something: the best that they can is taken, and what is missing is named.

There is no GPU here: the engines' own errors are raised where a GPU's would be, word for word as
people have reported them; the models that are loaded instead, on the CPU, are real.
"""

from __future__ import annotations

import logging
import re
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ctranslate2
import faster_whisper as fw
import pytest
import torch
import whisper
from livekit.plugins.whisper import engines, models
from livekit.plugins.whisper.audio import from_file
from livekit.plugins.whisper.engines import devices, faster_whisper
from livekit.plugins.whisper.engines.devices import device_fault, number_format, torch_format
from livekit.plugins.whisper.errors import DeviceError, ModelDamaged
from livekit.plugins.whisper.types import DecodeOptions, ModelKey

from tests.support.weights import TINY, openai_tiny, recordings

NO_CUBLAS = "Library libcublas.so.12 is not found or cannot be loaded"
OLD_DRIVER = "CUDA failed with error CUDA driver version is insufficient for CUDA runtime version"

# What CTranslate2 computes in, by hardware:
# https://opennmt.net/CTranslate2/quantization.html#implicit-type-conversion-on-load
AMPERE = {"float32", "float16", "bfloat16", "int8", "int8_float32", "int8_float16", "int8_bfloat16"}
VOLTA = {"float32", "float16", "int8", "int8_float32", "int8_float16"}
PASCAL_6_1 = {"float32", "int8", "int8_float32"}
PASCAL_6_0 = {"float32"}
INTEL = {"float32", "int8", "int8_float32", "int16"}
AMD = {"float32", "int8", "int8_float32"}
OLD_CPU = {"float32"}


# Number formats


@pytest.mark.parametrize(
    ("device", "supported", "best"),
    [
        ("cuda", AMPERE, "float16"),
        ("cuda", VOLTA, "float16"),
        ("cuda", PASCAL_6_1, "int8_float32"),
        ("cuda", PASCAL_6_0, "float32"),
        ("cpu", INTEL, "int8"),
        ("cpu", AMD, "int8"),
        ("cpu", {"float32", "int16"}, "int16"),
        ("cpu", OLD_CPU, "float32"),
    ],
)
def test_auto_is_the_best_that_the_hardware_computes_in(
    device: str, supported: set[str], best: str
) -> None:
    assert number_format("auto", supported, device) == best


@pytest.mark.parametrize(
    ("device", "supported", "wanted"),
    [("cuda", PASCAL_6_1, "float16"), ("cuda", VOLTA, "bfloat16"), ("cpu", OLD_CPU, "int8"),
     ("cpu", AMD, "int16"), ("cuda", PASCAL_6_0, "int8_float16")],
)  # fmt: skip
def test_format_that_is_asked_for_and_is_not_there_is_refused(
    device: str, supported: set[str], wanted: str
) -> None:
    with pytest.raises(DeviceError) as caught:
        number_format(wanted, supported, device)
    assert f"STT_COMPUTE_TYPE): {wanted!r} is not supported on this {device}" in str(caught.value)
    assert str(caught.value).endswith(f"auto, default, {', '.join(sorted(supported))}")
    for each in supported:
        assert number_format(each, supported, device) == each


@pytest.mark.parametrize(
    ("wanted", "capability", "taken"),
    [("auto", None, "float32"), ("auto", (6, 1), "float32"), ("auto", (5, 2), "float32"),
     ("auto", (7, 0), "float16"), ("auto", (12, 0), "float16"), ("float16", (6, 1), "float16"),
     ("default", (9, 0), "default"), ("float32", (9, 0), "float32")],
)  # fmt: skip
def test_pytorch_takes_float16_where_the_gpu_has_it(
    wanted: str, capability: tuple[int, int] | None, taken: str
) -> None:
    assert torch_format(wanted, capability) == taken


@pytest.mark.parametrize("capability", [None, (5, 2)])
def test_pytorch_refuses_float16_elsewhere(capability: tuple[int, int] | None) -> None:
    with pytest.raises(DeviceError, match=r"STT_COMPUTE_TYPE.*'float16'.*auto, default, float32"):
        torch_format("float16", capability)


def test_cpu_without_int8_loads_in_what_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctranslate2, "get_supported_compute_types", lambda *_: OLD_CPU)
    whole = load(TINY)
    monkeypatch.undo()
    assert whole.memory == 4 * load(TINY).memory
    assert "amiable" in heard(whole)


# Errors


@pytest.fixture(autouse=True)
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where packages are installed, with none of NVIDIA's."""
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"purelib": str(tmp_path)})
    return tmp_path


FAULTS = {
    # https://github.com/SYSTRAN/faster-whisper/issues/717
    NO_CUBLAS: "pip install nvidia-cublas-cu12 nvidia-cudnn-cu12.*LD_LIBRARY_PATH=",
    # https://github.com/SYSTRAN/faster-whisper/issues/1276
    "Library cublas64_12.dll is not found or cannot be loaded": "cublas64_12.dll.*pip install",
    # https://github.com/SYSTRAN/faster-whisper/issues/1017
    "Could not load library libcublasLt.so.11. Error: libcublasLt.so.11: cannot open shared object "
    "file: No such file or directory": "libcublasLt.so.11.*pip install",
    # https://github.com/MahmoudAshraf97/whisper-diarization/issues/259
    "Unable to load any of {libcudnn_ops.so.9.1.0, libcudnn_ops.so.9.1, libcudnn_ops.so.9, "
    "libcudnn_ops.so}": "libcudnn_ops.so.9.1.0.*pip install",
    "libcudnn.so.9: cannot open shared object file: No such file or directory": "libcudnn.so.9.*pip"
    " install",
    # https://github.com/OpenNMT/CTranslate2/issues/1842
    OLD_DRIVER: "update the driver",
    # https://github.com/lllyasviel/Fooocus/issues/1313
    "The NVIDIA driver on your system is too old (found version 11040). Please update your GPU "
    "driver": "update the driver",
    # https://github.com/SYSTRAN/faster-whisper/issues/442
    "CUDA failed with error out of memory": "too little free memory.*nvidia-smi",
    "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 4.00 GiB of "
    "which 0 bytes is free.": "too little free memory.*nvidia-smi",
    "cuBLAS failed with status CUBLAS_STATUS_ALLOC_FAILED": "too little free memory",
    # https://github.com/SYSTRAN/faster-whisper/issues/806
    "parallel_for failed: cudaErrorNoKernelImageForDevice: no kernel image is available for "
    "execution on the device": "no code for this GPU",
    # https://github.com/Purfview/whisper-standalone-win/issues/509
    "CUDA error: no kernel image is available for execution on the device\nCUDA kernel errors "
    "might be asynchronously reported": "no code for this GPU",
    # https://github.com/Purfview/whisper-standalone-win/issues/403
    "cuBLAS failed with status CUBLAS_STATUS_NOT_SUPPORTED": "STT_COMPUTE_TYPE=float16",
    # https://github.com/SYSTRAN/faster-whisper/issues/708
    "CUDA failed with error unknown error": "nvidia-smi",
    "cuBLAS failed with status CUBLAS_STATUS_NOT_INITIALIZED": "nvidia-smi",
    "cuDNN error: CUDNN_STATUS_NOT_INITIALIZED": "nvidia-smi",
    "CUDA-capable device(s) is/are busy or unavailable": "nvidia-smi",
}


@pytest.mark.parametrize("text", FAULTS)
def test_error_of_the_device_says_the_way_out_in_one_line(text: str) -> None:
    told = device_fault(RuntimeError(text))
    assert told is not None
    assert_matches(FAULTS[text], told)
    assert "\n" not in told


@pytest.mark.parametrize(
    "text",
    [
        "Unable to open file 'model.bin' in model '/opt/cuda/models/tiny'",
        "Unsupported model binary version. This executable supports models with binary version v6",
        "/data/NVIDIA/model.bin: is truncated",
        "PytorchStreamReader failed reading zip archive: failed finding central directory",
        "invalid load key, '<'.",
        "File model.bin is incomplete: failed to read a buffer of size 4 at position 12",
    ],
)
def test_error_of_the_model_is_none_of_the_device(text: str) -> None:
    assert device_fault(RuntimeError(text)) is None


def test_error_is_found_behind_the_one_that_it_became() -> None:
    damaged = ModelDamaged("the model does not decode")
    damaged.__cause__ = RuntimeError(NO_CUBLAS)
    assert_matches("libcublas.so.12", device_fault(damaged) or "")
    assert device_fault(ModelDamaged("/m/model.bin: is empty")) is None
    assert_matches("too little memory", device_fault(MemoryError("std::bad_alloc")) or "")


def test_library_that_is_installed_but_not_found_is_not_installed_again(
    packages: Path,
) -> None:
    folder = packages / "nvidia" / "cublas" / "lib"
    folder.mkdir(parents=True)
    (folder / "libcublas.so.12").touch()
    told = device_fault(RuntimeError(NO_CUBLAS)) or ""
    assert "pip install" not in told
    assert f"LD_LIBRARY_PATH={folder}" in told


def test_cudnn_that_would_end_the_process_is_looked_for_first(tmp_path: Path) -> None:
    faster_whisper.check_cudnn(tmp_path)  # from CTranslate2 4.8.1 on there is none to miss
    (tmp_path / "libcudnn-74a4c495.so.99.1.0").touch()
    with pytest.raises(OSError, match=r"libcudnn_ops\.so\.99") as caught:
        faster_whisper.check_cudnn(tmp_path)
    assert_matches("pip install", device_fault(caught.value) or "")


# Loading

Break = Callable[[str], None]


def load(key: ModelKey) -> Any:
    return engines.load(models.resolve(key.engine, key.model), key)


def heard(engine: Any) -> str:
    (transcript,) = engine.transcribe([from_file(recordings()[4])], DecodeOptions(language="en"))
    return str(transcript.text)


@pytest.fixture(params=["faster-whisper at load", "faster-whisper at decode", "openai-whisper"])
def broken_gpu(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> tuple[ModelKey, Break]:
    """A machine with one GPU of the Volta generation, on which everything fails with an error."""
    error = ""

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError(error)

    def break_with(text: str) -> None:
        nonlocal error
        error = text

    def ct2_model(*args: Any, device: str, **options: Any) -> Any:
        if device == "cuda" and request.param.endswith("load"):
            fail()
        if device == "cuda":
            options["compute_type"] = "int8"
        model = WhisperModel(*args, device="cpu", **options)
        if device == "cuda":  # CTranslate2 looks for cuBLAS when it first needs it
            model.encode = fail
        return model

    WhisperModel, load_model = fw.WhisperModel, whisper.load_model
    on_cpu = ctranslate2.get_supported_compute_types("cpu")
    monkeypatch.setattr(engines, "_may_have_gpu", lambda: True)
    monkeypatch.setattr(ctranslate2, "get_cuda_device_count", lambda: 1)
    monkeypatch.setattr(
        ctranslate2, "get_supported_compute_types", lambda d, _=0: VOLTA if d == "cuda" else on_cpu
    )
    monkeypatch.setattr(faster_whisper, "WhisperModel", ct2_model)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 0))
    monkeypatch.setattr(
        whisper, "load_model", lambda path, device: fail() if "cuda" in device
        else load_model(path, device),
    )  # fmt: skip
    return (TINY if request.param.startswith("faster") else openai_tiny()), break_with


def test_gpu_that_fails_is_named_where_it_was_asked_for(
    broken_gpu: tuple[ModelKey, Break],
) -> None:
    key, break_with = broken_gpu
    for text in (NO_CUBLAS, "CUDA failed with error out of memory", OLD_DRIVER):
        break_with(text)
        with pytest.raises(DeviceError, match=r"STT_DEVICE\): 'cuda:0': ") as caught:
            load(ModelKey(key.engine, key.model, device="cuda:0"))
        assert_matches(FAULTS[text], str(caught.value))
        assert "\n" not in str(caught.value)


def test_auto_goes_back_to_the_cpu_with_one_warning(
    broken_gpu: tuple[ModelKey, Break], caplog: pytest.LogCaptureFixture
) -> None:
    key, break_with = broken_gpu
    break_with(NO_CUBLAS)
    with caplog.at_level(logging.WARNING):
        engine = load(key)
    (told,) = [record.getMessage() for record in caplog.records]
    assert_matches(r"STT_DEVICE.*takes the CPU, not the GPU: libcublas.so.12.*pip install", told)
    assert "amiable" in heard(engine)


def test_model_that_is_damaged_stays_so_on_a_gpu(broken_gpu: tuple[ModelKey, Break]) -> None:
    key, break_with = broken_gpu
    break_with("File model.bin is incomplete: failed to read a buffer of size 4 at position 12")
    with pytest.raises(ModelDamaged, match="is incomplete"):
        load(key)


@pytest.mark.parametrize("engine", ["faster-whisper", "openai-whisper"])
def test_driver_without_a_gpu_that_works(
    engine: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The engines' real answers, on this machine, where there is no driver."""
    if ctranslate2.get_cuda_device_count():
        pytest.skip("needs a machine without an NVIDIA GPU")
    monkeypatch.setattr(engines, "_may_have_gpu", lambda: True)
    monkeypatch.setattr(devices, "DRIVER", "/dev/null")
    key = TINY if engine == "faster-whisper" else openai_tiny()
    with pytest.raises(DeviceError, match="has 0 CUDA device") as caught:
        load(ModelKey(key.engine, key.model, device="cuda"))
    assert_matches("update the driver|nvidia-smi", str(caught.value))
    with caplog.at_level(logging.WARNING):
        load(key)
    (told,) = [record.getMessage() for record in caplog.records]
    assert "'auto' takes the CPU: " in told


def assert_matches(pattern: str, text: str) -> None:
    assert re.search(pattern, text), text
