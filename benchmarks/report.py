"""Seconds and memory of a report, and how busy `predict.py` keeps the device.

    python benchmarks/report.py --save
    python benchmarks/report.py --images=500 --classes=20 --pictures=0

The report: COCO's numbers of images and classes with 100 detections an image, drawn by
chance near and far from objects, all images being one drawn picture under many names.
`metrics_s` is the COCO metric, `report_s` what `eval.py --report` adds: analysis, page
and charts; `peak_rss_mb` is of that, detections included and the metric not. The
prediction: `predict.py` with `--config` on so many drawn pictures; `waiting_percent` is
what its last line says of the time that it waited for pictures. Weights of one step.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from multiprocessing import get_context
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs uninstalled too

import numpy as np  # noqa: E402

from benchmarks import record  # noqa: E402
from frcnn_jax import cli  # noqa: E402
from frcnn_jax.data import shapes, sources  # noqa: E402
from frcnn_jax.data.transforms import decode  # noqa: E402
from frcnn_jax.evaluation import score  # noqa: E402
from frcnn_jax.report import material  # noqa: E402
from frcnn_jax.report.write import write  # noqa: E402

HW = (480, 640)
OBJECTS = 7.4  # of an image, about as in COCO's val2017
DETECTIONS = 100
SAID = re.compile(r"([\d.]+) img/s, (\d+)% of the time waiting")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--classes", type=int, default=80)
    parser.add_argument("--pictures", type=int, default=200, help="to predict; 0: none")
    parser.add_argument("--config", default="configs/demo.py", help="of prediction")
    record.add_save(parser)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="report_") as place:
        # First, and in processes of its own: its memory is no report's.
        predicted = prediction(asked, Path(place)) if asked.pictures else None
        figures = reported(asked, Path(place))
    record.emit("report", {**figures, "prediction": predicted}, asked.save)


def reported(asked: argparse.Namespace, place: Path) -> dict:
    """Figures of the metric and the report."""
    rng, folder = np.random.default_rng(0), place / "coco"
    content = truth(rng, asked.images, asked.classes, folder)
    run = cli.run_of("configs/demo.py")
    run.data.root = str(folder)
    data = sources.load(run.data, "val", training=False)
    results = detections(rng, content, asked.classes)
    # In another process, whose memory is not the report's.
    start, file = time.perf_counter(), place / "eval.json"
    work = run.eval, data.annotations, results, DETECTIONS
    one = get_context("fork").Process(
        target=lambda: score.save(score.evaluate(*work), file)
    )
    one.start()
    one.join()
    metrics, seconds = json.loads(file.read_text()), time.perf_counter() - start
    start = time.perf_counter()
    told = material.of_run("val", run, material.base(None), [data], None)
    told = material.scored(told, {"step": None, **metrics}, results)
    write(told, place / "report")
    page = (place / "report" / "report.html").stat().st_size
    return {
        "images": asked.images,
        "classes": asked.classes,
        "detections": len(results),
        "metrics_s": round(seconds, 2),
        "report_s": round(time.perf_counter() - start, 2),
        "page_mb": round(page / 1e6, 2),
        "peak_rss_mb": record.peak_rss_mb(),
    }


def truth(rng: np.random.Generator, images: int, classes: int, folder: Path) -> dict:
    """A COCO folder whose pictures are one file; returns its annotations."""
    kept = Path(folder, "images")
    shapes.write_shapes(folder, train_images=1, val_images=1, seed=0, size=HW)
    drawn = kept / "val_0000.jpg"
    width, height = (int(side) for side in reversed(decode(drawn).shape[:2]))
    counts = rng.poisson(OBJECTS, images)
    of = np.repeat(np.arange(images), counts)
    boxes = some_boxes(rng, len(of), height, width)
    kinds = rng.integers(1, classes + 1, len(of))
    entries = []
    for number in range(images):
        name = f"{number:012d}.jpg"
        (kept / name).symlink_to(drawn.name)
        sides = {"height": height, "width": width}
        entries.append({"id": number, "file_name": name, **sides})
    rows = zip(of.tolist(), boxes.tolist(), kinds.tolist(), strict=True)
    content = {
        "images": entries,
        "annotations": [
            {
                **{"id": i, "image_id": image, "category_id": kind, "bbox": box},
                **{"area": box[2] * box[3], "iscrowd": 0},
            }
            for i, (image, box, kind) in enumerate(rows, start=1)
        ],
        "categories": [{"id": i + 1, "name": f"class {i + 1}"} for i in range(classes)],
    }
    (folder / "annotations" / "val.json").write_text(json.dumps(content))
    return content


def some_boxes(rng, count: int, height: int, width: int) -> np.ndarray:
    """Boxes [N, 4] as x, y, width, height inside the picture."""
    sides = rng.uniform(10, 200, (count, 2))
    corners = rng.uniform(0, 1, (count, 2)) * ((width, height) - sides)
    return np.concatenate([corners, sides], 1).round(2)


def detections(rng, content: dict, classes: int) -> list[dict]:
    """Results: each object found three times, more or less; the others by chance."""
    found, size = [], content["images"][0]
    objects: dict[int, list[dict]] = {}
    for row in content["annotations"]:
        objects.setdefault(row["image_id"], []).append(row)
    for image in content["images"]:
        own = (objects.get(image["id"], []) * 3)[:DETECTIONS]
        near = np.array([o["bbox"] for o in own]).reshape(-1, 4)
        near = near + rng.normal(0, 5, near.shape)
        far = some_boxes(rng, DETECTIONS - len(own), size["height"], size["width"])
        boxes = np.maximum(np.concatenate([near, far]), 1).round(2)
        kinds = rng.integers(1, classes + 1, DETECTIONS)
        kinds[: len(own)] = [o["category_id"] for o in own]
        scores = rng.beta(0.5, 3, DETECTIONS)
        scores[: len(own)] = rng.beta(3, 2, len(own))
        rows = zip(
            boxes.tolist(), kinds.tolist(), scores.round(4).tolist(), strict=True
        )
        found += [
            {"image_id": image["id"], "category_id": kind, "bbox": box, "score": value}
            for box, kind, value in rows
        ]
    return found


def prediction(asked: argparse.Namespace, place: Path) -> dict:
    """What `predict.py` says of itself, on pictures of some size."""
    data, run = place / "shapes", place / "run"
    shapes.write_shapes(
        data, train_images=8, val_images=asked.pictures, seed=0, size=HW
    )
    few = place / "few"
    shapes.write_shapes(few, train_images=8, val_images=1, seed=0)
    train = ["train.py", f"--config={asked.config}", f"--workdir={run}"]
    train += [f"--config.data.root={few}", "--config.train.steps=1"]
    script(*train)
    words = [f"--workdir={run}", f"--out={place / 'found'}", "--save=pictures,coco,csv"]
    said = script("predict.py", *words, f"{data / 'images' / 'val_*.jpg'}")
    speed, waiting = SAID.search(said).groups()
    return {
        "config": Path(asked.config).stem,
        "pictures": asked.pictures,
        "images_per_s": float(speed),
        "waiting_percent": int(waiting),
    }


def script(*words: str) -> str:
    """What a script of this project prints."""
    done = subprocess.run(
        [sys.executable, *words],
        cwd=record.ROOT,
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    return done.stdout


if __name__ == "__main__":
    main()
