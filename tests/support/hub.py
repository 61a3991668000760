"""A local stand-in for the model hub and for openai-whisper's download server.

The real clients run against it: `huggingface_hub.snapshot_download`, `whisper._download`. What it
answers follows what these two ask, and the hub's own answers: a redirect to another host and a
SHA-256 etag for large files, a git hash for small ones, `X-Error-Code` for errors, no Xet.

    with Hub() as hub:
        commit = hub.add("owner/model", folder)
        hub.patch(monkeypatch, tmp_path)                   # this process
        subprocess.run(…, env=os.environ | hub.environment(tmp_path))  # or another
        monkeypatch.setitem(whisper._MODELS, "tiny.en", hub.add_checkpoint(file))

huggingface_hub reads its environment when it is imported, but looks at `huggingface_hub.constants`
for every call: `patch` replaces what it needs there, so no module has to be imported anew.
"""

from __future__ import annotations

import hashlib
import json
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Literal
from urllib.parse import unquote, urlsplit

import pytest
from typing_extensions import Self

Failure = Literal["error", "cut", "short", "altered"]
"""What goes wrong. `error`: every answer has status 500. Of large files: `cut` drops the connection
halfway (the hub client tries again for 5 s, then raises); `short` sends half of the file as if it
were all (its size in the listing shows it); `altered` sends the right size with one wrong byte.

Of a list of files, which is the first thing asked where the revision is a commit, the hub client
tries `error` and a refused connection again for 23 s."""

_LARGE = {".bin", ".pt", ".safetensors"}
_API = "/api/models/"


@dataclass(frozen=True)
class _File:
    path: Path
    size: int
    sha256: str
    git: str
    """The hash that git knows it by."""

    @classmethod
    def read(cls, path: Path) -> _File:
        data = path.read_bytes()
        git = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        return cls(path, len(data), hashlib.sha256(data).hexdigest(), git)

    @property
    def large(self) -> bool:
        return self.path.suffix in _LARGE

    def listed(self, name: str) -> dict[str, object]:
        entry: dict[str, object] = {"type": "file", "path": name, "size": self.size}
        entry["oid"] = self.git
        if self.large:
            entry["lfs"] = {"oid": self.sha256, "size": self.size, "pointerSize": 134}
        return entry


@dataclass(frozen=True)
class _Repository:
    commit: str
    files: dict[str, _File]


