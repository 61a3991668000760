"""Models from the hub: fetched once, offline from then on, and never half of one.

The real clients run, `huggingface_hub` and openai-whisper's own, against a hub on this machine.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import whisper as openai_whisper
from livekit.plugins.whisper import LocalBackend
from livekit.plugins.whisper.audio import from_file
from livekit.plugins.whisper.errors import (
    DownloadError,
    ModelDamaged,
    ModelError,
    ModelNotFound,
)
from livekit.plugins.whisper.models import (
    HUB_REPOSITORIES,
    resolve,
)
from livekit.plugins.whisper.types import DecodeOptions, ModelKey, Utterance

from tests.support.hub import Failure, Hub
from tests.support.models import small_checkpoint, small_model
from tests.support.weights import CT2_REFERENCE, openai_checkpoint, recordings

CT2, TORCH = "faster-whisper", "openai-whisper"
REPOSITORY, PINNED = HUB_REPOSITORIES["tiny.en"]


# openai-whisper leaves the file that it has downloaded open.
pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed file.*tiny.en.pt:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:.*tiny.en.pt:pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A hub with a model for each kind of reference."""
    with Hub() as made:
        made.patch(monkeypatch, tmp_path / "home")
        model = small_model(tmp_path / "published")
        checkpoint = small_checkpoint(tmp_path / "torch" / "tiny.en.pt")
        made.add(REPOSITORY, model, PINNED)
        made.add("acme/model", model)
        made.add("acme/torch", checkpoint.parent)
        url = made.add_checkpoint(checkpoint)
        monkeypatch.setitem(openai_whisper._MODELS, "tiny.en", url)
        yield made


@dataclass(frozen=True)
class Kind:
    engine: str
    reference: str
    file: str
    """The one in it that is large."""


KINDS = {
    "known name": Kind(CT2, "tiny.en", "model.bin"),
    "repository": Kind(CT2, "acme/model", "model.bin"),
    "checkpoint": Kind(TORCH, "tiny.en", "tiny.en.pt"),
    "checkpoint repository": Kind(TORCH, "acme/torch", "tiny.en.pt"),
}
downloaded = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


# From the hub


