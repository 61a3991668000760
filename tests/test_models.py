"""A reference to a model on this machine: checked files, or one clear error that names one."""

from __future__ import annotations

import base64
import hashlib
import os
import random
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import whisper as openai_whisper
from livekit.plugins.whisper import engines
from livekit.plugins.whisper.errors import (
    ConfigError,
    ModelDamaged,
    ModelNotFound,
)
from livekit.plugins.whisper.model_files import sha256
from livekit.plugins.whisper.models import (
    HUB_REPOSITORIES,
    check_reference,
    known_names,
    resolve,
)
from livekit.plugins.whisper.types import ModelKey

from tests.support.models import MODEL_FILES as FILES
from tests.support.models import small_binary, small_checkpoint, small_model
from tests.support.users import ordinary_user
from tests.support.weights import CT2_REFERENCE, TINY

CT2, TORCH = "faster-whisper", "openai-whisper"
REPOSITORY, PINNED = HUB_REPOSITORIES["tiny.en"]


# Directories


def test_directory_is_taken_as_it_is(tmp_path: Path) -> None:
    folder = small_model(tmp_path / "model")
    for reference in ("./model", "model/", str(folder)):
        files = resolve(CT2, reference)
        assert files.path.resolve() == folder
        assert (files.parameters, files.verified) == (13, False)
        assert files.size == sum(file.stat().st_size for file in folder.iterdir())


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("harm", ["missing", "empty"])
def test_file_that_is_missing_or_empty(tmp_path: Path, name: str, harm: str) -> None:
    folder = small_model(tmp_path / "model")
    (folder / name).unlink()
    if harm == "empty":
        (folder / name).touch()
    with pytest.raises(ModelDamaged, match=rf"model/{name}: is {harm}; fetch"):
        resolve(CT2, str(folder))


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_broken_json(tmp_path: Path, name: str) -> None:
    folder = small_model(tmp_path / "model")
    for data in (b'{"cut": [1, 2', b"\xff\xfe\x00", b"<html>502 Bad Gateway</html>"):
        (folder / name).write_bytes(data)
        with pytest.raises(ModelDamaged, match=rf"model/{name}: is not valid JSON"):
            resolve(CT2, str(folder))


def test_binary_cut_anywhere(tmp_path: Path) -> None:
    folder = small_model(tmp_path / "model")
    for size in range(1, len(small_binary())):
        os.truncate(folder / "model.bin", size)
        with pytest.raises(ModelDamaged, match=rf"model\.bin: is truncated .*\({size} bytes\)"):
            resolve(CT2, str(folder))
        (folder / "model.bin").write_bytes(small_binary())
    assert resolve(CT2, str(folder))


