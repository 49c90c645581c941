from frcnn_jax import config
from frcnn_jax.data import sources
from frcnn_jax.data.findings import Findings
from frcnn_jax.doctor import boxes
from tests.doctor.samples import encode, scene


def noted(root):
    dataset = sources.load(config.Data(root=str(root), val="train"), "train", True)
    findings = Findings()
    boxes.note(dataset, "s", findings)
    return {f: [p.text() for p in findings.of(f)] for f in findings.counts}


def test_slips_are_named_and_what_is_plain_is_not(write_set):
    files = {f"{n}.png": encode(scene(n)) for n in range(4)}
    root = write_set(
        files,
        boxes={
            "0.png": [[5, 5, 20, 20], [5, 5, 20, 19], [30, 5, 20, 20]],
            "1.png": [[5, 5, 20, 20], [5, 5, 20, 20], [5, 5, 20, 12]],
            "2.png": [],
            "3.png": [[5, 5, 20, 3.5], [9, 9, 0, 0]],
        },
    )
    assert noted(root) == {
        "near-duplicate": ["s, image 1, annotation 2: IoU 0.95 with annotation 1"],
        "background": ["s, image 3"],
        "tiny": ["s, image 4, annotation 7: bbox [5, 5, 20, 3.5]"],
    }
