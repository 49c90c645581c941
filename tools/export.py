"""Exports a detector: python tools/export.py --workdir=DIR --out=FOLDER.

Instead of a workdir: --weights=FILE or a published name, with --config where the file
carries none. FOLDER then holds one program for each canvas size (uint8 picture in,
boxes, scores and labels out; for CPUs, NVIDIA GPUs and TPUs alike), the weights, a
model card and `detect.py`, which runs them with JAX and numpy alone. Every program is
read back and compared with the detector, bit for bit, before this says done. With
--format=onnx the programs are for onnxruntime and compared to within a tolerance, on
pictures of --images=FOLDER where given.
"""

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs uninstalled too

import jax  # noqa: E402
import numpy as np  # noqa: E402
from absl import flags  # noqa: E402
from PIL import Image  # noqa: E402

from frcnn_jax import __version__, build, cli, config, labels, runs  # noqa: E402
from frcnn_jax.data import views  # noqa: E402
from frcnn_jax.export import onnx_file, stablehlo  # noqa: E402
from frcnn_jax.porting import card  # noqa: E402

FLAGS = flags.FLAGS


def main(argv: list[str]) -> None:
    cli.refuse_extra(argv)
    run = runs.chosen(FLAGS.config, FLAGS.workdir, FLAGS.weights)
    run = cli.checked(cli.with_fields(run))
    with runs.writing(Path(FLAGS.out), "--out"):
        export(run, Path(FLAGS.out))


def export(run: config.Run, out: Path) -> None:
    """Writes the folder and says how its programs compare with the detector."""
    model = runs.trained(run, FLAGS.workdir, FLAGS.weights, FLAGS.checkpoint)
    named = model.labels or labels.guessed(run)
    canvases = views.canvases(run.data, views.chosen(run.data))
    about = settings(run, named, model.source)
    predict, start = build.detector(run.model).predict, time.perf_counter()
    what = predict, model.variables
    pictures = [noise(canvases)]
    if FLAGS.format == "onnx":
        pictures = photos() or pictures
        files = onnx_file.write(out, *what, canvases, about)
    else:
        files = stablehlo.write(out, *what, canvases, about, FLAGS.platforms)
    (out / "README.md").write_text(page(run, named, model))
    sizes = ", ".join(f"{f.name} {f.stat().st_size / 2**20:.1f} MiB" for f in files)
    print(f"{model.source}: {sizes} in {time.perf_counter() - start:.1f} s", flush=True)
    if FLAGS.format == "onnx":
        print(compared(onnx_file.check(out, *what, pictures)))
        print(f"{out}: for onnxruntime; see {out / 'README.md'}")
        return
    seen = stablehlo.check(out, *what, *pictures)
    print(
        f"read back and run on {jax.devices()[0].platform}: the same bits as the"
        f" detector in all of {seen} detections on noise\n{out}: for"
        f" {', '.join(FLAGS.platforms)}; see {out / 'README.md'}"
    )


def compared(told: dict[str, float]) -> str:
    """The line of `onnx_file.check`."""
    return (
        f"read back and run in onnxruntime: {told['detections'] - told['unmatched']} of"
        f" {told['detections']} detections on"
        f" {'pictures' if FLAGS.images else 'noise'} are the detector's, to"
        f" {told['pixels']:.1e} pixels and {told['score']:.1e} of score (allowed:"
        f" {onnx_file.PIXELS:g} and {onnx_file.SCORE:g})"
    )


def photos() -> list[np.ndarray]:
    """The pictures to compare on, at most eight of them."""
    if not FLAGS.images:
        return []
    kinds = (".jpg", ".jpeg", ".png")
    files = [f for f in sorted(Path(FLAGS.images).rglob("*")) if f.suffix in kinds]
    if not files:
        raise FileNotFoundError(f"--images={FLAGS.images} has no .jpg or .png")
    return [np.asarray(Image.open(file).convert("RGB")) for file in files[:8]]


def settings(run: config.Run, named: labels.Labels, source: str) -> dict[str, object]:
    """What goes into `about.json` beside canvases and platforms."""
    return {
        "source": source,
        "class_names": list(named.class_names),
        "category_ids": list(named.category_ids),
        "short_side": run.data.eval_short_side,
        "max_side": run.data.max_side,
        "size_rule": run.data.size_rule,
        "resize": run.data.resize,
        "versions": {"frcnn_jax": __version__, "jax": jax.__version__},
    }


def noise(canvases: tuple[tuple[int, int], ...]) -> np.ndarray:
    """A picture of smooth noise as large as the largest canvas."""
    height, width = np.max(canvases, axis=0)
    coarse = np.random.default_rng(0).integers(0, 256, (height // 16, width // 16, 3))
    return np.kron(coarse, np.ones((16, 16, 1))).astype(np.uint8)


def page(run: config.Run, named: labels.Labels, model: runs.Trained) -> str:
    """The model card: what it is, what it was trained on, how good, how to load."""
    onnx = FLAGS.format == "onnx"
    libraries = "onnxruntime numpy" if onnx else "jax flatbuffers numpy"
    facts = card.facts(run, named, model.source, FLAGS.workdir, FLAGS.data_license)
    return f"""# {card.title(run.model)}

{facts}
- programs: {"ONNX, float32" if onnx else "StableHLO"}
- code: Apache-2.0

In this folder:

    pip install {libraries} pillow

    import numpy as np
    from PIL import Image
    from detect import Detector

    detect = Detector(".")
    image = np.array(Image.open("photo.jpg").convert("RGB"))  # uint8 [h, w, 3]
    found = detect(image, score=0.5)
    found["boxes"], found["scores"], found["names"]

Elsewhere put this folder on Python's path and name it instead of ".".
"""


if __name__ == "__main__":
    cli.define_config(required=False)
    flags.DEFINE_string("workdir", None, "Folder of a trained run.")
    flags.DEFINE_string("weights", None, "Weights file or name.")
    flags.DEFINE_string("out", None, "Folder to write, new or empty.", required=True)
    flags.DEFINE_enum(
        "checkpoint", "latest", ["latest", "best"], "Of the workdir; best: by AP."
    )
    flags.DEFINE_enum("format", "stablehlo", ["stablehlo", "onnx"], "Of programs.")
    flags.DEFINE_string("images", None, "Folder of pictures to compare ONNX on.")
    flags.DEFINE_list("platforms", list(stablehlo.PLATFORMS), "What it is to run on.")
    flags.DEFINE_string("data_license", None, "Licence of the training data, as given.")
    cli.run(main)
