"""Every picture of a split opened as training opens it: the slow part of the check.

OpenCV decodes a JPEG with damaged data without an error, but the library inside it
writes a line to the standard error of the process once the bits make no sense any more.
That line is looked for here: it told of 61 of 200 pictures with one flipped bit, where
Pillow refused 2. The rest decode to a slightly other picture, which nobody can tell.
"""

import contextlib
import hashlib
import io
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import cv2
from PIL import Image

from frcnn_jax import config
from frcnn_jax.data import headers, transforms
from frcnn_jax.data.findings import FAULTS, Findings
from frcnn_jax.data.records import Record

TOGETHER = 64  # pictures decoded before the standard error is looked at
DAMAGED = "Corrupt JPEG data"
KINDS = {  # Pillow's modes that are not plain RGB
    "1": "1 bit",
    "L": "grey",
    "LA": "grey with alpha",
    "P": "palette",
    "PA": "palette with alpha",
    "RGBA": "alpha",
    "CMYK": "CMYK",
    "I": "grey of 16 or more bits",
}


class Look(NamedTuple):
    """What one picture file is."""

    digest: bytes  # of the file's contents; empty when it was not read
    size: tuple[int, int] | None  # (width, height) as it would be trained on
    faults: tuple[tuple[str, str], ...] = ()  # keys of FAULTS with a detail

    @property
    def usable(self) -> bool:
        """Whether training could read it."""
        return all(FAULTS[fault].policy != "error" for fault, _ in self.faults)


def examine(records: Sequence[Record], data: config.Data) -> Iterator[Look]:
    """Decode every picture in threads and say what it is, in the order of the records.

    The standard error of the process is caught meanwhile.
    """
    cv2.setNumThreads(1)  # each of our threads takes a picture
    threads = min(data.threads, os.cpu_count() or 1)

    def look(record: Record) -> Look:
        return _decoded(record, data.max_image_pixels)

    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(records), TOGETHER):
            part = records[start : start + TOGETHER]
            with standard_error() as said:
                looks = list(pool.map(look, part))
            if DAMAGED in "".join(said):  # one of them: ask each alone
                looks = [_alone(look, record) for record in part]
            yield from looks


def examine_headers(records: Sequence[Record]) -> Iterator[Look]:
    """Compare sizes by the headers only; nothing is decoded or hashed."""
    for record in records:
        size = headers.size(record.path)
        stated = (record.width, record.height)
        if size is None:
            yield Look(b"", None, (("unreadable-image", headers.NO_SIZE),))
        elif size == stated or size[::-1] == stated:  # turned: only decoding can tell
            yield Look(b"", size)
        else:
            yield Look(b"", size, (("other-size", _sizes(size, stated)),))


def note(records: Sequence[Record], looks: Sequence[Look], findings: Findings) -> None:
    """Add the faults of the pictures, and pictures that repeat another."""
    first: dict[bytes, Record] = {}
    known = {(place.fault, place.image) for place in findings.of("unreadable-image")}
    for record, look in zip(records, looks, strict=True):
        for fault, detail in look.faults:
            if (fault, record.source_id) in known:
                continue  # its header told the reader already
            findings.add(fault, record.path, image=record.source_id, detail=detail)
        if look.digest:
            other = first.setdefault(look.digest, record)
            if other is not record:
                findings.add(
                    *("same-image", record.path),
                    image=record.source_id,
                    detail=f"the same as {other.path}",
                )


def _decoded(record: Record, max_pixels: int) -> Look:
    try:
        encoded = record.path.read_bytes()
    except OSError as error:
        told = f"cannot be read ({error.strerror})"
        return Look(b"", None, (("unreadable-image", told),))
    digest = hashlib.blake2b(encoded, digest_size=16).digest()
    try:
        pixels = transforms.read_pixels(record, max_pixels)
    except transforms.BadImage as error:
        detail = str(error).removeprefix(f"{record.path}: ")
        return Look(digest, None, ((error.fault, detail),))
    faults = _kind(encoded)
    h, w = pixels.image.shape[:2]
    if pixels.note == transforms.UNTURNED:
        faults.append(("unturned", f"stored as {w}x{h}"))
    elif pixels.note:
        faults.append(("other-size", _sizes((w, h), (record.width, record.height))))
    return Look(digest, (w, h), tuple(faults))


def _sizes(size: tuple[int, int], stated: tuple[int, int]) -> str:
    return f"the file is {size[0]}x{size[1]}, stated is {stated[0]}x{stated[1]}"


def _kind(encoded: bytes) -> list[tuple[str, str]]:
    """Find what is converted or left out on the way to 8-bit RGB."""
    faults = []
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            kind = KINDS.get(image.mode, "" if image.mode == "RGB" else image.mode)
            if encoded.startswith(b"\x89PNG") and encoded[24] == 16:
                kind = "16 bits"
            if kind:
                faults.append(("converted", kind))
            if (frames := getattr(image, "n_frames", 1)) > 1:
                faults.append(("frames", f"{frames} of them"))
            if image.has_transparency_data and _hidden(image):
                faults.append(("see-through", kind or "a transparent colour"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        pass  # OpenCV read it, so it is an image that Pillow does not know
    return faults


def _hidden(image: Image.Image) -> bool:
    least: Any = image.convert("RGBA").getchannel("A").getextrema()[0]
    return least < 255


def _alone(look, record: Record) -> Look:
    with standard_error() as said:
        found = look(record)
    lines = [line for line in "".join(said).splitlines() if line.startswith(DAMAGED)]
    if not lines:
        return found
    return found._replace(faults=(*found.faults, ("damaged-image", lines[0])))


@contextlib.contextmanager
def standard_error() -> Iterator[list[str]]:
    """Collect what libraries write to file descriptor 2; complete after the block."""
    said: list[str] = []
    with tempfile.TemporaryFile() as file:
        sys.stderr.flush()
        before = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            yield said
        finally:
            os.dup2(before, 2)
            os.close(before)
            file.seek(0)
            said.append(file.read().decode(errors="replace"))
