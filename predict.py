"""Finds objects: python predict.py --workdir=DIR PICTURE... --out=DIR.

A PICTURE is a file (also a video, where ffmpeg is installed), a folder, a quoted
pattern ('photos/**/*.jpg') or "-": a path on each line of standard input. Instead of a
workdir: --config=... --weights=FILE; without --config a file of convert.py, the name of
published weights, --weights=mmdet:r50_fpn_1x (`eval.py --weights=mmdet:` lists them),
or a repository of the Hugging Face hub, --weights=hf:OWNER/NAME. Writes what --save
names, see docs/predicting.md; by default drawn pictures and `predictions.json` in COCO
results format.
"""

import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from absl import flags

from frcnn_jax import cli, runs, terminal
from frcnn_jax.data import pictures, video, views
from frcnn_jax.data.transforms import BadImage
from frcnn_jax.prediction import outputs
from frcnn_jax.prediction.found import Found
from frcnn_jax.prediction.predictor import OVERLAP, SCORE, Predictor, Times, numbers
from frcnn_jax.training import devices

FLAGS = flags.FLAGS
cli.define_config(required=False)
cli.define_require()
flags.DEFINE_string("workdir", None, "Folder of a trained run.")
flags.DEFINE_string(
    "weights", None, "Weights file, with --config unless of convert.py; or a name."
)
flags.DEFINE_string("out", None, "Where to write; default: WORKDIR/predictions.")
flags.DEFINE_enum(
    "checkpoint", "latest", ["latest", "best"], "Of the workdir; best: by AP."
)
flags.DEFINE_float("score", SCORE, "Show detections from this score on.", 0.0, 1.0)
flags.DEFINE_list("classes", [], "Only these classes, as in --classes=person,dog.")
flags.DEFINE_bool("tta", False, "Also mirrored and at the short sides of training.")
flags.DEFINE_integer("tile", 0, "Also tiles of so many pixels, for large pictures.")
flags.DEFINE_float("overlap", OVERLAP, "Of tiles, as a share of their side.")
flags.DEFINE_integer("every", 1, "Of videos, look at one frame in so many.", 1)
flags.DEFINE_list("save", ["pictures", "coco"], "Of pictures, coco, yolo, csv.")


def main(argv: list[str]) -> None:
    kinds = outputs.checked(FLAGS.save)
    if not (FLAGS.out or FLAGS.workdir):
        raise ValueError("name the folder to write into with --out=DIR")
    out = Path(FLAGS.out or Path(FLAGS.workdir, "predictions"))
    paths = pictures.find(argv[1:], sys.stdin)
    if "pictures" in kinds:
        pictures.drawings(paths, out)  # refuses to draw over one of them
    with runs.writing(out, "--out"):
        if any(out.iterdir()):
            print(f"note: {out} holds files already; what has no new one stays there")
        predict(paths, out, kinds)


def predict(paths: list[Path], out: Path, kinds: tuple[str, ...]) -> None:
    """Loads the model, looks at everything and writes what was asked for."""
    devices.check(FLAGS.require)
    predictor = load()
    limit, skipped, times, count = predictor.run.data.max_image_pixels, 0, Times(), 0
    files = outputs.Outputs(
        *(out, kinds, paths, predictor.labels), score=FLAGS.score, max_pixels=limit
    )
    with files:
        for found, total in passes(predictor, paths, files):
            shown = terminal.track(found, "predicting", total, every=0)
            for place, told in shown:
                if isinstance(told, BadImage):
                    print(f"skipped: {told}", flush=True)
                    skipped += 1
                else:
                    print(f"{place}: {listed(told)}", flush=True)
                    count += 1
            times += predictor.times
            predictor.times = Times()  # a file that is no video makes no pass
        if skipped == len(paths):
            raise ValueError(f"none of {len(paths)} files could be read")
        written = files.said()
    if skipped:
        print(f"{skipped} of {len(paths)} files could not be read")
    print(written)
    print(summary(times, count, files.detections))


def load() -> Predictor:
    """The model that the flags mean, after all else that they say was checked."""
    run = runs.chosen(FLAGS.config, FLAGS.workdir, FLAGS.weights)
    run = cli.checked(cli.with_fields(run))
    looks = {"tta": FLAGS.tta, "tile": FLAGS.tile, "overlap": FLAGS.overlap}
    views.chosen(run.data, **looks)
    if known := runs.named_by(FLAGS.workdir, FLAGS.weights):
        numbers(FLAGS.classes, known.class_names, FLAGS.weights or FLAGS.workdir)
    model = runs.trained(run, FLAGS.workdir, FLAGS.weights, FLAGS.checkpoint)
    print(f"model: {model.source}", flush=True)
    # The files of results hold low scores too; the others are cut at --score.
    return Predictor(model, score=0.0, classes=FLAGS.classes, **looks)


Told = Iterable[tuple[str, Found | BadImage]]  # where, and what is shown of it


def passes(
    predictor: Predictor, paths: list[Path], files: outputs.Outputs
) -> Iterator[tuple[Told, int | None]]:
    """All pictures and then each video, with the number of what each will tell."""
    films = [row for row, path in enumerate(paths) if video.is_video(path)]
    if rows := sorted({*range(len(paths))} - {*films}):
        yield stills(predictor, paths, rows, files), len(rows)
    for row in films:
        try:
            film = video.probe(paths[row])
        except BadImage as error:
            yield [(str(paths[row]), error)], 1
            continue
        count = film.count and -(-film.count // FLAGS.every)
        yield frames(predictor, film, row, files), count


def stills(
    predictor: Predictor, paths: list[Path], rows: list[int], files: outputs.Outputs
) -> Told:
    """Looks at the pictures in some rows of `paths`."""
    images = [paths[row] for row in rows]
    for number, found in predictor.stream(images, predictor.batch_size(len(rows))):
        row, bad = rows[number], isinstance(found, BadImage)
        yield str(paths[row]), found if bad else files.add(row, found)


def frames(
    predictor: Predictor, film: video.Video, row: int, files: outputs.Outputs
) -> Told:
    """Looks at the video in a row of the paths, at one frame in every --every."""
    rate, of = film.rate / FLAGS.every, f"/{film.count}" if film.count else ""
    try:
        for frame, image, found in predictor.frames(film, FLAGS.every):
            shown = files.add_frame(row, frame, image, found, rate)
            yield f"{film.path} frame {frame}{of}", shown
        files.end_video()
    except BadImage as error:
        yield str(film.path), error


def listed(found: Found) -> str:
    """The classes of one picture, counted."""
    counts = Counter(dict.fromkeys(found.class_names, 0))
    counts.update(found.names.tolist())
    return (
        ", ".join(f"{n} {name}" for name, n in counts.items() if n) or "nothing found"
    )


def summary(times: Times, count: int, detections: int) -> str:
    """The last line: how much, how fast, and how long the device had no pictures."""
    seconds = max(times.total, 1e-9)
    return (
        f"{count} pictures, {detections} detections, {count / seconds:.1f} img/s,"
        f" {times.waiting / seconds:.0%} of the time waiting for pictures"
        f" (compiling, {times.compiling:.1f} s, not counted)"
    )


if __name__ == "__main__":
    cli.run(main)
