"""The server on loopback: equal results, too many and bad requests, a clean end."""

import http.client
import io
import json
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from frcnn_jax import build, labels, runs
from frcnn_jax.data import pictures, transforms, views
from frcnn_jax.export import detect, stablehlo
from frcnn_jax.training import distributed, step
from tools import serve

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("circle", "square", "triangle", "star", "ring")
LIMITS = serve.Limits(requests=64, size=100_000, pixels=10**6, upload=5.0, wait=30.0)


def photo(seed, h=60, w=90, kind="PNG"):
    """(pixels, file) of smooth noise."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (6, 9, 3)).astype(np.uint8)
    drawn = Image.fromarray(coarse).resize((w, h), Image.Resampling.BILINEAR)
    file = io.BytesIO()
    drawn.save(file, kind)
    return file.getvalue()


def pixels(file):
    return transforms.decode_bytes(file, "photo", 10**6)


def fake(call=None):
    """A detector that finds one box in every picture."""

    def one(image, score):
        return {"boxes": [[0, 0, 4, 5]], "scores": [0.5], "labels": [2], "names": ["b"]}

    return serve.Served("made up", ("a", "b"), ((64, 64),), call or one)


@contextmanager
def serving(served, **limits):
    server = serve.Server(("127.0.0.1", 0), served, LIMITS._replace(**limits))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def ask(server, method="POST", path="/predict", body=None, headers=None):
    """(status, answer, headers); `server` may be a port."""
    port = server if isinstance(server, int) else server.server_address[1]
    link = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        link.request(method, path, body, headers or {})
        answer = link.getresponse()
        content = answer.read()
        return answer.status, json.loads(content or "null"), answer.headers
    finally:
        link.close()


@pytest.fixture
def model(tiny_run):
    tiny_run.model.num_classes = len(NAMES)
    tiny_run.model.roi.score_threshold = 0.001
    return tiny_run, build.fresh_variables(tiny_run)


def export(model, folder):
    run, variables = model
    about = {"class_names": NAMES, "short_side": 64, "max_side": 96}
    about |= {"size_rule": "round", "resize": "cv2_u8"}
    predict = build.detector(run.model).predict
    stablehlo.write(folder, predict, variables, run.data.buckets, about, ["cpu"])
    return folder


def check_answers(served, direct):
    """Dozens of requests at once get, each, what the detector says to its picture."""
    files = [photo(k, *((60, 90), (90, 60))[k % 2]) for k in range(4)]
    files.append(photo(5, kind="JPEG"))
    expected = [direct(pixels(file)) for file in files]
    assert all(len(found["boxes"]) for found in expected)
    with serving(served) as server, ThreadPoolExecutor(12) as pool:
        orders = [k % len(files) for k in range(40)]
        answers = list(pool.map(lambda k: ask(server, body=files[k]), orders))
        limit = sorted(expected[0]["scores"])[len(expected[0]["scores"]) // 2]
        _, few, _ = ask(server, path=f"/predict?score={limit}", body=files[0])
    for k, (status, answer, headers) in zip(orders, answers, strict=True):
        assert status == 200 and headers["Content-Type"] == "application/json"
        for name in ("boxes", "scores", "labels", "names"):
            assert answer[name] == np.asarray(expected[k][name]).tolist(), name
        assert (answer["height"], answer["width"]) == pixels(files[k]).shape[:2]
        assert answer["milliseconds"] > 0 <= answer["milliseconds_waited"]
    assert 0 < len(few["boxes"]) < len(expected[0]["boxes"])
    assert min(few["scores"]) >= limit


@pytest.mark.usefixtures("quick_compile")
def test_an_export_answers_as_its_own_loader_does(model, tmp_path):
    folder = export(model, tmp_path / "out")
    served = serve.exported(str(folder))
    assert served.class_names == NAMES and served.canvases == ((64, 96), (96, 64))
    serve.warm(served)
    check_answers(served, detect.Detector(folder))


@pytest.mark.usefixtures("quick_compile")
def test_a_run_answers_as_prediction_does(model, tmp_path):
    run, variables = model
    mesh = distributed.make_mesh(1)
    predict = step.make_predict_step(build.detector(run.model), mesh)

    def direct(image):
        Image.fromarray(image).save(tmp_path / "a.png")
        looks = views.chosen(run.data)
        files, bad = [tmp_path / "a.png"], []
        found = pictures.batches(files, run.data, looks, 1, lambda *x: bad.append(x))
        ((arrays, _),) = found
        found = predict(variables, distributed.to_batch(arrays, mesh))
        shown = np.asarray(found.labels[0]) > 0
        found = {k: np.asarray(v[0])[shown] for k, v in found._asdict().items()}
        return found | {"names": [NAMES[label - 1] for label in found["labels"]]}

    named = labels.Labels(NAMES, tuple(range(1, 6)))
    loaded = runs.Trained(run, named, variables, "somewhere", 3)
    check_answers(serve.of_run(loaded), direct)


def test_one_call_at_a_time():
    inside, most = [], []

    def call(image, score):
        inside.append(1)
        most.append(len(inside))
        time.sleep(0.005)
        inside.pop()
        return {"boxes": [], "scores": [], "labels": [], "names": []}

    with serving(fake(call)) as server, ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda k: ask(server, body=photo(k)), range(32)))
    assert [status for status, _, _ in answers] == [200] * 32
    assert len(most) == 32 and max(most) == 1
    assert server.answered == 32 and server.requests == 0


def test_who_finds_no_place_is_sent_away_and_told_when_to_come_back():
    gate, called = threading.Event(), []

    def call(image, score):
        called.append(1)
        gate.wait(30)
        return {"boxes": [], "scores": [], "labels": [], "names": []}

    with serving(fake(call), requests=3) as server, ThreadPoolExecutor(3) as pool:
        taken = [pool.submit(ask, server, body=photo(k)) for k in range(3)]
        until = time.monotonic() + 20
        while server.requests < 3 and time.monotonic() < until:
            time.sleep(0.01)
        for _ in range(5):
            status, answer, headers = ask(server, body=bytes(90_000))
            assert status == 503 and headers["Retry-After"] == "1"
            assert answer == {"error": "all 3 places are taken; try again"}
        assert ask(server, "GET", "/")[1]["requests"] == 3  # health needs no place
        gate.set()
        assert [job.result()[0] for job in taken] == [200] * 3
        assert ask(server, body=photo(0))[0] == 200
    assert len(called) == 4


def test_waiting_for_the_device_ends():
    gate = threading.Event()

    def call(image, score):
        gate.wait(30)
        return {"boxes": [], "scores": [], "labels": [], "names": []}

    with serving(fake(call), wait=0.1) as server, ThreadPoolExecutor(2) as pool:
        jobs = [pool.submit(ask, server, body=photo(k)) for k in range(2)]
        until = time.monotonic() + 20
        while not any(job.done() for job in jobs) and time.monotonic() < until:
            time.sleep(0.01)
        gate.set()
        answers = sorted((job.result() for job in jobs), key=lambda x: x[0])
    assert [answer[0] for answer in answers] == [200, 503]
    assert "the device was not free for 0.1 s" in answers[1][1]["error"]


def test_a_detector_that_fails_does_not_end_the_server(capsys):
    faults = [RuntimeError("out of memory"), ValueError("9x9 pixels fit into none")]

    def call(image, score):
        raise faults.pop(0)

    with serving(fake(call)) as server:
        status, answer, _ = ask(server, body=photo(0))
        assert status == 500 and "out of memory" in answer["error"]
        status, answer, _ = ask(server, body=photo(0))
        assert status == 400 and answer["error"] == "9x9 pixels fit into none"
        assert ask(server, "GET", "/")[0] == 200
    assert "Traceback" in capsys.readouterr().err


JPEG = photo(0, kind="JPEG")
BAD = [
    ("POST", "/predict", b"", 400, "an empty upload"),
    ("POST", "/predict", b"hello", 400, "neither JPEG nor PNG (starts with b'hello')"),
    ("POST", "/predict", b"GIF89a" + bytes(50), 400, "neither JPEG nor PNG"),
    ("POST", "/predict", JPEG[: len(JPEG) // 2], 400, "the upload: truncated JPEG"),
    ("POST", "/predict", b"\x89PNG\r\n" + b"IEND", 400, "the upload: truncated"),
    (
        "POST",
        "/predict",
        photo(0, 1010, 1000, "JPEG"),
        400,
        "1,010,000 pixels, and the limit",
    ),
    ("POST", "/predict", bytes(100_001), 413, "100001 bytes, and at most 100000"),
    ("POST", "/predict", bytes(5_000_000), 413, "5000000 bytes, and at most 100000"),
    ("POST", "/predict?score=2", JPEG, 400, "?score=2: there is ?score=, from 0 to 1"),
    ("POST", "/predict?score=nan", JPEG, 400, "?score=nan"),
    ("POST", "/predict?score=", JPEG, 400, "?score="),
    ("POST", "/predict?scores=0.5", JPEG, 400, "?scores=0.5"),
    ("POST", "/detect", JPEG, 404, "/detect does not exist: there are GET / and POST"),
    ("POST", "/", JPEG, 405, "/ takes GET, not POST"),
    ("GET", "/predict", None, 405, "/predict takes POST, not GET"),
    ("PUT", "/predict", JPEG, 405, "/predict takes POST, not PUT"),
    ("DELETE", "/nothing", None, 404, "/nothing does not exist"),
    ("BREW", "/predict", None, 501, "Unsupported method ('BREW')"),
]


def test_bad_requests_are_told_why_and_the_next_one_is_served():
    with serving(fake()) as server:
        for method, path, body, expected, why in BAD:
            status, answer, headers = ask(server, method, path, body)
            assert (status, why in answer["error"]) == (expected, True), answer
            if status == 405:
                assert headers["Allow"] in ("GET", "POST")
            status, answer, _ = ask(server, body=JPEG)
            assert status == 200 and answer["names"] == ["b"]
        assert ask(server, "HEAD", "/predict")[:2] == (405, None)


def test_health_says_what_is_served():
    with serving(fake()) as server:
        status, about, _ = ask(server, "GET", "/")
    assert status == 200 and about["status"] == "ok" and about["serving"] == "made up"
    assert about["class_names"] == ["a", "b"] and about["canvases"] == [[64, 64]]
    assert about["limits"] == LIMITS._asdict()


def raw(server, text, *, close=False):
    """What comes back for these bytes."""
    with socket.create_connection(server.server_address[:2], timeout=30) as link:
        link.sendall(text)
        if close:
            return b""
        return b"".join(iter(lambda: link.recv(4096), b""))


def test_slow_and_vanishing_clients_cost_a_bounded_time():
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n"
    with serving(fake(), upload=0.3, requests=1) as server:
        assert b"408" in raw(server, head + b"\xff\xd8 a part").split(b"\r\n")[0]
        raw(server, head + b"\xff\xd8", close=True)
        assert raw(server, b"POST /pre") == b""  # never says what it wants
        until = time.monotonic() + 20
        while server.requests and time.monotonic() < until:
            time.sleep(0.01)
        assert ask(server, body=JPEG)[0] == 200


def test_a_client_that_sends_a_byte_now_and_then_is_not_waited_for():
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n"
    with serving(fake(), upload=0.3) as server:
        with socket.create_connection(server.server_address[:2], timeout=0.05) as link:
            link.sendall(head + b"\xff\xd8")
            answer, until = b"", time.monotonic() + 20
            while not answer and time.monotonic() < until:
                link.sendall(b"x")
                try:
                    answer = link.recv(4096)
                except TimeoutError:
                    continue
        assert answer.startswith(b"HTTP/1.1 408 ")


def test_what_is_too_large_is_refused_before_it_is_sent():
    head = "POST {} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n{}\r\n"
    expects = "Expect: 100-continue\r\n"
    with serving(fake()) as server:
        answer = raw(server, head.format("/predict", 10**9, expects).encode())
        assert answer.startswith(b"HTTP/1.1 413 ") and b"100 Continue" not in answer
        good = head.format("/predict", len(JPEG), expects).encode() + JPEG
        answer = raw(server, good)
        assert answer.startswith(b"HTTP/1.1 100 Continue") and b" 200 OK" in answer
        answer = raw(server, head.format("/predict", "9" * 5000, "").encode())
        assert answer.startswith(b"HTTP/1.1 413 ")
        answer = raw(server, head.format("/predict", "-5", "").encode())
        assert answer.startswith(b"HTTP/1.1 400 ")
        chunks = "Transfer-Encoding: chunked\r\n"
        answer = raw(server, head.format("/predict", 5, chunks).encode() + b"0\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 411 ")
        bad = raw(server, b"nonsense\r\n\r\n")
        assert b'"error"' in bad


# ---- as a process, with the words of the documentation


def documented():
    """The command, run in the background, and the curl line of docs/export.md."""
    page = (ROOT / "docs/export.md").read_text()
    (command,) = re.findall(r"^python (tools/serve\.py .*) &$", page, re.M)
    (curl,) = re.findall(r"^(curl .*)$", page, re.M)
    return shlex.split(command), shlex.split(curl)


def test_the_documented_command_serves_until_sigterm(model, tmp_path):
    export(model, tmp_path / "exported")
    (tmp_path / "photo.jpg").write_bytes(JPEG)
    (script, *words), curl = documented()
    process = subprocess.Popen(
        [sys.executable, ROOT / script, *words, "--port=0"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        printed = ""
        while "http://" not in printed:
            line = process.stdout.readline()
            assert line, process.stderr.read()
            printed += line
        address, port = re.search(
            r"http://(127\.0\.0\.1:(\d+))/predict", printed
        ).groups()
        status, answer, _ = ask(int(port), path="/predict?score=0", body=JPEG)
        found = detect.Detector(tmp_path / "exported")(pixels(JPEG), score=0.0)
        assert status == 200 and answer["names"] == found["names"]
        if shutil.which("curl"):
            words = [word.replace("127.0.0.1:8000", address) for word in curl]
            done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
            assert json.loads(done.stdout)["width"] == 90
        process.send_signal(signal.SIGTERM)
        rest, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
        assert re.search(r"stopped; [12] requests answered", rest)
        with pytest.raises(ConnectionRefusedError):
            ask(int(port), "GET", "/")
    finally:
        process.kill()
        process.communicate()


def test_an_answer_in_work_is_given_before_the_end():
    begun, gate = threading.Event(), threading.Event()

    def call(image, score):
        begun.set()
        gate.wait(30)
        return {"boxes": [], "scores": [], "labels": [], "names": []}

    server = serve.Server(("127.0.0.1", 0), fake(call), LIMITS)
    before = {s: signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)}
    with ThreadPoolExecutor(2) as pool:
        job = pool.submit(ask, server, body=JPEG)

        def tell():
            begun.wait(30)
            signal.raise_signal(signal.SIGTERM)
            time.sleep(0.3)
            gate.set()

        told = pool.submit(tell)
        try:
            server.serve_until_told()
            assert gate.is_set() and server.answered == 1  # not ended before
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        told.result()
        assert job.result()[0] == 200


def test_flags_that_do_not_fit_are_one_line(tmp_path):
    with pytest.raises(
        FileNotFoundError, match="no about.json there; write the folder"
    ):
        serve.exported(str(tmp_path))
    words = ["--export=a", "--workdir=b"]
    done = subprocess.run(
        [sys.executable, "tools/serve.py", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert (
        done.stderr
        == "error: --export goes without --workdir, --weights and --config\n"
    )
