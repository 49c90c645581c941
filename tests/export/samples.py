"""What both formats are tried on: settings, a picture, and a world without us."""

import subprocess
import sys

import cv2
import numpy as np

ABOUT = {
    "class_names": ["circle", "square", "triangle", "star", "ring"],
    "short_side": 64,
    "max_side": 96,
    "size_rule": "round",
    "resize": "cv2_u8",
}
ALONE = """
import sys
from importlib.abc import MetaPathFinder

class Missing(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in sys.argv[1].split():
            raise ModuleNotFoundError(f"{name} is missing on purpose", name=name)

sys.meta_path.insert(0, Missing())
import numpy as np
from detect import Detector
np.savez("found.npz", **Detector(".")(np.load("image.npy"), score=float(sys.argv[2])))
"""


def photo(rng, h, w):
    coarse = rng.integers(0, 256, (h // 8, w // 8, 3)).astype(np.uint8)
    return cv2.resize(coarse, (w, h), interpolation=cv2.INTER_LINEAR)


def found_without(packages, folder, image, score):
    """What an exported folder finds in a process that lacks these packages."""
    np.save(folder / "image.npy", image)
    words = [sys.executable, "-c", ALONE, packages, str(score)]
    subprocess.run(words, cwd=folder, check=True)
    with np.load(folder / "found.npz") as found:
        return dict(found)
