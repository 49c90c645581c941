"""From a configuration to working parts. The only file that imports everything."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import optax
from flax import traverse_util

from frcnn_jax import config, labels, terminal
from frcnn_jax.convert import files, peers, surgery
from frcnn_jax.convert.merge import matches, merge
from frcnn_jax.data import batching, loader, records, sources
from frcnn_jax.detectors import faster_rcnn
from frcnn_jax.evaluation import infer, score
from frcnn_jax.training import (
    distributed,
    loop,
    loss_scale,
    optimizer,
    schedule,
    step,
)
from frcnn_jax.training.state import TrainState, create
from frcnn_jax.types import Batch, Detector, Variables


def detector(model: config.FasterRCNN) -> Detector:
    """The detector that a model section describes.

    Errors: num_classes 0, which only the data can fill in.
    """
    if model.num_classes == 0:
        raise ValueError(
            "model.num_classes is 0 (taken from the data): load the data first, see"
            " build.with_classes, or set the number"
        )
    return faster_rcnn.make(model)


def with_classes(run: config.Run, dataset: records.Dataset) -> config.Run:
    """The run with num_classes taken from the data; an own number has to agree."""
    found = len(dataset.class_names)
    if run.model.num_classes not in (0, found):
        some = ", ".join(dataset.class_names[:5])
        raise ValueError(
            f"model.num_classes is {run.model.num_classes}, but {dataset.name} has"
            f" {found} classes ({some}{', ...' if found > 5 else ''}); set"
            " --config.model.num_classes=0 to take them from the data"
        )
    model = dataclasses.replace(run.model, num_classes=found)
    return dataclasses.replace(run, model=model)


def dataset(run: config.Run, split: str, training: bool) -> records.Dataset:
    """A split of the run's data, with what was skipped or repaired printed.

    A model with more classes than the data, as many as the largest category id, has a
    label for each id, as torchvision's COCO models do; then so has the data set.
    """
    print(f"{sources.TITLES[sources.kind(run.data.root)]} in {run.data.root}")
    return _split(run, split, training)


def _split(run: config.Run, split: str, training: bool) -> records.Dataset:
    found = sources.load(run.data, split, training)
    print(records.summary(found), flush=True)
    ids, classes = found.category_ids, run.model.num_classes
    whole = all(isinstance(number, int) and number > 0 for number in ids)
    if whole and classes > len(ids) and classes == max(ids):
        return records.relabel_by_id(found)
    return found


def datasets(run: config.Run) -> tuple[config.Run, records.Dataset, records.Dataset]:
    """The run with its number of classes, its training data and its validation data.

    Validation classes are matched to the training ones by name.
    """
    train = dataset(run, run.data.train, training=True)
    run = with_classes(run, train)
    val = _split(run, run.eval.split or run.data.val, training=False)
    return run, train, records.align_classes(val, train.class_names)


def example_batch(hw: tuple[int, int] = (64, 64)) -> Batch:
    """One blank image, enough to initialise a detector."""
    arrays = batching.collate([None], hw, 8)
    return Batch(**{name: jax.numpy.asarray(value) for name, value in arrays.items()})


def fresh_variables(run: config.Run) -> Variables:
    """Initial variables of the run's model, the same for the same seed."""
    return detector(run.model).init(jax.random.key(run.seed), example_batch())


def variables(run: config.Run, path: str, class_names: Sequence[str] = ()) -> Variables:
    """Fresh variables with the weights of a file put over them; prints what was done.

    A classifier's file leaves fresh what it does not have; a whole detector must fit
    unless `init.skip` names what does not. With `class_names`, those of the run, a
    file of other named classes gives the rows that it has.
    """
    fresh = traverse_util.flatten_dict(fresh_variables(run), sep="/")
    fresh = {name: np.asarray(value) for name, value in fresh.items()}
    found = files.load_variables(path, norm_eps=run.model.backbone.norm_eps)
    loaded: Mapping[str, np.ndarray] = found.variables
    optional: tuple[str, ...] = ()
    if not any("/rpn/" in name for name in loaded):
        loaded, optional = _of_model(loaded, fresh), ("(?!backbone/).*",)
    elif class_names and not matches(run.init.skip, peers.CLASSES):
        loaded = _of_classes(run, found, fresh, class_names)
    merged, report = merge(fresh, loaded, run.init.skip, allow_missing=optional)
    text = report.text().replace("\n", "\n  ")
    print(f"weights {path} ({found.kind} names):\n  {text}", *found.notes, sep="\n  ")
    nested = traverse_util.unflatten_dict(merged, sep="/")
    return jax.tree.map(jax.numpy.asarray, nested)


