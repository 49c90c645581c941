"""The loop around the small linear detector: what happens when, and what stops it."""

import dataclasses
import itertools
import json
import signal
import time
from functools import partial
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from frcnn_jax import config
from frcnn_jax.training import distributed, loop, optimizer, schedule, step
from frcnn_jax.training.checkpoint import Checkpoints, SaveFailed
from frcnn_jax.training.guard import Guard, NonFinite, Taken
from frcnn_jax.training.log import MetricLog
from frcnn_jax.training.loop import Plan, fit
from frcnn_jax.training.state import create
from frcnn_jax.training.stop import Stop, Stopped
from frcnn_jax.training.watch import Watch

TRAIN = config.Train(
    batch_size=8, lr=0.002, lr_batch_size=0, warmup_steps=0, log_every=2
)


def plan(total=6, evals=(4, 6), saves=(2, 4, 6)):
    rate = schedule.learning_rate(TRAIN, (5,))
    return Plan(total, lambda done: done / 3, rate, frozenset(evals), frozenset(saves))


@pytest.fixture
def train(linear, arrays_of, tmp_path):
    """Runs or continues a run in a folder; returns (state, evaluated steps)."""

    def run(
        name="run",
        plan=plan(),  # noqa: B008
        batches=None,
        limit=None,
        stop=None,
        aps=None,
        **fields,
    ):
        mesh, evaluated = distributed.make_mesh(2), []
        tx = optimizer.make(TRAIN, plan.rate)
        state = create(linear.init(jax.random.key(0), None), tx, ())
        state = distributed.replicate(state, mesh)
        workdir = tmp_path / name
        workdir.mkdir(exist_ok=True)

        def evaluate(variables, done):
            if stop:
                stop.check()
            evaluated.append(done)
            kernel = variables["params"]["head"]["kernel"]
            ap = float(kernel[0]) if aps is None else aps[done]
            return {"step": done, "AP": ap, "per_class": {"a": {"AP": 0.5}}}

        effort = fields.get("save_best_effort", False)
        with Checkpoints(workdir, keep=3, best_effort=effort) as checkpoints:
            begin = checkpoints.latest or 0
            if begin:
                state = checkpoints.restore(state)
            log = MetricLog(workdir, begin)
            source = batches or map(arrays_of, itertools.count(begin))
            source = itertools.islice(source, limit)
            try:
                rails = loop.Rails(
                    *(plan, evaluate, checkpoints, log, stop or Stop()),
                    name_rows=lambda rows: [f"image {row}" for row in rows],
                    dumps=workdir / "nonfinite",
                )
                state = fit(
                    state,
                    step.make_train_step(linear, tx, (), mesh),
                    source,
                    rails=rails,
                    train=dataclasses.replace(TRAIN, **fields),
                    key=jax.random.key(0),
                    mesh=mesh,
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
        "skipped_steps",
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


def broken(arrays_of, *bad):
    """Batches of which these steps have pictures that are no numbers."""
    for number in itertools.count(1):
        arrays = arrays_of(number - 1)
        value = np.nan if number in bad else 1.0
        images = arrays["images"].astype(np.float32) * np.float32(value)
        yield {**arrays, "images": images}


def test_a_step_that_is_not_finite_is_named_and_its_batch_kept(
    train, arrays_of, tmp_path, capsys
):
    state, _ = train(batches=broken(arrays_of, 3))
    assert state.step == 6 and state.skipped == 1
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(state.variables))
    told = [x for x in capsys.readouterr().out.splitlines() if "not finite" in x]
    names = ", ".join(f"image {row}" for row in arrays_of(2)["image_id"])
    assert len(told) == 1 and f"images {names}; batch kept in" in told[0]
    assert told[0].startswith("step 3 is not finite and has no effect: ")
    assert " loss," in told[0] and "loss_rpn_cls" in told[0]
    with np.load(tmp_path / "run" / "nonfinite" / "step_3.npz") as kept:
        assert kept["step"] == 3 and np.isnan(kept["images"]).all()
        np.testing.assert_array_equal(kept["boxes"], arrays_of(2)["boxes"])
    assert [x["skipped_steps"] for x in lines(tmp_path / "run") if "loss" in x] == [
        *(0, 1, 1)
    ]


