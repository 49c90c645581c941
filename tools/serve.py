"""Serves a detector over HTTP: python tools/serve.py --export=FOLDER [--port=8000].

FOLDER is of tools/export.py; instead of it --workdir=DIR, or --weights=FILE or a name.

    GET /                     what is served, as JSON
    POST /predict?score=0.5   a JPEG or PNG file in, JSON out

An example to start from: the standard library's server, one detector call at a time, no
encryption and nobody asked for a password. It listens to this machine alone unless
--host says more. SIGTERM and SIGINT let it answer what has come, and end.
"""

import json
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlsplit

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs uninstalled too

import jax  # noqa: E402
import numpy as np  # noqa: E402
from absl import flags  # noqa: E402

from frcnn_jax import cli, runs  # noqa: E402
from frcnn_jax.data import transforms  # noqa: E402
from frcnn_jax.export import detect  # noqa: E402
from frcnn_jax.prediction.predictor import Predictor  # noqa: E402
from frcnn_jax.training import devices  # noqa: E402

FLAGS = flags.FLAGS
PREDICT = "/predict"
STARTS = (b"\xff\xd8", b"\x89PNG")  # of a JPEG and of a PNG
LINGER = 2.0  # seconds for which an upload that is not wanted is read


class Served(NamedTuple):
    """A detector and what to say about it."""

    source: str
    class_names: tuple[str, ...]
    canvases: tuple[tuple[int, int], ...]
    call: Callable[[np.ndarray, float | None], dict[str, Any]]  # as detect.Detector


class Limits(NamedTuple):
    """What one client may ask of all others."""

    requests: int  # in work or waiting; more are sent away
    size: int  # bytes of an upload
    pixels: int  # of a picture
    upload: float  # seconds for an upload
    wait: float  # seconds for the device


class Refused(Exception):
    """A request that gets an error for an answer."""

    def __init__(self, status: HTTPStatus, reason: str, **headers: str):
        """Keeps the status and more headers beside the reason."""
        super().__init__(reason)
        self.status, self.headers = status, headers


def main(argv: list[str]) -> None:
    cli.refuse_extra(argv)
    devices.check(FLAGS.require)
    if FLAGS.export and (FLAGS.workdir or FLAGS.weights or FLAGS.config is not None):
        raise ValueError("--export goes without --workdir, --weights and --config")
    served = exported(FLAGS.export) if FLAGS.export else chosen()
    size, pixels = int(FLAGS.max_mib * 2**20), int(FLAGS.max_megapixels * 1e6)
    times = FLAGS.upload_seconds, FLAGS.wait_seconds
    limits = Limits(FLAGS.requests, size, pixels, *times)
    try:
        server = Server((FLAGS.host, FLAGS.port), served, limits)
    except OSError as error:
        where = f"--host={FLAGS.host} --port={FLAGS.port}"
        raise OSError(
            f"{where}: {error.strerror}; --port=0 takes a free one"
        ) from error
    warm(served)
    host, port = server.server_address[:2]
    print(f"{served.source}: http://{host}:{port}{PREDICT}", flush=True)
    server.serve_until_told()
    print(f"stopped; {server.answered} requests answered", flush=True)


def exported(folder: str) -> Served:
    """A detector of tools/export.py."""
    if not (Path(folder) / "about.json").is_file():
        raise FileNotFoundError(
            f"--export={folder}: no about.json there; write the folder with"
            " tools/export.py --workdir=DIR --out=FOLDER"
        )
    found = detect.Detector(folder)
    if found.about.get("resize") == "pil":
        print(
            f'warning: {folder} was trained with resize "pil", which filters, and is'
            " served without the filter; --workdir or --weights does as training did"
        )
    sizes = tuple((h, w) for h, w in found.about["canvases"])
    return Served(folder, tuple(found.about["class_names"]), sizes, found)


def chosen() -> Served:
    """The detector that the flags name: of a run's folder or of a weights file."""
    run = runs.chosen(FLAGS.config, FLAGS.workdir, FLAGS.weights)
    run = cli.checked(cli.with_fields(run))
    return of_run(runs.trained(run, FLAGS.workdir, FLAGS.weights, FLAGS.checkpoint))


def of_run(model: runs.Trained) -> Served:
    """A detector as prediction runs it."""
    predictor = Predictor(model, score=0.0)

    def call(image, score=None):
        found = predictor(image).above(score or 0.0)
        boxes, names = found.xyxy, found.names.tolist()
        kept = {"boxes": boxes, "scores": found.scores, "labels": found.labels}
        return kept | {"names": names}

    return Served(model.source, predictor.class_names, predictor.canvases, call)


def warm(served: Served) -> None:
    """Compiles the program of every canvas, so that no client waits for that."""
    start = time.perf_counter()
    for height, width in served.canvases:
        served.call(np.zeros((height, width, 3), np.uint8), None)
    seconds, kind = time.perf_counter() - start, jax.devices()[0].platform
    print(f"{len(served.canvases)} programs ready on {kind} in {seconds:.1f} s")


