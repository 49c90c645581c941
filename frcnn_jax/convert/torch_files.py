"""Weight files of torch and detectron2, read without torch and without running them.

Three containers, told apart by their contents:

- zip (torch >= 1.6): `<top>/data.pkl`, a pickle whose tensors point to
  `<top>/data/<key>`, raw numbers, uncompressed; `<top>/byteorder`;
- the older stream: pickles of a magic number, of protocol 1001, of the machine, of the
  object and of the list of storage keys, then each storage as int64 count and numbers;
- one pickle of numpy arrays (detectron2 and Detectron `.pkl`).

`pickles` reads the pickles. Numbers of a zip file are mapped, its checksums compared:
the arrays are views of the file, so write over no file whose arrays are in use. Those
of the other two lie at odd addresses and are read, each storage of the weights once.
"""

import io
import mmap
import os
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from frcnn_jax.convert import pickled_weights
from frcnn_jax.convert.pickled_arrays import BUILDERS, Bytes, Storage
from frcnn_jax.convert.pickles import Name, Pairs, Unpickler, printable, text
from frcnn_jax.convert.rules import ConversionError, Flat

SUFFIXES = (".pth", ".pt", ".pkl")
UNUSED = pickled_weights.UNUSED  # the key of metadata for what was left
MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001
MAX_DIRECTORY = 2**23  # bytes; a ResNet-50 detector has 30 thousand
TAIL = "truncated or damaged?"

# What zipfile and numpy raise for damaged files.
_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    OSError,
    OverflowError,
    ValueError,
    KeyError,
    NotImplementedError,
    RuntimeError,
)


def read(path: Path) -> tuple[Flat, dict[str, str]]:
    """Reads the weights of a file: arrays by name, and metadata (strings).

    Which dictionary holds them and what becomes metadata is in `pickled_weights`.
    bfloat16 comes as float32, everything else as stored; arrays are read-only and may
    share memory. Raises ConversionError, naming the file, for whatever is no such file.
    """
    try:
        with open(path, "rb") as file:
            return pickled_weights.split(
                _contents(file, os.fstat(file.fileno()).st_size)
            )
    except PermissionError:
        raise
    except ConversionError as error:
        raise ConversionError(f"{path}: {printable(str(error))}") from error
    except _DAMAGE as error:
        raise ConversionError(f"{path}: {TAIL} {error}") from error


def _contents(file: BinaryIO, size: int) -> Any:
    """Returns the object in the file, tensors still unread."""
    start = file.read(512)
    file.seek(0)
    if start.startswith(b"PK\x03\x04"):
        return _Zip(file, size).load()
    if not start.startswith(b"\x80"):
        raise ConversionError(_no_weights(start, size))
    first = Unpickler(file, size, builders=BUILDERS).load()
    return _Stream(file, size).load() if first == MAGIC else first


def _no_weights(start: bytes, size: int) -> str:
    """Says what a file is that is neither zip nor pickle."""
    if not size:
        return "the file is empty: download it again"
    if start.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
        return (
            "an HTML or XML page, not weights: the download gave a web page, often of "
            "an error or a log-in; fetch the file itself"
        )
    if start.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, not weights: run `git lfs pull`"
    if start[257:262] == b"ustar":
        return (
            "a tar file of torch before 0.1.10, which is not read: load it in torch "
            "and save it again with torch.save"
        )
    return (
        f"neither a torch file nor a pickle of protocol 2 or newer ({size} bytes, "
        f"first {start[:8]!r}); {TAIL}"
    )


class _Zip:
    """The container of torch 1.6 and newer."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        _check_directory(file, size)
        self._archive = zipfile.ZipFile(file)
        self._file = file
        self._entries = _entries(self._archive, size)
        tops = [n[: -len("/data.pkl")] for n in self._entries if _is_data(n)]
        if len(tops) != 1:
            raise ConversionError(
                f"a zip archive with {len(tops)} data.pkl files: torch.save makes one"
            )
        self._top = tops[0]
        self._storages = _Storages(self._fetch)

    def load(self) -> Any:
        order = f"{self._top}/byteorder"
        if order in self._entries and self._archive.read(order) != b"little":
            raise ConversionError("written on a big-endian machine; save it on another")
        entry = self._entries[f"{self._top}/data.pkl"]
        file = io.BytesIO(self._archive.read(entry))
        persistent = self._storages.persistent
        return Unpickler(
            file, entry.file_size, builders=BUILDERS, persistent=persistent
        ).load()

    def _fetch(self, key: str, storage: Storage) -> memoryview:
        entry = self._entries.get(f"{self._top}/data/{key}")
        if entry is None:
            raise ConversionError(f"the archive lacks data/{key}; {TAIL}")
        if entry.file_size != storage.size:
            raise ConversionError(
                f"storage {key!r} of {storage.count} elements has {entry.file_size} "
                f"bytes, not {storage.size}; {TAIL}"
            )
        data = _mapped(self._file, self._first_byte(entry), entry.file_size)
        if zlib.crc32(data) != entry.CRC:
            raise ConversionError(f"data/{key} is not what was saved (CRC); {TAIL}")
        return data

    def _first_byte(self, entry: zipfile.ZipInfo) -> int:
        """Where a member's numbers start: behind its own header and two texts."""
        with self._archive.open(entry):  # compares that header with the directory
            self._file.seek(entry.header_offset + 26)
            lengths = struct.unpack("<HH", self._file.read(4))
        return entry.header_offset + 30 + sum(lengths)


