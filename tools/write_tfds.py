"""Writes any data set as a TensorFlow Datasets folder in the array_record format.

    python tools/write_tfds.py --config=configs/finetune.py --config.data.root=DIR \\
        --out=OUT [--splits=train,val]

Pods read few large files faster than many small ones. Pictures are copied byte for
byte, boxes exactly; read it with --config.data.root=tfds:OUT/frcnn_jax_data/1.0.0.
TensorFlow is not needed.
"""

import io
import json
import sys
from pathlib import Path

import numpy as np
from absl import flags

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs uninstalled too

from frcnn_jax import cli  # noqa: E402
from frcnn_jax.data import records, sources, tfds  # noqa: E402

FLAGS = flags.FLAGS
cli.define_config(required=True)
flags.DEFINE_string("out", None, "Folder to write to.", required=True)
flags.DEFINE_list("splits", ["train", "val"], "Splits to write, by their names.")


def main(argv: list[str]) -> None:
    cli.refuse_extra(argv)
    data = cli.checked(FLAGS.config).data
    found = {split: sources.load(data, split, False) for split in FLAGS.splits}
    folder = write(found, FLAGS.out)
    print(f"read it with --config.data.root={tfds.PREFIX}{folder}")


def write(splits: dict, out: str) -> str:
    """Writes data sets with the same classes, by split; returns the folder made."""
    import tensorflow_datasets

    # TFDS would keep what is there and say nothing.
    if there := [*Path(out).glob("*/*/dataset_info.json")]:
        raise FileExistsError(f"{there[0].parent} is there already; name another --out")
    first = next(iter(splits.values()))
    splits = {k: records.align_classes(d, first.class_names) for k, d in splits.items()}
    builder = builder_class(first)(splits, data_dir=out, file_format="array_record")
    builder.download_and_prepare(
        download_config=tensorflow_datasets.download.DownloadConfig(
            register_checksums=False
        )
    )
    return str(builder.data_dir)


def builder_class(dataset):
    """A TFDS builder for data sets with these classes."""
    import tensorflow_datasets as lib

    objects = {
        "id": np.int64,
        "bbox": lib.features.BBoxFeature(),
        tfds.EXACT: lib.features.Tensor(shape=(4,), dtype=np.float64),
        "area": np.float64,
        "label": lib.features.ClassLabel(names=list(dataset.class_names)),
        "is_crowd": np.bool_,
        "is_difficult": np.bool_,
    }
    features = {
        "image": lib.features.Image(),
        "image/filename": lib.features.Text(),
        "image/id": lib.features.Text(),
        "objects": lib.features.Sequence(objects),
    }
    metadata = {
        tfds.NAMES: list(dataset.class_names),
        tfds.IDS: list(dataset.category_ids),
    }

    class FrcnnJaxData(lib.core.GeneratorBasedBuilder):
        """A detection data set, pictures and boxes as they were."""

        VERSION = lib.core.Version("1.0.0")
        pkg_dir_path = Path(__file__).parent

        def __init__(self, splits, **kwargs):
            self._found = splits
            super().__init__(**kwargs)

        def _info(self):
            return lib.core.DatasetInfo(
                builder=self,
                features=lib.features.FeaturesDict(features),
                metadata=lib.core.MetadataDict(metadata),
                disable_shuffling=True,
            )

        def _split_generators(self, _):
            return {
                name: self._generate_examples(one) for name, one in self._found.items()
            }

        def _generate_examples(self, found):
            return examples(found)

    return FrcnnJaxData


def examples(found):
    """Yields (key, TFDS example) of each image of a data set."""
    label = {c: n for n, c in enumerate(found.category_ids)}
    by_image = {}
    for a in found.annotations["annotations"]:
        by_image.setdefault(a["image_id"], []).append(a)
    for record, image in zip(found.records, found.annotations["images"], strict=True):
        own = by_image.get(record.source_id, [])
        size = np.array([record.width, record.height] * 2, np.float64)
        yield (
            f"{record.source_id}",
            {
                "image": io.BytesIO(record.path.read_bytes()),
                "image/filename": image["file_name"],
                "image/id": json.dumps(record.source_id),
                "objects": [example_object(a, size, label) for a in own],
            },
        )


def example_object(a: dict, size: np.ndarray, label: dict) -> dict:
    """One annotation as TFDS wants it."""
    from tensorflow_datasets import features

    x, y, w, h = a["bbox"]
    shares = (np.array([x, y, x + w, y + h]) / size).clip(0, 1)
    x1, y1, x2, y2 = (float(share) for share in shares)
    return {
        "id": a["id"],
        "bbox": features.BBox(y1, x1, y2, x2),
        tfds.EXACT: np.array(a["bbox"], np.float64),
        "area": float(a["area"]),
        "label": label[a["category_id"]],
        "is_crowd": bool(a["iscrowd"]),
        "is_difficult": bool(a.get("ignore")),
    }


if __name__ == "__main__":
    cli.run(main)
