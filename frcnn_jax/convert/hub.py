"""Weights in a repository of the Hugging Face hub: `hf:OWNER/NAME`.

In full `hf:OWNER/NAME/FILE@REVISION`; without them the file is model.safetensors and
the revision main. The hub is asked once a process which commit that is and what sha256
the file has; the file itself is fetched and kept like published weights (`download`),
named by its hash, so that a newer one is another file. Where the hub cannot be reached
the last answer counts, and that is said.

Environment, as the hub's own tools have it: HF_ENDPOINT, another hub; HF_TOKEN (else
what `hf auth login` kept), sent to the hub alone; HF_HUB_OFFLINE=1 is as
FRCNN_OFFLINE=1.
"""

import http.client
import json
import os
import re
import urllib.error
import urllib.request
from email.message import Message
from functools import cache
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, urljoin, urlsplit

from frcnn_jax.convert import download
from frcnn_jax.convert.download import DownloadError, Hosted

ENDPOINT = "https://huggingface.co"
FILE = "model.safetensors"
REVISION = "main"
OFFLINE = "offline"  # why nothing was asked
_PART = r"[\w][\w.-]*"
_NAME = re.compile(rf"hf:({_PART}/{_PART})(?:/({_PART}(?:/{_PART})*))?(?:@(\S+))?")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class Place(NamedTuple):
    """What a name says."""

    repository: str  # OWNER/NAME
    file: str
    revision: str  # branch, tag or commit


def is_name(text: str | Path) -> bool:
    """Whether this is for the hub."""
    return str(text).startswith("hf:")


def parse(name: str) -> Place:
    """What a name says, with defaults. Errors: ValueError."""
    found = _NAME.fullmatch(name)
    if not found:
        raise ValueError(
            f"{name}: a name of the hub is hf:OWNER/NAME, hf:OWNER/NAME@REVISION or"
            " hf:OWNER/NAME/FILE@REVISION"
        )
    repository, file, revision = found.groups()
    return Place(repository, file or FILE, revision or REVISION)


@cache
def find(name: str) -> Hosted:
    """The file that a name means now; without the hub, what it meant last.

    Errors: ValueError for a name that is none; DownloadError for what the hub does not
    have or show, or if it cannot be reached and never told.
    """
    place = parse(name)
    note = _note(place)
    if download.offline():
        return _remembered(name, note, OFFLINE)
    try:
        found = _asked(name, place)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code >= 500:
            return _remembered(name, note, download.reason(error))
        raise DownloadError(f"{name}: {_refused(error.code, place)}") from error
    except (OSError, http.client.HTTPException) as error:
        if isinstance(error, DownloadError):
            raise
        return _remembered(name, note, download.reason(error))
    _remember(note, found)
    return found


def endpoint() -> str:
    """The hub's address."""
    return (os.environ.get("HF_ENDPOINT") or ENDPOINT).rstrip("/")


def _address(place: Place, revision: str) -> str:
    file = quote(place.file)
    return f"{endpoint()}/{place.repository}/resolve/{quote(revision, safe='')}/{file}"


def _asked(name: str, place: Place) -> Hosted:
    headers = _head(_address(place, place.revision))
    commit = headers.get("X-Repo-Commit", "")
    digest = (headers.get("X-Linked-ETag") or headers.get("ETag", "")).strip('W/"')
    if not commit or not _SHA256.fullmatch(digest):
        raise DownloadError(
            f"{name}: the hub tells no sha256 of {place.file}, as it does for every"
            " .safetensors file: fetch it yourself and name the file"
        )
    stem, suffix = os.path.splitext(place.file.replace("/", "--"))
    kept = f"hf/{place.repository}/{stem}-{digest[:16]}{suffix}"
    return Hosted(name, _address(place, commit), kept, digest, _secret())


def _head(address: str) -> Message:
    """Headers of the hub's own answer; redirects inside the hub are followed."""
    opener = urllib.request.build_opener(_Stay)
    for _ in range(5):
        request = urllib.request.Request(
            address, method="HEAD", headers={"User-Agent": "frcnn_jax", **_secret()}
        )
        try:
            with opener.open(request, timeout=download.TIMEOUT) as response:
                return response.headers
        except urllib.error.HTTPError as error:
            if error.code not in (301, 302, 303, 307, 308):
                raise
            error.close()
            target = urljoin(address, error.headers.get("Location", ""))
            renamed = urlsplit(target)[:2] == urlsplit(address)[:2]
            if "X-Linked-ETag" in error.headers or not renamed:
                return error.headers
            address = target
    raise DownloadError(f"{address}: the hub redirects in a circle")


class _Stay(urllib.request.HTTPRedirectHandler):
    """Follows nothing, so that the headers are the hub's and not its storage's."""

    def redirect_request(self, *_):
        return None


def token() -> str | None:
    """The user's secret: HF_TOKEN, else what `hf auth login` has kept."""
    given = os.environ.get("HF_TOKEN", "").strip()
    home = os.environ.get("HF_HOME") or "~/.cache/huggingface"
    kept = Path(os.environ.get("HF_TOKEN_PATH") or f"{home}/token").expanduser()
    if not given and kept.is_file():
        given = kept.read_text().strip()
    return given or None


def _secret() -> dict[str, str]:
    given = token()
    return {"Authorization": f"Bearer {given}"} if given else {}


def _refused(code: int, place: Place) -> str:
    where = f"{place.repository} at {place.revision}"
    if code in (401, 403):
        held = "your token has no right to it" if token() else "set HF_TOKEN"
        return f"HTTP {code}: no {where}, or it is private or gated; {held}"
    if code == 404:
        return f"HTTP 404: there is no {place.file} in {where} of {endpoint()}"
    return f"HTTP {code} of {endpoint()} for {where}"


def _note(place: Place) -> Path:
    """Where the hub's last answer for a name is kept."""
    words = f"{place.file}@{place.revision}".replace("/", "--")
    return download.folder() / "hf" / place.repository / f"{words}.json"


def _remember(note: Path, found: Hosted) -> None:
    """Kept for the day without network; not worth an error where it cannot be."""
    new = note.with_suffix(f".{os.getpid()}.tmp")
    told = {"address": found.address, "file": found.file, "digest": found.digest}
    try:
        note.parent.mkdir(parents=True, exist_ok=True)
        new.write_text(json.dumps(told))
        new.replace(note)
    except OSError:
        pass


def _remembered(name: str, note: Path, why: str) -> Hosted:
    try:
        told = json.loads(note.read_text())
        found = Hosted(name, **told, secret=_secret())
    except (OSError, ValueError, KeyError, TypeError) as error:
        cause = f"{endpoint()}: {why}"
        if why == OFFLINE:
            cause = "FRCNN_OFFLINE or HF_HUB_OFFLINE is set"
        raise DownloadError(
            f"{name}: {cause}, and the cache has no such weights from before"
        ) from error
    if why != OFFLINE:
        download.say(f"{name}: {endpoint()}: {why}; taking what it was the last time")
    return found
