"""The loop around the small linear detector: what happens when, and what stops it."""

import itertools
import json

import jax
import numpy as np
import pytest

from frcnn_jax import config
from frcnn_jax.training import distributed, loop, optimizer, schedule, step
from frcnn_jax.training.checkpoint import Checkpoints
from frcnn_jax.training.log import MetricLog
from frcnn_jax.training.loop import NonFinite, Plan, fit
from frcnn_jax.training.state import create

TRAIN = config.Train(
    batch_size=8, lr=0.002, lr_batch_size=0, warmup_steps=0, log_every=2
)


def plan(total=6, evals=(4, 6), saves=(2, 4, 6)):
    rate = schedule.learning_rate(TRAIN, (5,))
    return Plan(total, lambda done: done / 3, rate, frozenset(evals), frozenset(saves))


@pytest.fixture
def train(linear, arrays_of, tmp_path):
    """Runs or continues a run in a folder; returns (state, evaluated steps)."""

    def run(name="run", plan=plan(), batches=None, limit=None, aps=None):  # noqa: B008
        mesh, evaluated = distributed.make_mesh(2), []
        tx = optimizer.make(TRAIN, plan.rate)
        state = create(linear.init(jax.random.key(0), None), tx, ())
        state = distributed.replicate(state, mesh)
        workdir = tmp_path / name
        workdir.mkdir(exist_ok=True)

        def evaluate(variables, done):
            evaluated.append(done)
            kernel = variables["params"]["head"]["kernel"]
            return {
                "step": done,
                "AP": float(kernel[0]) if aps is None else aps[done],
                "per_class": {"a": {"AP": 0.5}},
            }

        with Checkpoints(workdir, keep=3) as checkpoints:
            begin = checkpoints.latest or 0
            if begin:
                state = checkpoints.restore(state)
            log = MetricLog(workdir, begin)
            source = batches or map(arrays_of, itertools.count(begin))
            source = itertools.islice(source, limit)
            try:
                state = fit(
                    state,
                    step.make_train_step(linear, tx, (), mesh),
                    source,
                    plan=plan,
                    evaluate=evaluate,
                    checkpoints=checkpoints,
                    log=log,
                    train=TRAIN,
                    key=jax.random.key(0),
                    mesh=mesh,
                    earlier=log.scores,
                )
            finally:
                log.close()
        return jax.tree.map(np.asarray, state), evaluated

    return run


def lines(folder):
    return [json.loads(x) for x in (folder / "metrics.jsonl").read_text().splitlines()]


def test_everything_happens_at_its_step(train, tmp_path, capsys):
    state, evaluated = train()
    assert state.step == 6 and evaluated == [4, 6]
    saved = {p.name for p in (tmp_path / "run/checkpoints").iterdir() if p.is_dir()}
    assert saved == {"2", "4", "6"}
    written = lines(tmp_path / "run")
    assert [x["step"] for x in written] == [2, 4, 4, 6, 6]
    printed = [x for x in capsys.readouterr().out.splitlines() if x.startswith("step")]
    assert [x.split()[1] for x in printed] == ["2/6", "4/6", "6/6"]


def test_what_is_logged(train, tmp_path):
    train()
    first, _, scores, *_ = lines(tmp_path / "run")
    assert set(first) == {
        *("step", "epoch", "lr", "loss", "grad_norm", "update_norm"),
        *("images_per_s", "data_wait", "data_s", "device_s", "host_s"),
        *("loss_rpn_cls", "loss_rpn_bbox", "loss_cls", "loss_bbox"),
    }
    assert first["images_per_s"] > 0 and 0 <= first["data_wait"] <= 1
    assert first["epoch"] == pytest.approx(2 / 3)
    assert set(scores) == {"step", "eval/AP", "eval/AP/a"}


def test_the_logged_rate_is_that_of_the_step_taken(train, tmp_path):
    train(plan=plan(evals=(6,)))
    rates = {x["step"]: x["lr"] for x in lines(tmp_path / "run") if "lr" in x}
    assert rates == pytest.approx({2: 0.002, 4: 0.002, 6: 0.0002})  # drops at step 5


def test_the_last_step_is_always_logged(train, tmp_path):
    train(plan=plan(total=3, evals=(3,), saves=(3,)))
    assert [x["step"] for x in lines(tmp_path / "run")] == [2, 3, 3]


