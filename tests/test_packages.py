"""Another module in the place of an engine's package is named, and never used."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from livekit.plugins.whisper import WhisperSTT, engines, models, packages
from livekit.plugins.whisper.errors import MissingExtraError
from livekit.plugins.whisper.model_files import ModelFiles
from livekit.plugins.whisper.types import ModelKey

NAMES = {"whisper": "openai-whisper", "faster_whisper": "faster-whisper"}
# The distribution `whisper` on the package index: a database of figures over time.
GRAPHITE = "def create(path, archiveList): ...\ndef fetch(path, fromTime): ...\n"


@pytest.fixture(params=NAMES)
def module(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """An engine's package, not imported yet."""
    name = str(request.param)
    for each in [*sys.modules]:
        if each.partition(".")[0] == name or each.endswith(f"engines.{engine(name)}"):
            monkeypatch.delitem(sys.modules, each)
    return name


def engine(module: str) -> str:
    return NAMES[module].replace("-", "_")


@pytest.mark.parametrize("form", ["file", "package"])
def test_other_module_of_that_name_is_in_the_way(
    module: str, form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / (f"{module}.py" if form == "file" else f"{module}/__init__.py")
    file.parent.mkdir(exist_ok=True)
    file.write_text(GRAPHITE)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MissingExtraError) as caught:
        engines.check(ModelKey(NAMES[module], "tiny.en"))
    told = str(caught.value)
    assert f"{file} is in the way" in told
    assert f"pip uninstall {module}" in told
    assert f'pip install "livekit-plugins-whisper[{NAMES[module]}]"' in told
    assert "\n" not in told
    assert not packages.installed(module)
    assert module not in sys.modules


def test_names_of_openai_whisper_are_asked_of_it_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "whisper", raising=False)
    (tmp_path / "whisper.py").write_text(GRAPHITE)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MissingExtraError, match=r"whisper\.py is in the way"):
        models.resolve("openai-whisper", "tiny.en", offline=True)
    with pytest.raises(MissingExtraError, match=r"whisper\.py is in the way"):
        WhisperSTT(model="tiny.en", backend="process")


def test_folder_of_that_name_is_not_in_the_way(
    module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / module).mkdir()  # of models, say
    monkeypatch.syspath_prepend(tmp_path)
    assert packages.installed(module)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(MissingExtraError, match=f"{NAMES[module]} is not installed; run: pip"):
        packages.require(module)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("raise OSError('libcudart.so.12: cannot open shared object file')", "libcudart.so.12"),
        ("import math; math.no_such_thing", "has no attribute"),
        ("from json import no_such_thing", "cannot import name"),
    ],
)
def test_package_that_cannot_be_imported_is_told(
    module: str, line: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where one of its own libraries is missing, or a file of the user's in its place."""
    folder = tmp_path / module
    folder.mkdir()
    (folder / "__init__.py").write_text(line)
    (folder / packages.EXTRAS[module][1]).touch()
    monkeypatch.syspath_prepend(tmp_path)
    key = ModelKey(NAMES[module], "tiny.en")
    with pytest.raises(MissingExtraError, match=f"{told}.*pip install --force-reinstall"):
        engines.load(ModelFiles(tmp_path, "tiny.en", 0, 0, False), key)
