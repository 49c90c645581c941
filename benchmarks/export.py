"""Size, cold start and speed of a detector in each form that it can be taken along in.

    python benchmarks/export.py --size=800x1216 --repeats=5

Forms: "predict" is this project itself, "stablehlo" and "onnx" are the folders of
`tools/export.py` under their one-file loader. Each runs in processes of its own that
start from nothing: `cold_s` is from the start of the process to the first detections,
`cached_s` the same when JAX's compilation cache has the program (ONNX has no cache).
Weights and pictures as in `inference.py`. Needs `pip install flatbuffers onnx
onnxruntime`.
"""

import importlib.metadata
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs uninstalled too

import numpy as np  # noqa: E402

from benchmarks import record, timing, workload  # noqa: E402
from frcnn_jax.detectors import faster_rcnn  # noqa: E402
from frcnn_jax.export import onnx_file, stablehlo  # noqa: E402

FORMS = ("predict", "stablehlo", "onnx")
ABOUT = {"class_names": [], "short_side": 800, "max_side": 1333, "size_rule": "round"}
# What each process runs after its form has made `call` of three arrays.
TIMED = """
inputs = np.load("image.npy"), np.float32([HW]), np.ones((1, 2), np.float32)
labels = call(*inputs)[2]
first, ms = time.time() - START, []
for _ in range(REPEATS):
    start = time.perf_counter()
    call(*inputs)
    ms.append((time.perf_counter() - start) * 1e3)
print(json.dumps({"first_s": first, "ms": ms, "detections": int((labels > 0).sum())}))
"""
LOADED = """
import json, time
import numpy as np
from detect import Detector
call = Detector(".").run
"""
PREDICT = """
import json, sys, time
sys.path.insert(0, ROOT)
import jax, numpy as np
from benchmarks import workload
from frcnn_jax.detectors import faster_rcnn
from frcnn_jax.export import stablehlo
from frcnn_jax.training import devices
asked = workload.parser("-.", batch=1).parse_args(ARGUMENTS)
predict = stablehlo.calls(faster_rcnn.make(workload.load(asked).model).predict)
with np.load("weights.npz") as arrays:
    weights = jax.device_put(dict(arrays.items()))
options = devices.compiler_options(jax.default_backend())
program = jax.jit(predict, compiler_options=options)
call = lambda *arrays: [np.asarray(x) for x in program(weights, *arrays)]
"""


def main() -> None:
    parser = workload.parser(__doc__, batch=1)
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS))
    asked = parser.parse_args()
    run = workload.load(asked)
    rng, classes = np.random.default_rng(asked.seed), run.model.num_classes
    image = workload.arrays(rng, batch=1, hw=asked.size, classes=classes)["images"]
    variables = workload.variables(run.model, asked.size, asked.seed)
    what = faster_rcnn.make(run.model).predict, variables, [asked.size], ABOUT
    forms = {}
    with tempfile.TemporaryDirectory(prefix="export_") as place:
        onnx, jax_too = Path(place, "onnx"), Path(place, "stablehlo")
        if "onnx" in asked.forms:
            onnx_file.write(onnx, *what)
            forms["onnx"] = measured(LOADED, onnx, image, asked, cache=False)
        if len({*asked.forms} - {"onnx"}):
            stablehlo.write(jax_too, *what, ["cpu"])
        for name in {*asked.forms} - {"onnx"}:
            code = PREDICT if name == "predict" else LOADED
            forms[name] = measured(code, jax_too, image, asked, cache=True)
    forms = {name: forms[name] for name in FORMS if name in forms}
    figures = {
        **workload.settings(asked),
        "forms": forms,
        "onnxruntime": importlib.metadata.version("onnxruntime"),
        "device": timing.device(),
    }
    record.emit("export", figures, asked.save)


def measured(code: str, folder: Path, image, asked, *, cache: bool) -> dict:
    """Figures of one form; the timed calls are those of its last process."""
    size = sum(f.stat().st_size for f in folder.iterdir() if f.name != "image.npy")
    np.save(folder / "image.npy", image)
    with tempfile.TemporaryDirectory(prefix="compilation_cache_") as place:
        lines = [started(code, folder, asked, place) for _ in range(1 + cache)]
    ms = lines[-1]["ms"]
    return {
        "mb": None if code == PREDICT else round(size / 1e6, 1),
        "cold_s": round(lines[0]["first_s"], 2),
        "cached_s": round(lines[1]["first_s"], 2) if cache else None,
        "median_ms": round(statistics.median(ms), 1),
        "min_ms": round(min(ms), 1),
        "max_ms": round(max(ms), 1),
        "detections": lines[-1]["detections"],
    }


def started(code: str, folder: Path, asked, cache: str) -> dict:
    """The line of one process, which begins now."""
    path = asked.config if asked.config.is_file() else record.ROOT / asked.config
    arguments = [f"--config={path.resolve()}"]
    arguments += [f"--dtype={asked.dtype}", f"--precision={asked.precision}"]
    for name in workload.SIZES:
        if value := getattr(asked, name):
            arguments.append(f"--{name.replace('_', '-')}={value}")
    environment = {
        "JAX_COMPILATION_CACHE_DIR": cache,
        "JAX_ENABLE_COMPILATION_CACHE": "true",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    names = {"HW": asked.size, "REPEATS": asked.repeats, "ARGUMENTS": arguments}
    names |= {"ROOT": str(record.ROOT), "START": time.time()}
    given = "".join(f"{name} = {value!r}\n" for name, value in names.items())
    inside = f"import os\nos.chdir({str(folder)!r})\nimport sys\nsys.path[0] = ''\n"
    command = [sys.executable, "-c", inside + given + code + TIMED]
    return record.from_process(command, environment)


if __name__ == "__main__":
    main()