def test_a_continued_run_ends_with_the_same_bits(train, tmp_path):
    whole, _ = train("whole")
    with pytest.raises(StopIteration):  # the data ends: an accident after step 5
        train("parts", limit=5)
    assert max(x["step"] for x in lines(tmp_path / "parts")) == 4
    resumed, evaluated = train("parts")
    assert evaluated == [6]
    jax.tree.map(np.testing.assert_array_equal, resumed, whole)
    names = ("step", "loss", "lr", "eval/AP")
    logs = [
        [{k: x[k] for k in names if k in x} for x in lines(tmp_path / name)]
        for name in ("whole", "parts")
    ]
    assert logs[0] == logs[1]


def test_a_finished_run_does_nothing_more(train):
    first, _ = train()
    again, evaluated = train(limit=0)
    assert evaluated == []
    jax.tree.map(np.testing.assert_array_equal, first, again)


def test_a_loss_that_is_no_number_names_step_and_rows(train, arrays_of, tmp_path):
    def batches():
        for number in itertools.count():
            arrays = arrays_of(number)
            if number == 3:
                arrays["images"] = np.full_like(arrays["images"], np.nan, np.float32)
            else:
                arrays["images"] = arrays["images"].astype(np.float32)
            yield arrays

    with pytest.raises(NonFinite, match="not finite at step 4") as caught:
        train(plan=plan(saves=(2, 6)), batches=batches())
    message = str(caught.value)
    assert str(arrays_of(3)["image_id"].tolist()) in message
    assert "loss_rpn_cls" in message and "train.lr" in message
    assert [x["step"] for x in lines(tmp_path / "run")] == [2]


def test_a_broken_state_is_not_saved(train, arrays_of, tmp_path):
    """Before the next report: after step 2 come the losses of step 4."""

    def batches():
        yield arrays_of(0)
        yield arrays_of(1)
        arrays = arrays_of(2)
        yield {**arrays, "images": np.full(arrays["images"].shape, np.inf, np.float32)}

    with pytest.raises(NonFinite, match="not finite at step 3"):
        train(plan=plan(saves=(2, 3)), batches=batches())
    saved = {p.name for p in (tmp_path / "run/checkpoints").iterdir() if p.is_dir()}
    assert saved == {"2"}


@pytest.mark.parametrize(("scale", "stops"), [(1.0, False), (0.5, True)])
def test_an_overflow_is_an_error_only_when_no_scale_helps(scale, stops):
    metrics = {"loss": np.inf, "loss_scale": scale, "skipped_steps": 17}
    if stops:
        with pytest.raises(NonFinite, match="loss not finite at step 20"):
            loop._finite(metrics, 20, np.arange(2))
    else:
        assert loop._finite(metrics, 20, np.arange(2)) == metrics


def test_skipped_steps_do_not_move_the_logged_rate():
    metrics = {"loss": 1.0, "loss_scale": 8.0, "skipped_steps": 2}
    report = loop._report(metrics, loop.Clock(), plan(), 7, np.arange(2))
    assert report["lr"] == pytest.approx(0.002)  # the fifth step taken; drop at step 5


def test_idle_time_counts_only_when_the_device_had_nothing_to_do():
    """A batch that is awaited while a step still runs costs nothing."""

    class Pending:
        """What `jax.Array.is_ready` says of a step that is still running."""

        def is_ready(self):
            return False

    arrays, waited, idle = loop._fetch(iter([{"image_id": 1}]), {"loss": Pending()})
    assert arrays == {"image_id": 1} and idle == 0.0 < waited
    _, waited, idle = loop._fetch(iter([{}]), None)
    assert idle == waited > 0.0


@pytest.mark.parametrize(
    ("scores", "patience", "ends"),
    [
        ([], 1, False),
        ([0.1, 0.2, 0.2], 1, True),
        ([0.1, 0.2, 0.2], 2, False),
        ([0.3, 0.2, 0.1], 2, True),
        ([0.3, 0.2, 0.1], 0, False),
        ([None, None, 0.1], 2, False),
        ([None, None, None], 2, True),
    ],
)
def test_patience_counts_evaluations_since_the_best(scores, patience, ends, capsys):
    assert loop.exhausted(scores, patience) == ends
    assert ("stopping early" in capsys.readouterr().out) == ends


def test_a_run_out_of_patience_stops_and_stays_stopped(train, monkeypatch):
    """The best AP is that of the second evaluation."""
    monkeypatch.setattr(TRAIN, "patience", 2)
    every = plan(evals=range(1, 7), saves=range(1, 7))
    aps = dict(zip(range(1, 7), (0.1, 0.3, 0.2, 0.3, 0.4, 0.5), strict=True))
    state, evaluated = train(plan=every, aps=aps)
    assert evaluated == [1, 2, 3, 4] and state.step == 4
    again, evaluated = train(plan=every, aps=aps)
    assert evaluated == [] and again.step == 4