class Server(ThreadingHTTPServer):
    """A thread for each connection, a bounded number of requests, one device."""

    daemon_threads = False  # closing waits for the answers
    request_queue_size = 128  # connections not yet taken; the default is 5

    def __init__(self, address: tuple[str, int], served: Served, limits: Limits):
        """Takes the port; `serve_until_told` begins."""
        super().__init__(address, Handler)
        self.served, self.limits = served, limits
        self.requests = self.answered = 0
        self._count, self._device = threading.Lock(), threading.Lock()

    def serve_until_told(self) -> None:
        """Serves until SIGTERM or SIGINT, and then what has come by then."""

        def stop(*_):  # not here: shutdown waits for the loop that this interrupts
            threading.Thread(target=self.shutdown).start()

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, stop)
        self.serve_forever(poll_interval=0.1)
        self.server_close()

    @contextmanager
    def place(self) -> Iterator[None]:
        """A place among the requests in work. Errors: Refused, where all are taken."""
        with self._count:
            if self.requests >= self.limits.requests:
                raise _busy(f"all {self.requests} places are taken")
            self.requests += 1
        try:
            yield
        finally:
            with self._count:
                self.requests -= 1
                self.answered += 1

    def detect(self, image: np.ndarray, score: float | None) -> dict[str, Any]:
        """The answer for a picture. Errors: Refused, also for a long wait."""
        came = time.perf_counter()
        if not self._device.acquire(timeout=self.limits.wait):
            raise _busy(f"the device was not free for {self.limits.wait:g} s")
        try:
            start = time.perf_counter()
            found = self.served.call(image, score)
            end = time.perf_counter()
        except ValueError as error:  # a shape that fits no canvas
            raise Refused(HTTPStatus.BAD_REQUEST, str(error)) from error
        finally:
            self._device.release()
        return {
            "boxes": np.asarray(found["boxes"], float).tolist(),
            "scores": np.asarray(found["scores"], float).tolist(),
            "labels": np.asarray(found["labels"], int).tolist(),
            "names": list(found["names"]),
            "width": image.shape[1],
            "height": image.shape[0],
            "milliseconds": round((end - start) * 1e3, 3),
            "milliseconds_waited": round((start - came) * 1e3, 3),
        }


def _busy(reason: str) -> Refused:
    unavailable = HTTPStatus.SERVICE_UNAVAILABLE
    return Refused(unavailable, f"{reason}; try again", **{"Retry-After": "1"})


