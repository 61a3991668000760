"""Downloads into the caches of the engines' own libraries: the hub's, and openai-whisper's."""

from __future__ import annotations

import errno
import os
import urllib.request
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from .errors import DownloadError, ModelNotFound, first_line
from .log import logger
from .model_files import REQUIRED_FILES, SUMS, is_complete
from .packages import broken, require

HUB_TIMEOUT = 10.0
"""Seconds until a hub that does not answer counts as absent."""
HUB_PATTERNS = [*REQUIRED_FILES, "preprocessor_config.json", "vocabulary.*", SUMS]

_UNWRITABLE = {
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR,
    errno.ENOENT, errno.EEXIST,
}  # fmt: skip
"""How the system refuses to keep a file."""


@dataclass(frozen=True)
class Wanted:
    """A model on the hub."""

    engine: str
    reference: str
    """What it was asked for by."""
    repository: str
    """`owner/name`."""
    revision: str | None
    """The commit, tag or branch that the user asks for."""
    pinned: str | None
    """The commit that is taken where he asks for none; None: the newest."""

    @property
    def fetch(self) -> str:
        """The command that downloads it."""
        return f"livekit-whisper models fetch {self.reference} --engine {self.engine}"


def snapshot(wanted: Wanted, offline: bool, force: bool) -> Path:
    """The directory of a hub repository in the Hugging Face cache (HF_HOME, HF_TOKEN… apply).

    Where the hub cannot be asked and the user has chosen no revision, another commit that is there
    will do, with a warning.

    Args:
        wanted: which model.
        offline: never ask the network.
        force: fetch it anew.

    Raises:
        ModelNotFound: there is no such model, or (offline) it is not here.
        DownloadError: the hub did not deliver.
    """
    from huggingface_hub import HfApi, constants, snapshot_download
    from huggingface_hub import errors as hub

    reference, repository = wanted.reference, wanted.repository
    revision = wanted.revision or wanted.pinned
    cache = _place(reference, Path(constants.HF_HUB_CACHE), "HF_HOME")

    def download(local: bool) -> Path:
        return Path(
            snapshot_download(
                repository,
                revision=revision,
                allow_patterns=["*.pt"] if wanted.engine == "openai-whisper" else HUB_PATTERNS,
                local_files_only=local,
                force_download=force,
            )
        )

    if not force:
        try:
            path = download(True)
            if offline or is_complete(wanted.engine, path):
                return path
        except hub.LocalEntryNotFoundError:
            if offline and (found := _other_commit(wanted, cache)):
                return found
            if offline:
                raise ModelNotFound(
                    f"model {reference!r} is not on this machine; fetch it with: {wanted.fetch}"
                ) from None
        except hub.HFValidationError as exc:
            raise ModelNotFound(f"model {reference!r}: is no name of a repository: {exc}") from None
    try:
        # Asked first because snapshot_download() retries for 23 s where there is no network.
        HfApi().model_info(repository, revision=revision, timeout=HUB_TIMEOUT)
        return download(False)
    except hub.RepositoryNotFoundError:
        raise ModelNotFound(
            f"model {reference!r}: the hub has no repository {repository!r}, or it is private "
            "(then set HF_TOKEN)"
        ) from None
    except hub.RevisionNotFoundError:
        raise ModelNotFound(
            f"model {reference!r}: repository {repository!r} has no revision {revision!r}"
        ) from None
    except Exception as exc:  # a connection error of whichever HTTP library the hub client uses
        if not force and (found := _other_commit(wanted, cache)):
            return found
        raise _storage_error(reference, cache, exc) or DownloadError(
            f"model {reference!r}: is not on this machine, and could not be fetched from hub "
            f"repository {repository!r} ({_told(exc)}). Where there is a network, run: "
            f"{wanted.fetch}; or give a local directory as the model"
        ) from exc


def checkpoint(name: str, offline: bool, force: bool) -> tuple[Path, str]:
    """openai-whisper's own download, with its checksum, into its own cache folder.

    Args:
        name: as openai-whisper knows it.
        offline, force: see `snapshot`.

    Returns:
        The file, and the SHA-256 that is published for it.

    Raises:
        ModelNotFound, DownloadError: see `snapshot`.
        MissingExtraError: openai-whisper, which knows the addresses, is not installed.
    """
    require("whisper")
    try:
        import whisper
    except Exception as exc:
        raise broken("whisper", exc) from exc
    url: str = whisper._MODELS[name]
    published = url.split("/")[-2]
    home = os.getenv("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    root = _place(name, Path(home, "whisper"), "XDG_CACHE_HOME")
    target = Path(root, url.rsplit("/", 1)[-1])
    how = f"livekit-whisper models fetch {name} --engine openai-whisper"
    if force:
        target.unlink(missing_ok=True)
    if target.is_file():
        return target, published
    if offline:
        raise ModelNotFound(f"model {name!r} is not on this machine; fetch it with: {how}")
    try:
        # Asked first because openai-whisper waits without end for a server that does not answer.
        with urllib.request.urlopen(
            urllib.request.Request(url, method="HEAD"), timeout=HUB_TIMEOUT
        ):
            pass
        return Path(whisper._download(url, str(root), False)), published
    except Exception as exc:
        with suppress(OSError):
            target.unlink(missing_ok=True)  # a part of a file must not look like a model
        raise _storage_error(name, root, exc) or DownloadError(
            f"model {name!r}: is not on this machine, and could not be downloaded ({_told(exc)}). "
            f"Where there is a network, run: {how}; or give a .pt file as the model"
        ) from exc


def _other_commit(wanted: Wanted, cache: Path) -> Path | None:
    """Another commit of a repository that is here: better than none, where nobody chose one."""
    if wanted.revision:
        return None
    folder = cache / f"models--{wanted.repository.replace('/', '--')}"
    try:
        main = (folder / "refs" / "main").read_text().strip()
    except (OSError, UnicodeDecodeError):
        main = ""
    try:
        there = [p for p in (folder / "snapshots").iterdir() if is_complete(wanted.engine, p)]
        # The newest of the branch before the one that was fetched last.
        found = max(there, key=lambda p: (p.name == main, p.stat().st_mtime), default=None)
    except OSError:
        return None
    if found:
        logger.warning(
            "model %r: commit %s is not on this machine, and the hub cannot be asked; commit %s "
            "is here and is used (to choose it without this warning: STT_REVISION=%s)",
            wanted.reference, wanted.pinned or "main", found.name, found.name,
        )  # fmt: skip
    return found


def _place(reference: str, folder: Path, variable: str) -> Path:
    """The folder that downloads are kept in, if there can be one."""
    if not str(folder).startswith("~"):
        return folder
    raise ModelNotFound(
        f"model {reference!r}: there is no place to keep models in: HOME is not set, and this user "
        f"has no home directory; set HOME or {variable}, or give a path as the model"
    )


def _storage_error(reference: str, folder: Path, exc: Exception) -> DownloadError | None:
    """What to raise where not the network failed but the disk."""
    if not isinstance(exc, OSError) or exc.errno not in _UNWRITABLE:
        return None
    return DownloadError(
        f"model {reference!r}: cannot be kept in {folder} ({_told(exc)}); let this user write "
        "there, or set HF_HOME and XDG_CACHE_HOME to a folder with room"
    )


def _told(exc: Exception) -> str:
    """An error of another library, in one line."""
    return f"{type(exc).__name__}: {first_line(exc)}"
