"""Published weights on disk: fetched once, checked, kept.

A file grows as `FILE.part` in the cache folder and is renamed when whole and its sha256
begins as its name says; that finds damage, not malice. A cut download goes on where it
stopped, in the next try or the next run. One process fetches, others wait for it; its
lock ends with it, however it ends.

Environment: FRCNN_CACHE, the folder (else frcnn_jax in XDG_CACHE_HOME or ~/.cache);
FRCNN_OFFLINE=1, never fetch; FRCNN_MIRROR, an http(s) prefix in the place of an
address's scheme and host. Proxies are those of the usual variables.
"""

import contextlib
import fcntl
import hashlib
import http.client
import os
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import BinaryIO, NamedTuple
from urllib.parse import urlsplit

from frcnn_jax.convert import published

PAUSES = (1.0, 2.0, 4.0)  # seconds before each further try
TIMEOUT = 20.0  # seconds without a byte
CHUNK = 1 << 20
_AGAIN = (408, 416, 425, 429)  # and 500 and above: statuses that may pass


class DownloadError(OSError):
    """Weights that cannot be had: why, and the way out."""


class Hosted(NamedTuple):
    """A file in somebody's repository; those of `published` are the others."""

    name: str  # as the user says it
    address: str
    file: str  # its path in the cache
    digest: str  # sha256
    secret: Mapping[str, str]  # headers that no redirect takes along


Row = published.Published | Hosted


def folder() -> Path:
    """Where published weights are kept."""
    if own := os.environ.get("FRCNN_CACHE"):
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME", "")
    base = base if os.path.isabs(base) else os.path.expanduser("~/.cache")
    return Path(base) / "frcnn_jax"


def offline() -> bool:
    """Whether nothing may be fetched."""
    names = ("FRCNN_OFFLINE", "HF_HUB_OFFLINE")
    return any(os.environ.get(name, "0") not in ("", "0") for name in names)


def source(row: Row) -> str:
    """The address to fetch from: the row's, or a published one's on the mirror."""
    mirror = os.environ.get("FRCNN_MIRROR", "").rstrip("/")
    address = row.address
    if mirror and isinstance(row, published.Published):
        address = mirror + urlsplit(address).path
    _allow(address)
    return address


def fetch(row: Row) -> Path:
    """Returns the row's file in the cache, checked; downloads it if it is not there.

    Errors: DownloadError.
    """
    target = folder() / row.file
    if os.path.exists(target):
        return _checked(target, row)
    address = source(row)
    if offline():
        raise DownloadError(
            f"{row.name} is not in the cache and FRCNN_OFFLINE is set: fetch {address}"
            f" elsewhere and put it at {target}"
        )
    with _disk(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = open(f"{target}.lock", "wb")
    with lock:
        _wait_for(lock, target)
        if os.path.exists(target):  # another process had the lock
            return _checked(target, row)
        _download(row, address, target)
    return target


def _checked(target: Path, row: Row) -> Path:
    found = _digest(target, row)
    if found != row.digest:
        raise DownloadError(
            f"{target}: its sha256 begins with {found}, expected {row.digest}: remove"
            f" the file to fetch {row.name} again"
        )
    return target


def _digest(path: Path, row: Row) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[: len(row.digest)]


def _wait_for(lock: BinaryIO, target: Path) -> None:
    with _disk(target):
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"{target.name}: another process is fetching it, waiting")
            fcntl.flock(lock, fcntl.LOCK_EX)


def _download(row: Row, address: str, target: Path) -> None:
    """Tries until the file is whole; pauses count anew after every progress."""
    part = _part(target)
    most, pauses = _size(part), iter(PAUSES)
    # A process killed before the rename leaves a whole file.
    whole = most > 0 and _digest(part, row) == row.digest
    while not whole:
        try:
            _receive_checked(row, address, target)
            whole = True
        except DownloadError:
            raise
        except (OSError, http.client.HTTPException) as error:
            size, why = _size(part), reason(error)
            if size > most:
                most, pauses = size, iter(PAUSES)
            pause = next(pauses, None)
            if pause is None:
                raise DownloadError(_given_up(address, target, why, size)) from error
            say(f"{row.file}: {why}; trying again in {pause:g} s")
            time.sleep(pause)
    with _disk(target):
        os.replace(part, target)
        _tag(target).unlink(missing_ok=True)


def _receive_checked(row: Row, address: str, target: Path) -> None:
    """One request, after which the file is whole and right.

    Errors: OSError and HTTPException may pass, DownloadError will not.
    """
    try:
        doubtful = _receive(address, target, row.secret)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:  # the part is as long as the file, or longer
            _forget(target)
        if error.code in _AGAIN or error.code >= 500:
            raise
        way_out = _by_hand(target)
        raise DownloadError(f"{address}: {reason(error)}; {way_out}") from error
    found = _digest(_part(target), row)
    if found == row.digest:
        return
    _forget(target)
    wrong = f"its sha256 begins with {found}, expected {row.digest}; removed"
    if doubtful:
        raise OSError(f"{wrong}, starting over")
    raise DownloadError(f"{address}: {wrong}; {_by_hand(target)}")


