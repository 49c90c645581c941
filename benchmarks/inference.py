"""Times prediction: uint8 images in host memory to final boxes in host memory.

    python benchmarks/inference.py --size=800x1216 --batch=1 --repeats=10

The timed path is that of `eval.py` after decoding and resizing: transfer to the device,
`training.step.make_predict_step`, detections back as numpy. Weights are random but
give detections, see `workload.py`. The fields of the line: `README.md` beside this.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs uninstalled too

import numpy as np  # noqa: E402

from benchmarks import record, timing, workload  # noqa: E402
from frcnn_jax.detectors import faster_rcnn  # noqa: E402
from frcnn_jax.training import distributed, step  # noqa: E402
from frcnn_jax.types import Batch  # noqa: E402


def main() -> None:
    asked = workload.parser(__doc__, batch=1).parse_args()
    run = workload.load(asked)
    mesh = distributed.make_mesh(asked.devices)
    rng, classes = np.random.default_rng(asked.seed), run.model.num_classes
    arrays = workload.arrays(rng, batch=asked.batch, hw=asked.size, classes=classes)
    variables = workload.variables(run.model, asked.size, asked.seed)
    variables = distributed.replicate(variables, mesh)
    detector = faster_rcnn.make(run.model)
    predict = step.make_predict_step(detector, mesh)

    def call():
        return distributed.to_host(
            predict(variables, distributed.to_batch(arrays, mesh))
        )

    found = timing.measure(
        call, warmup=asked.warmup, repeats=asked.repeats, profile=asked.profile
    )
    figures = {
        **workload.settings(asked),
        **timing.figures(found, asked.batch),
        "detections": (call().labels > 0).sum(1).tolist(),
        "parameters": workload.parameters(variables),
        "gflops": workload.gflops(detector, variables, Batch(**arrays)),
        "peak_rss_mb": record.peak_rss_mb(),
        "device": timing.device() | {"count": mesh.size},
    }
    record.emit("inference", figures, asked.save)


if __name__ == "__main__":
    main()
