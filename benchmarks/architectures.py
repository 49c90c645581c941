"""Size, work and speed of every architecture: one line of JSON for each.

    python benchmarks/architectures.py --save
    python benchmarks/architectures.py --configs r50_fpn_1x r101_fpn_1x --repeats=3

Runs `inference.py` for one configuration of each architecture, each in a process of its
own, so that peak memory is its own. `gflops` is XLA's count for one image of this size;
`published_gmacs` the figure that torchvision publishes (billions of multiply-adds,
weights' `_ops`), on its own image size, where it has one.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs uninstalled too

from benchmarks import record  # noqa: E402

HERE = Path(__file__).resolve().parent
CONFIGS = (
    "r50_fpn_1x",
    "r50_caffe_fpn_1x",
    "r50_caffe_c4_1x",
    "r50_caffe_dc5_1x",
    "r101_fpn_1x",
    "r101_caffe_fpn_1x",
    "x101_32x4d_fpn_1x",
    "x101_32x8d_fpn_ms_3x",
    "x101_64x4d_fpn_1x",
    "jwyang_vgg16_800",
    "jwyang_res101_600",
    "jwyang_res101_800",
    "torchvision_r50_fpn",
    "torchvision_r50_fpn_v2",
    "torchvision_mobilenet_fpn",
    "torchvision_mobilenet_320_fpn",
)
PUBLISHED_GMACS = {
    "torchvision_r50_fpn": 134.38,
    "torchvision_r50_fpn_v2": 280.371,
    "torchvision_mobilenet_fpn": 4.494,
    "torchvision_mobilenet_320_fpn": 0.719,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--configs", nargs="+", default=CONFIGS, metavar="NAME")
    parser.add_argument("--size", default="800x1216", metavar="HxW")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--repeats", type=int, default=5)
    record.add_save(parser)
    asked = parser.parse_args()
    for name in asked.configs:
        words = [f"--config=configs/{name}.py", f"--size={asked.size}"]
        words += [f"--batch={asked.batch}", f"--repeats={asked.repeats}"]
        command = [sys.executable, HERE / "inference.py", *words]
        found = record.from_process([*command, f"--dtype={asked.dtype}"])
        kept = {k: v for k, v in found.items() if k not in ("name", "date")}
        kept["published_gmacs"] = PUBLISHED_GMACS.get(name)
        record.emit("architectures", kept, asked.save)


if __name__ == "__main__":
    main()
