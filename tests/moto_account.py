"""An AWS account on this machine: moto's server in a process of its own.

moto keeps one state for all servers of a process, so two tests in one process would share roles
and buckets, and one that starts anew would take the other's away.
"""

import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.error import URLError

_PATIENCE_S = 120.0


@contextmanager
def moto_account() -> Iterator[str]:
    """Yield the URL of an empty account."""
    port = _free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, stdout=quiet, stderr=quiet) as server:
        try:
            _wait_for(url, server)
            yield url
        finally:
            server.terminate()


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _wait_for(url: str, server: "subprocess.Popen[bytes]") -> None:
    end = time.monotonic() + _PATIENCE_S
    while server.poll() is None and time.monotonic() < end:
        try:
            urllib.request.urlopen(f"{url}/moto-api/data.json").close()
        except URLError:
            time.sleep(0.1)
        else:
            return
    raise RuntimeError(f"moto's server does not answer at {url}")
