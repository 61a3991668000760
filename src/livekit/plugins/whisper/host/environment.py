"""What of a process's environment its host must have alike: all that its libraries go by.

Which weights a name means, where they are computed and how they are fetched: processes that differ
in any of it must not share a host. What else differs, from job to job or from terminal to terminal,
must not part them.
"""

from __future__ import annotations

import os

FAMILIES = (
    "CUDA_", "NVIDIA_", "CUBLAS_", "CUDNN_", "ROCR_", "HIP_",  # GPUs
    "LD_", "DYLD_",  # which libraries are found
    "CT2_", "TORCH", "PYTORCH_", "ATEN_", "HF_", "HUGGINGFACE_", "TRANSFORMERS_",
    "OMP_", "GOMP_", "KMP_", "MKL_", "DNNL_", "ONEDNN_",  # how CPUs are used
    "SSL_CERT_",
)  # fmt: skip
"""What their names begin with."""
ENDINGS = ("_PROXY", "_CA_BUNDLE")
"""What they end with, in capitals or not."""
OTHERS = frozenset({
    "HOME", "XDG_CACHE_HOME", "NUM_CPUS", "PYTHONPATH", "PYTHONHOME", "PYTHONUSERBASE",
    "PYTHONNOUSERSITE",
})  # fmt: skip
IGNORED = frozenset({
    "CUDA_MODULE_LOADING",  # PyTorch sets it in a process that has used a GPU
    "HF_HUB_DISABLE_PROGRESS_BARS", "HF_HUB_DISABLE_TELEMETRY", "HF_HUB_VERBOSITY",
})  # fmt: skip
"""They change nothing of what is heard, or are set by a library on its own."""

_LISTS = ("PYTHONPATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
_PLACES = ("_HOME", "_CACHE", "_PATH", "_DIR", "_FILE", "_BUNDLE")
_CERTIFI = os.path.join("certifi", "cacert.pem")


def relevant() -> dict[str, str]:
    """The variables that matter, with places made absolute. Holds secrets: not to be shown."""
    found = {**os.environ, **absolute_paths()}
    return {name: value for name, value in sorted(found.items()) if _matters(name, value)}


def absolute_paths() -> dict[str, str]:
    """Variables that hold places, made absolute: a host has a working directory of its own."""
    found = {}
    for name, value in os.environ.items():
        if not _matters(name, value):
            continue
        if name in _LISTS:
            # An empty part is the working directory; most come from `new:$OLD` with nothing in OLD.
            parts = [_absolute(part) for part in value.split(os.pathsep) if part]
            found[name] = os.pathsep.join(parts)
        elif name.endswith(_PLACES):
            found[name] = _absolute(value)
    return found


def _matters(name: str, value: str) -> bool:
    if not value or name in IGNORED:
        return False
    if name == "SSL_CERT_FILE" and value.endswith(_CERTIFI):
        return False  # LiveKit's workers set it where the system has none; it is the default
    return name in OTHERS or name.startswith(FAMILIES) or name.upper().endswith(ENDINGS)


def _absolute(path: str) -> str:
    """Leaves what begins with `~` to the library, which knows whether it means a home."""
    if path.startswith("~"):
        return path
    try:
        return os.path.abspath(path)
    except FileNotFoundError:  # the working directory was removed
        return path