def _of_classes(
    run: config.Run, found: files.Loaded, fresh: Mapping, class_names: Sequence[str]
) -> Mapping[str, np.ndarray]:
    """The file's variables with a class head for these classes; prints its report.

    Names are guessed, COCO's for as many classes as COCO has, only for a head that
    does not fit. Without a name for each class it stays as it is.
    """
    if peers.CLASSES not in found.variables:
        return found.variables
    count = peers.classes(found.variables)
    names = surgery.class_names(found.metadata)
    names = names if len(names) == count else ()
    if not names and count != len(class_names):
        model = dataclasses.replace(run.model, num_classes=count)
        coco_labels = labels.of_coco(config.Run(model=model))
        names = coco_labels.class_names if coco_labels else ()
    if not names or tuple(names) == tuple(class_names):
        return found.variables
    made, report = surgery.keep_classes(fresh, found.variables, names, class_names)
    print(report.text())
    return made


def _of_model(loaded: Mapping, fresh: Mapping) -> dict[str, np.ndarray]:
    """Stages of a classifier that the model has, where it has them.

    Trunks may end early, and in C4 models stage 5 is the head.
    """
    if any("/box_head/layer4/" in path for path in fresh):
        moved = "/backbone/layer4/", "/box_head/layer4/"
        loaded = {path.replace(*moved): value for path, value in loaded.items()}
    parts = {tuple(path.split("/")[1:3]) for path in fresh}
    return {k: v for k, v in loaded.items() if tuple(k.split("/")[1:3]) in parts}


class Evaluator:
    """Scores variables on one split."""

    def __init__(self, run: config.Run, data: records.Dataset, mesh: jax.sharding.Mesh):
        """Prepares batches; programs compile on first use, one per bucket."""
        self.dataset = data
        self._mesh = mesh
        self._predict = step.make_predict_step(detector(run.model), mesh)
        self._losses = step.make_loss_step(detector(run.model), mesh)
        self._key = jax.random.key(run.seed)
        self._asked, self._max_detections = run.eval, run.model.roi.max_detections
        self.batches = loader.eval_batches(
            data,
            run.data,
            batch_size=_divisible(run.eval.batch_size, mesh),
            divisor=mesh.size,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )

    def results(
        self, variables: Variables, check: Callable[[], None] = lambda: None
    ) -> list[dict[str, Any]]:
        """Detections of the whole split as COCO results.

        `check` is called before each batch and may raise, to leave early.
        """

        def predict(arrays):
            check()
            batch = distributed.to_batch(arrays, self._mesh)
            found = self._predict(variables, batch)
            return lambda: distributed.to_host((found, batch.image_id))

        what, count = f"evaluating {self.dataset.name}, batch", len(self.batches)
        batches = terminal.track(self.batches, what, count)
        return infer.detections(predict, batches, self.dataset)

    def losses(self, variables: Variables) -> dict[str, float]:
        """The training losses of the whole split, mean over images; {} unless asked.

        Keys are those of the log: "loss", "loss_cls" and so on.
        """
        sums: dict[str, float] = {}
        for arrays in self.batches if self._asked.loss else ():
            batch = distributed.to_batch(arrays, self._mesh)
            found = self._losses(variables, batch, self._key)
            count = (distributed.to_host(batch.image_id) >= 0).sum()
            for name, value in found.items():
                sums[name] = sums.get(name, 0.0) + float(value) * count
        return {k: float(v / len(self.dataset.records)) for k, v in sums.items()}

    def metrics(self, results: list[dict[str, Any]]) -> dict[str, Any]:
        """The figures of these results by `eval.metric`, overall and per class."""
        cap = self._max_detections
        truth = self.dataset.annotations
        return score.evaluate(self._asked, truth, results, cap)


