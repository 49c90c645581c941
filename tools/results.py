"""Writes docs/results.md: every row, its published AP, proof of parity, our figures.

    python tools/results.py            # writes the page
    python tools/results.py --check    # says whether the page is up to date

Nothing in the table is written by hand. Published AP comes from the first lines of each
configuration; parity from `benchmarks/results/parity.json` (see tests/parity); size,
operations, time and memory from the newest line of each architecture in
`benchmarks/results/architectures.jsonl`; our own AP from
`benchmarks/results/trained.jsonl` (`tools/record_run.py --name=trained`), where there
is one.
"""

import argparse
import dataclasses
import json
import re
import runpy
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # runs uninstalled too

from frcnn_jax import config  # noqa: E402

RESULTS, PAGE = ROOT / "benchmarks" / "results", ROOT / "docs" / "results.md"
PUBLISHED = re.compile(r"Published box (AP50|AP) ([\d.]+) \((\w+)[^,]*, ([^)]+)\)")

DETECTRON2 = {
    "C4": ("r50", "r101"),
    "DC5": ("r50", "r101"),
    "FPN": ("r50", "r101", "x101"),
}

# Architecture -> tests that compare it with its peer: full size, then a narrow detector
# whose losses and gradients are compared too.
PARITY = {
    "r50_fpn_1x": ("small_image[r50_fpn]", "full_size_image", "[fpn-all]"),
    "r50_caffe_fpn_1x": ("small_image[r50_caffe_fpn]", "[fpn_caffe-all]"),
    "r50_caffe_c4_1x": ("small_image[r50_caffe_c4]", "[c4-all]"),
    "r50_caffe_dc5_1x": ("small_image[r50_caffe_dc5]", "[dc5-all]"),
    "r101_fpn_1x": ("small_image[r101_fpn]", "[fpn-all]"),
    "r101_caffe_fpn_1x": ("small_image[r101_caffe_fpn]", "[fpn_caffe-all]"),
    "x101_32x4d_fpn_1x": ("small_image[x101_32x4d_fpn]", "[fpn_next-all]"),
    "x101_32x8d_fpn_ms_3x": ("small_image[x101_32x8d_fpn]", "[fpn_next-all]"),
    "x101_64x4d_fpn_1x": ("small_image[x101_64x4d_fpn]", "[fpn_next-all]"),
    "r50_fpn_iou_1x": ("small_image[r50_fpn]", "[fpn-iou]"),
    "r50_fpn_giou_1x": ("small_image[r50_fpn]", "[fpn-giou]"),
    "r50_fpn_bounded_iou_1x": ("small_image[r50_fpn]", "[fpn-biou]"),
    "torchvision_r50_fpn": (
        "torchvision_maps",
        "torchvision_box_head_on_recorded_proposals",
        "torchvision_detections_equal_the_peers",
        "torchvision_training",
    ),
    "torchvision_r50_fpn_v2": ("torchvision_v2_pyramid_rpn_and_box_head",),
    "torchvision_mobilenet_fpn": ("torchvision_mobilenet",),
    "torchvision_mobilenet_320_fpn": ("torchvision_mobilenet",),
    **{
        f"detectron2_{trunk}_{kind.lower()}": (
            f"maps_and_detections_equal_the_peers[{kind}]",
            f"losses_and_gradients_equal_the_peers[{kind}]",
        )
        for kind, trunks in DETECTRON2.items()
        for trunk in trunks
    },
    **dict.fromkeys(
        ("jwyang_res101_600", "jwyang_res101_800", "jwyang_res101_voc07"),
        ("resnet_maps", "resnet_detections[0]", "resnet_training"),
    ),
    **dict.fromkeys(
        ("jwyang_vgg16_800", "jwyang_vgg16_voc07"),
        ("vgg_maps", "vgg_heads", "vgg_gradients"),
    ),
}
KINDS = ("maps", "boxes_px", "losses", "gradient_norms")


class Row(NamedTuple):
    """A configuration of the results table."""

    name: str
    title: str
    metric: str  # "AP", or "AP50" for VOC
    published: str
    peer: str
    run: config.Run


def rows() -> Iterator[Row]:
    """Every configuration with a published figure, in order of its peer and name."""
    for path in sorted((ROOT / "configs").glob("*.py")):
        text = runpy.run_path(str(path))
        found = PUBLISHED.search(" ".join((text["__doc__"] or "").split()))
        if found:
            title = text["__doc__"].strip().splitlines()[0].rstrip(".")
            title = title.removeprefix("Faster R-CNN ")
            run = text["get_config"]()
            yield Row(path.stem, title, found[1], found[2], found[3], run)