def _receive(address: str, target: Path, secret: Mapping[str, str]) -> bool:
    """Appends the rest of the file to its part, or begins it.

    True if a wrong hash may not be the server's: a part from before, no length told.
    """
    part, tag = _part(target), _tag(target)
    start = _size(part)
    headers = {"User-Agent": "frcnn_jax"}
    if start:
        headers["Range"] = f"bytes={start}-"
        if version := tag.read_text() if tag.exists() else "":
            headers["If-Range"] = version
    request = urllib.request.Request(address, headers=headers)
    for name, value in secret.items():
        request.add_unredirected_header(name, value)
    opener = urllib.request.build_opener(_Redirects)
    with opener.open(request, timeout=TIMEOUT) as response:
        if response.status == 206:
            given = response.headers.get("Content-Range", "")
            if not given.startswith(f"bytes {start}-"):
                _forget(target)
                raise OSError(f"the server sent {given or 'an unnamed range'}")
        else:
            start = 0
        with _disk(part):
            file = open(part, "ab" if start else "wb", buffering=0)
        with file:
            if not start:
                with _disk(tag):
                    tag.write_text(_version(response.headers))
            _copy(response, file, start)
            with _disk(part):
                os.fsync(file.fileno())
    return start > 0 or "Content-Length" not in response.headers


def _part(target: Path) -> Path:
    return Path(f"{target}.part")


def _tag(target: Path) -> Path:
    """Keeps what tells versions of the file on the server apart."""
    return Path(f"{target}.part.tag")


def _forget(target: Path) -> None:
    _part(target).unlink(missing_ok=True)
    _tag(target).unlink(missing_ok=True)


def _version(headers: http.client.HTTPMessage) -> str:
    """What If-Range may compare: a strong ETag, else the date."""
    tag = headers.get("ETag", "")
    return tag if tag.startswith('"') else headers.get("Last-Modified", "")


def _copy(response: http.client.HTTPResponse, file: BinaryIO, start: int) -> None:
    length = response.headers.get("Content-Length")
    total = start + int(length) if length else None
    name, done = Path(file.name).stem, start
    with _Progress(name, start, total) as progress:
        while chunk := response.read1(CHUNK):
            with _disk(Path(file.name)):
                view = memoryview(chunk)
                while view:
                    view = view[file.write(view) :]
            done += len(chunk)
            progress.show(done)
    if total is not None and done < total:
        raise OSError(f"connection cut at {_mb(done)} of {_mb(total)}")


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows http and https only."""

    def redirect_request(self, request, response, code, message, headers, address):
        try:
            _allow(address)
        except DownloadError:
            response.close()
            raise
        return super().redirect_request(
            request, response, code, message, headers, address
        )


def _allow(address: str) -> None:
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise DownloadError(f"{address}: only http and https addresses are fetched")


class _Progress:
    """Size, speed and time left on stderr: one line on a terminal, else a few."""

    def __init__(self, name: str, start: int, total: int | None):
        self.name, self.start, self.done, self.total = name, start, start, total
        self.begun = time.monotonic()
        self.terminal = sys.stderr.isatty()
        self.every = 0.2 if self.terminal else 10.0
        self.shown = self.begun

    def __enter__(self) -> "_Progress":
        return self

    def __exit__(self, *_) -> None:
        say(self.text(), before="\r\x1b[K" if self.terminal else "")

    def show(self, done: int) -> None:
        self.done, now = done, time.monotonic()
        if now - self.shown >= self.every:
            self.shown = now
            if self.terminal:
                say(self.text(), before="\r\x1b[K", end="")
            else:
                say(self.text())

    def text(self) -> str:
        seconds = max(time.monotonic() - self.begun, 1e-3)
        speed = (self.done - self.start) / seconds
        words = [f"{self.name}: {_mb(self.done)}", f"{_mb(speed)}/s"]
        if self.total is not None:
            words[0] += f" of {_mb(self.total)}"
            if speed and self.done < self.total:
                left = round((self.total - self.done) / speed)
                words.append(f"{timedelta(seconds=left)} left")
        return ", ".join(words)


def say(text: str, before: str = "", end: str = "\n") -> None:
    """Prints for people, beside what a program may read."""
    print(before + text, end=end, file=sys.stderr, flush=True)


@contextlib.contextmanager
def _disk(path: Path) -> Iterator[None]:
    """Faults of the disk, which no other try mends."""
    try:
        yield
    except OSError as error:
        raise DownloadError(
            f"{path} cannot be written: {error.strerror or error}; free some space or"
            " name another folder with FRCNN_CACHE, then run again"
        ) from error


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _mb(size: float) -> str:
    return f"{size / 1e6:.1f} MB"


def reason(error: Exception) -> str:
    """What went wrong, on one line."""
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP {error.code} {error.reason}"
    inner = getattr(error, "reason", error)  # URLError wraps another
    return " ".join(str(getattr(inner, "strerror", None) or inner or error).split())


def _by_hand(target: Path) -> str:
    return f"put the file at {target} by hand, or name a mirror in FRCNN_MIRROR"


def _given_up(address: str, target: Path, why: str, size: int) -> str:
    kept = f"; {_mb(size)} are kept, running again continues" if size else ""
    return f"{address}: {why}{kept}; without network, {_by_hand(target)}"
