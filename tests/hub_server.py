"""A server on this machine that speaks the part of the hub's protocol that we need."""

import base64
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha1, sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

TOKENS = {"hf_mine": "me", "hf_other": "someone", "hf_reader": ""}
"""Users by their tokens. A token without a user may read everything that is public."""

NAME = r"(?P<name>[\w.-]+/[\w.-]+)"


@dataclass
class Repository:
    """Contents of a repository: files by commit, and commits by branch."""

    private: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    def commit(self, files: dict[str, bytes], message: str = "", branch: str = "main") -> str:
        """Add a commit to a branch and return its digest."""
        digest = sha1(repr((len(self.commits), sorted(files.items()))).encode()).hexdigest()
        self.commits[digest] = files
        self.branches[branch] = digest
        self.messages.append(message)
        return digest

    def find(self, revision: str) -> str | None:
        """Return the commit of a branch or a commit."""
        return self.branches.get(revision, revision if revision in self.commits else None)


def is_large(name: str) -> bool:
    """Whether a file is kept by its SHA-256, as the hub does with binary files."""
    return name.endswith((".safetensors", ".png"))


def digest_of(name: str, content: bytes) -> str:
    """The digest by which the hub names the content of a file."""
    if is_large(name):
        return sha256(content).hexdigest()
    return sha1(b"blob %d\0" % len(content) + content).hexdigest()


