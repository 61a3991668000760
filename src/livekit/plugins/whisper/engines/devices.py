"""Devices: which one, in which number format, and what their errors mean. Imports no engine."""

from __future__ import annotations

import os
import re
import sysconfig
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TypeVar

from ..errors import DeviceError, first_line
from ..log import logger

T = TypeVar("T")

PREFERRED = {
    "cuda": ("float16", "bfloat16", "int8_float32", "int8", "float32"),
    "cpu": ("int8", "int8_float32", "int16", "float32"),
}
"""Number formats for `auto`, the best first. A GPU without fast float16 (Pascal) computes in int8,
if it can, as CPUs do: in a quarter of float32's memory, and faster. CTranslate2 falls back to the
same: https://opennmt.net/CTranslate2/quantization.html#implicit-type-conversion-on-load"""

HALF_FAST = (7, 0)
"""NVIDIA's compute capability from which on float16 is faster than float32 (the same page)."""
HALF_POSSIBLE = (5, 3)
"""From which on a GPU computes in float16 at all."""

DRIVER = "/dev/nvidiactl"
"""There where an NVIDIA driver is at work, on Linux."""

_LIBRARY = re.compile(
    r"Library (\S+) is not found or cannot be loaded"  # CTranslate2
    r"|(lib(?:cu|nv)[\w.-]+): cannot open shared object file"  # the loader; PyTorch
    r"|(?:Could not load library|Could not locate|Unable to load any of) \{?([\w.-]*\w)"
)  # cuDNN
_FAULTS = (
    (
        r"CUDA.*out of memory|CUBLAS_STATUS_ALLOC_FAILED|cudaErrorMemoryAllocation",
        "the GPU has too little free memory for this model: look at nvidia-smi for who uses it, "
        "or choose a smaller model or STT_COMPUTE_TYPE=int8",
    ),
    (
        r"std::bad_alloc|DefaultCPUAllocator|out of memory|Cannot allocate memory",
        "there is too little memory for this model: choose a smaller one",
    ),
    (
        r"driver version is insufficient|driver on your system is too old|InsufficientDriver"
        r"|unsupported display driver",
        "the NVIDIA driver is too old for the installed engine: update the driver",
    ),
    (
        r"no kernel image|NoKernelImageForDevice|unsupported toolchain|no longer supports this GPU",
        "the installed engine has no code for this GPU, which is too old for it or too new: "
        "install another version of it",
    ),
    (
        r"CUBLAS_STATUS_(NOT_SUPPORTED|ARCH_MISMATCH)",
        "the GPU does not compute in this number format: set STT_COMPUTE_TYPE=float16 or float32",
    ),
    (
        r"CUDA (failed with error|error|driver error|initialization)|cuda runtime error|cudaError"
        r"|(cuBLAS|cuDNN) (failed with status|error)|CUDNN_STATUS|No CUDA GPUs are available"
        r"|no NVIDIA driver|not compiled with CUDA|CUDA-capable device",
        "CUDA does not work here: look at nvidia-smi, and restart what it names",
    ),
)
"""What errors say (CTranslate2 `src/cuda/utils.cc`, PyTorch, the CUDA runtime), and the way out."""


def device_fault(exc: BaseException | None) -> str | None:
    """Whether the device is to blame for an error, and not the model: what to do, in one line.

    Args:
        exc: as an engine raised it, or an error that was raised from it.

    Returns:
        None where the device has nothing to do with it.
    """
    while exc is not None:
        text = str(exc)
        if found := _LIBRARY.search(text):
            return _missing(next(filter(None, found.groups())))
        if isinstance(exc, MemoryError):
            text += " out of memory"
        for pattern, way_out in _FAULTS:
            if re.search(pattern, text):
                return f"{way_out} ({first_line(text)})"
        exc = exc.__cause__
    return None


def load_on(
    wanted: str, gpus: int, probe: Callable[[], object], load: Callable[[str, int], T]
) -> T:
    """Loads on the device that is asked for; `auto`: on the first GPU if it works, else on the CPU.

    Args:
        wanted: `auto`, `cpu`, `cuda` or `cuda:N`.
        gpus: how many the engine finds.
        probe: raises what the engine says of the GPUs where it finds none.
        load: takes `cpu` or `cuda`, and the GPU's number.

    Raises:
        DeviceError: the device is absent or does not work.
        WhisperError: whatever else `load` raises.
    """
    name, _, number = wanted.partition(":")
    index = int(number or 0)
    if name != "cpu" and index >= gpus:
        reason = _why_none(probe) if not gpus else None
        if name == "cuda":
            raise DeviceError(
                f"device (STT_DEVICE): {wanted!r}: this machine has {gpus} CUDA device(s) that the "
                "engine can use; choose cpu or auto, or "
                + (reason or "install the NVIDIA driver and CUDA")
            )
        if reason:
            logger.warning("device (STT_DEVICE): 'auto' takes the CPU: %s", reason)
        return load("cpu", 0)
    try:
        return load("cpu" if name == "cpu" else "cuda", index)
    except Exception as exc:
        reason = None if isinstance(exc, DeviceError) else device_fault(exc)
        if reason is None:
            raise
        if name != "auto":
            raise DeviceError(f"device (STT_DEVICE): {wanted!r}: {reason}") from exc
        logger.warning("device (STT_DEVICE): 'auto' takes the CPU, not the GPU: %s", reason)
    return load("cpu", 0)


def number_format(wanted: str, supported: Collection[str], device: str) -> str:
    """The number format to load in.

    Args:
        wanted: as configured; `auto` is the best that the device has.
        supported: what the engine says that the device computes in.
        device: `cpu` or `cuda`.

    Raises:
        DeviceError: the device does not compute in the one asked for.
    """
    if wanted == "auto":
        return next((each for each in PREFERRED[device] if each in supported), "default")
    if wanted != "default" and wanted not in supported:
        raise DeviceError(
            f"compute_type (STT_COMPUTE_TYPE): {wanted!r} is not supported on this {device}; "
            f"allowed here: auto, default, {', '.join(sorted(supported))}"
        )
    return wanted


def torch_format(wanted: str, capability: tuple[int, int] | None) -> str:
    """The same for openai-whisper, which has float16 on GPUs, and float32.

    Args:
        wanted: as configured.
        capability: the GPU's compute capability; None: on a CPU.
    """
    if wanted == "auto" and (capability is None or capability < HALF_FAST):
        return "float32"
    half = {"float16"} if capability is not None and capability >= HALF_POSSIBLE else set[str]()
    return number_format(wanted, {"float32", *half}, "cuda" if capability else "cpu")


def _why_none(probe: Callable[[], object]) -> str | None:
    """Why the engine finds no GPU where a driver is at work; None where there is no such reason."""
    if not os.path.exists(DRIVER):
        return None
    try:
        probe()
    except Exception as exc:
        # That no device is visible is a choice (CUDA_VISIBLE_DEVICES), and no fault.
        if not re.search("no CUDA-capable device|No CUDA GPUs", str(exc)):
            return device_fault(exc)
    return None


def _missing(library: str) -> str:
    """What to do about a library of CUDA that is not found."""
    packages = Path(sysconfig.get_paths()["purelib"], "nvidia")
    folders = [packages / each / "lib" for each in ("cublas", "cudnn")]
    install = "run: pip install nvidia-cublas-cu12 nvidia-cudnn-cu12, and "
    if any((folder / library).exists() for folder in folders):
        install = ""
    path = os.pathsep.join(map(str, folders))
    return f"{library}, a library of CUDA, is missing: {install}start with LD_LIBRARY_PATH={path}"
