"""Flags and their faults: one plain line, the nearest name, exit code 1."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

from frcnn_jax import cli, config

ROOT = Path(__file__).resolve().parents[1]

# As train.py, eval.py and predict.py use it, without what they do.
PROGRAM = """
import sys
from absl import flags
from frcnn_jax import cli, config
from frcnn_jax.evaluation import checked

cli.define_config(required=sys.argv[1] == "required")
del sys.argv[1]
flags.DEFINE_integer("devices", 0, "A number.")
FLAGS = flags.FLAGS


def main(argv):
    if argv[1:2] == ["fail"]:
        broken = checked.Refused("broken boxes")
        faults = {"value": ValueError("no luck"), "disk": OSError(28, "No space")}
        raise {**faults, "broken": broken}[argv[2]]
    run = FLAGS.config
    if run is None:
        run = cli.with_fields(config.Run(seed=7))
    print(config.to_json(cli.checked(run)))
    print(argv[1:], FLAGS.devices)


cli.run(main)
"""
DEMO = "--config=configs/demo.py"


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    path = tmp_path_factory.mktemp("program") / "program.py"
    path.write_text(PROGRAM)

    def call(*words, kind="required"):
        return subprocess.run(
            [sys.executable, str(path), kind, *words],
            cwd=ROOT,
            env={"PYTHONPATH": str(ROOT), "PATH": ""},
            capture_output=True,
            text=True,
            timeout=120,
        )

    return call


def made(done) -> config.Run:
    assert done.returncode == 0, done.stderr
    text, _, _ = done.stdout.rpartition("}")
    return config.from_dict(json.loads(text + "}"))


# ---- what is meant


def test_fields_of_every_kind(program):
    done = program(
        DEMO,
        "--config.train.lr=1e-3",
        "--config.seed=5",
        "--config.data.root=a b/c=d",
        "--config.data.classes=circle",
        "--config.model.roi.fc=(8,)",
        "--config.data.buckets=((64, 96), (96, 64))",
        "--config.train.milestones=(3, 4.5)",
        "--config.train.freeze=()",
        "--noconfig.data.keep_empty",
        "--config.model.mask_padding=false",
        "--devices=2",
        "word",
    )
    run = made(done)
    assert (run.train.lr, run.seed, run.data.root) == (1e-3, 5, "a b/c=d")
    assert run.data.classes == ("circle",) and run.model.roi.fc == (8,)
    assert run.data.buckets == ((64, 96), (96, 64))
    assert run.train.milestones == (3, 4.5) and run.train.freeze == ()
    assert not run.data.keep_empty and not run.model.mask_padding
    assert run.model.backbone.depth == 18  # from the file
    assert done.stdout.splitlines()[-1] == "['word'] 2"


def test_fields_without_a_file_change_the_folders_run(program):
    done = program("--config.data.flip=0.25", "--config.model.roi.fc=(4,)", kind="free")
    run = made(done)
    assert (run.seed, run.data.flip, run.model.roi.fc) == (7, 0.25, (4,))
    assert made(program(kind="free")) == config.Run(seed=7)


def test_with_fields_changes_a_copy(monkeypatch):
    monkeypatch.setattr(cli, "_FIELDS", ["--config.model.roi.fc=(4,)"])
    run = config.Run()
    assert cli.with_fields(run).model.roi.fc == (4,)
    assert run == config.Run()


def test_words_after_dashes_are_no_flags(program):
    done = program(DEMO, "--", "--devices=2", "-x.jpg")
    assert done.stdout.splitlines()[-1] == "['--devices=2', '-x.jpg'] 0"


# ---- what cannot be meant

FAULTS = {
    "--config.train.lrr=1": "--config.train.lrr: there is no such field; did you mean"
    " --config.train.lr?",
    "--config.lr=1": "--config.lr: there is no such field; did you mean"
    " --config.train.lr?",
    "--config.modell.roi.box_loss=iou": "--config.modell.roi.box_loss: there is no such"
    " field; did you mean --config.model.roi.box_loss?",
    "--config.model.roi=1": "--config.model.roi: there is no such field; did you mean"
    " --config.model.roi.fc?",
    "--config.train.epochs=abc": "flag --config.train.epochs=abc: could not convert"
    " string to float: 'abc'",
    "--config.train.milestones=abc": "config field train.milestones is ('abc',): it"
    " must be tuple[float, ...]",
    "--config.data.buckets=64,96": "config field data.buckets is (64, 96): it must be"
    " tuple[tuple[int, int], ...]",
    "--config.model.roi.box_stds=1,2": "config field model.roi.box_stds is (1, 2): it"
    " must be tuple[float, float, float, float]",
    "--config.model.roi.box_loss=ciou2": "config field model.roi.box_loss is 'ciou2':"
    " choose from ('l1', 'smooth_l1', 'iou', 'giou', 'diou', 'ciou', 'bounded_iou');"
    " did you mean 'ciou'?",
    "--config.train.batch_size=0": "config field train.batch_size is 0: must be 1 or"
    " more",
    "--devices=many": "flag --devices=many: invalid literal for int() with base 10:"
    " 'many'",
    "--devises=3": "Unknown command line flag 'devises'. Did you mean: devices ?",
}


@pytest.mark.parametrize(("word", "message"), FAULTS.items())
def test_a_fault_is_one_plain_line(program, word, message):
    done = program(DEMO, word)
    assert done.returncode == 1
    assert done.stderr == f"error: {message}\n"
    assert done.stdout == ""


VGG = """
from frcnn_jax import config


