"""A hub of models and data sets on 127.0.0.1 for the tests: what the client asks over HTTP, kept on disk as commits.

It follows the wire format that the client's own source reads and writes (`hf_api.py`, `_commit_api.py`, `lfs.py`,
`file_download.py`; version 2.4), by Git LFS, not by Xet. A test can act as another person (`commit`), withhold
rights, storage or a name, and cut connections after a number of bytes.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import re
import socket
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

LFS_SUFFIXES = (".safetensors", ".bin", ".pt", ".h5", ".ckpt", ".parquet")
LFS_MIN_BYTES = 10 * 2**20
DATASETS, SPACES = "datasets/", "spaces/"
"""What the repository of a data set or a Space begins with, here as in its address; a model's with its owner."""
SIZE_CATEGORIES: dict[str, tuple[float, float]] = {
    "n<1K": (0, 1e3),
    "1K<n<10K": (1e3, 1e4),
    "10K<n<100K": (1e4, 1e5),
    "100K<n<1M": (1e5, 1e6),
    "1M<n<10M": (1e6, 1e7),
    "10M<n<100M": (1e7, 1e8),
}
"""The hub's sizes of a data set that occur here, and from how many rows to how many."""
TASK_CATEGORIES = frozenset(
    (
        "audio-classification",
        "audio-to-audio",
        "automatic-speech-recognition",
        "depth-estimation",
        "document-question-answering",
        "feature-extraction",
        "fill-mask",
        "image-classification",
        "image-feature-extraction",
        "image-segmentation",
        "image-text-to-text",
        "image-to-image",
        "image-to-text",
        "mask-generation",
        "object-detection",
        "question-answering",
        "sentence-similarity",
        "summarization",
        "table-question-answering",
        "tabular-classification",
        "tabular-regression",
        "text-classification",
        "text-generation",
        "text-ranking",
        "text-retrieval",
        "text-to-audio",
        "text-to-image",
        "text-to-speech",
        "text-to-video",
        "time-series-forecasting",
        "token-classification",
        "translation",
        "unconditional-image-generation",
        "video-classification",
        "visual-question-answering",
        "zero-shot-classification",
        "zero-shot-image-classification",
        "zero-shot-object-detection",
    )
)
"""The hub's tasks of a data set."""
TOKEN = "hf_ownerOWNERowner1234567890"
"""Token of the account `me`."""
Tree = dict[str, dict[str, Any]]


@dataclass
class Answer(Exception):
    """What a request is answered with; raised, so that any depth can answer."""

    status: int
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)


def _refuse(status: int, message: str, code: str | None = None) -> Answer:
    headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
    return Answer(status, {"error": message}, headers)


