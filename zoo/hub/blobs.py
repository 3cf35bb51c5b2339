"""What git calls the files of a model: small ones by their own hash, the others by a Git LFS pointer.

Clients tell by it whether they have a file already; Hugging Face's name of a file in a cache, its
ETag, is the one or the SHA-256.
"""

import hashlib
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from threading import Lock

from tilezoo.errors import RegistryDamagedError
from tilezoo.zoo.hub.errors import log
from tilezoo.zoo.registry import Registry
from tilezoo.zoo.revisions import RegistryFile

# The largest file that goes within a commit, unless it is of a kind that always is a large one.
MOST_REGULAR_BYTES = 512 << 10
# Of the .gitattributes of a new model on Hugging Face, those that are not refused here.
_LARGE = frozenset(
    [
        ".7z",
        ".arrow",
        ".bz2",
        ".ftz",
        ".gz",
        ".h5",
        ".mlmodel",
        ".model",
        ".msgpack",
        ".npy",
        ".npz",
        ".onnx",
        ".ot",
        ".parquet",
        ".pb",
        ".rar",
        ".safetensors",
        ".tar",
        ".tflite",
        ".tgz",
        ".wasm",
        ".xz",
        ".zip",
        ".zst",
    ]
)
_READERS = 16
_MOST_KEPT = 100_000


def is_large(path: str, size: int) -> bool:
    """Tell whether a file is one of Git LFS; an empty one never is."""
    suffix = PurePosixPath(path).suffix.lower()
    return size > MOST_REGULAR_BYTES or (size > 0 and suffix in _LARGE)


def blob_id(content: bytes) -> str:
    """Name a content as `git hash-object` does, 40 hex digits."""
    data = b"blob %d\0" % len(content) + content
    return hashlib.sha1(data, usedforsecurity=False).hexdigest()


def pointer_of(file: RegistryFile) -> bytes:
    """What git holds of a large file."""
    lines = ("version https://git-lfs.github.com/spec/v1", f"oid sha256:{file.sha256}")
    return "".join(f"{line}\n" for line in (*lines, f"size {file.size}")).encode()


@dataclass(frozen=True, slots=True)
class BlobIds:
    """SHA-256 → git's name, of the small files that were asked for."""

    _known: dict[str, str] = field(default_factory=dict)
    _guard: Lock = field(default_factory=Lock)

    def note(self, sha256: str, content: bytes) -> None:
        """Remember a file that has just come."""
        self._keep(sha256, blob_id(content))

    def of(
        self, registry: Registry, name: str, revision: str, files: Iterable[RegistryFile]
    ) -> Mapping[str, str]:
        """Path → git's name, of files of a revision; small ones are read the first time."""
        listed = tuple(files)
        names = {file.path: self._name(file) for file in listed}
        unread = [file for file in listed if not names[file.path]]
        if unread:
            with ThreadPoolExecutor(_READERS) as pool:
                read = pool.map(lambda file: self._read(registry, name, revision, file), unread)
                names.update(zip((file.path for file in unread), read, strict=True))
        return names

    def _name(self, file: RegistryFile) -> str:
        """Name a file without reading it; empty where that can't be done."""
        if is_large(file.path, file.size):
            return blob_id(pointer_of(file))
        return self._known.get(file.sha256, "")

    def _read(self, registry: Registry, name: str, revision: str, file: RegistryFile) -> str:
        try:
            with registry.open(name, revision, file.path) as opened:
                self._keep(file.sha256, oid := blob_id(opened.read()))
        except RegistryDamagedError as error:  # the other files are told all the same
            log("damaged", {"error": str(error)})
            return blob_id(pointer_of(file))
        return oid

    def _keep(self, sha256: str, oid: str) -> None:
        with self._guard:
            if len(self._known) >= _MOST_KEPT:
                self._known.pop(next(iter(self._known)))
            self._known[sha256] = oid
