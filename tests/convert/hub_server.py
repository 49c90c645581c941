"""A hub on this machine: what the Hugging Face hub answers to a pull and a push.

Every file goes the way of the hub's large files when it is fetched (a redirect to a
storage, with its sha256 in a header), and the way of its small ones when it is pushed.
"""

import base64
import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager

HELD = ("X-Repo-Commit", "X-Linked-ETag")


class Handler(http.server.BaseHTTPRequestHandler):
    """Speaks for a server with `repositories`, {OWNER/NAME: [{file: bytes}]}."""

    def do_GET(self):  # noqa: N802
        self.see()
        if self.path.startswith("/storage/"):
            self.answer(200, self.server.storage[self.path.rpartition("/")[2]])
        elif self.path.startswith("/api/"):
            self.answer(404)  # what the hub tells its package besides
        else:
            self.resolve()

    do_HEAD = do_GET  # noqa: N815

    def do_POST(self):  # noqa: N802
        self.see()
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path.startswith("/api/") and not self.allowed():
            return self.answer(401)
        if self.path == "/api/repos/create":
            return self.create(json.loads(body))
        if self.path == "/api/validate-yaml":
            return self.json({"errors": [], "warnings": []})
        words = self.path.split("/")  # /api/models/OWNER/NAME/what/main
        repository, what = "/".join(words[3:5]), words[5]
        if what == "preupload":
            asked = [file["path"] for file in json.loads(body)["files"]]
            common = {"uploadMode": "regular", "shouldIgnore": False, "oid": None}
            return self.json({"files": [{"path": path} | common for path in asked]})
        assert what == "commit", self.path
        return self.commit(repository, [json.loads(x) for x in body.splitlines()])

    def resolve(self):
        owner, name, word, revision, file = self.path[1:].split("/", 4)
        repository = self.server.moved.get(f"{owner}/{name}", f"{owner}/{name}")
        if repository != f"{owner}/{name}":
            to = self.path.replace(f"{owner}/{name}", repository)
            return self.answer(307, headers={"Location": to})
        if self.server.status:
            return self.answer(self.server.status)
        commits = self.server.repositories.get(repository)
        if commits is None or not self.allowed():
            return self.answer(401)
        commit = len(commits) - 1 if revision == "main" else int(revision, 16) - 1
        if word != "resolve" or file not in commits[commit]:
            return self.answer(404)
        digest = self.server.kept(commits[commit][file])
        told = f"{commit + 1:040x}", f'"{digest}"'
        headers = dict(zip(HELD, told, strict=True)) if self.server.tells else {}
        to = f"{self.server.url}/storage/{digest}"
        self.answer(302, headers=headers | {"Location": to})

    def create(self, asked: dict):
        repository = f"{asked['organization']}/{asked['name']}"
        there = repository in self.server.repositories
        self.server.repositories.setdefault(repository, [])
        hidden = asked.get("private") or asked.get("visibility") == "private"
        self.server.private[repository] = hidden
        self.json({"url": f"{self.server.url}/{repository}"}, 409 if there else 200)

    def commit(self, repository: str, lines: list[dict]):
        commits = self.server.repositories[repository]
        files = dict(commits[-1]) if commits else {}
        for line in lines:
            if line["key"] == "file":
                content = base64.b64decode(line["value"]["content"])
                files[line["value"]["path"]] = content
        commits.append(files)
        oid = f"{len(commits):040x}"
        url = f"{self.server.url}/{repository}/commit/{oid}"
        self.json({"commitUrl": url, "commitOid": oid, "success": True})

    def allowed(self) -> bool:
        token = self.server.token
        return not token or self.headers["Authorization"] == f"Bearer {token}"

    def see(self):
        told = self.command, self.path, self.headers["Authorization"]
        self.server.seen.append(told)

    def json(self, what: dict, status: int = 200):
        self.answer(status, json.dumps(what).encode())

    def answer(self, status: int, body: bytes = b"", headers: dict | None = None):
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    """The hub's state, and how it is to behave."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.repositories: dict[str, list[dict[str, bytes]]] = {}
        self.storage: dict[str, bytes] = {}
        self.private: dict[str, bool] = {}
        self.moved: dict[str, str] = {}  # old names
        self.seen: list[tuple[str, str, str | None]] = []
        self.token, self.status, self.tells = "", 0, True

    def kept(self, content: bytes) -> str:
        digest = hashlib.sha256(content).hexdigest()
        self.storage[digest] = content
        return digest


@contextmanager
def running() -> Iterator[Server]:
    """A hub for as long as the block lasts."""
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