class LoopbackHub:
    """The server and its state.

    Args:
        folder: Where the state is kept.

    Attributes:
        users: Token to account name.
        organizations: Account name to the other accounts it may write to.
        taken: Repository ids that cannot be made, though nobody can see them.
        quota_bytes: Space for LFS objects, or None for no limit.
        quota_status: What a full storage is answered with.
        before_commit: Called before a commit is looked at: what another person does just then.
        requests: Method and path of every request, in order.
        uploads: Ids of the LFS objects that were sent.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.objects = folder / "objects"
        self.objects.mkdir(parents=True)
        self.users = {TOKEN: "me", "hf_otherOTHERother1234567890": "other"}
        self.organizations: dict[str, list[str]] = {}
        self.taken: set[str] = set()
        self.quota_bytes: int | None = None
        self.quota_status = 403
        self.before_commit: Callable[[], None] | None = None
        self.requests: list[tuple[str, str]] = []
        self.uploads: list[str] = []
        self.lock = threading.RLock()
        self._budget: int | None = None
        self._stays_down = False
        self.cut_count = 0
        self.bytes_moved = 0

    def __enter__(self) -> LoopbackHub:
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self._server.handle_error = lambda *_: None  # a cut connection is not news
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    # Switches -----------------------------------------------------------------------------------------------------

    def cut_after(self, byte_count: int, *, stays_down: bool) -> None:
        """Cut the connection that moves this many bytes further, in either direction; then all, or none."""
        self._budget, self._stays_down = byte_count, stays_down

    def heal(self) -> None:
        """Cut no more connections."""
        self._budget = None

    def spend(self, byte_count: int) -> int:
        """Return how many of the bytes may still be moved."""
        with self.lock:
            if self._budget is None:
                self.bytes_moved += byte_count
                return byte_count
            allowed = min(byte_count, self._budget)
            self._budget -= allowed
            if allowed < byte_count:
                self.cut_count += 1
                if not self._stays_down:
                    self._budget = None
            return allowed

    # The state ----------------------------------------------------------------------------------------------------

    def create(self, repo: str, *, private: bool = True, files: dict[str, bytes] | None = None) -> str:
        """Make a repository with its first commit and return the commit's id."""
        with self.lock:
            self._repo(repo).mkdir(parents=True)
            (self._repo(repo) / "commits").mkdir()
            self._write(repo, "meta", {"private": private, "pulls": []})
            self._write(repo, "refs", {})
            attributes = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LFS_SUFFIXES)
            return self.commit(repo, {".gitattributes": attributes.encode()} | (files or {}))

    def commit(self, repo: str, files: dict[str, bytes | None], branch: str = "main") -> str:
        """Commit as a person would in the browser; None deletes a file."""
        with self.lock:
            parent = self.refs(repo).get(branch)
            tree = dict(self.tree(repo, parent)) if parent else {}
            for path, content in files.items():
                if content is None:
                    del tree[path]
                else:
                    tree[path] = self._store(content, lfs=path.endswith(LFS_SUFFIXES))
            return self._add_commit(repo, tree, parent, branch)

    def refs(self, repo: str) -> dict[str, str]:
        """Return branch or refs/pr/N to commit id."""
        return self._read(repo, "refs")

    def pulls(self, repo: str) -> list[dict[str, Any]]:
        """Return the pull requests."""
        return self._read(repo, "meta")["pulls"]

    def exists(self, repo: str) -> bool:
        """Whether there is such a repository."""
        return (self._repo(repo) / "refs.json").is_file()

    def is_private(self, repo: str) -> bool:
        """Whether strangers cannot see it."""
        return self._read(repo, "meta")["private"]

    def tree(self, repo: str, revision: str = "main") -> Tree:
        """Return path to {oid, size, lfs}."""
        commit = self.refs(repo).get(revision, revision)
        file = self._repo(repo) / "commits" / f"{commit}.json"
        if not re.fullmatch("[0-9a-f]{40}", commit) or not file.is_file():
            raise _refuse(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return json.loads(file.read_text())["tree"]

    def files(self, repo: str, revision: str = "main") -> dict[str, bytes]:
        """Return path to content, without the server's own .gitattributes."""
        tree = self.tree(repo, revision)
        return {path: self.content(entry) for path, entry in tree.items() if path != ".gitattributes"}

    def content(self, entry: dict[str, Any]) -> bytes:
        """Return the bytes of a file of a tree."""
        return (self.objects / (entry["lfs"] or entry["oid"])).read_bytes()

    def history(self, repo: str, branch: str = "main") -> list[str]:
        """Return the ids of the commits, newest first."""
        found, commit = [], self.refs(repo).get(branch)
        while commit:
            found.append(commit)
            commit = json.loads((self._repo(repo) / "commits" / f"{commit}.json").read_text())["parent"]
        return found

    def _repo(self, repo: str) -> Path:
        return self.folder / "repos" / repo.lower()

    def _read(self, repo: str, name: str) -> Any:
        return json.loads((self._repo(repo) / f"{name}.json").read_text())

    def _write(self, repo: str, name: str, content: Any) -> None:
        _replace(self._repo(repo) / f"{name}.json", json.dumps(content).encode())

    def _store(self, content: bytes, *, lfs: bool) -> dict[str, Any]:
        if lfs:
            oid = hashlib.sha256(content).hexdigest()
            _replace(self.objects / oid, content)
            return {"oid": _git_hash(_pointer(oid, len(content))), "size": len(content), "lfs": oid}
        oid = _git_hash(content)
        _replace(self.objects / oid, content)
        return {"oid": oid, "size": len(content), "lfs": None}

    def _add_commit(self, repo: str, tree: Tree, parent: str | None, ref: str) -> str:
        text = json.dumps({"tree": tree, "parent": parent, "nonce": uuid.uuid4().hex}).encode()
        commit = hashlib.sha1(text).hexdigest()
        _replace(self._repo(repo) / "commits" / f"{commit}.json", text)
        self._write(repo, "refs", self.refs(repo) | {ref: commit})  # the one step that others see
        return commit

    # The answers --------------------------------------------------------------------------------------------------

    def answer(self, request: Request) -> Answer:
        """Answer a request; the account is checked first."""
        if request.token is not None and request.token not in self.users:
            raise _refuse(401, "Invalid credentials in Authorization header")
        for method, pattern, handle in ROUTES:
            found = re.fullmatch(pattern, request.path)
            if found and request.method in method.split("|"):
                return handle(self, request, *(unquote(part or "").removeprefix("models/") for part in found.groups()))
        raise _refuse(404, f"no such route: {request.method} {request.path}")

    def _see(self, request: Request, repo: str) -> None:
        visible = self.exists(repo) and (not self.is_private(repo) or self._may_write(request, repo))
        if not visible:
            raise _refuse(401 if request.token is None else 404, "Repository not found", "RepoNotFound")

    def _may_write(self, request: Request, repo: str) -> bool:
        user, owner = self.users.get(request.token or ""), repo.split("/")[-2]
        return user is not None and owner in (user, *self.organizations.get(user, ()))

    def _want_write(self, request: Request, repo: str) -> None:
        self._see(request, repo)
        if not self._may_write(request, repo):
            raise _refuse(403, "Forbidden: you don't have write access to this repository")

    def _resolve(self, repo: str, revision: str) -> str:
        commit = self.refs(repo).get(revision, revision)
        self.tree(repo, commit)
        return commit

    def whoami(self, request: Request) -> Answer:
        if request.token is None:
            raise _refuse(401, "Invalid username or password.")
        name = self.users[request.token]
        organizations = [{"name": organization} for organization in self.organizations.get(name, ())]
        return Answer(200, {"type": "user", "name": name, "orgs": organizations, "auth": {"type": "access_token"}})

    def create_repo(self, request: Request) -> Answer:
        asked = request.json()
        user = self.users.get(request.token or "")
        if user is None:
            raise _refuse(401, "Invalid username or password.")
        kind = asked.get("type") or "model"
        if kind == "space" and asked.get("sdk") not in ("gradio", "streamlit", "docker", "static"):
            raise _refuse(400, '"sdk" is required for a Space')
        prefix = {"dataset": DATASETS, "space": SPACES}.get(kind, "")
        repo = f"{prefix}{asked.get('organization') or user}/{asked['name']}"
        if not self._may_write(request, repo):
            message = f'You don\'t have the rights to create a {kind} under the namespace "{repo.split("/")[-2]}"'
            raise _refuse(403, message)
        with self.lock:
            if repo in self.taken or self.exists(repo):
                raise Answer(409, {"error": f"You already created this {kind} repo", "url": f"{self.url}/{repo}"})
            self.create(repo, private=asked.get("visibility") != "public" and asked.get("private") is not False)
        name = _name(repo)
        return Answer(200, {"url": f"{self.url}/{repo}", "name": name, "id": uuid.uuid4().hex})

    def validate_yaml(self, request: Request) -> Answer:
        errors, warnings = check_card(request.json()["content"], request.json()["repoType"])
        body = {
            "errors": [{"message": message} for message in errors],
            "warnings": [{"message": message} for message in warnings],
        }
        return Answer(400 if errors else 200, body)

    def info(self, request: Request, repo: str, revision: str = "") -> Answer:
        self._see(request, repo)
        commit = self._resolve(repo, revision or "main")
        tree = self.tree(repo, commit)
        siblings = [{"rfilename": path} for path in sorted(tree)]
        name = _name(repo)
        body = {"_id": "1", "id": name, "sha": commit, "private": self.is_private(repo)}
        body |= {"author": name.split("/")[0]} if name != repo else {"modelId": name}
        return Answer(200, body | {"tags": [], "downloads": 0, "likes": 0, "siblings": siblings})

    def list_tree(self, request: Request, repo: str, revision: str, folder: str = "") -> Answer:
        self._see(request, repo)
        entries = self.tree(repo, self._resolve(repo, revision))
        start = int(request.query.get("cursor", "0"))
        recursive = request.query.get("recursive", "").lower() == "true"
        listed = _list_folder(entries, folder.strip("/"), recursive)
        page = listed[start : start + 5]  # small pages, so that every test turns one
        headers = {}
        if start + 5 < len(listed):
            address = f"{self.url}{request.raw_path.split('?')[0]}?recursive={recursive}&cursor={start + 5}"
            headers["Link"] = f'<{address}>; rel="next"'
        return Answer(200, page, headers)

    def paths_info(self, request: Request, repo: str, revision: str) -> Answer:
        self._see(request, repo)
        entries = self.tree(repo, self._resolve(repo, revision))
        asked = parse_qs(request.body.decode()).get("paths", [])
        return Answer(200, [_describe(path, entries[path]) for path in asked if path in entries])

    def list_refs(self, request: Request, repo: str) -> Answer:
        self._see(request, repo)
        entries = [(name, commit) for name, commit in self.refs(repo).items()]
        branches = [
            _describe_ref(name, f"refs/heads/{name}", commit) for name, commit in entries if "/pr/" not in name
        ]
        body: dict[str, Any] = {"branches": branches, "converts": [], "tags": []}
        if "include_prs" in request.query:
            body["pullRequests"] = [_describe_ref(name, name, commit) for name, commit in entries if "/pr/" in name]
        return Answer(200, body)

    def create_branch(self, request: Request, repo: str, branch: str) -> Answer:
        self._want_write(request, repo)
        with self.lock:
            refs = self.refs(repo)
            if branch in refs:
                raise _refuse(409, f"Reference already exists: {branch}")
            start = self._resolve(repo, (request.json() or {}).get("startingPoint", "main"))
            self._write(repo, "refs", refs | {branch: start})
        return Answer(200, {})

    def list_discussions(self, request: Request, repo: str) -> Answer:
        self._see(request, repo)
        discussions = [
            {
                "title": pull["title"],
                "num": pull["num"],
                "author": {"name": pull["author"]},
                "createdAt": "2026-01-01T00:00:00.000Z",
                "status": "open",
                "repo": {
                    "name": _name(repo),
                    "type": _kind(repo),
                },
                "isPullRequest": True,
            }
            for pull in reversed(self.pulls(repo))
        ]
        return Answer(200, {"discussions": discussions, "count": len(discussions), "start": 0})

    def preupload(self, request: Request, repo: str, revision: str) -> Answer:
        self._see(request, repo)
        if "create_pr" not in request.query:
            self._want_write(request, repo)
        entries = self.tree(repo, self._resolve(repo, revision))
        files = []
        for file in request.json()["files"]:
            lfs = file["path"].endswith(LFS_SUFFIXES) or file["size"] > LFS_MIN_BYTES
            entry = entries.get(file["path"])
            oid = (entry["lfs"] or entry["oid"]) if entry else None
            mode = "lfs" if lfs else "regular"
            files.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        return Answer(200, {"files": files, "commitOid": self._resolve(repo, revision)})

    def lfs_batch(self, request: Request, repo: str) -> Answer:
        self._see(request, repo)
        asked = request.json()
        objects = []
        for wanted in asked["objects"]:
            known = {"oid": wanted["oid"], "size": wanted["size"]}
            if (self.objects / wanted["oid"]).is_file():
                objects.append(known)
                continue
            used = sum(file.stat().st_size for file in self.objects.iterdir())
            if self.quota_bytes is not None and used + wanted["size"] > self.quota_bytes:
                message = "Private repository storage limit reached, please upgrade your plan"
                raise _refuse(self.quota_status, message)
            upload = {"href": f"{self.url}/lfs/{wanted['oid']}/{wanted['size']}"}
            verify = {"href": f"{self.url}/{repo}.git/info/lfs/verify"}
            objects.append(known | {"authenticated": True, "actions": {"upload": upload, "verify": verify}})
        return Answer(200, {"transfer": "basic", "objects": objects})

    def lfs_upload(self, request: Request, oid: str, size: str) -> Answer:
        if request.token is not None:
            raise _refuse(400, "the token has no business at the storage server")
        if len(request.body) != int(size) or hashlib.sha256(request.body).hexdigest() != oid:
            raise _refuse(400, "the bytes do not match their hash")
        _replace(self.objects / oid, request.body)
        with self.lock:
            self.uploads.append(oid)
        return Answer(200, b"", {"ETag": f'"{oid}"'})

    def lfs_verify(self, request: Request, repo: str) -> Answer:
        self._see(request, repo)
        asked = request.json()
        file = self.objects / asked["oid"]
        if not file.is_file() or file.stat().st_size != asked["size"]:
            raise _refuse(404, "the object was not received")
        return Answer(200, {})

    def receive_commit(self, request: Request, repo: str, revision: str) -> Answer:
        as_pull_request = "create_pr" in request.query
        self._see(request, repo)
        if not as_pull_request:
            self._want_write(request, repo)
        if self.before_commit is not None:
            self.before_commit()
        lines = [json.loads(line) for line in request.body.splitlines()]
        header = lines[0]["value"]
        with self.lock:
            parent = self._resolve(repo, revision)
            if header.get("parentCommit", parent) != parent:
                raise _refuse(412, "A commit has happened since. Please refresh and try again.")
            tree = dict(self.tree(repo, parent))
            for line in lines[1:]:
                self._apply(tree, line["key"], line["value"], _kind(repo))
            ref = revision
            meta = self._read(repo, "meta")
            if as_pull_request:
                number = len(meta["pulls"]) + 1
                ref = f"refs/pr/{number}"
                author = self.users[request.token or ""]
                meta["pulls"].append({"num": number, "title": header["summary"], "author": author})
                self._write(repo, "meta", meta)
            commit = self._add_commit(repo, tree, parent, ref)
        url = f"{self.url}/{repo}/discussions/{ref.rsplit('/', 1)[1]}" if as_pull_request else None
        body = {"success": True, "commitOid": commit, "commitUrl": f"{self.url}/{repo}/commit/{commit}"}
        return Answer(200, body | {"pullRequestUrl": url, "hookOutput": ""})

    def _apply(self, tree: Tree, key: str, value: dict[str, Any], kind: str) -> None:
        path = value["path"]
        if key == "file":
            content = base64.b64decode(value["content"])
            if path == "README.md" and (errors := check_card(content.decode(), kind)[0]):
                raise _refuse(400, errors[0])
            tree[path] = self._store(content, lfs=False)
        elif key == "lfsFile":
            file = self.objects / value["oid"]
            if not file.is_file():
                raise _refuse(400, f"LFS pointer pointed to a file that does not exist: {path}")
            size = file.stat().st_size
            tree[path] = {"oid": _git_hash(_pointer(value["oid"], size)), "size": size, "lfs": value["oid"]}
        elif key == "deletedFile":
            if path not in tree:
                raise _refuse(404, "A file with this name doesn't exist", "EntryNotFound")
            del tree[path]
        else:
            raise _refuse(400, f"unknown operation {key}")

    def resolve(self, request: Request, repo: str, revision: str, path: str) -> Answer:
        self._see(request, repo)
        commit = self._resolve(repo, revision)
        entry = self.tree(repo, commit).get(path)
        headers = {"X-Repo-Commit": commit}
        if entry is None:
            raise Answer(404, None, headers | {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"})
        headers |= {"ETag": f'"{entry["lfs"] or entry["oid"]}"', "Accept-Ranges": "bytes"}
        if entry["lfs"]:
            headers |= {"X-Linked-Size": str(entry["size"]), "X-Linked-Etag": f'"{entry["lfs"]}"'}
        content = self.content(entry)
        if found := re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range") or ""):
            start, end = int(found[1]), min(int(found[2] or len(content) - 1), len(content) - 1)
            if start >= len(content):
                raise Answer(416, None, {"Content-Range": f"bytes */{len(content)}"})
            headers["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
            return Answer(206, content[start : end + 1], headers)
        return Answer(200, content, headers)


def _name(repo: str) -> str:
    return repo.removeprefix(DATASETS).removeprefix(SPACES)


def _kind(repo: str) -> str:
    return "dataset" if repo.startswith(DATASETS) else "space" if repo.startswith(SPACES) else "model"


_API = r"/api/((?:models|datasets|spaces)/[^/]+/[^/]+)"
ROUTES: list[tuple[str, str, Callable[..., Answer]]] = [
    ("GET", r"/api/whoami-v2", LoopbackHub.whoami),
    ("POST", r"/api/repos/create", LoopbackHub.create_repo),
    ("POST", r"/api/validate-yaml", LoopbackHub.validate_yaml),
    ("GET", rf"{_API}", LoopbackHub.info),
    ("GET", rf"{_API}/revision/([^/]+)", LoopbackHub.info),
    ("GET", rf"{_API}/tree/([^/]+)(/.*)?", LoopbackHub.list_tree),
    ("POST", rf"{_API}/paths-info/([^/]+)", LoopbackHub.paths_info),
    ("GET", rf"{_API}/refs", LoopbackHub.list_refs),
    ("GET", rf"{_API}/discussions", LoopbackHub.list_discussions),
    ("POST", rf"{_API}/branch/([^/]+)", LoopbackHub.create_branch),
    ("POST", rf"{_API}/preupload/([^/]+)", LoopbackHub.preupload),
    ("POST", rf"{_API}/commit/([^/]+)", LoopbackHub.receive_commit),
    ("POST", r"/((?:datasets/|spaces/)?[^/]+/[^/]+)\.git/info/lfs/objects/batch", LoopbackHub.lfs_batch),
    ("POST", r"/((?:datasets/|spaces/)?[^/]+/[^/]+)\.git/info/lfs/verify", LoopbackHub.lfs_verify),
    ("PUT", r"/lfs/([0-9a-f]{64})/(\d+)", LoopbackHub.lfs_upload),
    ("GET|HEAD", r"/((?:datasets/|spaces/)?[^/]+/[^/]+)/resolve/([^/]+)/(.+)", LoopbackHub.resolve),
]


def check_card(content: str, kind: str = "model") -> tuple[list[str], list[str]]:
    """Check a card's front matter as far as it is public what the hub wants of it: errors, warnings.

    Args:
        content: The card.
        kind: model or dataset.
    """
    found = re.match(r"\ufeff?---\r?\n(.*?)\r?\n---(\r?\n|$)", content, re.DOTALL)
    if found is None:
        return [], ["empty or missing yaml metadata in repo card"]
    try:
        data = yaml.safe_load(found[1])
    except yaml.YAMLError as error:
        return [f"bad front matter: {error}"], []
    errors = [] if isinstance(data, dict) else ["front matter must be a mapping"]
    if not errors and not re.fullmatch(r"[a-z0-9.+-]+", str(data.get("license", "mit"))):
        errors.append(f'"license" must be one of the known identifiers, got {data["license"]}')
    if errors:
        return errors, []
    named = [name for name in ("license", "library_name", "pipeline_tag") if name in data]
    errors += [f'"{name}" must be a string' for name in named if not isinstance(data[name], str)]
    if kind == "dataset":
        return errors + _check_dataset_card(data), []
    if kind == "space":
        return errors + [f'"{name}" is required' for name in ("sdk", "app_file") if name not in data], []
    evaluated = [result for model in data.get("model-index") or () for result in model["results"]]
    if any(not {"task", "dataset", "metrics"} <= set(result) for result in evaluated):
        errors.append('"model-index" misses task, dataset or metrics')
    return errors, []


def _check_dataset_card(data: dict[str, Any]) -> list[str]:
    known = {
        "task_categories": TASK_CATEGORIES,
        "size_categories": SIZE_CATEGORIES,
        "multilinguality": ("monolingual", "multilingual", "translation", "other"),
    }
    errors = []
    for name in ("language", "task_ids", "annotations_creators", "source_datasets", "tags", *known):
        values = data.get(name, [])
        if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
            errors.append(f'"{name}" must be a list of strings')
            continue
        errors += [f'"{name}" has {value!r}' for value in values if value not in known.get(name, values)]
    errors += [
        f'"language" has {code!r}, no ISO 639 code'
        for code in data.get("language", [])
        if not re.fullmatch("[a-z]{2,3}(-[A-Za-z0-9]+)*", str(code))
    ]
    for config in data.get("configs", []):
        files = config.get("data_files")
        if "config_name" not in config or not files or not all({"split", "path"} <= set(file) for file in files):
            errors.append('"configs" needs config_name and data_files with split and path')
    infos = data.get("dataset_info", [])
    for info in infos if isinstance(infos, list) else [infos]:
        if not all(isinstance(split.get("num_examples"), int) for split in info.get("splits", [])):
            errors.append('"dataset_info" needs num_examples of each split')
    return errors


def _list_folder(entries: Tree, folder: str, recursive: bool) -> list[dict[str, Any]]:
    prefix = f"{folder}/" if folder else ""
    folders, files = set(), []
    for path, entry in sorted(entries.items()):
        if not path.startswith(prefix):
            continue
        parts = path.removeprefix(prefix).split("/")
        folders |= {prefix + "/".join(parts[:depth]) for depth in range(1, len(parts) if recursive else 2)} - {path}
        if recursive or len(parts) == 1:
            files.append(_describe(path, entry))
    return [{"type": "directory", "path": path, "oid": "0" * 40} for path in sorted(folders)] + files


def _describe(path: str, entry: dict[str, Any]) -> dict[str, Any]:
    described = {"type": "file", "path": path, "oid": entry["oid"], "size": entry["size"]}
    if entry["lfs"]:
        described["lfs"] = {"oid": entry["lfs"], "size": entry["size"], "pointerSize": 130}
    return described


def _describe_ref(name: str, ref: str, commit: str) -> dict[str, str]:
    return {"name": name, "ref": ref, "targetCommit": commit}


def _git_hash(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0%b" % (len(content), content)).hexdigest()


def _pointer(oid: str, size: int) -> bytes:
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {size}\n".encode()


def _replace(file: Path, content: bytes) -> None:
    temporary = file.with_name(f".{file.name}.{uuid.uuid4().hex}")
    temporary.write_bytes(content)
    os.replace(temporary, file)


@dataclass
class Request:
    """One request, read whole."""

    method: str
    raw_path: str
    headers: Any
    body: bytes

    @property
    def path(self) -> str:
        """The path as it was sent, slashes inside a name still quoted."""
        return urlsplit(self.raw_path).path

    @property
    def query(self) -> dict[str, str]:
        """The query's last value by name."""
        return {name: values[-1] for name, values in parse_qs(urlsplit(self.raw_path).query).items()}

    @property
    def token(self) -> str | None:
        """The token of the Authorization header."""
        return (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


class _Metered:
    """A connection's file whose bytes count towards the cut."""

    def __init__(self, file: Any, connection: socket.socket, hub: LoopbackHub) -> None:
        self._file, self._connection, self._hub = file, connection, hub

    def _cut(self) -> None:
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        raise ConnectionResetError("cut by the test")

    def _count(self, data: bytes) -> bytes:
        if self._hub.spend(len(data)) < len(data):
            self._cut()
        return data

    def readline(self, limit: int = -1) -> bytes:
        return self._count(self._file.readline(limit))

    def read(self, size: int = -1) -> bytes:
        return self._count(self._file.read(size))

    def write(self, data: bytes) -> int:
        allowed = self._hub.spend(len(data))
        self._file.write(data[:allowed])
        if allowed < len(data):
            self._cut()
        return allowed

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


class _Handler(BaseHTTPRequestHandler):
    hub: LoopbackHub
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def setup(self) -> None:
        super().setup()
        self.rfile = _Metered(self.rfile, self.connection, self.hub)
        self.wfile = _Metered(self.wfile, self.connection, self.hub)

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):
            super().handle()

    def finish(self) -> None:
        with contextlib.suppress(OSError):
            super().finish()

    def log_message(self, *_: object) -> None:
        pass

    def _serve(self) -> None:
        request = Request(self.command, self.path, self.headers, b"".join(self._read_body()))
        self.hub.requests.append((request.method, request.path))
        try:
            answer = self.hub.answer(request)
        except Answer as raised:
            answer = raised
        body = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
        self.send_response(answer.status)
        kind = "application/octet-stream" if isinstance(answer.body, bytes) else "application/json"
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **answer.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_HEAD = do_POST = do_PUT = _serve

    def _read_body(self) -> Iterator[bytes]:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            while size := int(self.rfile.readline().split(b";")[0], 16):
                yield self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return
        left = int(self.headers.get("Content-Length") or 0)
        while left:
            data = self.rfile.read(min(left, 1 << 14))
            if not data:
                raise ConnectionResetError("the client hung up")
            left -= len(data)
            yield data