class Hub:
    """Serves on a free loopback port from `with` to the end of the block, or to `close()`.

    Closed, it is what a machine without a network sees: the connection is refused.
    """

    def __init__(self) -> None:
        self.requests: list[str] = []
        """What was asked, as "METHOD /path", in order."""
        self.failure: Failure | None = None
        """What goes wrong from now on."""
        self._repositories: dict[str, _Repository] = {}
        self._checkpoints: dict[str, _File] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        # A short poll: closing waits for it.
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.daemon = True
        self._closed = False

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stops serving; the port refuses connections from then on. Harmless when closed."""
        if not self._closed:
            self._closed = True
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def add(self, name: str, folder: Path, commit: str | None = None) -> str:
        """Makes a directory, as it is now, the repository `name`.

        Returns:
            Its only commit, which `main` points to: `commit`, or one made from the name.
        """
        commit = commit or hashlib.sha1(name.encode()).hexdigest()
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        files = {path.relative_to(folder).as_posix(): _File.read(path) for path in paths}
        self._repositories[name] = _Repository(commit, files)
        return commit

    def add_checkpoint(self, path: Path) -> str:
        """Serves a file the way openai-whisper's are: the URL holds its SHA-256.

        Returns:
            The URL, for `whisper._MODELS`.
        """
        file = _File.read(path)
        self._checkpoints[f"/models/{file.sha256}/{path.name}"] = file
        return f"{self.url}/models/{file.sha256}/{path.name}"

    def environment(self, home: Path) -> dict[str, str]:
        """What another process needs to use this hub, with all its caches under `home`."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home / "huggingface"),
            "HF_HUB_CACHE": str(home / "huggingface" / "hub"),
            "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_OFFLINE": "0",
            "XDG_CACHE_HOME": str(home),
            "NO_PROXY": "127.0.0.1,localhost",
            "no_proxy": "127.0.0.1,localhost",
        }

    def patch(self, monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
        """Points this process at the hub, with all caches under `home`, until the test ends."""
        from huggingface_hub import constants

        for name, value in self.environment(home).items():
            monkeypatch.setenv(name, value)
        changes = {
            "ENDPOINT": self.url,
            "HUGGINGFACE_CO_URL_TEMPLATE": self.url + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_CACHE": str(home / "huggingface" / "hub"),
            "HF_HUB_DISABLE_IMPLICIT_TOKEN": True,
            "HF_HUB_DISABLE_XET": True,
            "HF_HUB_OFFLINE": False,
            "AGENT_HARNESSES_PATH": str(home / "harnesses.json"),
        }
        for name, constant in changes.items():
            monkeypatch.setattr(constants, name, constant, raising=False)

    # What the clients ask; `_handler` turns it into HTTP.

    def answer(self, path: str) -> _Answer:
        """What a path gives, whatever the method."""
        if path in self._checkpoints:
            return _Answer(200, {}, self._checkpoints[path])
        if path.startswith("/cdn/"):
            return self._stored(path.removeprefix("/cdn/"))
        name, _, rest = path.removeprefix(_API if path.startswith(_API) else "/").partition("/")
        owner, (name, _, rest) = name, rest.partition("/")
        repository = self._repositories.get(f"{owner}/{name}")
        if repository is None:
            return _error(404, "RepoNotFound")
        verb, _, rest = (rest or "revision/main").partition("/")
        revision, _, file = rest.partition("/")
        if revision not in ("main", repository.commit):
            return _error(404, "RevisionNotFound")
        if verb == "resolve":
            return self._resolved(repository, file)
        listing = [entry.listed(path) for path, entry in repository.files.items()]
        if verb == "tree":
            return _Answer(200, {}, listing)
        siblings = [{"rfilename": path} for path in repository.files]
        info = {"id": f"{owner}/{name}", "sha": repository.commit, "siblings": siblings}
        return _Answer(200, {}, {**info, "private": False, "tags": []})

    def _resolved(self, repository: _Repository, name: str) -> _Answer:
        headers = {"X-Repo-Commit": repository.commit}
        file = repository.files.get(name)
        if file is None:
            return _error(404, "EntryNotFound", headers)
        if not file.large:
            return _Answer(200, {**headers, "ETag": f'"{file.git}"'}, file)
        headers["X-Linked-Etag"] = f'"{file.sha256}"'
        headers["X-Linked-Size"] = str(file.size)
        # Another host name, since clients treat the hub and its storage differently.
        headers["Location"] = f"http://localhost:{self.port}/cdn/{file.sha256}"
        return _Answer(302, headers, None)

    def _stored(self, sha256: str) -> _Answer:
        every = (f for r in self._repositories.values() for f in r.files.values())
        file = next((f for f in every if f.sha256 == sha256), None)
        return _Answer(200, {}, file) if file else _error(404, "EntryNotFound")


@dataclass(frozen=True)
class _Answer:
    status: int
    headers: dict[str, str]
    body: _File | dict[str, object] | list[dict[str, object]] | None


def _error(status: int, code: str, headers: dict[str, str] | None = None) -> _Answer:
    return _Answer(status, {"X-Error-Code": code, **(headers or {})}, {"error": code})


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._reply(send_body=False)

        def do_GET(self) -> None:
            self._reply(send_body=True)

        def log_message(self, format: str, *args: object) -> None:
            pass

        def _reply(self, send_body: bool) -> None:
            path = unquote(urlsplit(self.path).path)
            if path == "/api/agent-harnesses":  # for the client's user agent; not about models
                return self.send_error(404)
            hub.requests.append(f"{self.command} {path}")
            answer = _error(500, "Broken") if hub.failure == "error" else hub.answer(path)
            data, size = self._data(answer.body)
            start = int(self.headers.get("Range", "bytes=0-")[len("bytes=") :].partition("-")[0])
            self.send_response(206 if start else answer.status)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
            self.send_header("Content-Length", str(size - start))
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.end_headers()
            if send_body:
                self.wfile.write(data[start:])

        def _data(self, body: object) -> tuple[bytes, int]:
            """What is sent, and the size that is announced for it."""
            if not isinstance(body, _File):
                data = b"" if body is None else json.dumps(body).encode()
                return data, len(data)
            data, half = body.path.read_bytes(), body.size // 2
            if body.large and hub.failure == "altered":
                data = data[:half] + bytes([data[half] ^ 1]) + data[half + 1 :]
            elif body.large and hub.failure in ("cut", "short"):
                data = data[:half]
            return data, body.size if hub.failure == "cut" else len(data)

    return Handler
