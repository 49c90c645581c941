"""What is odd about a data set: each kind of fault, what is done about it, and where.

Every fault has one word of policy: "error" stops before the first step, "warn" is
counted and left as it is, "fix" is repaired in memory (or left out) and counted.
Readers add what they find and go on; `raise_errors` stops for all errors at once, and
the data check shows every finding instead.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

NAMED = 20  # places listed in one message
KEPT = 1000  # places kept of one fault; more are only counted


class Fault(NamedTuple):
    """A kind of oddity."""

    policy: str  # "error", "warn" or "fix"
    text: str  # what they are, in the plural
    remedy: str = ""  # what the user can do


class Finding(NamedTuple):
    """One oddity, and where it is."""

    fault: str  # key of FAULTS
    where: str  # the file
    image: Any = None  # id of the image
    annotation: Any = None  # id of the annotation
    detail: str = ""  # what is there, in a few words

    def text(self, source: str = "", names: Mapping[Any, str] | None = None) -> str:
        """Say where and what in one line.

        The file is left out where it is `source`; `names` are file names by image id.
        """
        names, known = names or {}, isinstance(self.image, int | str)
        name = names.get(self.image) if known else None
        if name and str(self.image).endswith(name):
            name = None  # the id says it
        parts = [] if self.where == source else [self.where]
        if self.image is not None:
            parts.append(f"image {self.image!r}" + (f" ({name})" if name else ""))
        if self.annotation is not None:
            parts.append(f"annotation {self.annotation!r}")
        place = ", ".join(parts)
        return ": ".join(part for part in (place, self.detail) if part) or self.where


FAULTS = {
    # Images and their files
    "image-entry": Fault(
        "error",
        "images without a usable id, file name or size",
        "give each an id (a whole number or a text), a file_name, and its width and"
        " height in pixels",
    ),
    "image-id": Fault(
        "error",
        "image ids used more than once",
        "give each image its own id and correct the image_id of their annotations",
    ),
    "image-path": Fault(
        "error",
        "file names that leave the folder of the data",
        "write them relative to the image folder, or set data.allow_outside_root to"
        " read them from where they are",
    ),
    "missing-image": Fault(
        "error",
        "image files missing",
        'add them, or set data.on_bad_image to "skip" to go on without them',
    ),
    "unreadable-image": Fault(
        "error",
        "image files that cannot be read",
        'repair or replace them, or set data.on_bad_image to "skip" to go on without'
        " them",
    ),
    "damaged-image": Fault(
        "error",
        "JPEG files with damaged data inside: part of the picture is wrong",
        "copy them again or replace them; training would not notice",
    ),
    "too-many-pixels": Fault(
        "error",
        "pictures of more pixels than data.max_image_pixels",
        "make them smaller, or raise that number if they are meant",
    ),
    "size-and-boxes": Fault(
        "error",
        "pictures of another size than stated, which their boxes leave",
        "correct width and height, or the file",
    ),
    "other-size": Fault(
        "warn", "pictures of another size than stated, used as they are"
    ),
    "unturned": Fault(
        "warn",
        "pictures used without their EXIF rotation, because the stated size is that of"
        " the stored pixels",
    ),
    "frames": Fault(
        "warn", "files of several pages or frames, of which the first is used"
    ),
    "see-through": Fault(
        "warn", "pictures with transparent parts, used with the colours hidden there"
    ),
    "converted": Fault("fix", "pictures converted to RGB of 8 bits"),
    "same-image": Fault(
        "warn", "images with the same file contents as another of the split"
    ),
    "leak": Fault(
        "warn",
        "images of other splits that training has seen (the same file contents)",
        "keep them in one split, or the scores will flatter",
    ),
    "missing-annotation": Fault(
        "error",
        "annotation files missing",
        "add them, or take their images from the list of the split",
    ),
    "no-annotation": Fault(
        "warn",
        "pictures without an annotation file, left out",
        "write an XML file without objects for pictures that show none",
    ),
    "broken-annotation": Fault(
        "error", "annotation files that cannot be read", "repair or remove them"
    ),
    "no-label-file": Fault(
        "warn", "images without a label file, taken for images without objects"
    ),
    "label-line": Fault(
        "error",
        "lines of label files that are no boxes of known classes",
        "write `class cx cy width height`, a class of data.yaml and shares of sides",
    ),
    "background": Fault(
        "warn",
        "images without objects, background in training (data.keep_empty)",
    ),
    "empty-image": Fault("fix", "images without boxes dropped (data.keep_empty)"),
    "not-chosen": Fault("fix", "images not chosen (data.image_ids, data.fraction)"),
    # Categories
    "category": Fault(
        "error",
        "categories without a name, or with the id or name of another",
        "give each its own id and name",
    ),
    "class-names": Fault(
        "error",
        "splits with other classes than the one trained on",
        "make the names equal in both, or choose common ones with data.classes",
    ),
    "left-out": Fault("fix", "boxes of classes left out dropped (data.classes)"),
    # Annotations
    "bbox": Fault(
        "error",
        "boxes that are not four finite numbers",
        "write [x, y, width, height] in pixels",
    ),
    "unknown-image": Fault(
        "error",
        "annotations of images that are not listed",
        "correct their image_id, add the images, or remove them",
    ),
    "unknown-category": Fault(
        "error",
        "annotations of categories that are not listed",
        "correct their category_id, or add the categories",
    ),
    "negative-size": Fault(
        "error",
        "boxes of negative width or height",
        "write [x, y, width, height], x and y of the upper left corner",
    ),
    "corners": Fault(
        "error",
        "files whose boxes are probably stored as [x1, y1, x2, y2]",
        "write [x, y, width, height]",
    ),
    "relative": Fault(
        "error",
        "files whose boxes are probably relative to the image (all within 0..1)",
        "multiply x and width by the image's width, y and height by its height",
    ),
    "outside": Fault("fix", "boxes outside their image dropped"),
    "clipped": Fault("fix", "boxes clipped to their image"),
    "small": Fault("fix", "boxes dropped from training, too small (data.min_box_side)"),
    "ignored": Fault("fix", "boxes marked 'ignore' dropped from training"),
    "duplicate": Fault(
        "warn",
        "boxes that repeat another of the same class in the same image",
        "remove one of each pair",
    ),
    "near-duplicate": Fault(
        "warn",
        "boxes that cover another of the same class almost wholly (IoU above 0.8)",
        "look whether one object was marked twice",
    ),
    "tiny": Fault(
        "warn",
        "boxes with a side under 4 pixels, hardly to be learned",
        "mark them as crowds, or remove them if they are slips",
    ),
    "no-area": Fault("fix", "annotations without area, filled with width * height"),
    "no-crowd": Fault("fix", "annotations without iscrowd, filled with 0"),
    "annotation-id": Fault(
        "fix", "annotations renumbered from 1 (an id was 0, missing or used twice)"
    ),
}


class Findings:
    """The findings of one reading: all counted, the first of each fault kept."""

    def __init__(self, skip: tuple[str, ...] = ()):
        """Start with none; faults named in `skip` are left out instead of errors."""
        self.counts: dict[str, int] = {}
        self._kept: dict[str, list[Finding]] = {}
        self._skip = skip

    def add(self, fault: str, where: Any, **more: Any) -> None:
        """Note one finding; `more` are fields of `Finding`. KeyError: unknown fault."""
        self._count(fault, 1)
        if len(self._kept[fault]) < KEPT:
            self._kept[fault].append(Finding(fault, str(where), **more))

    def add_where(
        self, fault: str, hits: np.ndarray | np.bool, finding: Callable[[int], Finding]
    ) -> None:
        """Note a finding for each true one of `hits` [N]; `finding(row)` makes it."""
        rows = np.flatnonzero(hits)
        if len(rows):
            self._count(fault, len(rows))
            room = KEPT - len(self._kept[fault])
            self._kept[fault] += [finding(int(row)) for row in rows[:room]]

    def _count(self, fault: str, number: int) -> None:
        if fault not in FAULTS:
            raise KeyError(fault)
        self.counts[fault] = self.counts.get(fault, 0) + number
        self._kept.setdefault(fault, [])

    def of(self, fault: str) -> list[Finding]:
        """Return the findings kept of a fault."""
        return self._kept.get(fault, [])

    def policy(self, fault: str) -> str:
        """Return the word for this fault in this reading."""
        return "fix" if fault in self._skip else FAULTS[fault].policy

    def with_policy(self, *words: str) -> list[str]:
        """Return the faults found that have one of these policies."""
        return [fault for fault in self.counts if self.policy(fault) in words]

    def summary(self) -> dict[str, int]:
        """Return {text: number} of all that stops nothing, for `Dataset.skipped`."""
        chosen = self.with_policy("warn", "fix")
        return {FAULTS[fault].text: self.counts[fault] for fault in chosen}

    def raise_errors(self) -> None:
        """Raise ValueError naming all errors, each kind with its first places."""
        if wrong := self.with_policy("error"):
            raise ValueError("\n".join(self.report(wrong)))

    def report(self, faults: Iterable[str], named: int = NAMED) -> list[str]:
        """Return lines: each fault with its number, its remedy and its first places."""
        lines = []
        for fault in faults:
            kind, count, places = FAULTS[fault], self.counts[fault], self.of(fault)
            remedy = f" ({kind.remedy})" if kind.remedy else ""
            lines.append(f"{kind.text}: {count}{remedy}")
            lines += [f"  {place.text()}" for place in places[:named]]
            if count > named:
                lines.append(f"  ... and {count - named} more")
        return lines
