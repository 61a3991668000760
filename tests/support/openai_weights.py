"""Whisper weights for openai-whisper, from the same model in CTranslate2 form.

    python tests/support/openai_weights.py CT2_DIR TARGET

The tests' and the demo's weights come from a package that holds them for faster-whisper only.
This turns its `model.bin` into the checkpoint that `whisper.load_model(path)` reads.
"""

from __future__ import annotations

import struct
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

Array = NDArray[np.generic]
Variables = Mapping[str, Array]

_VERSION, _SPEC = 6, "WhisperSpec"
# https://github.com/OpenNMT/CTranslate2/blob/v4.6.0/python/ctranslate2/specs/model_spec.py
_DTYPES = (np.float32, np.int8, np.int16, np.int32, np.float16)
# CTranslate2's name of a part → openai-whisper's.
_NORMS = {"layer_norm/gamma": "weight", "layer_norm/beta": "bias"}
_PLAIN = {
    "encoder": {"position_encodings/encodings": "positional_embedding"}
    | {f"conv{i}/{part}": f"conv{i}.{part}" for i in (1, 2) for part in ("weight", "bias")}
    | {name: f"ln_post.{part}" for name, part in _NORMS.items()},
    "decoder": {
        "position_encodings/encodings": "positional_embedding",
        "embeddings/weight": "token_embedding.weight",
    }
    | {name: f"ln.{part}" for name, part in _NORMS.items()},
}


def build_openai_checkpoint(ct2_dir: Path, target: Path) -> Path:
    """Writes the checkpoint of a CTranslate2 Whisper model; nothing half-written is ever seen.

    Args:
        ct2_dir: holds `model.bin`, in float32, float16 or int8.
        target: the `.pt` file to write; replaced if it is there.

    Returns:
        `target`.

    Raises:
        ValueError: `model.bin` is truncated, or is no Whisper model of format version 6.
    """
    variables = read_ct2(ct2_dir / "model.bin")
    state = {name: torch.from_numpy(array) for name, array in _state(variables)}
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as folder:
        unfinished = Path(folder, target.name)
        torch.save({"dims": _dimensions(variables), "model_state_dict": state}, unfinished)
        unfinished.replace(target)
    return target


def read_ct2(model_bin: Path) -> dict[str, Array]:
    """The variables of a CTranslate2 Whisper model, quantized ones multiplied out to float32.

    Little-endian: `u32 version, str spec, u32 revision, u32 count`; per variable `str name, u8
    rank, u32 dims…, u8 dtype, u32 bytes, data`. A `str` is a `u16` length, which counts a NUL at
    the end. Aliases follow: Whisper's one is the output projection, which shares the embeddings.
    """
    data, offset = bytearray(model_bin.read_bytes()), 0

    def take(form: str) -> tuple[int, ...]:
        nonlocal offset
        values = struct.unpack_from(f"<{form}", data, offset)
        offset += struct.calcsize(f"<{form}")
        return values

    def text() -> str:
        nonlocal offset
        (length,) = take("H")
        offset += length
        return data[offset - length : offset - 1].decode()

    variables: dict[str, Array] = {}
    try:
        (version,), spec, (_, count) = take("I"), text(), take("II")
        if (version, spec) != (_VERSION, _SPEC):
            raise ValueError(f"{spec} of format {version}, not {_SPEC} of format {_VERSION}")
        for _ in range(count):
            name, (rank,) = text(), take("B")
            shape = take(f"{rank}I")
            dtype, size = take("BI")
            values = np.frombuffer(data[offset : offset + size], _DTYPES[dtype])
            variables[name] = values.reshape(shape)
            offset += size
    except (struct.error, UnicodeDecodeError, IndexError, ValueError) as exc:
        raise ValueError(f"{model_bin} cannot be read: {exc}") from exc

    for name in [n for n in variables if n.endswith("weight_scale")]:
        scale, weight = variables.pop(name), name.removesuffix("_scale")
        rows = scale.astype(np.float32).reshape(-1, *[1] * (variables[weight].ndim - 1))
        variables[weight] = variables[weight].astype(np.float32) / rows  # one scale per row
    return variables


def _state(variables: Variables) -> Iterator[tuple[str, Array]]:
    """openai-whisper's parameters by name."""
    for side, plain in _PLAIN.items():
        for name, ours in plain.items():
            yield f"{side}.{ours}", variables[f"{side}/{name}"]
        for i in range(_layers(variables, side)):
            prefix = f"{side}/layer_{i}/"
            layer = {n[len(prefix) :]: a for n, a in variables.items() if n.startswith(prefix)}
            for ours, array in _block(layer):
                yield f"{side}.blocks.{i}.{ours}", array


def _block(layer: Variables) -> Iterator[tuple[str, Array]]:
    """The parameters of one transformer layer."""
    # Self-attention stacks query, key and value; cross-attention only key and value.
    attentions: list[tuple[str, str, list[list[str]]]]
    attentions = [("attn", "self_attention", [["query", "key", "value"], ["out"]])]
    if "attention/linear_0/weight" in layer:
        attentions.append(("cross_attn", "attention", [["query"], ["key", "value"], ["out"]]))
    for ours, name, linears in attentions:
        for theirs, part in _NORMS.items():
            yield f"{ours}_ln.{part}", layer[f"{name}/{theirs}"]
        for i, stacked in enumerate(linears):
            for part in ("weight", "bias"):
                split = np.split(layer[f"{name}/linear_{i}/{part}"], len(stacked))
                for projection, array in zip(stacked, split, strict=True):
                    if (projection, part) != ("key", "bias"):  # Whisper's keys have none
                        yield f"{ours}.{projection}.{part}", array
    for theirs, part in _NORMS.items():
        yield f"mlp_ln.{part}", layer[f"ffn/{theirs}"]
    for i, ours in enumerate(("mlp.0", "mlp.2")):
        for part in ("weight", "bias"):
            yield f"{ours}.{part}", layer[f"ffn/linear_{i}/{part}"]


def _dimensions(variables: Variables) -> dict[str, int]:
    audio, text = (variables[f"{side}/position_encodings/encodings"].shape for side in _PLAIN)
    return {
        "n_mels": variables["encoder/conv1/weight"].shape[1],
        "n_audio_ctx": audio[0],
        "n_audio_state": audio[1],
        "n_audio_head": int(variables["encoder/num_heads"]),
        "n_audio_layer": _layers(variables, "encoder"),
        "n_vocab": variables["decoder/embeddings/weight"].shape[0],
        "n_text_ctx": text[0],
        "n_text_state": text[1],
        "n_text_head": int(variables["decoder/num_heads"]),
        "n_text_layer": _layers(variables, "decoder"),
    }


def _layers(variables: Variables, side: str) -> int:
    return sum(n.startswith(side) and n.endswith("/ffn/linear_0/weight") for n in variables)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(f"usage: {sys.argv[0]} CT2_DIR TARGET")
    build_openai_checkpoint(Path(sys.argv[1]), Path(sys.argv[2]))