def test_real_binary_cut_near_its_end(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(resolve(CT2, CT2_REFERENCE).path, folder)
    size = (folder / "model.bin").stat().st_size
    for cut in (1, 100, size // 2):
        os.truncate(folder / "model.bin", size - cut)
        with pytest.raises(ModelDamaged, match=r"model\.bin: is truncated"):
            resolve(CT2, str(folder))


def test_other_models_and_random_bytes(tmp_path: Path) -> None:
    folder = small_model(tmp_path / "model")
    (folder / "model.bin").write_bytes(small_binary("TransformerSpec"))
    with pytest.raises(ModelDamaged, match="is a 'TransformerSpec', not a Whisper model"):
        resolve(CT2, str(folder))
    for seed in range(200):
        (folder / "model.bin").write_bytes(random.Random(seed).randbytes(1000))
        with pytest.raises(ModelDamaged, match=r"model\.bin: is "):
            resolve(CT2, str(folder))


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("mark", ["  ", " *"])
def test_altered_file_beside_its_checksum(tmp_path: Path, name: str, mark: str) -> None:
    folder = small_model(tmp_path / "model")
    sums = "".join(f"{sha256(folder / file)}{mark}{file}\n" for file in FILES)
    (folder / "SHA256SUMS").write_text(sums)
    assert resolve(CT2, str(folder)).verified
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data.replace(b"encoder/weight", b"encoder/weighs") + b"\n")
    with pytest.raises(ModelDamaged, match=rf"model/{name}: was altered"):
        resolve(CT2, str(folder))


def test_directory_for_the_wrong_engine(tmp_path: Path) -> None:
    folder = small_model(tmp_path / "model")
    with pytest.raises(ModelDamaged, match=r"is one \.pt file; found 0"):
        resolve(TORCH, str(folder))
    checkpoint = small_checkpoint(tmp_path / "model.pt")
    with pytest.raises(ModelDamaged, match=r"model\.pt: a faster-whisper model is a directory"):
        resolve(CT2, str(checkpoint))


def test_file_that_may_not_be_read(tmp_path: Path) -> None:
    small_model(tmp_path / "model")
    (tmp_path / "model" / "model.bin").chmod(0)
    tmp_path.chmod(0o755)
    with (
        ordinary_user(),
        pytest.raises(ModelDamaged, match=r"model\.bin: cannot be read .*denied"),
    ):
        resolve(CT2, "./model")


# Checkpoints


def test_checkpoint_file_and_the_folder_that_holds_it(tmp_path: Path) -> None:
    path = small_checkpoint(tmp_path / "torch" / "mine.pt")
    assert resolve(TORCH, "torch/mine.pt").path.resolve() == path
    assert resolve(TORCH, "./torch").path.resolve() == path
    small_checkpoint(tmp_path / "torch" / "second.pt")
    with pytest.raises(ModelDamaged, match=r"is one \.pt file; found 2"):
        resolve(TORCH, "./torch")


def test_checkpoint_that_is_cut_or_random(tmp_path: Path) -> None:
    path = small_checkpoint(tmp_path / "mine.pt")
    data = path.read_bytes()
    for harm in (data[:-1], data[: len(data) // 2], b"", random.Random(0).randbytes(5000)):
        path.write_bytes(harm)
        with pytest.raises(ModelDamaged, match=r"mine\.pt: is not a PyTorch checkpoint"):
            resolve(TORCH, str(path))


class Evil:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (self.path,)


def test_checkpoint_that_is_none_runs_no_code(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    torch.save(Evil(marker), tmp_path / "evil.pt")
    torch.save({"dims": {}, "model_state_dict": Evil(marker)}, tmp_path / "sly.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save({"weight": torch.zeros(3)}, tmp_path / "other.pt")
    small_checkpoint(tmp_path / "zip.pt")
    for name in ("evil", "sly", "list", "other", "zip"):
        key = ModelKey(TORCH, str(tmp_path / f"{name}.pt"))
        with pytest.raises(ModelDamaged, match=rf"{name}\.pt: is no openai-whisper checkpoint"):
            engines.load(resolve(key.engine, key.model), key)
    assert not marker.exists()


# Packages


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An installed distribution acme-models with a model in it; returns the model's folder."""
    site = tmp_path / "site"
    folder = small_model(site / "acme_models" / "model")
    (site / "acme_models" / "__init__.py").touch()
    small_checkpoint(site / "acme_models" / "tiny.pt")
    (site / "acme_models-1.0.dist-info").mkdir()
    (site / "acme_models-1.0.dist-info" / "METADATA").write_text("Name: acme-models\nVersion: 1\n")
    lines = []
    for path in sorted((site / "acme_models").rglob("*.*")):
        digest = base64.urlsafe_b64encode(hashlib.sha256(path.read_bytes()).digest())
        sums = digest.decode().rstrip("=")
        lines.append(f"{path.relative_to(site)},sha256={sums},{path.stat().st_size}\n")
    (site / "acme_models-1.0.dist-info" / "RECORD").write_text("".join(lines))
    monkeypatch.syspath_prepend(site)
    return folder


@pytest.mark.parametrize("name", ["acme_models", "acme-models"])
def test_package_is_checked_against_its_record(package: Path, name: str) -> None:
    files = resolve(CT2, f"package:{name}/model")
    assert (files.path, files.verified) == (package, True)
    checkpoint = resolve(TORCH, f"package:{name}/tiny.pt")
    assert (checkpoint.path, checkpoint.verified) == (package.parent / "tiny.pt", True)
    for file in FILES:
        data = (package / file).read_bytes()
        (package / file).write_bytes(data + b"\n")
        with pytest.raises(ModelDamaged, match=rf"model/{file}: was altered"):
            resolve(CT2, f"package:{name}/model")
        (package / file).write_bytes(data)


def test_real_package_is_whole() -> None:
    files = resolve(TINY.engine, TINY.model)
    assert files.verified
    assert files.parameters == pytest.approx(37.8e6, rel=0.01)  # Whisper's paper has 39 M for tiny


@pytest.mark.parametrize(
    "reference",
    [
        "package:", "package:acme_models", "package:acme_models/", "package:/model",
        "package:acme_models/../secret", "package:acme_models/model/../../secret",
        "package:acme_models//etc", "package:../model/x", "package:a.b/model",
    ],
)  # fmt: skip
def test_package_reference_stays_inside(package: Path, reference: str) -> None:
    with pytest.raises(ConfigError, match="must read package:NAME/PATH"):
        check_reference(CT2, reference)


@pytest.mark.parametrize("reference", ["package:nobody/model", "package:__main__/x"])
def test_package_that_is_not_installed(reference: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)  # as in a command
    with pytest.raises(ModelNotFound, match=r"no package '\w+' is installed; pip install \w+"):
        check_reference(CT2, reference)


def test_package_without_the_model(package: Path) -> None:
    with pytest.raises(ModelNotFound, match="package 'acme_models' has no 'large' in it"):
        check_reference(CT2, "package:acme_models/large")


# References


@pytest.mark.parametrize(
    ("engine", "reference", "message"),
    [
        (CT2, "tiny.em", "not known to faster-whisper; did you mean 'tiny.en'"),
        (CT2, "Large-V3", "did you mean 'large-v3'"),
        (TORCH, "distil-large-v3", "not known to openai-whisper; did you mean 'large-v3'"),
        (CT2, "zzz", r"not known to faster-whisper \(allowed: tiny.en, .*owner/repo; a path"),
        (CT2, "./nowhere", "no such file or directory"),
        (CT2, "../nowhere", "no such file or directory"),
        (CT2, "~nobody-of-that-name/model", "no such file or directory"),
        (TORCH, "folder/mine.pt", "no such file or directory"),
        (CT2, "a/b/c", "no such file or directory"),
        (CT2, "x" * 5000, "not known to faster-whisper"),
        (CT2, "", "not known to faster-whisper"),
    ],
)
def test_reference_to_nothing(engine: str, reference: str, message: str) -> None:
    with pytest.raises(ModelNotFound, match=f"model '{reference}'.*{message}"):
        check_reference(engine, reference)


def test_reference_that_may_exist_passes() -> None:
    for reference in (*HUB_REPOSITORIES, "owner/repo", CT2_REFERENCE):
        check_reference(CT2, reference)
    assert set(known_names(TORCH)) == set(openai_whisper.available_models())
