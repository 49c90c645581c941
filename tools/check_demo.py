"""Fail unless the demo's scores reach the floor that a working detector clears.

Reads the `eval.json` that `eval.py` writes and compares two of its numbers, each
between 0 and 1. It does not train or score: run `make demo` first.
"""

import json
from pathlib import Path

from absl import app, flags

FILE = flags.DEFINE_string("file", "runs/demo/eval.json", "scores written by eval.py")
MIN_AP = flags.DEFINE_float("min_ap", 0.60, "lowest AP over IoU 0.50 to 0.95")
MIN_AP50 = flags.DEFINE_float("min_ap50", 0.90, "lowest AP at IoU 0.50")


def check(scores: dict[str, float], floors: dict[str, float]) -> list[str]:
    """Return one sentence per score that is missing, not a number or below its floor.

    `scores` and `floors` map a metric's name, such as "AP50", to a value in 0..1.
    """
    faults = []
    for name, floor in floors.items():
        value = scores.get(name)
        if not isinstance(value, int | float):
            faults.append(f"{name} is {value!r}; the file has {sorted(scores)}")
        elif not value >= floor:  # "not >=" also refuses nan
            faults.append(f"{name} is {value:.3f}, below {floor:.3f}")
    return faults


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"unknown words {argv[1:]}: only flags are read")
    path = Path(FILE.value)
    if not path.is_file():
        raise SystemExit(f"{path} does not exist: run `make demo` first")
    floors = {"AP": MIN_AP.value, "AP50": MIN_AP50.value}
    scores = json.loads(path.read_text(encoding="utf-8"))
    faults = check(scores, floors)
    if faults:
        raise SystemExit(f"{path}: " + "; ".join(faults))
    print(
        f"{path}: " + ", ".join(f"{n} {scores[n]:.3f} >= {floors[n]}" for n in floors)
    )


if __name__ == "__main__":
    app.run(main)