class Handler(BaseHTTPRequestHandler):
    """One request, after which the connection is closed; every answer is JSON."""

    server: Server
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "frcnn_jax", ""

    def setup(self) -> None:
        """Begins with a connection."""
        self.timeout = self.server.limits.upload  # of each wait for the client
        self.unread = 0
        super().setup()

    def do_GET(self) -> None:
        """Says what is served."""
        self._answered(self._about)

    def do_POST(self) -> None:
        """Detects."""
        self._answered(self._predict)

    def do_PUT(self) -> None:
        """Refuses, as no path has this method."""
        self._answered(self._route)

    do_HEAD = do_PATCH = do_DELETE = do_OPTIONS = do_PUT

    def _answered(self, work: Callable[[], dict[str, Any]]) -> None:
        """Answers with what some work gives, or with why there is nothing."""
        try:
            content = work()
        except Refused as refused:
            self._send(refused.status, {"error": str(refused)}, refused.headers)
        except ConnectionError:
            self.close_connection = True  # nobody is there to be told
        except Exception as error:  # of the detector: the server goes on
            traceback.print_exc()
            self._send(HTTPStatus.INTERNAL_SERVER_ERROR, {"error": repr(error)})
        else:
            self._send(HTTPStatus.OK, content)

    def _about(self) -> dict[str, Any]:
        self._route()
        served, limits = self.server.served, self.server.limits
        return {
            "status": "ok",
            "serving": served.source,
            "class_names": served.class_names,
            "canvases": served.canvases,
            "predict": f"POST {PREDICT}?score=0.5 with a JPEG or PNG file",
            "requests": self.server.requests,
            "limits": limits._asdict(),
        }

    def _predict(self) -> dict[str, Any]:
        score, size = self._asked()
        with self.server.place():  # before the upload is read: memory is bounded too
            body = self._body(size)
            if not body.startswith(STARTS):
                reason = f"neither JPEG nor PNG (starts with {body[:8]!r})"
                raise Refused(HTTPStatus.BAD_REQUEST, reason)
            most = self.server.limits.pixels
            try:
                image = transforms.decode_bytes(body, "the upload", most)
            except transforms.BadImage as error:
                reason = str(error).replace("data.max_image_pixels", "the limit")
                raise Refused(HTTPStatus.BAD_REQUEST, reason) from error
            return self.server.detect(image, score)

    def _route(self) -> None:
        """Errors: Refused for a path or a method that there is not."""
        path, allowed = urlsplit(self.path).path, {"/": "GET", PREDICT: "POST"}
        if path not in allowed:
            reason = f"{path} does not exist: there are GET / and POST {PREDICT}"
            raise Refused(HTTPStatus.NOT_FOUND, reason)
        if self.command != allowed[path]:
            reason = f"{path} takes {allowed[path]}, not {self.command}"
            status = HTTPStatus.METHOD_NOT_ALLOWED
            raise Refused(status, reason, Allow=allowed[path])

    def _asked(self) -> tuple[float | None, int]:
        """The least score and the bytes of the upload. Errors: Refused."""
        given = self.headers.get("Content-Length", "")
        self.unread = int(given[:18]) if given.isdecimal() else 0
        self._route()
        if not given or "Transfer-Encoding" in self.headers:
            reason = "send the file with its Content-Length, not in chunks"
            raise Refused(HTTPStatus.LENGTH_REQUIRED, reason)
        if not self.unread:
            reason = f"an empty upload (Content-Length {given}): send a JPEG or PNG"
            raise Refused(HTTPStatus.BAD_REQUEST, reason)
        if self.unread > (most := self.server.limits.size):
            reason = f"{self.unread} bytes, and at most {most} are taken (--max_mib)"
            raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, reason)
        return self._score(), self.unread

    def _score(self) -> float | None:
        words = parse_qsl(urlsplit(self.path).query, keep_blank_values=True)
        for name, value in words:
            try:
                known = name == "score" and 0 <= float(value) <= 1
            except ValueError:
                known = False
            if not known:
                reason = f"?{name}={value}: there is ?score=, from 0 to 1"
                raise Refused(HTTPStatus.BAD_REQUEST, reason)
        return float(words[-1][1]) if words else None

    def _body(self, size: int) -> bytes:
        """The upload, all of it and in time. Errors: Refused."""
        parts, until = [], time.monotonic() + self.server.limits.upload
        while self.unread:
            try:
                part = self.rfile.read1(min(self.unread, 2**16))
            except TimeoutError:
                part = None
            if part is None or time.monotonic() > until:
                here, limit = size - self.unread, self.server.limits.upload
                reason = f"{here} of {size} bytes came in {limit:g} s"
                raise Refused(HTTPStatus.REQUEST_TIMEOUT, reason)
            if not part:
                raise ConnectionAbortedError("the client left")
            parts.append(part)
            self.unread -= len(part)
        return b"".join(parts)

    def handle_expect_100(self) -> bool:
        """Sends an upload away before it is made, where its header is enough."""
        try:
            if self.command == "POST":
                self._asked()
        except Refused as refused:
            self.unread = 0
            self._send(refused.status, {"error": str(refused)}, refused.headers)
            return False
        return super().handle_expect_100()

    def send_error(self, code, message=None, explain=None) -> None:
        """What the standard library has to refuse, as JSON too."""
        status = HTTPStatus(code)
        self._send(status, {"error": message or status.phrase})

    def _send(
        self, status: HTTPStatus, content: dict[str, Any], headers: dict | None = None
    ) -> None:
        body = json.dumps(content).encode() + b"\n"
        more = {"Content-Type": "application/json", "Content-Length": str(len(body))}
        more["Connection"] = "close"  # an idle client would keep a thread
        self.close_connection = True
        try:
            self.send_response(status)
            for name, value in {**more, **(headers or {})}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)
            self._read_on()
        except OSError:  # the client left
            pass

    def _read_on(self) -> None:
        """Reads what is not wanted for a moment: else a broken connection is told."""
        until = time.monotonic() + LINGER
        self.connection.settimeout(LINGER)
        while self.unread > 0 and time.monotonic() < until:
            part = self.rfile.read1(min(self.unread, 2**16))
            self.unread = self.unread - len(part) if part else 0


if __name__ == "__main__":
    cli.define_config(required=False)
    cli.define_require()
    flags.DEFINE_string("export", None, "Folder of tools/export.py.")
    flags.DEFINE_string("workdir", None, "Folder of a trained run.")
    flags.DEFINE_string("weights", None, "Weights file or name.")
    flags.DEFINE_enum(
        "checkpoint", "latest", ["latest", "best"], "Of the workdir; best: by AP."
    )
    flags.DEFINE_string("host", "127.0.0.1", "Address; 0.0.0.0 = whoever can reach it.")
    flags.DEFINE_integer("port", 8000, "Port; 0 = any that is free.", 0, 65535)
    flags.DEFINE_integer("requests", 16, "In work or waiting at a time.", 1)
    flags.DEFINE_float("max_mib", 20.0, "MiB of an upload.", 0.0)
    flags.DEFINE_float("max_megapixels", 50.0, "Of a picture, 3 MB each.", 0.0)
    flags.DEFINE_float("upload_seconds", 10.0, "Time for an upload.", 0.1)
    flags.DEFINE_float("wait_seconds", 60.0, "Time to wait for the device.", 0.1)
    cli.run(main)