@downloaded
def test_fetched_once_with_a_progress_bar_and_offline_from_then_on(
    kind: Kind, hub: Hub, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    files = resolve(kind.engine, kind.reference)
    assert files.path.is_relative_to(tmp_path / "home")
    assert files.verified
    shown = capfd.readouterr()
    assert "100%" in shown.err
    assert not shown.out
    hub.requests.clear()
    assert resolve(kind.engine, kind.reference) == files
    assert hub.requests == []
    hub.close()
    assert resolve(kind.engine, kind.reference) == files
    assert resolve(kind.engine, kind.reference, offline=True) == files


def test_known_name_is_never_asked_for_by_its_branch(hub: Hub) -> None:
    resolve(CT2, "tiny.en")
    assert any(PINNED in request for request in hub.requests)
    assert not any("main" in request for request in hub.requests)


def test_known_name_is_pinned_and_a_revision_overrides_it(hub: Hub, tmp_path: Path) -> None:
    newer = small_model(tmp_path / "newer")
    (newer / "config.json").write_text('{"newer": true}')
    hub.add(REPOSITORY, newer, "b" * 40)
    with pytest.raises(ModelNotFound, match=f"has no revision '{PINNED}'"):
        resolve(CT2, "tiny.en")
    files = resolve(CT2, "tiny.en", "main")
    assert json.loads((files.path / "config.json").read_text()) == {"newer": True}
    assert resolve(CT2, "tiny.en", "b" * 40) == files


def test_unknown_repository_and_unknown_revision(hub: Hub) -> None:
    with pytest.raises(ModelNotFound, match=r"'acme/nothing'.*has no repository.*set HF_TOKEN"):
        resolve(CT2, "acme/nothing")
    with pytest.raises(ModelNotFound, match=r"repository 'acme/model' has no revision 'v9'"):
        resolve(CT2, "acme/model", "v9")


@pytest.mark.parametrize("name", ["acme/..", "a..b/model", "acme/--", "-acme/model"])
@pytest.mark.parametrize("offline", [False, True])
def test_what_cannot_name_a_repository(hub: Hub, name: str, offline: bool) -> None:
    with pytest.raises(ModelNotFound, match=f"{name}.*is no name of a repository"):
        resolve(CT2, name, offline=offline)
    assert hub.requests == []


@downloaded
@pytest.mark.timeout(15)  # the hub's own client tries for 23 s
def test_no_network_is_told_and_leaves_nothing(kind: Kind, hub: Hub, tmp_path: Path) -> None:
    hub.close()
    with pytest.raises(DownloadError) as caught:
        resolve(kind.engine, kind.reference)
    fetch = f"livekit-whisper models fetch {kind.reference} --engine {kind.engine}"
    assert "is not on this machine" in str(caught.value)
    assert fetch in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.retryable
    assert not list((tmp_path / "home").rglob(kind.file))
    with pytest.raises(ModelNotFound) as absent:
        resolve(kind.engine, kind.reference, offline=True)
    assert fetch in str(absent.value)


@pytest.mark.parametrize(
    ("failure", "kind"),
    [
        (failure, kind)
        for failure in ("error", "cut", "short", "altered")
        for kind in KINDS
        if (failure, kind) != ("cut", "repository")  # 5 s, the same as for the known name
    ],
)
@pytest.mark.timeout(30)
def test_download_that_fails_is_told_and_the_next_one_mends_it(
    failure: Failure, kind: str, hub: Hub, tmp_path: Path
) -> None:
    engine, reference = KINDS[kind].engine, KINDS[kind].reference
    hub.failure = failure
    with pytest.raises((DownloadError, ModelDamaged), match=reference.replace("/", ".*")):
        resolve(engine, reference)
    with pytest.raises(ModelError):  # what has come is not taken for the model
        resolve(engine, reference, offline=True)
    if kind == "checkpoint":  # a cache without a place for what is not finished
        assert not list((tmp_path / "home").rglob("*.pt"))
    hub.failure = None
    assert resolve(engine, reference).verified


@downloaded
@pytest.mark.parametrize("harm", ["altered", "truncated", "gone"])
def test_damage_to_the_cache_is_found_and_mended(kind: Kind, harm: str, hub: Hub) -> None:
    path = resolve(kind.engine, kind.reference).path
    file = (path if path.is_file() else path / kind.file).resolve()
    data = file.read_bytes()
    file.write_bytes(data[:-9] if harm == "truncated" else data[:-9] + bytes(8) + b"x")
    if harm == "gone":
        file.unlink()
    with pytest.raises(ModelError):
        resolve(kind.engine, kind.reference, offline=True)
    assert resolve(kind.engine, kind.reference).verified
    assert file.read_bytes() == data


# What is here already, at another commit


OTHER = "b" * 40


@pytest.fixture
def other_commit(hub: Hub, tmp_path: Path) -> Hub:
    """A hub that cannot be reached, after another commit of tiny.en than the pinned was fetched."""
    hub.add(REPOSITORY, small_model(tmp_path / "other"), OTHER)
    resolve(CT2, "tiny.en", OTHER)
    hub.close()
    return hub


@pytest.mark.parametrize("offline", [False, True])
def test_other_commit_is_used_where_the_hub_cannot_be_asked(
    other_commit: Hub, offline: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        files = resolve(CT2, "tiny.en", offline=offline)
    assert files.path.name == OTHER
    assert files.verified
    (told,) = [record.getMessage() for record in caplog.records]
    assert f"commit {PINNED} is not on this machine" in told
    assert f"commit {OTHER} is here and is used" in told
    assert f"STT_REVISION={OTHER}" in told


@pytest.mark.parametrize("revision", [PINNED, "main", "v2"])
def test_other_commit_is_not_used_where_one_was_chosen(other_commit: Hub, revision: str) -> None:
    with pytest.raises(ModelNotFound, match="is not on this machine"):
        resolve(CT2, "tiny.en", revision, offline=True)
    with pytest.raises(DownloadError, match="is not on this machine"):
        resolve(CT2, "tiny.en", revision)


def test_pinned_commit_is_fetched_where_the_hub_answers(
    hub: Hub, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hub.add(REPOSITORY, small_model(tmp_path / "other"), OTHER)
    resolve(CT2, "tiny.en", OTHER)
    hub.add(REPOSITORY, small_model(tmp_path / "pinned"), PINNED)
    assert resolve(CT2, "tiny.en").path.name == PINNED
    assert not caplog.records


def test_of_several_commits_the_branch_s_newest_is_used(hub: Hub, tmp_path: Path) -> None:
    for commit, revision in (("c" * 40, "main"), (OTHER, OTHER)):
        hub.add("acme/torch", small_checkpoint(tmp_path / commit / "tiny.en.pt").parent, commit)
        resolve(TORCH, "acme/torch", revision)
    hub.close()
    assert resolve(TORCH, "acme/torch").path.parent.name == "c" * 40
    (home,) = (tmp_path / "home").rglob("refs")
    (home / "main").unlink()
    assert resolve(TORCH, "acme/torch", offline=True).path.parent.name == OTHER


def test_half_of_another_commit_is_not_used(other_commit: Hub, tmp_path: Path) -> None:
    (half,) = (tmp_path / "home").rglob(f"snapshots/{OTHER}/config.json")
    half.unlink()
    with pytest.raises(ModelNotFound, match="is not on this machine"):
        resolve(CT2, "tiny.en", offline=True)
    with pytest.raises(DownloadError, match="is not on this machine"):
        resolve(CT2, "tiny.en")


# Where they are kept


@downloaded
def test_place_that_cannot_be_written_is_named_and_not_the_network(
    kind: Kind, hub: Hub, tmp_path: Path
) -> None:
    (tmp_path / "home").write_text("a file, where a folder is needed")
    with pytest.raises(DownloadError, match=r"cannot be kept in .*home.*set HF_HOME and XDG_CACHE"):
        resolve(kind.engine, kind.reference)


async def test_failed_load_is_not_kept_and_the_next_one_transcribes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With the real weights of both engines, from the hub to the words."""
    utterance, options = Utterance(from_file(recordings()[4])), DecodeOptions(language="en")
    backend = LocalBackend()
    with Hub() as hub:
        hub.patch(monkeypatch, tmp_path)
        hub.add(REPOSITORY, resolve(CT2, CT2_REFERENCE).path, PINNED)
        url = hub.add_checkpoint(openai_checkpoint())
        monkeypatch.setitem(openai_whisper._MODELS, "tiny.en", url)
        for key in (ModelKey(CT2, "tiny.en"), ModelKey(TORCH, "tiny.en")):
            hub.failure = "short"
            with pytest.raises(DownloadError):
                await backend.prewarm(key)
            assert key not in [entry.key for entry in backend.info().entries]
            hub.failure = None
            transcript = await backend.transcribe(key, utterance, options)
            assert transcript.text == "He might even have been made amiable himself."
    await backend.aclose()
