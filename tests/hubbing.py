"""A hub in a process of its own, and clients that speak to it."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

_START_S = 40
# What a user sets; the rest keeps a test away from the user's own files and the internet.
_CLIENT = {
    "HF_HUB_DISABLE_XET": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_IMPLICIT_TOKEN": "0",
    "OMP_NUM_THREADS": "1",
}


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self):
        return json.loads(self.body)


@dataclass(frozen=True)
class Hub:
    url: str
    process: subprocess.Popen
    log: Path

    def ask(self, method, path, body=None, **headers) -> Answer:
        """Send a request as it stands: the path is not tidied up."""
        connection = HTTPConnection(urlsplit(self.url).netloc, timeout=30)
        data = json.dumps(body) if isinstance(body, dict | list) else body
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        try:
            connection.request(method, path, data, names)
            answer = connection.getresponse()
            found = {name.lower(): value for name, value in answer.getheaders()}
            return Answer(answer.status, found, answer.read())
        finally:
            connection.close()

    def commit(self, name, *lines, branch="main", header=None, **headers) -> Answer:
        wanted = [{"key": "header", "value": {"summary": "test", **(header or {})}}, *lines]
        body = "".join(f"{json.dumps(line)}\n" for line in wanted)
        return self.ask("POST", f"/api/models/{name}/commit/{branch}", body, **headers)

    def create(self, name, **headers) -> Answer:
        org, _, short = name.partition("/")
        return self.ask(
            "POST", "/api/repos/create", {"name": short, "organization": org}, **headers
        )

    def upload(self, name, data: bytes) -> str:
        """Upload by LFS; give the SHA-256."""
        oid = hashlib.sha256(data).hexdigest()
        path = self.upload_path(name, oid, len(data))
        if path:
            assert self.ask("PUT", path, data).status == 200
        return oid

    def upload_path(self, name, oid, size) -> str | None:
        batch = {"operation": "upload", "objects": [{"oid": oid, "size": size}]}
        answer = self.ask("POST", f"/{name}.git/info/lfs/objects/batch", batch)
        assert answer.status == 200, answer
        actions = answer.json()["objects"][0].get("actions")
        return actions["upload"]["href"].removeprefix(self.url) if actions else None

    def files(self, name, revision="main") -> dict[str, bytes]:
        """Download every file of a revision and check it."""
        listed = self.ask("GET", f"/api/models/{name}/tree/{revision}?recursive=true").json()
        found = {}
        for entry in listed:
            if entry["type"] == "file":
                got = self.ask("GET", f"/{name}/resolve/{revision}/{entry['path']}")
                assert got.status == 200
                if "lfs" in entry:
                    assert hashlib.sha256(got.body).hexdigest() == entry["lfs"]["oid"]
                else:
                    assert git_blob_id(got.body) == entry["oid"]
                found[entry["path"]] = got.body
        return found

    def logged(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


def git_blob_id(data: bytes) -> str:
    """Name a content as `git hash-object` does."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def small(path: str, data: bytes) -> dict[str, object]:
    """A line of a commit that adds a small file."""
    value = {"path": path, "content": b64encode(data).decode(), "encoding": "base64"}
    return {"key": "file", "value": value}


def large(path: str, oid: str) -> dict[str, object]:
    """A line of a commit that adds an uploaded file."""
    return {"key": "lfsFile", "value": {"path": path, "algo": "sha256", "oid": oid}}


@contextmanager
def running_hub(root: object, log: Path, *options: object) -> Iterator[Hub]:
    """Run `tilezoo hub` at a free port until the block ends."""
    code = "from tilezoo.cli.app import main; main()"
    command = [sys.executable, "-c", code, "hub", root, "--port", 0, *options]
    with log.open("wb") as stderr:
        process = subprocess.Popen([str(word) for word in command], stderr=stderr)
    try:
        yield Hub(_url(process, log), process, log)
    finally:
        process.terminate()
        process.wait(30)


def client(hub: Hub, home: Path, *command: object, token: str | None = None) -> str:
    """Run a command as a user of the hub does; give its stdout."""
    env = {**os.environ, **_CLIENT, "HF_ENDPOINT": hub.url, "HF_HOME": str(home)}
    env.pop("HF_TOKEN", None)
    if token:
        env["HF_TOKEN"] = token
    words = [str(word) for word in command]
    done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def hf(hub: Hub, home: Path, *words: object, token: str | None = None) -> str:
    """Run huggingface_hub's own command."""
    return client(hub, home, Path(sys.executable).parent / "hf", *words, token=token)


def _url(process: subprocess.Popen, log: Path) -> str:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline and process.poll() is None:
        for line in log.read_text().splitlines():
            if '"listening"' in line:
                return str(json.loads(line)["url"])
        time.sleep(0.05)
    raise AssertionError(f"the hub did not start: {log.read_text()}")