class HubServer(ThreadingHTTPServer):
    """The server. Tests look at `repositories` and `asked`, and change `mood`."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[str, Repository] = {}
        self.large: dict[str, bytes] = {}
        self.served: dict[str, bytes] = {}  # by name of file: instead of its content
        self.asked: list[str] = []
        self.mood = "well"  # or "hangs", "drops", "fails"
        self.released = threading.Event()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    """Answers one request; `ROUTES` at the end of this file lists which."""

    server: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Print nothing."""

    def _serve(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        self.content = self.rfile.read(length)
        path = unquote(urlsplit(self.path).path)
        self.server.asked.append(f"{self.command} {path}")
        if self.server.mood == "hangs":
            self.server.released.wait(30)
            self.close_connection = True
            return
        if self.server.mood == "drops":
            self.close_connection = True
            return
        if self.server.mood == "fails":
            self.refuse(500, "internal error")
            return
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if token and token not in TOKENS:
            self.refuse(401, "Invalid credentials in Authorization header")
            return
        self.user = TOKENS.get(token)
        for method, pattern, answer in ROUTES:
            match = re.fullmatch(pattern, path)
            if match and self.command in method:
                answer(self, **match.groupdict())
                return
        self.refuse(404, f"no such page: {self.command} {path}")

    do_GET = do_HEAD = do_POST = do_PUT = _serve

    def answer(self, value: object, status: int = 200, **headers: str) -> None:
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        for name, text in headers.items():
            self.send_header(name.replace("_", "-"), text)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def refuse(self, status: int, message: str, code: str = "", **headers: str) -> None:
        headers |= {"X_Error_Message": message} | ({"X_Error_Code": code} if code else {})
        self.answer({"error": message}, status, **headers)

    def repository(self, name: str) -> Repository | None:
        """The repository, unless it does not exist or the user may not see it: then refuse."""
        found = self.server.repositories.get(name)
        if found is None or (found.private and self.user != name.partition("/")[0]):
            status = 401 if self.user is None else 404
            self.refuse(status, "Repository not found", "RepoNotFound")
            return None
        return found

    def commit_of(self, found: Repository, revision: str | None) -> str | None:
        commit = found.find(revision or "main")
        if commit is None:
            self.refuse(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return commit

    def may_write(self, name: str) -> bool:
        if self.user == name.partition("/")[0]:
            return True
        self.refuse(403, "You don't have the rights to create a model under this namespace")
        return False

    def create(self) -> None:
        given = json.loads(self.content)
        name = f"{given.get('organization') or self.user}/{given['name']}"
        if not self.may_write(name):
            return
        if name in self.server.repositories:
            self.refuse(409, "You already created this model repo")
            return
        private = given.get("visibility") == "private" or bool(given.get("private"))
        made = self.server.repositories[name] = Repository(private=private)
        made.commit({".gitattributes": b""}, "initial commit")
        self.answer({"url": f"{self.server.address}/{name}"})

    def model(self, name: str, revision: str | None = None) -> None:
        found = self.repository(name)
        commit = found and self.commit_of(found, revision)
        if found and commit:
            files = [{"rfilename": file} for file in sorted(found.commits[commit])]
            self.answer({"id": name, "sha": commit, "private": found.private, "siblings": files})

    def branch(self, name: str, branch: str) -> None:
        found = self.repository(name)
        if found and self.may_write(name):
            found.branches[branch] = found.branches["main"]
            self.answer({})

    def validate(self) -> None:
        card = json.loads(self.content)["content"]
        if "license: nonsense" in card:
            self.refuse_card('"license" must be one of [apache-2.0, mit, ...]')
            return
        self.answer({"warnings": [], "errors": []})

    def refuse_card(self, message: str) -> None:
        self.answer({"warnings": [], "errors": [{"message": message}]}, 400)

    def preupload(self, name: str, revision: str) -> None:
        found = self.repository(name)
        if not (found and self.may_write(name)):
            return
        there = found.commits[found.find(revision) or ""]
        files = []
        for file in json.loads(self.content)["files"]:
            path = file["path"]
            mode = {"uploadMode": "lfs" if is_large(path) else "regular", "shouldIgnore": False}
            oid = digest_of(path, there[path]) if path in there else None
            files.append({"path": path, "oid": oid, **mode})
        self.answer({"files": files})

    def batch(self, name: str) -> None:
        found = self.repository(name)
        if not (found and self.may_write(name)):
            return
        objects = []
        for item in json.loads(self.content)["objects"]:
            href = f"{self.server.address}/large/{item['oid']}"
            new = item["oid"] not in self.server.large
            actions = {"actions": {"upload": {"href": href}}} if new else {}
            objects.append({"oid": item["oid"], "size": item["size"], **actions})
        self.answer({"transfer": "basic", "objects": objects})

    def put(self, oid: str) -> None:
        assert sha256(self.content).hexdigest() == oid
        self.server.large[oid] = self.content
        self.answer({})

    def commit(self, name: str, revision: str) -> None:
        found = self.repository(name)
        if not (found and self.may_write(name)):
            return
        files = dict(found.commits[found.branches[revision]])
        message = ""
        for line in self.content.splitlines():
            item = json.loads(line)
            key, value = item["key"], item["value"]
            if key == "header":
                message = value["summary"]
            elif key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                files[value["path"]] = self.server.large[value["oid"]]
            else:
                assert key == "deletedFile"
                del files[value["path"]]
        digest = found.commit(files, message, revision)
        address = f"{self.server.address}/{name}/commit/{digest}"
        self.answer({"commitUrl": address, "commitOid": digest})

    def resolve(self, name: str, revision: str, file: str) -> None:
        found = self.repository(name)
        commit = found and self.commit_of(found, revision)
        if not (found and commit):
            return
        content = found.commits[commit].get(file)
        if content is None:
            self.refuse(404, "Entry not found", "EntryNotFound", X_Repo_Commit=commit)
            return
        etag = f'"{digest_of(file, content)}"'
        self.answer(self.server.served.get(file, content), ETag=etag, X_Repo_Commit=commit)


ROUTES = [
    ("POST", r"/api/repos/create", Handler.create),
    ("GET", rf"/api/models/{NAME}", Handler.model),
    ("GET", rf"/api/models/{NAME}/revision/(?P<revision>.+)", Handler.model),
    ("POST", rf"/api/models/{NAME}/branch/(?P<branch>.+)", Handler.branch),
    ("POST", r"/api/validate-yaml", Handler.validate),
    ("POST", rf"/api/models/{NAME}/preupload/(?P<revision>.+)", Handler.preupload),
    ("POST", rf"/{NAME}\.git/info/lfs/objects/batch", Handler.batch),
    ("PUT", r"/large/(?P<oid>\w+)", Handler.put),
    ("POST", rf"/api/models/{NAME}/commit/(?P<revision>.+)", Handler.commit),
    ("GET HEAD", rf"/{NAME}/resolve/(?P<revision>.+)/(?P<file>[^/]+)", Handler.resolve),
]


@contextmanager
def hub_server() -> Iterator[HubServer]:
    """Serve until the block ends."""
    with HubServer() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.released.set()
            server.shutdown()
            thread.join()


WORKER = """
import contextlib, io, json, os, sys
from st_adapter.cli.main import main

for line in sys.stdin:
    asked = json.loads(line)
    os.environ.pop("HF_TOKEN", None)
    if asked["token"]:
        os.environ["HF_TOKEN"] = asked["token"]
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        if "program" in asked:
            exec(asked["program"], {"given": asked["given"]})
            code = 0
        else:
            code = main(asked["command"])
    print(json.dumps([code, out.getvalue(), err.getvalue()]), flush=True)
"""
"""Runs commands and programs in one process, which saves importing torch for each."""


class Done(NamedTuple):
    """What a command returned and printed."""

    code: int
    out: str
    err: str


class Worker:
    """A process whose hub is a server of this file. Its cache is in `home`."""

    def __init__(self, server: HubServer, home: Path, **environment: str) -> None:
        hub = {"HF_ENDPOINT": server.address, "HF_HOME": str(home), "HF_HUB_ETAG_TIMEOUT": "1"}
        # The server does not speak the protocol of xet.
        quiet = {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORKER],
            env=os.environ | hub | quiet | environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def command(self, *arguments: object, token: str = "hf_mine") -> Done:
        """Run a command of st-adapter."""
        return self._ask({"command": [str(argument) for argument in arguments], "token": token})

    def program(self, text: str, given: object = None, token: str = "hf_mine") -> str:
        """Run a program with the variable `given`; return what it printed."""
        return self._ask({"program": text, "given": given, "token": token}).out

    def _ask(self, question: dict[str, object]) -> Done:
        assert self.process.stdin
        assert self.process.stdout
        limit = threading.Timer(120, self.process.kill)
        limit.start()
        self.process.stdin.write(json.dumps(question) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        limit.cancel()
        assert answer, "the process ended, or took more than two minutes"
        return Done(*json.loads(answer))

    def stop(self) -> None:
        """End the process."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.close()
        self.process.wait(30)
        self.process.stdout.close()
