"""What a checkpoint tells of itself: format, parts, versions, and what a saver adds.

It stands in the metadata that Orbax keeps of each. Formats: 1 had no "counts", 2 had no
such metadata; both are read. A later one than this version knows is refused, and left
where it is.
"""

import json
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from frcnn_jax.version import __version__

FORMAT = 3
LATER_PARTS = ("counts", "ema")  # that a checkpoint of the same run may lack
FILE = "_CHECKPOINT_METADATA"  # Orbax's name for it


class TooNew(ValueError):
    """A checkpoint has a later format than this version knows."""


def versions() -> dict[str, str]:
    """Versions of this package and of those that a checkpoint depends on."""
    names = ("jax", "flax", "orbax-checkpoint")
    return {"frcnn_jax": __version__} | {name: metadata.version(name) for name in names}


def of(parts: Mapping[str, Any]) -> dict[str, Any]:
    """What a checkpoint of these parts tells of itself."""
    return {"format": FORMAT, "parts": sorted(parts), **versions()}


def read(folder: Path) -> dict[str, Any]:
    """What a checkpoint tells of itself. Errors: TooNew."""
    file = folder / FILE
    kept = json.loads(file.read_text()) if file.exists() else {}
    about = kept.get("custom_metadata") or {}
    if about.get("format", 0) > FORMAT:
        raise TooNew(
            f"the checkpoint {folder} has format {about['format']}, and this version"
            f" reads formats up to {FORMAT}: it was written by frcnn_jax"
            f" {about.get('frcnn_jax', 'unknown')}, here is {__version__}. Install that"
            " version, or choose another --workdir to begin again"
        )
    if "parts" not in about:  # formats 1 and 2
        about = {"parts": [part.name for part in folder.iterdir()]} | about
    return about


def unreadable(folder: Path) -> dict[int, str]:
    """Steps whose metadata Orbax cannot read, and why."""
    import orbax.checkpoint as ocp

    names, found = ocp.path.step.standard_name_format(), {}
    for step in sorted(int(x.name) for x in folder.iterdir() if x.name.isdigit()):
        try:
            _ = names.find_step(folder, step).commit_timestamp
        except ValueError as error:
            found[step] = f"step {step}: {str(error).partition(chr(10))[0]}"
    return found


def changed(about: Mapping[str, Any]) -> str:
    """A remark on versions that are others than those that wrote a checkpoint."""
    pairs = [(name, about.get(name, now), now) for name, now in versions().items()]
    found = [f"{name} {then}, here {now}" for name, then, now in pairs if then != now]
    return f" (written with {'; '.join(found)})" if found else ""
