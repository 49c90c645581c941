"""Fetching published weights, from a server on this machine that misbehaves."""

import hashlib
import http.server
import io
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from frcnn_jax.convert import download, files, locate, published
from frcnn_jax.convert.download import DownloadError

ROOT = Path(__file__).resolve().parents[2]
NAME = "mmdet:tiny"


def archive() -> bytes:
    """A weight file of some size."""
    buffer = io.BytesIO()
    rng = np.random.default_rng(0)
    arrays = {f"params/backbone/{i}": rng.random(40_000) for i in range(3)}
    np.savez(buffer, **arrays)
    return buffer.getvalue()


CONTENT = archive()
DIGEST = hashlib.sha256(CONTENT).hexdigest()[:8]
FILE = f"tiny-{DIGEST}.npz"
HALF = len(CONTENT) // 2


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves CONTENT; the server's next plan says what goes wrong.

    status: instead of the file; to: where it redirects; cut: bytes after which the line
    breaks; hold: an event to wait for after `cut` bytes; ranges: honoured or not; tag:
    of this version; content: another; length: told or not; offset: of a wrong range.
    """

    def do_GET(self):  # noqa: N802
        plans = self.server.plans
        plan = SimpleNamespace(**(DEFAULT | (plans.pop(0) if plans else {})))
        self.server.seen.append((self.path, dict(self.headers)))
        if plan.status:
            self.send_response(plan.status)
            if plan.to:
                self.send_header("Location", plan.to)
            self.send_header("Content-Length", "0")
            return self.end_headers()
        start = self.start_of(plan)
        if start >= len(plan.content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(plan.content)}")
            self.send_header("Content-Length", "0")
            return self.end_headers()
        body = plan.content[start:]
        self.send_response(206 if start else 200)
        if start:
            begin, end = start + plan.offset, len(plan.content)
            self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{end}")
        if plan.length:
            self.send_header("Content-Length", str(len(body)))
        if plan.tag:
            self.send_header("ETag", plan.tag)
        self.end_headers()
        self.wfile.write(body[: plan.cut])
        if plan.hold:
            self.wfile.flush()
            plan.hold.wait(30)
            self.wfile.write(body[plan.cut :])
        self.close_connection = True

    def start_of(self, plan) -> int:
        asked, version = self.headers["Range"], self.headers["If-Range"]
        if not asked or not plan.ranges or version not in (None, plan.tag):
            return 0
        return int(asked.removeprefix("bytes=").removesuffix("-"))

    def log_message(self, *_):
        pass


DEFAULT = dict(status=0, to="", cut=None, hold=None, ranges=True, tag='"v1"')
DEFAULT |= dict(content=CONTENT, length=True, offset=0)


@pytest.fixture
def server():
    made = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.plans, made.seen = [], []
    made.url = f"http://127.0.0.1:{made.server_port}"
    thread = threading.Thread(target=made.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("FRCNN_CACHE", str(folder))
    for name in ("FRCNN_OFFLINE", "FRCNN_MIRROR", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(download, "PAUSES", (0.0, 0.0, 0.0))
    return folder


@pytest.fixture
def row(server, cache):
    return published.Published(NAME, "demo", f"{server.url}/models/{FILE}", "")


def left(cache: Path) -> set[str]:
    return {path.name.removeprefix(FILE) for path in cache.iterdir()} - {".lock"}


def assert_whole(path: Path, cache: Path):
    assert path == cache / FILE and path.read_bytes() == CONTENT
    assert left(cache) == {""}


def refused(row) -> str:
    with pytest.raises(DownloadError) as caught:
        download.fetch(row)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def ranges(server) -> list[str | None]:
    return [headers.get("Range") for _, headers in server.seen]


# ---- what is meant


def test_a_file_is_fetched_once(row, server, cache, capsys):
    assert_whole(download.fetch(row), cache)
    assert_whole(download.fetch(row), cache)
    assert [path for path, _ in server.seen] == [f"/models/{FILE}"]
    size = f"{len(CONTENT) / 1e6:.1f} MB"
    told = capsys.readouterr()
    assert told.err.startswith(f"{FILE}: {size} of {size}, ") and told.out == ""
    assert (cache / FILE).stat().st_mode & 0o777 == 0o666 & ~umask()


def umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_a_name_stands_for_its_file_wherever_weights_are_read(row, cache, monkeypatch):
    monkeypatch.setattr(published, "table", lambda: {NAME: row})
    found = files.load_variables(NAME, norm_eps=1e-5)
    assert found.kind == "ours" and len(found.variables) == 3
    assert_whole(locate.file(NAME), cache)
    assert locate.file("a/b.npz") == Path("a/b.npz")
    with pytest.raises(ValueError, match="http://a/b.npz: weights are a file, a pub"):
        files.load("http://a/b.npz")
    with pytest.raises(ValueError, match="mmdet:tinny: no such.*nearest: mmdet:tiny;"):
        files.load("mmdet:tinny")


def test_a_file_put_there_by_hand_is_used_after_a_check(row, server, cache):
    cache.mkdir()
    (cache / FILE).write_bytes(CONTENT)
    assert_whole(download.fetch(row), cache)
    (cache / FILE).write_bytes(CONTENT[:-1])
    found = hashlib.sha256(CONTENT[:-1]).hexdigest()[:8]
    message = f"sha256 begins with {found}, expected {DIGEST}: remove the file"
    assert message in refused(row)
    assert (cache / FILE).exists() and not server.seen  # not ours to remove


@pytest.mark.parametrize(
    ("own", "base", "folder"),
    [
        ("", "", "~/.cache/frcnn_jax"),
        ("", "/x", "/x/frcnn_jax"),
        ("", "not/absolute", "~/.cache/frcnn_jax"),
        ("/own", "/x", "/own"),
        ("~/own", "", "~/own"),
    ],
)
def test_where_the_cache_is(monkeypatch, own, base, folder):
    monkeypatch.setenv("FRCNN_CACHE", own)
    monkeypatch.setenv("XDG_CACHE_HOME", base)
    assert download.folder() == Path(folder).expanduser()


@pytest.mark.parametrize("prefix", ["", "/", "/mirrors/all", "/mirrors/all/"])
def test_a_mirror_replaces_scheme_and_host(server, row, cache, monkeypatch, prefix):
    monkeypatch.setenv("FRCNN_MIRROR", server.url + prefix)
    elsewhere = row._replace(address=f"https://nowhere.invalid/models/{FILE}")
    assert_whole(download.fetch(elsewhere), cache)
    assert [path for path, _ in server.seen] == [f"{prefix.rstrip('/')}/models/{FILE}"]


def test_a_redirect_is_followed_with_its_range(server, row, cache):
    there = {"status": 302, "to": f"{server.url}/there"}
    server.plans = [there, {"cut": HALF}, there, {}]
    assert_whole(download.fetch(row), cache)
    assert ranges(server) == [None, None, *[f"bytes={HALF}-"] * 2]


# ---- what breaks and mends


def test_a_cut_download_continues(server, row, cache, capsys):
    server.plans = [{"cut": HALF}, {"cut": 1000}]
    assert_whole(download.fetch(row), cache)
    assert ranges(server) == [None, f"bytes={HALF}-", f"bytes={HALF + 1000}-"]
    assert [h.get("If-Range") for _, h in server.seen] == [None, '"v1"', '"v1"']
    assert f"{FILE}: connection cut at " in capsys.readouterr().err


def test_progress_earns_new_tries(server, row, cache):
    server.plans = [{"cut": 1000}] * (3 * len(download.PAUSES))
    assert_whole(download.fetch(row), cache)


@pytest.mark.parametrize("tag", ["", 'W/"weak"'])
def test_without_a_strong_tag_the_hash_decides(server, row, cache, tag):
    server.plans = [{"cut": HALF, "tag": tag}, {"tag": tag}]
    assert_whole(download.fetch(row), cache)
    assert "If-Range" not in server.seen[1][1]


MENDED = {
    "no ranges": [{"cut": HALF}, {"ranges": False}],
    "another version": [{"cut": HALF, "tag": '"v0"', "content": b"?" * len(CONTENT)}],
    "another version, no tag": [{"cut": 9, "tag": "", "content": b"?" * 99}, {}],
    "a part too long": [{"content": b"?" * 2 * len(CONTENT), "cut": len(CONTENT) + 9}],
    "another range": [{"cut": HALF}, {"offset": 7}],
    "an error that passes": [{"status": 503}, {"status": 429}, {"status": 500}],
    "no length": [{"length": False, "cut": HALF}, {}],
}


@pytest.mark.parametrize("plans", MENDED.values(), ids=MENDED)
def test_other_faults_start_over(server, row, cache, plans):
    server.plans = [*plans]
    assert_whole(download.fetch(row), cache)


def test_a_killed_download_continues(server, row, cache):
    hold = threading.Event()
    server.plans = [{"cut": HALF, "hold": hold}]
    child = start(row)
    part = cache / f"{FILE}.part"
    wait_until(lambda: part.exists() and part.stat().st_size == HALF)
    child.send_signal(signal.SIGKILL)
    child.communicate()
    hold.set()
    assert left(cache) == {".part", ".part.tag"}
    assert_whole(download.fetch(row), cache)  # the dead process's lock is no lock
    assert ranges(server) == [None, f"bytes={HALF}-"]


def test_a_whole_part_needs_no_server(server, row, cache):
    """A process was killed between the last byte and the rename."""
    cache.mkdir()
    (cache / f"{FILE}.part").write_bytes(CONTENT)
    assert_whole(download.fetch(row), cache)
    assert server.seen == []


def test_two_processes_fetch_once(server, row, cache):
    hold = threading.Event()
    server.plans = [{"cut": HALF, "hold": hold}]
    first = start(row)
    wait_until(lambda: server.seen)
    second = start(row)
    assert "another process is fetching it, waiting" in second.stderr.readline()
    hold.set()
    for child in (first, second):
        out, err = child.communicate(timeout=60)
        assert (child.returncode, out) == (0, f"{cache / FILE}\n"), err
    assert len(server.seen) == 1
    assert_whole(cache / FILE, cache)


PROGRAM = """
import sys
from frcnn_jax.convert import download, published
print(download.fetch(published.Published(*sys.argv[1:])))
"""


def start(row) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *row],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_until(true):
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


# ---- what cannot be mended


def test_a_wrong_file_is_removed_and_told(server, row, cache):
    server.plans = [{"content": b"<html>"}]
    cache.mkdir()
    (cache / "other.npz").write_bytes(b"other")
    found = hashlib.sha256(b"<html>").hexdigest()[:8]
    assert refused(row).startswith(
        f"{row.address}: its sha256 begins with {found}, expected {DIGEST}; removed; "
    )
    assert left(cache) == {"other.npz"}
    assert_whole_after(row, cache)


def assert_whole_after(row, cache):
    """Nothing of the failure is in the way of the next run."""
    path = download.fetch(row)
    assert path.read_bytes() == CONTENT and path == cache / FILE


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_a_refusal_is_final(server, row, cache, status):
    server.plans = [{"status": status}]
    told = refused(row)
    assert told.startswith(f"{row.address}: HTTP {status} ")
    assert told.endswith(
        f"put the file at {cache / FILE} by hand, or name a mirror in FRCNN_MIRROR"
    )
    assert len(server.seen) == 1
    assert_whole_after(row, cache)


def test_after_some_tries_it_says_how_to_go_on(server, row, cache):
    server.plans = [{"cut": HALF}] + [{"status": 502}] * 3
    told = refused(row)
    kept = f"{HALF / 1e6:.1f} MB are kept, running again continues"
    assert told.startswith(f"{row.address}: HTTP 502 Bad Gateway; {kept}; without net")
    assert len(server.seen) == 4
    assert_whole_after(row, cache)
    assert ranges(server)[-1] == f"bytes={HALF}-"


def test_no_network(server, row, cache):
    gone = row._replace(address=f"http://127.0.0.1:9/{FILE}")
    told = refused(gone)
    assert told.startswith(f"{gone.address}: Connection refused; without network, put ")
    assert str(cache / FILE) in told


def test_offline(server, row, cache, monkeypatch):
    monkeypatch.setenv("FRCNN_OFFLINE", "1")
    assert refused(row) == (
        f"{NAME} is not in the cache and FRCNN_OFFLINE is set: fetch {row.address}"
        f" elsewhere and put it at {cache / FILE}"
    )
    assert server.seen == [] and not cache.exists()
    cache.mkdir()
    (cache / FILE).write_bytes(CONTENT)
    assert_whole(download.fetch(row), cache)
    monkeypatch.setenv("FRCNN_OFFLINE", "0")
    (cache / FILE).unlink()
    assert_whole(download.fetch(row), cache)


@pytest.mark.parametrize("address", ["file:///etc/passwd", "ftp://a/b", "a/b", "http:"])
def test_other_schemes_are_refused(server, row, cache, monkeypatch, address):
    only = "only http and https addresses are fetched"
    assert refused(row._replace(address=f"{address}-{DIGEST}")).endswith(only)
    monkeypatch.setenv("FRCNN_MIRROR", address)
    assert only in refused(row)
    assert server.seen == []


@pytest.mark.parametrize("to", ["file:///etc/passwd", "ftp://127.0.0.1/a", "data:,a"])
def test_redirects_to_other_schemes_are_refused(server, row, cache, to):
    server.plans = [{"status": 302, "to": to}]
    told = refused(row)
    assert "only http and https" in told or "HTTP 302" in told
    assert len(server.seen) == 1
    assert_whole_after(row, cache)


def test_an_unwritable_cache(server, row, cache):
    cache.write_bytes(b"a file")
    told = refused(row)
    assert told.startswith(f"{cache / FILE} cannot be written: ")
    assert "name another folder with FRCNN_CACHE" in told


def test_a_full_disk(server, row, cache):
    cache.mkdir()
    (cache / f"{FILE}.part").symlink_to("/dev/full")
    told = refused(row)
    assert told.startswith(f"{cache / FILE}.part cannot be written: No space left")
    assert len(server.seen) == 1


def test_progress_on_a_terminal_is_one_line(server, row, cache, capsys, monkeypatch):
    monkeypatch.setattr(download, "CHUNK", len(CONTENT) // 4)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(download.time, "monotonic", iter(range(10_000)).__next__)
    download.fetch(row)
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and told.count("\r") >= 4
    assert " MB/s, 0:00:" in told and told.rstrip().endswith("MB/s")