def test_too_many_in_a_row_stop_with_a_good_state_saved(train, arrays_of, tmp_path):
    with pytest.raises(NonFinite, match="step 4 .* 2 steps in a row") as caught:
        train(
            plan=plan(saves=(2, 6)),
            batches=broken(arrays_of, 3, 4, 5, 6),
            max_nonfinite=2,
        )
    assert caught.value.exit_code == 3
    good, _ = train("good", plan=plan(total=2, evals=(2,), saves=(2,)))
    left, _ = train(plan=plan(total=4, evals=(4,), saves=(4,)))
    jax.tree.map(np.testing.assert_array_equal, left.variables, good.variables)


def test_two_that_are_not_in_a_row_do_not_stop(train, arrays_of):
    state, _ = train(batches=broken(arrays_of, 2, 4, 6), max_nonfinite=2)
    assert state.skipped == 3


def test_going_back_happens_once(train, arrays_of, capsys):
    bad = {"max_nonfinite": 2, "on_nonfinite": "rollback"}
    long = plan(total=12, evals=(12,), saves=(2, 5, 12))  # 5 is not saved: it is bad
    state, _ = train(plan=long, batches=broken(arrays_of, 5, 6), **bad)
    assert "back to the parameters of step 2" in capsys.readouterr().out
    # Without effect are 3 and 4, undone, and 5 and 6; the optimiser agrees.
    assert state.step == 12
    count = [x for x in jax.tree.leaves(state.opt_state) if x.dtype == np.int32]
    assert [12 - int(x) for x in count] == [state.skipped] * len(count)
    with pytest.raises(NonFinite):
        train("again", plan=long, batches=broken(arrays_of, *range(5, 13)), **bad)
    with pytest.raises(NonFinite):  # before there is a checkpoint to go back to
        train("early", plan=long, batches=broken(arrays_of, 1, 2, 3, 4), **bad)


def test_going_back_happens_once_however_often_a_run_is_killed(
    train, arrays_of, tmp_path, capsys
):
    """The data end, as an accident, right after the rollback; nothing else is saved."""
    bad = {"max_nonfinite": 2, "on_nonfinite": "rollback"}
    long = plan(total=12, evals=(12,), saves=(2, 12))
    with pytest.raises(StopIteration):
        train(plan=long, batches=broken(arrays_of, *range(5, 13)), limit=6, **bad)
    assert "back to the parameters of step 2" in capsys.readouterr().out
    saved = max(int(p.name) for p in (tmp_path / "run/checkpoints").iterdir())
    assert saved == 6
    rest = itertools.islice(broken(arrays_of, *range(5, 13)), saved, None)
    with pytest.raises(NonFinite, match="step 8 .* 2 steps in a row"):
        train(plan=long, batches=rest, **bad)
    assert "back to" not in capsys.readouterr().out


def test_a_kill_after_going_back_changes_nothing(train, arrays_of):
    bad = {"max_nonfinite": 2, "on_nonfinite": "rollback"}
    long = plan(total=12, evals=(12,), saves=(2, 12))
    whole, _ = train("whole", plan=long, batches=broken(arrays_of, 5, 6), **bad)
    with pytest.raises(StopIteration):
        train("parts", plan=long, batches=broken(arrays_of, 5, 6), limit=8, **bad)
    rest = itertools.islice(broken(arrays_of, 5, 6), 6, None)
    parts, _ = train("parts", plan=long, batches=rest, **bad)
    jax.tree.map(np.testing.assert_array_equal, parts, whole)


def test_an_overflow_is_no_fault_while_a_smaller_scale_may_help(tmp_path):
    metrics = {"loss": np.inf, "finite": False, "skipped_steps": 17}
    for scale, stops in ((1.0, False), (0.5, True)):
        taken = Taken(20, metrics | {"loss_scale": scale}, {"image_id": np.arange(2)})
        watched = SimpleNamespace(
            name_rows=lambda rows: ["a"],
            dumps=tmp_path,
            checkpoints=SimpleNamespace(
                save=lambda state: None, wait=lambda: None, rollbacks=0
            ),
        )
        guard = Guard(watched, config.Train(max_nonfinite=1))
        if stops:
            with pytest.raises(NonFinite, match="step 20 is not finite"):
                guard.look(taken, None)
        else:
            assert guard.look(taken, "state") == "state"


