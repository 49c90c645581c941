"""Where the scripts and configurations lie: in the checkout, or as installed."""

from importlib import metadata
from pathlib import Path


def folder() -> Path:
    """Return the folder of train.py and configs/.

    Beside the package in a checkout; of an installed wheel, where it put them.
    """
    beside = Path(__file__).resolve().parents[1]
    if (beside / "train.py").is_file():
        return beside
    for file in metadata.files("frcnn_jax") or ():
        if file.parts[-2:] == ("frcnn_jax", "train.py"):
            return Path(file.locate()).resolve().parent
    return beside


def command(script: str) -> str:
    """Return how to start a script from here: by its file, or by the verb it has."""
    verb = Path(script).stem
    return f"python {script}" if Path(script).is_file() else f"frcnn {verb}"
