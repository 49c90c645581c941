"""The model card that goes along with weights: what they are, from what, how good."""

import json
import os
from datetime import UTC, datetime
from pathlib import Path

from frcnn_jax import config, labels

SHOWN = 20  # names of classes


def title(model: config.FasterRCNN) -> str:
    """The architecture, in a few words."""
    depth = getattr(model.backbone, "depth", "")
    trunk = f"{type(model.backbone).__name__} {depth}".strip()
    return f"Faster R-CNN, {trunk}{'' if model.fpn is None else ' with FPN'}"


def facts(
    run: config.Run,
    named: labels.Labels | None,
    source: str,
    folder: str | Path | None,
    data_license: str | None,
) -> str:
    """A list, each thing on a line; `folder` is that of the run, where there is one."""
    data = run.data
    trained = os.path.basename(data.root)
    return "\n".join(
        (
            f"- made from: {source}, {datetime.now(UTC):%Y-%m-%d}",
            f"- classes ({run.model.num_classes}): {_classes(named)}",
            f"- trained on: {trained or 'unknown'}, split {data.train}",
            "- licence of the data: "
            + (data_license or "not given; ask where they came from"),
            f"- scores: {_scores(run, folder)}",
            f"- pictures: uint8 RGB, short side {data.eval_short_side}, at most"
            f' {data.max_side} long,\n  resized by "{data.resize}"; normalised inside',
        )
    )


def _classes(named: labels.Labels | None) -> str:
    names = named.class_names if named else ()
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more if names else "the weights do not name them"


def _scores(run: config.Run, folder: str | Path | None) -> str:
    """The headline of a run's last evaluation."""
    file = Path(folder or "", "eval.json")
    if folder is None or not file.is_file():
        return "not scored by this project's `eval.py`"
    scores = json.loads(file.read_text())
    kept = [f"{k} {scores[k]:.3f}" for k in ("AP", "AP50") if scores.get(k) is not None]
    split = run.eval.split or run.data.val
    return f"{', '.join(kept)} at step {scores.get('step')} on split {split}"