def get_config():
    run = config.Run()
    run.model.backbone, run.model.fpn = config.VGG16(width=8), None
    run.model.rpn.anchor_sizes = ((32.0, 64.0),)
    return run
"""


@pytest.mark.parametrize(
    ("word", "message"),
    {
        "--config.model.backbone.depth=101": "--config.model.backbone.depth:"
        " model.backbone is a VGG16 here, without 'depth'; it has width, norm,"
        " norm_eps",
        "--config.model.fpn.levels=4": "--config.model.fpn.levels: model.fpn is None"
        " here, which has no fields",
        "--config.model.backbone.widht=4": "--config.model.backbone.widht: there is no"
        " such field; did you mean --config.model.backbone.width?",
    }.items(),
)
def test_a_field_of_another_kind_of_section_is_one_plain_line(
    program, tmp_path, word, message
):
    file = tmp_path / "vgg.py"
    file.write_text(VGG)
    done = program(f"--config={file}", word)
    assert (done.returncode, done.stderr) == (1, f"error: {message}\n")
    run = made(program(f"--config={file}", "--config.model.backbone.width=4"))
    assert run.model.backbone == config.VGG16(width=4)


def test_a_typo_in_a_file_is_one_plain_line(program, tmp_path):
    file = tmp_path / "typo.py"
    file.write_text(VGG.replace("    return", "    run.train.lrr = 0.5\n    return"))
    for words in ([], ["--config.seed=3"]):
        done = program(f"--config={file}", *words)
        told = "config field train.lrr does not exist; did you mean train.lr?"
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == f"error: --config={file}: {told}\n"


def test_without_a_file_the_folders_own_kinds_count(monkeypatch):
    monkeypatch.setattr(cli, "_FIELDS", ["--config.model.fpn.levels=4"])
    run = config.Run()
    run.model.fpn = None
    with pytest.raises(ValueError, match="model.fpn is None here"):
        cli.with_fields(run)


@pytest.mark.parametrize("words", [["--config=configs/dem.py"], ["--config", "x/y.py"]])
def test_a_missing_file_is_named(program, words):
    done = program(*words, "--config.seed=3")
    path = words[-1].removeprefix("--config=")
    hint = "; did you mean configs/demo.py?" if "dem" in path else ""
    assert done.stderr == f"error: --config: {path} does not exist{hint}\n"
    assert done.returncode == 1


def test_a_required_file_is_asked_for(program):
    done = program("--devices=1")
    assert done.returncode == 1
    assert done.stderr.startswith("error: flag --config=None: Flag --config must have")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("kind", "code", "message"),
    [
        ("value", 1, "no luck"),
        ("disk", 1, "[Errno 28] No space"),
        ("broken", 2, "broken boxes"),  # detections that must not be scored
    ],
)
def test_expected_errors_end_a_script_in_one_line(program, kind, code, message):
    done = program(DEMO, "fail", kind)
    assert (done.returncode, done.stderr) == (code, f"error: {message}\n")
    told = program(DEMO, "fail", kind, "--debug_errors").stderr
    assert told.startswith("Traceback") and told.endswith(f"error: {message}\n")


def test_help_is_not_an_error(program):
    done = program("--help")
    assert "--devices: A number." in done.stdout and done.stderr == ""


# ---- checks in one process


def test_defaults_have_the_types_they_declare():
    assert cli.checked(config.Run()) == config.Run()


@pytest.mark.parametrize(
    ("section", "field", "value"),
    [
        ("train", "lr", "0.1"),
        ("train", "batch_size", 4.0),
        ("train", "batch_size", True),
        ("train", "milestones", [8.0]),
        ("data", "keep_empty", 1),
        ("data", "classes", "cat"),
        ("data", "buckets", ([64, 96],)),
        ("data", "short_sides", (64.5,)),
    ],
)
def test_values_of_another_type_are_named(section, field, value):
    run = config.Run()
    run = dataclasses.replace(
        run, **{section: dataclasses.replace(getattr(run, section), **{field: value})}
    )
    with pytest.raises(
        ValueError, match=f"config field {section}.{field} is .*must be"
    ):
        cli.checked(run)


def test_whole_numbers_are_floats_too():
    run = config.Run()
    run.train = config.Train(epochs=3, lr=1, milestones=(1, 2))
    assert cli.checked(run) is run


def test_forgotten_dashes():
    cli.refuse_extra(["train.py"])
    with pytest.raises(ValueError, match="unexpected 'config.seed=3 x': options begin"):
        cli.refuse_extra(["train.py", "config.seed=3", "x"])
