"""A Hugging Face Hub on this machine: as much as huggingface_hub speaks to send and to get one file."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

TOKEN = "hf_of_the_tests"


@dataclass
class Repository:
    """One branch, `main`, all its commits, and names for some of them."""

    private: bool = False
    gated: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def commit(self, changes: dict[str, bytes]) -> str:
        files = {**(self.commits[self.head] if self.commits else {}), **changes}
        name = hashlib.sha1(repr((len(self.commits), sorted(files))).encode()).hexdigest()
        self.commits[name] = files
        return name

    @property
    def head(self) -> str:
        return list(self.commits)[-1]

    def named(self, revision: str) -> str:
        return self.head if revision == "main" else self.tags.get(revision, revision)


class FakeHub:
    """Repositories by name; `status` answers everything, where it is set."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.requests: list[str] = []
        self.uploads: dict[str, bytes] = {}
        self.status: int | None = None
        self.may_write = self.has_room = True
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _do(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                path = self.path.partition("?")[0]
                hub.requests.append(f"{self.command} {path}")
                status, headers, content = hub.answer(
                    self.command, path, body, self.headers.get("Authorization") == f"Bearer {TOKEN}"
                )
                self.send_response(status)
                for key, value in headers.items():
                    self.send_header(key, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content)

            do_GET = do_HEAD = do_POST = do_PUT = _do  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()

    def answer(self, verb: str, path: str, body: bytes, known: bool) -> tuple[int, dict[str, str], bytes]:
        if self.status is not None:
            return self.status, {}, b""
        if match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            return self._file(*match.groups(), known)
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/([^/]+)", path):
            found = self._files(match[1], match[2], known)
            if not isinstance(found, tuple):
                found = [
                    {"type": "file", "path": name, "size": len(found[name]), "oid": "0"} for name in found
                ]
            return found if isinstance(found, tuple) else _json(found)
        if verb == "GET" and (match := re.fullmatch(r"/api/models/([^/]+/[^/]+)", path)):
            repository = self.repositories.get(match[1])
            if repository is None or (repository.private and not known):
                return 404 if known else 401, {"X-Error-Code": "RepoNotFound"}, b""
            names = [
                {"rfilename": name} for name in (repository.commits and repository.commits[repository.head])
            ]
            return _json({"id": match[1], "private": repository.private, "siblings": names})
        if path.startswith("/upload/"):
            self.uploads[path.removeprefix("/upload/")] = body
            return 200 if self.has_room else 400, {}, b""
        if not (known and self.may_write):
            return 403 if known else 401, {}, b"{}"
        return self._write(path, body)

    def _files(self, repo: str, revision: str, known: bool) -> Any:
        repository = self.repositories.get(repo)
        if repository is None or (repository.private and not known):
            return 404 if known else 401, {"X-Error-Code": "RepoNotFound"}, b""
        if repository.gated:
            return 403, {"X-Error-Code": "GatedRepo"}, b""
        commit = repository.named(revision)
        if commit not in repository.commits:
            return 404, {"X-Error-Code": "RevisionNotFound"}, b""
        return repository.commits[commit]

    def _file(self, repo: str, revision: str, name: str, known: bool) -> tuple[int, dict[str, str], bytes]:
        files = self._files(repo, revision, known)
        if isinstance(files, tuple):
            return files
        if name not in files:
            return 404, {"X-Error-Code": "EntryNotFound"}, b""
        commit = self.repositories[repo].named(revision)
        etag = hashlib.sha256(files[name]).hexdigest()
        return 200, {"X-Repo-Commit": commit, "ETag": f'"{etag}"'}, files[name]

    def _write(self, path: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
        if path == "/api/validate-yaml":
            return _json({"errors": [], "warnings": []})
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            if name in self.repositories:
                return 409, {}, json.dumps({"url": f"{self.url}/{name}"}).encode()
            self.repositories[name] = Repository(private=asked.get("visibility") == "private")
            return _json({"url": f"{self.url}/{name}"})
        if path.endswith("/objects/batch"):
            objects = [
                {**each, "actions": {"upload": {"href": f"{self.url}/upload/{each['oid']}"}}}
                for each in json.loads(body)["objects"]
            ]
            return _json({"transfer": "basic", "objects": objects})
        match = re.fullmatch(r"/api/models/([^/]+/[^/]+)/(preupload|commit)/main", path)
        assert match, path
        if match[2] == "preupload":
            modes = [
                {
                    "path": each["path"],
                    "uploadMode": "lfs" if each["path"].endswith(".safetensors") else "regular",
                    "shouldIgnore": False,
                }
                for each in json.loads(body)["files"]
            ]
            return _json({"files": modes})
        return self._commit(match[1], [json.loads(line) for line in body.splitlines()])

    def _commit(self, repo: str, lines: list[dict[str, Any]]) -> tuple[int, dict[str, str], bytes]:
        changes = {}
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                changes[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                changes[value["path"]] = self.uploads[value["oid"]]
        commit = self.repositories[repo].commit(changes)
        return _json({"commitUrl": f"{self.url}/{repo}/commit/{commit}", "commitOid": commit})


@contextmanager
def standing_in(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Iterator[FakeHub]:
    """An empty hub in place of the real one, an empty cache in the folder, and a token that may write."""
    for name in ("DAMOYOLO_OFFLINE", "HF_HUB_OFFLINE", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    constants = "huggingface_hub.constants."
    monkeypatch.setattr(f"{constants}HF_HUB_CACHE", str(folder / "cache"))
    monkeypatch.setattr(f"{constants}HF_TOKEN_PATH", str(folder / "no token"))
    monkeypatch.setattr(f"{constants}HF_STORED_TOKENS_PATH", str(folder / "no tokens"))
    monkeypatch.setattr(f"{constants}HF_HUB_DISABLE_XET", True)  # of the two ways to send, the one over HTTP
    monkeypatch.setattr(f"{constants}HF_HUB_OFFLINE", False)
    running = FakeHub()
    monkeypatch.setenv("HF_ENDPOINT", running.url)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    try:
        yield running
    finally:
        from huggingface_hub import close_session

        close_session()
        running.close()


def _json(value: object) -> tuple[int, dict[str, str], bytes]:
    return 200, {"Content-Type": "application/json"}, json.dumps(value).encode()
