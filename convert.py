"""Weights in, weights out: python convert.py SRC DST [--config=FILE] [--to=PEER].

SRC is a file of mmdetection, torchvision, detectron2 or jwyang, one of ours, a
published name (mmdet:r50_fpn_1x), a repository (hf:OWNER/NAME) or the folder of a run.
DST becomes a .safetensors file that carries its configuration, so that eval.py and
predict.py need no other; with --to it has the names and shapes of that peer, as
.safetensors or .npz. As hf:OWNER/NAME it is a repository of the Hugging Face hub, which
gets the weights and a model card. Without --config the configuration is recognised.
`python convert.py --check FILE` looks at weights.
"""

from pathlib import Path

from absl import flags

from frcnn_jax import cli, config
from frcnn_jax.convert import hub
from frcnn_jax.porting import check, publish, source

FLAGS = flags.FLAGS
cli.define_config(required=False)
flags.DEFINE_string("to", None, "Write mmdet, torchvision, detectron2 or jwyang names.")
flags.DEFINE_bool("private", False, "A repository that is made is for you alone.")
flags.DEFINE_string("data_license", None, "Of the training data, for the model card.")
flags.DEFINE_bool("check", False, "Only look at the weights and run them once.")


def main(argv: list[str]) -> None:
    run = FLAGS.config and cli.checked(FLAGS.config)
    words = argv[1:]
    if FLAGS.check:
        if len(words) != 1 or FLAGS.to:
            raise ValueError("usage: python convert.py --check FILE [--config=FILE]")
        print(*check.report(source.read(words[0], run)), sep="\n")
        return
    if len(words) != 2:
        raise ValueError(
            "usage: python convert.py SRC DST [--config=FILE] [--to=PEER], or"
            " python convert.py --check FILE"
        )
    if hub.is_name(words[1]):
        push(*words, run)
    else:
        write(words[0], Path(words[1]), run)


def write(name: str, target: Path, run: config.Run | None) -> None:
    """Into a file."""
    source.check_target(target, FLAGS.to)
    found = source.read(name, run)
    count = source.write(found, target, FLAGS.to)
    model = found.run.model
    print(
        f"{target}: {count} arrays ({FLAGS.to or 'our'} names); pixels"
        f" {model.channel_order}, mean {model.pixel_mean}, std {model.pixel_std}"
    )


def push(name: str, target: str, run: config.Run | None) -> None:
    """To a repository of the hub, with a model card."""
    if FLAGS.to:
        raise ValueError(f"{target}: --to is for files; the hub gets our own format")
    publish.check(target)
    found = source.read(name, run)
    address = publish.push(
        found,
        target,
        folder=name if Path(name).is_dir() else None,
        private=FLAGS.private,
        data_license=FLAGS.data_license,
    )
    print(f"{target}: {len(found.variables)} arrays and a model card, {address}")


if __name__ == "__main__":
    cli.run(main)
