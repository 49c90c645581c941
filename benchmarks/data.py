"""Images per second of the input pipeline, and its memory over two epochs.

    python benchmarks/data.py --root=DIR --split=train [--peer-python=PYTHON]
    python benchmarks/data.py --records=118287 --epochs=2

The first form decodes, resizes, mirrors and batches the images of a COCO folder as
training does, at 800 pixels: `one_thread` with one thread and OpenCV alone, which is
the figure per core, and `threads` with all that `--threads` names. With `--peer-python`
a torch DataLoader with torchvision's transforms v2 reads the same files beside it, with
as many worker processes as there are threads. The second form reads small drawn images
that many times and reports memory along the way.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs uninstalled too

from benchmarks import record  # noqa: E402
from frcnn_jax import config  # noqa: E402
from frcnn_jax.data import loader, shapes, sources  # noqa: E402

PEER = """
import json, sys, time
import torch
from torchvision.io import decode_image
from torchvision.transforms import v2

files, side, longest, batch, workers, count = json.load(sys.stdin)
torch.set_num_threads(1)
change = v2.Compose([
    v2.Resize(side, max_size=longest, antialias=False),
    v2.RandomHorizontalFlip(0.5),
])

class Images(torch.utils.data.Dataset):
    def __len__(self):
        return count

    def __getitem__(self, row):
        return change(decode_image(files[row % len(files)], mode="RGB"))

def collate(images):
    h, w = (max(i.shape[axis] for i in images) for axis in (1, 2))
    canvas = torch.zeros(len(images), 3, -(-h // 32) * 32, -(-w // 32) * 32,
                         dtype=torch.uint8)
    for place, image in zip(canvas, images):
        place[:, : image.shape[1], : image.shape[2]] = image
    return canvas

batches = iter(torch.utils.data.DataLoader(
    Images(), batch, shuffle=False, num_workers=workers, collate_fn=collate))
next(batches)
start, seen = time.perf_counter(), 0
for images in batches:
    seen += len(images)
print(json.dumps(seen / (time.perf_counter() - start)))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", help="a folder that data.root may name")
    parser.add_argument("--split", default="train")
    parser.add_argument("--short-side", type=int, default=800)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--images", type=int, default=800, help="read in each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--reduced", action="store_true", help="data.exact_decode off")
    parser.add_argument("--peer-python", help="an interpreter that has torchvision")
    parser.add_argument("--records", type=int, help="of the memory test")
    parser.add_argument("--epochs", type=int, default=2, help="of the memory test")
    record.add_save(parser)
    asked = parser.parse_args()
    if (asked.root is None) == (asked.records is None):
        parser.error("name either --root or --records")
    figures = speed(asked) if asked.root else memory(asked)
    record.emit("data", figures, asked.save)


def speed(asked: argparse.Namespace) -> dict[str, object]:
    """Images per second, ours and the peer's in turn."""
    data = config.Data(root=asked.root, train=asked.split, val=asked.split)
    data.short_sides, data.max_side = (
        (asked.short_side,),
        round(asked.short_side * 5 / 3),
    )
    data.exact_decode = not asked.reduced
    found = sources.load(data, asked.split, training=True)
    rounds: dict[str, list[float]] = {}
    for _ in range(asked.rounds):
        for name, threads in (("one_thread", 1), ("threads", asked.threads)):
            rounds.setdefault(name, []).append(ours(found, data, asked, threads))
        if asked.peer_python:
            rounds.setdefault("peer", []).append(peer(found, data, asked))
    medians = {f"{k}_img_s": round(statistics.median(v), 1) for k, v in rounds.items()}
    shown = {k: [round(x, 1) for x in v] for k, v in rounds.items()}
    settings = ("split", "short_side", "batch", "threads", "images", "reduced")
    kept = {name: getattr(asked, name) for name in settings}
    sizes = {f"{r.width}x{r.height}" for r in found.records[:100]}
    return {
        "data": Path(asked.root).name,
        "sizes": sorted(sizes)[:3],
        **kept,
        **medians,
        "rounds": shown,
    }


def ours(found, data: config.Data, asked: argparse.Namespace, threads: int) -> float:
    """Images per second of training batches."""
    data.threads, data.prefetch = threads, threads
    batches = loader.train_batches(found, data, batch_size=asked.batch, seed=0)
    next(batches)
    start, steps = time.perf_counter(), max(1, asked.images // asked.batch)
    for _ in range(steps):
        next(batches)
    seconds = time.perf_counter() - start
    batches.close()
    return steps * asked.batch / seconds


def peer(found, data: config.Data, asked: argparse.Namespace) -> float:
    """Images per second of a torch DataLoader on the same files."""
    files = [str(r.path) for r in found.records]
    words = files, asked.short_side, data.max_side, asked.batch, asked.threads
    done = subprocess.run(
        [asked.peer_python, "-c", PEER],
        input=json.dumps([*words, asked.images + asked.batch]),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return float(done.stdout)


def memory(asked: argparse.Namespace) -> dict[str, object]:
    """Resident memory at ten points of each epoch of a long list of records."""
    with tempfile.TemporaryDirectory(prefix="data_") as folder:
        shapes.write_shapes(Path(folder), train_images=32, val_images=1, seed=0)
        data = config.Data(root=folder, short_sides=(32,), max_side=64)
        data.threads = data.prefetch = asked.threads
        found = sources.load(data, "train", training=True)
        many = (found.records * (asked.records // 32 + 1))[: asked.records]
        found = found.__class__(**{**vars(found), "records": many})
        batches = loader.train_batches(found, data, batch_size=asked.batch, seed=0)
        steps = asked.epochs * asked.records // asked.batch
        points, start, seen = (
            max(1, steps // (10 * asked.epochs)),
            time.perf_counter(),
            [],
        )
        for step in range(steps):
            if step % points == 0:
                seen.append(resident_mb())
            next(batches)
        seconds = time.perf_counter() - start
        seen.append(resident_mb())
        batches.close()
    return {
        "records": asked.records,
        "epochs": asked.epochs,
        "batch": asked.batch,
        "threads": asked.threads,
        "rss_mb": [round(x, 1) for x in seen],
        "img_s": round(steps * asked.batch / seconds, 1),
    }


def resident_mb() -> float:
    """Memory of this process now, in MiB; where that is not told, its peak."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return record.peak_rss_mb()
    return pages * resource.getpagesize() / 2**20


if __name__ == "__main__":
    main()