def test_skipped_steps_do_not_move_the_logged_rate():
    metrics = {"loss": 1.0, "loss_scale": 8.0, "skipped_steps": 2, "finite": True}
    report = loop._report(metrics, loop.Clock(), plan(), 7)
    assert report["lr"] == pytest.approx(0.002)  # the fifth step taken; drop at step 5


# ---- told to stop


class After(Stop):
    """Asks to stop after a step, as a signal would."""

    def __init__(self, step):
        super().__init__()
        self._step = step

    def now(self, step):
        if step == self._step:
            self.requested = signal.SIGTERM
        return super().now(step)


def test_told_to_stop_it_saves_and_continues_to_the_same_bits(train, tmp_path):
    whole, _ = train("whole")
    with pytest.raises(Stopped, match="SIGTERM after step 3 of 6") as caught:
        train("parts", stop=After(3))
    assert caught.value.exit_code == 143
    assert "3" in {p.name for p in (tmp_path / "parts/checkpoints").iterdir()}
    resumed, _ = train("parts")
    jax.tree.map(np.testing.assert_array_equal, resumed, whole)


def test_an_evaluation_that_was_cut_off_is_done_first(train, tmp_path):
    class DuringEvaluation(Stop):
        def now(self, step):
            return False

        def check(self):
            self.requested = signal.SIGINT
            super().check()

    train("whole")
    with pytest.raises(Stopped, match="SIGINT during an evaluation") as caught:
        train("parts", plan=plan(saves=(6,)), stop=DuringEvaluation())
    assert caught.value.exit_code == 130
    _, evaluated = train("parts")
    assert evaluated == [4, 6]
    logs = [
        [(x["step"], "loss" in x) for x in lines(tmp_path / n)]
        for n in ("whole", "parts")
    ]
    assert logs[0] == logs[1]


def test_the_best_is_kept_apart(train, tmp_path):
    state, _ = train(plan=plan(evals=(2, 4, 6)))
    with Checkpoints(tmp_path / "run", keep=3) as saved:
        like = jax.tree.map(jax.numpy.asarray, state.variables)
        _, newest = saved.restore_variables(like)
        _, step_of_best = saved.restore_variables(like, "best")
    aps = {x["step"]: x["eval/AP"] for x in lines(tmp_path / "run") if "eval/AP" in x}
    assert newest == 6 and step_of_best == loop.best(aps)


def test_which_is_best():
    assert loop.best({2: 0.1, 4: 0.3, 6: 0.3}) == 4
    assert loop.best({2: None}) is None and loop.best({}) is None


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
    assert loop.exhausted(dict(enumerate(scores)), patience) == ends
    assert ("stopping early" in capsys.readouterr().out) == ends


def test_a_run_out_of_patience_stops_and_stays_stopped(train):
    """The best AP is that of the second evaluation."""
    every = plan(evals=range(1, 7), saves=range(1, 7))
    aps = dict(zip(range(1, 7), (0.1, 0.3, 0.2, 0.3, 0.4, 0.5), strict=True))
    state, evaluated = train(plan=every, aps=aps, patience=2)
    assert evaluated == [1, 2, 3, 4] and state.step == 4
    again, evaluated = train(plan=every, aps=aps, patience=2)
    assert evaluated == [] and again.step == 4


def test_saving_with_best_effort_goes_on(train, tmp_path, capsys):
    """The best cannot be written where a file has its name; the newest can."""
    for name in ("strict", "effort"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "best").touch()
    with pytest.raises(SaveFailed, match="best"):
        train("strict")
    state, evaluated = train("effort", save_best_effort=True)
    assert int(state.step) == 6 and evaluated == [4, 6]
    said = capsys.readouterr().out
    assert said.count("Training goes on (train.save_best_effort)") >= 1
    with Checkpoints(tmp_path / "effort", keep=None) as saved:
        assert saved.latest == 6


def test_data_that_do_not_come_are_told(train, arrays_of, monkeypatch, capfd):
    """What hangs is named while it hangs, and the run goes on when it comes."""
    monkeypatch.setattr(loop, "Watch", partial(Watch, 0.02))

    def batches():
        for number in itertools.count():
            if number == 3:
                time.sleep(0.5)
            yield arrays_of(number)

    state, _ = train(batches=batches())
    assert state.step == 6
    assert "waiting for the data of step 4 for" in capfd.readouterr().err