def architecture(run: config.Run, known: dict[str, Any]) -> str | None:
    """The configuration among `known` that has the same network."""

    def network(model: config.FasterRCNN) -> dict[str, Any]:
        same = dataclasses.replace(
            model, dtype="", num_classes=80, box_coder="", cells=""
        )
        values = config.to_dict(same)
        for name in ("loss_count", "min_positive_iou", "rescue_rematches"):
            del values["rpn"][name]
        del values["rpn"]["allowed_border"]
        for name in ("box_loss", "box_loss_beta", "box_loss_weight"):
            del values["roi"][name]
        return values

    wanted = network(run.model)
    return next((n for n, other in known.items() if network(other) == wanted), None)


def parity(name: str, base: str | None, errors: dict[str, dict]) -> dict[str, float]:
    """The largest error of each kind over the tests of a row or its architecture."""
    found: dict[str, float] = {}
    for part in PARITY.get(name) or PARITY.get(base or "", ()):
        for test, kinds in errors.items():
            if test.endswith(part) and "from_recorded" not in test:
                for kind, error in kinds.items():
                    found[kind] = max(found.get(kind, 0.0), error)
    return found


def newest(
    file: str, fits: Callable[[dict], bool] = lambda line: True
) -> dict[str, dict]:
    """The last line of a file of results for each configuration, of those that fit."""
    path = RESULTS / file
    lines = path.read_text().splitlines() if path.exists() else []
    return {line["config"]: line for line in map(json.loads, lines) if fits(line)}


def usual(line: dict) -> bool:
    """Whether a line of `architectures.py` is of the setting that the page names."""
    on_cpu = line["device"]["platform"] == "cpu"
    return on_cpu and all(line[name] == value for name, value in SETTING.items())


def page() -> str:
    """The text of docs/results.md."""
    every = list(rows())
    measured = newest("architectures.jsonl", usual)
    trained = newest("trained.jsonl")
    path = RESULTS / "parity.json"
    errors = json.loads(path.read_text()) if path.exists() else {}
    models = {row.name: row.run.model for row in every}
    known = {name: models[name] for name in PARITY if name in models}
    sized = {name: models[name] for name in measured if name in models}
    parts = [HEAD]
    for peer in dict.fromkeys(row.peer for row in every):
        parts.append(f"\n## {peer}\n\n{COLUMNS}")
        for row in every:
            if row.peer == peer:
                compared = parity(row.name, architecture(row.run, known), errors)
                size = measured.get(architecture(row.run, sized) or "", {})
                parts.append(_line(row, compared, size, trained.get(row.name)))
    return "\n".join([*parts, "", _machines(measured), ""])


HEAD = """# Results

Every row of the peers' tables as a configuration. This page is written by
`tools/results.py`; no figure in it is typed.

- **published**: box AP on COCO val2017 as the peer publishes it (AP50 on VOC 2007 test
  where marked). It is theirs, not ours.
- **ours**: AP of weights that this project trained, where there are any.
- **largest errors** against numbers that the peer computed, from `tests/parity`: maps
  relative to their largest value, boxes of detections in pixels, training losses and
  norms of all gradients relative. Empty: not recorded for this architecture.
- **params**, **GFLOP** (one image of 800x1216, XLA's count), **ms** and **peak MB** of
  one prediction on a CPU, batch 1, float32 (`benchmarks/architectures.py`)."""
SETTING = {"size": [800, 1216], "batch": 1, "dtype": "float32"}
COLUMNS = (
    "| configuration | | published | ours | maps | boxes px | losses | gradients"
    " | params | GFLOP | ms | peak MB |\n" + "|---|---|" + "---:|" * 10
)


def _line(row: Row, compared: dict, size: dict, trained: dict | None) -> str:
    published = row.published + ("" if row.metric == "AP" else f" ({row.metric})")
    own = f"{100 * trained['scores']['AP']:.1f}" if trained else ""
    cells = [f"[{row.name}](../configs/{row.name}.py)", row.title, published, own]
    cells += [f"{compared[kind]:.0e}" if kind in compared else "" for kind in KINDS]
    if size:
        cells += [f"{size['parameters'] / 1e6:.1f} M", f"{size['gflops']:.0f}"]
        cells += [f"{size['median_ms']:.0f}", f"{size['peak_rss_mb']:.0f}"]
    else:
        cells += [""] * 4
    return "| " + " | ".join(cells) + " |"


def _machines(measured: dict[str, dict]) -> str:
    where = {
        f"{line['machine']['cpu']} ({line['machine']['usable_cores']} cores), jax"
        f" {line['versions']['jax']}"
        for line in measured.values()
    }
    return f"Measured on {'; '.join(sorted(where))}." if where else ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes or checks the page; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing")
    text = page()
    if not parser.parse_args(arguments).check:
        PAGE.write_text(text)
        return 0
    if PAGE.exists() and PAGE.read_text() == text:
        return 0
    print("docs/results.md is not up to date: run python tools/results.py")
    return 1


if __name__ == "__main__":
    sys.exit(main())