def _divisible(batch_size: int, mesh: jax.sharding.Mesh) -> int:
    """The batch size rounded up to a multiple of the devices."""
    return -(-batch_size // mesh.size) * mesh.size


def oddities(split: str, batches: loader.TrainBatches | loader.EvalBatches) -> str:
    """A line on images not read, or not as their JSON says; "" when there are none."""
    counts = (
        (batches.bad_images, "unreadable, left out or replaced by others"),
        (batches.odd_images, "of another size or rotation than the JSON says"),
    )
    found = [f"{count} {what}" for count, what in counts if count]
    return f"{split} images: {'; '.join(found)}" if found else ""


def image_names(data: records.Dataset, rows: Sequence[int]) -> list[str]:
    """File and id of rows of a data set, for messages; fillers (-1) left out."""
    found = [data.records[row] for row in rows if row >= 0]
    return [f"{record.path} (id {record.source_id!r})" for record in found]


def train_batches(
    run: config.Run, data: records.Dataset, start_step: int
) -> loader.TrainBatches:
    """This process's training batches from `start_step` on."""
    return loader.train_batches(
        data,
        run.data,
        batch_size=run.train.batch_size,
        seed=run.seed,
        start_step=start_step,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )


def plan(run: config.Run, batches: batching.Schedule) -> loop.Plan:
    """Epochs of the configuration as steps of this data set.

    With `train.steps` set, epochs are shares of these steps.
    """
    train = run.train
    total = train.steps or max(batches.epoch_start(train.epochs), 1)

    def epoch_start(epoch: float) -> int:
        if train.steps:
            return round(epoch / train.epochs * train.steps)
        return batches.epoch_start(epoch)

    every = train.eval_every or train.epochs
    due = {epoch_start(every * (i + 1)) for i in range(int(train.epochs / every))}
    evals = frozenset(s for s in due if 0 < s < total) | {total}
    saves = evals
    if train.checkpoint_every:
        saves = frozenset(range(0, total, train.checkpoint_every)) | {total}
    rate = schedule.learning_rate(train, tuple(map(epoch_start, train.milestones)))
    images = train.batch_size / batches.num_records
    return loop.Plan(total, lambda done: done * images, rate, evals, saves)


def training_state(
    run: config.Run,
    mesh: jax.sharding.Mesh,
    plan: loop.Plan,
    *,
    load: bool,
    class_names: Sequence[str] = (),
) -> tuple[TrainState, optax.GradientTransformation]:
    """The state before the first step, on the devices, and its optimiser.

    With `load` the weights of `init.load` are put in, rows of their class head by name
    where `class_names` are given; without, only shapes matter.
    """
    path = run.init.load if load else ""
    start = variables(run, path, class_names) if path else fresh_variables(run)
    tx, scale = optimizer.make(run.train, plan.rate), None
    if run.model.dtype == "float16":
        scale = loss_scale.start(run.train.loss_scale)
    averaged = run.train.ema > 0
    state = create(start, tx, run.train.freeze, scale, averaged=averaged)
    return distributed.replicate(state, mesh), tx


def train_step(
    run: config.Run, tx: optax.GradientTransformation, mesh: jax.sharding.Mesh
) -> Callable:
    """The run's step, see `training/step.py`.

    Errors: images that do not divide by devices and parts.
    """
    train, shares = run.train, mesh.size * run.train.accumulate
    if train.batch_size % shares:
        raise ValueError(
            f"train.batch_size {train.batch_size} does not divide by {mesh.size}"
            f" devices times train.accumulate {train.accumulate}: choose a multiple of"
            f" {shares}"
        )
    found, parts = detector(run.model), train.accumulate
    return step.make_train_step(
        found, tx, train.freeze, mesh, parts=parts, ema=train.ema
    )


def scratch_warning(run: config.Run) -> str:
    """A line on what stays random when no weights are loaded; "" where nothing does."""
    frozen = [f"train.freeze = {run.train.freeze}"] if run.train.freeze else []
    if getattr(run.model.backbone, "norm", "batch") == "frozen":
        frozen.append('model.backbone.norm = "frozen"')
    if run.init.load or not frozen:
        return ""
    return (
        f"warning: training starts from random weights with {' and '.join(frozen)};"
        " frozen random layers are useless: load weights with --config.init.load=FILE,"
        " or a name such as torchvision:resnet18"
    )
