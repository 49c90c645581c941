"""Draw a small COCO-format data set of shapes, for demonstrations and smoke tests.

    python tools/make_shapes.py --out data/shapes --train 240 --val 60 --seed 0

The same seed gives the same files. A folder that already holds the set is left alone;
one that holds another set is an error. What is drawn: see `frcnn_jax/data/shapes.py`.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs uninstalled too

from frcnn_jax.data import shapes  # noqa: E402


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the set that the command line asks for; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", required=True, help="folder to write")
    parser.add_argument("--train", type=int, default=240, help="training images")
    parser.add_argument("--val", type=int, default=60, help="validation images")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args(arguments)
    try:
        done = shapes.write_shapes(
            asked.out, train_images=asked.train, val_images=asked.val, seed=asked.seed
        )
    except (ValueError, OSError) as error:
        print(f"make_shapes: {error}", file=sys.stderr)
        return 1
    found = ", ".join(
        f"{split} {done.images[split]} images with {done.objects[split]} objects"
        for split in shapes.SPLITS
    )
    print(
        f"{asked.out} {'now' if done.fresh else 'already'} holds {found}"
        f"{'' if done.fresh else '; nothing written'}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
