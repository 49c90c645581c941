"""The command line of `python -m frcnn_jax.data`: check DIR, show DIR."""

import sys
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from frcnn_jax import cli, config, terminal
from frcnn_jax.doctor import check, page, repair, report, show

FLAGS = flags.FLAGS
USAGE = (
    "python -m frcnn_jax.data check [DIR] [--config=configs/X.py] [--split=train,val],"
    " or python -m frcnn_jax.data show [DIR] [--out=sheet.jpg] [--config=configs/X.py];"
    " without DIR it is the configuration's data.root"
)


def define() -> None:
    """Add the flags of the command."""
    cli.define_config(required=False)
    flags.DEFINE_list("split", [], "Splits to look at; default: the usual ones.")
    flags.DEFINE_bool("quick", False, "Read headers of pictures only, decode none.")
    flags.DEFINE_bool("strict", False, "Exit code 1 for all that is found.")
    flags.DEFINE_string(
        "fix", None, "Write a repaired COCO file and its .log here; a folder: of all."
    )
    flags.DEFINE_string("html", None, "Write a page with plots and pictures here.")
    flags.DEFINE_string("out", "sheet.jpg", "Where `show` writes its sheet.")
    flags.DEFINE_integer("count", 16, "Images on the sheet of `show`.")


def main(argv: list[str]) -> None:
    """Check or show the data set; without DIR, that of the configuration.

    The check's exit code is 1 with errors in the set (with --strict also for what is
    only counted or repaired in memory), 2 if it cannot be read.
    """
    run = FLAGS.config or config.Run()
    words = argv[1:] + [run.data.root] * (len(argv) == 2)
    if len(words) != 2 or words[0] not in ("check", "show") or not words[1]:
        raise ValueError(f"say what to do with which data: {USAGE}")
    run.data.root = words[1]
    run = cli.checked(cli.with_fields(run))
    if argv[1] == "show":
        show.write(run, FLAGS.count, Path(FLAGS.out))
        return
    _check(run)


def _check(run: config.Run) -> None:
    try:
        found = check.examine(run, FLAGS.split, decode=not FLAGS.quick, tell=_tell)
    except (ValueError, OSError) as error:
        error.exit_code = 2  # type: ignore[union-attr]  # read by `cli.run`
        raise
    found = found._replace(config=_config_name())
    terminal.show(report.parts(found))
    if FLAGS.html:
        Path(FLAGS.html).write_text(page.html(found), encoding="utf-8")
        print(f"page: {FLAGS.html}")
    if FLAGS.fix:
        _fix(found, Path(FLAGS.fix))
    if found.count("error") or FLAGS.strict and found.count("warn", "fix"):
        sys.exit(1)


def _config_name() -> str:
    if FLAGS.config is None:
        return "the default configuration (see --config)"
    return config_flags.get_config_filename(FLAGS["config"])


def _fix(found: check.Report, path: Path) -> None:
    root = Path(found.run.data.root)
    root = root if root.is_dir() else root.parent
    files = _repaired_files(found, path, root)
    for split, file in files:
        changes = repair.write(split, root, file)
        print(
            f"repaired copy of {split.name}: {file}; {changes} changes, each a line of"
            f" {file.with_suffix('.log')}"
        )
    if found.kind != "coco" and _is_coco_place(files[0][1], root):
        print(f"{root} is read as COCO from now on; without annotations/ as before")


def _repaired_files(
    found: check.Report, path: Path, root: Path
) -> list[tuple[check.Checked, Path]]:
    """Each split with the file of its copy: `path`, or NAME.json in it.

    Errors: one file for several splits, or files that turn a folder of another kind
    into a COCO one in which not all of its splits are.
    """
    names = [split.name for split in found.splits]
    if path.suffix != ".json":
        files = [path / f"{name}.json" for name in names]
    elif len(names) == 1:
        files = [path]
    else:
        raise ValueError(
            f"--fix={path} is one file; choose its split with --split:"
            f" {', '.join(names)}; or name a folder, such as {path.parent}, for a file"
            " of each"
        )
    written = {file.stem for file in files if _is_coco_place(file, root)}
    if found.kind in ("yolo", "voc") and written:
        every = [*names, *found.unseen]
        lost = [name for name in every if name not in written]
        if lost:
            raise ValueError(
                f"--fix: with {files[0]}, {root} is a COCO folder, in which"
                f" {', '.join(lost)} is missing; write all splits at once:"
                f" --fix={root / 'annotations'} --split={','.join(every)}"
            )
    return list(zip(found.splits, files, strict=True))


def _is_coco_place(file: Path, root: Path) -> bool:
    return file.resolve().parent == (root / "annotations").resolve()


def _tell(text: str) -> None:
    print(text, flush=True)
