"""A small hub on this machine: the parts of the Hub's protocol that zoo and huggingface_hub speak.

API (revision, tree), resolve with redirects and ranges, LFS batch, upload and verify, preupload,
commit, repositories, branches and tokens. It counts what it serves, and does what a broken network
or a hostile hub does when it is told to.

Source: https://huggingface.co/docs/hub/api, and the requests of huggingface_hub 2.4.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

TOKEN = "hf_of_the_tests"
LARGE = (".safetensors", ".bin", ".pt", ".gguf", ".onnx")


@dataclass
class File:
    """A file of a commit; what is listed may differ from what is served."""

    data: bytes
    large: bool
    listed: dict[str, Any] = field(default_factory=dict)

    @property
    def blob(self) -> str:
        content = pointer(self.data) if self.large else self.data
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    def entry(self, path: str) -> dict[str, Any]:
        found: dict[str, Any] = {
            "type": "file",
            "path": path,
            "size": len(self.data),
            "oid": self.blob,
        }
        if self.large:
            size = len(pointer(self.data))
            found["lfs"] = {"oid": self.sha256, "size": len(self.data), "pointerSize": size}
        return {**found, **self.listed}


def pointer(data: bytes) -> bytes:
    """What git keeps in place of a large file."""
    return (
        f"version https://git-lfs.github.com/spec/v1\noid sha256:"
        f"{hashlib.sha256(data).hexdigest()}\nsize {len(data)}\n"
    ).encode()


@dataclass
class Repo:
    private: bool = False
    branches: dict[str, str] = field(default_factory=dict)
    commits: dict[str, dict[str, File]] = field(default_factory=dict)

    def commit(self, files: dict[str, File], branch: str = "main") -> str:
        content = repr([(p, f.blob, f.listed) for p, f in sorted(files.items())])
        made = hashlib.sha1(f"{len(self.commits)} {content}".encode()).hexdigest()
        self.commits[made] = files
        self.branches[branch] = made
        return made


Fault = Callable[["Handler", str], bool]
"""Given the request and the path in the repository (or the API's path); True if it has answered."""


class HubServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repos: dict[str, Repo] = {}
        self.large: dict[str, bytes] = {}
        self.page = 1_000
        self.fault: Fault | None = None
        self.requests: list[tuple[str, str]] = []
        self.served: Counter[str] = Counter()
        """Bytes of bodies of files, by path in the repository."""
        self.uploaded: list[str] = []
        """sha256 of large files that came in."""
        self.committed: list[list[str]] = []
        """Paths in each commit that came in, deletions with a `-`."""
        self.tokens_at_cdn: list[str] = []

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def cdn(self) -> str:
        """The same server under another name, as another host would be."""
        return f"http://localhost:{self.server_address[1]}"

    def add(
        self,
        name: str,
        files: dict[str, bytes],
        *,
        branch: str = "main",
        private: bool = False,
        listed: dict[str, dict[str, Any]] | None = None,
    ) -> str:
        """Commit files to a repository, and return the commit."""
        repo = self.repos.setdefault(name, Repo())
        repo.private = private
        made = {
            path: File(data, path.endswith(LARGE), (listed or {}).get(path, {}))
            for path, data in files.items()
        }
        for file in made.values():
            if file.large:
                self.large[file.sha256] = file.data
        return repo.commit(made, branch)

    @property
    def weight_bytes(self) -> int:
        """Bytes of weights that were served."""
        return sum(n for path, n in self.served.items() if path.endswith(LARGE))

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is no error here."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: HubServer

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.path_, _, query = self.path.partition("?")
        self.query = parse_qs(query)
        self.server.requests.append((self.command, self.path))
        parts = [unquote(p) for p in self.path_.strip("/").split("/")]
        if parts[:2] == ["api", "models"]:
            self._api(parts[2:])
        elif parts[0] == "cdn":
            self.server.tokens_at_cdn.append(self.headers.get("authorization", ""))
            self._content("/".join(parts[3:]), self.server.large[parts[1]])
        elif "resolve" in parts:
            at = parts.index("resolve")
            self._resolve("/".join(parts[:at]), parts[at + 1], "/".join(parts[at + 2 :]))
        else:
            self.fail(404)

    do_HEAD = do_GET

    def do_POST(self) -> None:
        self.server.requests.append((self.command, self.path))
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        path = urlsplit(self.path).path
        if self.server.fault and self.server.fault(self, path):
            return None
        if not self._is_allowed(write=True):
            return self.fail(401)
        if path == "/api/validate-yaml":
            return self.json({"errors": [], "warnings": []})
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if path.endswith("/info/lfs/objects/batch"):
            return self._batch(json.loads(body))
        if path == "/lfs/verify":
            found = json.loads(body)
            known = self.server.large.get(found["oid"], b"")
            return self.json({}) if len(known) == found["size"] else self.fail(422)
        parts = [unquote(p) for p in path.strip("/").split("/")]
        if parts[:2] == ["api", "models"] and parts[2] + "/" + parts[3] in self.server.repos:
            repo = self.server.repos[parts[2] + "/" + parts[3]]
            act, rest = parts[4], "/".join(parts[5:])
            if act == "preupload":
                return self._preupload(repo, rest, json.loads(body))
            if act == "commit":
                return self._commit("/".join(parts[2:4]), repo, rest, body)
            if act == "branch":
                if rest in repo.branches:
                    return self.fail(409)
                repo.branches[rest] = repo.branches["main"]
                return self.json({})
        return self.fail(404, "RepoNotFound")

    def do_PUT(self) -> None:
        self.server.requests.append((self.command, self.path))
        data = self.rfile.read(int(self.headers.get("content-length", 0)))
        sha256 = self.path.rpartition("/")[2]
        if hashlib.sha256(data).hexdigest() != sha256:
            return self.fail(400)
        self.server.large[sha256] = data
        self.server.uploaded.append(sha256)
        return self.json({})

    # Answers

    def json(self, value: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.answer(json.dumps(value).encode(), status, headers)

    def fail(self, status: int, code: str = "") -> None:
        self.answer(b"", status, {"X-Error-Code": code} if code else None)

    def answer(self, body: bytes, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def cut(self) -> None:
        """Hang up."""
        self.close_connection = True

    @property
    def range(self) -> tuple[int, int | None]:
        """First and last byte asked for."""
        first, _, last = self.headers.get("range", "bytes=0-").removeprefix("bytes=").partition("-")
        return int(first), int(last) if last else None

    # Reading

    def _is_allowed(self, repo: Repo | None = None, write: bool = False) -> bool:
        open_ = not write and not (repo and repo.private)
        return open_ or self.headers.get("authorization") == f"Bearer {TOKEN}"

    def _api(self, parts: list[str]) -> None:
        if self.server.fault and self.server.fault(self, "/".join(parts)):
            return None
        act = next((a for a in ("revision", "tree") if a in parts), "")
        at = parts.index(act) if act else len(parts)
        name, asked = "/".join(parts[:at]), "/".join(parts[at + 1 :]) or "main"
        repo = self.server.repos.get(name)
        if repo is None or not self._is_allowed(repo):
            return self.fail(401 if repo is None else 404, "RepoNotFound")
        commit = repo.branches.get(asked, asked)
        if commit not in repo.commits:
            return self.fail(404, "RevisionNotFound")
        if act != "tree":
            return self.json({"id": name, "sha": commit, "private": repo.private})
        entries = [f.entry(p) for p, f in repo.commits[commit].items()]
        start = int(self.query.get("cursor", ["0"])[0])
        rest = len(entries) > start + self.server.page
        url = f"{self.server.endpoint}{self.path_}?recursive=true&cursor={start + self.server.page}"
        headers = {"Link": f'<{url}>; rel="next"'} if rest else {}
        return self.json(entries[start : start + self.server.page], headers=headers)

    def _resolve(self, name: str, asked: str, path: str) -> None:
        if self.server.fault and self.server.fault(self, path):
            return None
        repo = self.server.repos.get(name)
        if repo is None or not self._is_allowed(repo):
            return self.fail(401, "RepoNotFound")
        commit = repo.branches.get(asked, asked)
        file = repo.commits.get(commit, {}).get(path)
        if file is None:
            return self.fail(404, "EntryNotFound")
        headers = {"X-Repo-Commit": commit, "ETag": f'"{file.blob}"'}
        if not file.large:
            return self._content(path, file.data, headers)
        headers |= {"X-Linked-Size": str(len(file.data)), "X-Linked-ETag": f'"{file.sha256}"'}
        headers["Location"] = f"{self.server.cdn}/cdn/{file.sha256}/x/{quote(path)}"
        return self.answer(b"", 302, headers)

    def _content(self, path: str, data: bytes, headers: dict[str, str] | None = None) -> None:
        if path.endswith(LARGE) and self.server.fault and self.server.fault(self, "cdn:" + path):
            return None
        first, last = self.range
        stop = len(data) if last is None else min(last + 1, len(data))
        if first >= len(data) and "range" in self.headers:
            return self.fail(416)
        body = data[first:stop]
        found = dict(headers or {})
        status = 200
        if "range" in self.headers:
            found["Content-Range"] = f"bytes {first}-{stop - 1}/{len(data)}"
            status = 206
        if self.command != "HEAD":
            self.server.served[path] += len(body)
        return self.answer(body, status, found)

    # Writing

    def _create(self, asked: dict[str, Any]) -> None:
        name = f"{asked['organization']}/{asked['name']}"
        if name in self.server.repos:
            return self.json({"url": f"{self.server.endpoint}/{name}"}, 409)
        private = asked.get("private") or asked.get("visibility") == "private"
        repo = self.server.repos[name] = Repo(private=bool(private))
        repo.commit({".gitattributes": File(b"*.safetensors filter=lfs\n", large=False)})
        return self.json({"url": f"{self.server.endpoint}/{name}", "name": name})

    def _preupload(self, repo: Repo, branch: str, asked: dict[str, Any]) -> None:
        there = repo.commits[repo.branches[branch]]
        found = []
        for one in asked["files"]:
            large = one["path"].endswith(LARGE) or one["size"] > 10_000_000
            old = there.get(one["path"])
            oid = (old.sha256 if old.large else old.blob) if old else None
            found.append(
                {
                    "path": one["path"],
                    "uploadMode": "lfs" if large else "regular",
                    "shouldIgnore": False,
                    "oid": oid,
                }
            )
        return self.json({"files": found})

    def _batch(self, asked: dict[str, Any]) -> None:
        objects = []
        for one in asked["objects"]:
            made = {"oid": one["oid"], "size": one["size"]}
            if one["oid"] not in self.server.large:
                made["actions"] = {
                    "upload": {"href": f"{self.server.endpoint}/lfs/{one['oid']}"},
                    "verify": {"href": f"{self.server.endpoint}/lfs/verify"},
                }
            objects.append(made)
        return self.json({"transfer": "basic", "objects": objects})

    def _commit(self, name: str, repo: Repo, branch: str, body: bytes) -> None:
        files = dict(repo.commits[repo.branches[branch]])
        paths = []
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "header":
                parent = value.get("parentCommit")
                if parent is not None and parent != repo.branches[branch]:
                    return self.fail(412)
                continue
            path = value["path"]
            paths.append("-" + path if line["key"] == "deletedFile" else path)
            if line["key"] == "deletedFile":
                del files[path]
            elif line["key"] == "lfsFile":
                files[path] = File(self.server.large[value["oid"]], large=True)
            else:
                files[path] = File(base64.b64decode(value["content"]), large=False)
        self.server.committed.append(paths)
        made = repo.commit(files, branch)
        url = f"{self.server.endpoint}/{name}/commit/{made}"
        return self.json({"success": True, "commitOid": made, "commitUrl": url})


@contextmanager
def running() -> Iterator[HubServer]:
    server = HubServer()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