def _mapped(file: BinaryIO, start: int, length: int) -> memoryview:
    """A part of a file, by a map of its own that goes with the last view of it."""
    if not length:
        return memoryview(b"")
    before = start % mmap.ALLOCATIONGRANULARITY
    page = start - before
    whole = mmap.mmap(
        file.fileno(), before + length, access=mmap.ACCESS_READ, offset=page
    )
    return memoryview(whole)[before:]


def _check_directory(file: BinaryIO, size: int) -> None:
    """Refuses a table of contents too long for zipfile to hold in memory.

    The last 22 bytes give its size, or, in long archives, a record 98 before the end.
    """
    file.seek(max(size - 98, 0))
    end = file.read().rjust(98)
    (length,) = struct.unpack("<I", end[88:92])
    whole = end[76:80] == b"PK\x05\x06"
    if end[56:60] == b"PK\x06\x07":
        length, start = struct.unpack("<Q16xQ", end[40:72])
        whole = whole and end[:4] == b"PK\x06\x06" and start == size - 98
    if not whole:
        raise ConversionError(f"a zip archive without an end; {TAIL}")
    if length > MAX_DIRECTORY:
        raise ConversionError(f"a zip archive with {length} bytes of names; refused")


def _is_data(name: str) -> bool:
    return PurePosixPath(name).name == "data.pkl" and name.count("/") == 1


def _entries(archive: zipfile.ZipFile, size: int) -> dict[str, zipfile.ZipInfo]:
    """Returns the members by name; only what torch.save writes gets through.

    Members lie uncompressed side by side, so together they are no larger than the file.
    """
    entries = {info.filename: info for info in archive.infolist()}
    if any(name.endswith("/constants.pkl") for name in entries):
        raise ConversionError(
            "a TorchScript program: save the weights in torch with "
            "torch.save(torch.jit.load(path).state_dict(), 'weights.pth')"
        )
    if len(entries) != len(archive.infolist()):
        raise ConversionError("a zip archive with two members of one name; refused")
    for name, info in entries.items():
        if name.startswith("/") or "\\" in name or ".." in name.split("/"):
            raise ConversionError(f"a zip archive with a path as a name: {name[:80]!r}")
        if info.flag_bits & 1:
            raise ConversionError("an encrypted zip archive: unpack it first")
        if info.compress_type != zipfile.ZIP_STORED:
            raise ConversionError(
                "a compressed zip archive, which torch.save does not make: if the .pth "
                "was zipped, unzip it; if it was packed by hand, use `zip -0`"
            )
    if sum(info.file_size for info in entries.values()) > size:
        raise ConversionError("a zip archive with more in it than the file is long")
    return entries


class _Stream:
    """The container before torch 1.6, from behind its magic number on."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self._size = file, size
        self._storages = _Storages(self._fetch)
        self._starts: dict[str, int] = {}

    def load(self) -> Any:
        protocol, machine = self._pickle(), self._pickle()
        if protocol != PROTOCOL:
            raise ConversionError(f"torch's stream protocol {protocol!r} is not read")
        if isinstance(machine, Pairs) and machine.get("little_endian") is False:
            raise ConversionError("written on a big-endian machine; save it on another")
        value = self._pickle()
        self._find(self._pickle())
        return value

    def _pickle(self) -> Any:
        persistent = self._storages.persistent
        return Unpickler(
            self._file, self._size, builders=BUILDERS, persistent=persistent
        ).load()

    def _find(self, keys: Any) -> None:
        """Notes where each storage starts; `keys` gives their order in the file."""
        position = self._file.tell()
        for key in keys if isinstance(keys, list) else ():
            storage = self._storages.known.get(text(key))
            if storage is None:
                raise ConversionError(f"storage {key!r} belongs to no tensor; {TAIL}")
            self._file.seek(position)
            (count,) = struct.unpack("<q", self._file.read(8))
            if count != storage.count:
                raise ConversionError(
                    f"storage {key!r} has {count} elements, its tensors say "
                    f"{storage.count}; {TAIL}"
                )
            self._starts[text(key)] = position + 8
            position += 8 + storage.size
        if position > self._size:
            raise ConversionError(
                f"{position} bytes wanted, {self._size} there; {TAIL}"
            )

    def _fetch(self, key: str, storage: Storage) -> bytes:
        if key not in self._starts:
            raise ConversionError(f"the file lacks storage {key!r}; {TAIL}")
        self._file.seek(self._starts[key])
        return self._file.read(storage.size)


class _Storages:
    """The storages that a pickle speaks of, by key."""

    def __init__(self, fetch: Callable[[str, Storage], Bytes]) -> None:
        self.known: dict[str, Storage] = {}
        self._fetch = fetch

    def persistent(self, pid: Any) -> Any:
        """Reads ("storage", class, key, device, count), older files with a view."""
        match pid:
            case (kind, Name() as module, *_) if text(kind) == "module":
                return module  # a class with its source, from a saved model
            case (kind, Name(name=name), key, _, int(count), *view) if (
                text(kind) == "storage" and text(key) is not None
            ):
                if view not in ([], [None]):
                    raise ConversionError(
                        "views of storages, of torch before 0.4: load it in a newer "
                        "torch and save it again"
                    )
                return self._storage(text(key), name, count)
        raise ConversionError("points outside the file (persistent id) in unknown form")

    def _storage(self, key: str, kind: str, count: int) -> Storage:
        new = Storage(kind, count, lambda storage: self._fetch(key, storage))
        old = self.known.setdefault(key, new)
        if (old.kind, old.count) != (kind, count):
            raise ConversionError(f"storage {key!r} has two types or sizes")
        return old
