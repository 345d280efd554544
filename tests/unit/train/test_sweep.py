"""Sweeps: which recipes they are, and that they are started, watched and reported on, here and through submitit."""

import os
from pathlib import Path

import pytest

from train import sweep
from train.sweep import RecipeRun, SweepConfig, launch, plan_runs, run_local, run_slurm, visible_gpus


def test_a_sweep_is_every_combination_with_every_seed():
    grid = ["stages.opd.set.optim.lr=0.001,0.002", "stages.kd.set.budget.flops=1e9,2e9"]
    planned = plan_runs(SweepConfig(seeds=[0, 3], scale="smoke", grid=grid, set=["slots=1"], out="x"))
    assert len(planned) == 8 and len({run.name for run in planned}) == 8
    first, last = planned[0], planned[-1]
    assert first.argv == (
        "recipe=quickstart", "scale=smoke", "slots=1", "out=x/lr=0.001,flops=1e9",
        "stages.opd.set.optim.lr=0.001", "stages.kd.set.budget.flops=1e9", "seeds=1", "seed=0",
    )  # fmt: skip
    assert last.name == "quickstart stages.opd.set.optim.lr=0.002 stages.kd.set.budget.flops=2e9 seed=3"
    assert last.folder == Path("x/lr=0.002,flops=2e9/quickstart-smoke")
    assert last.command[1:3] == ["-m", "train.recipe"]
    assert [run.folder for run in plan_runs(SweepConfig(seeds=[7], out="x"))] == [Path("x/quickstart")]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"seeds": []}, r"seeds=\[\]: accepted: at least one, each once"),
        ({"seeds": [1, 1]}, r"seeds=\[1, 1\]"),
        ({"launcher": "pbs"}, "launcher=pbs: accepted: local, slurm"),
        ({"jobs": 0}, "jobs=0"),
        ({"jobs": 3, "gpus": 2}, "gpus=2: accepted: 0, or at least jobs=3"),
        ({"grid": ["stages.opd"]}, "grid: 'stages.opd' is not understood; accepted: SETTING=VALUE,VALUE"),
        ({"recipe": "none"}, "recipe=none: no such option"),
        ({"grid": ["stages.techer.set.x=1"]}, r"did you mean teacher"),
        ({"grid": ["slots=1,0"]}, "slots=0"),
        ({"grid": ["stages.opd.set.optim.lr=1,2", "stages.kd.set.optim.lr=2,1"]}, None),
        ({"grid": ["slots=1,1"]}, "two points would share a folder"),
    ],
)
def test_impossible_sweeps_are_refused_before_anything_starts(settings, words):
    if words is None:  # the same last name in two stages: still a folder for each point
        assert len({run.folder for run in plan_runs(SweepConfig(**settings))}) == 4
        return
    with pytest.raises(ValueError, match=words):
        plan_runs(SweepConfig(**settings))


class Fake(RecipeRun):
    """A run whose command is a line of shell."""

    @property
    def command(self):
        return ["/bin/sh", "-c", self.argv[0]]


def fakes(tmp_path, *lines):
    return [Fake(f"run {k}", (line,), tmp_path / "x") for k, line in enumerate(lines)]


def test_local_jobs_share_the_gpus_and_errors_are_told(tmp_path, monkeypatch):
    monkeypatch.setattr(sweep, "POLL", 0.01)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    note = f"echo $CUDA_VISIBLE_DEVICES >> {tmp_path}/cards"
    planned = fakes(tmp_path, note, f"{note}; sleep 0.3", f"{note}; echo 'error: bad thing'; exit 2", f"{note}; exit 5")
    errors = launch(SweepConfig(jobs=2, gpus=2), planned, tmp_path / "logs")
    assert errors == {
        "run 2": f"bad thing ({tmp_path}/logs/2.log)",
        "run 3": f"code 5 ({tmp_path}/logs/3.log)",
    }
    assert sorted(set((tmp_path / "cards").read_text().split())) == ["0", "1"]


def test_stopping_a_sweep_ends_what_it_started(tmp_path, monkeypatch):
    monkeypatch.setattr(sweep, "POLL", 0.01)
    planned = fakes(tmp_path, f"echo $$ > {tmp_path}/pid; exec sleep 600", f"until [ -s {tmp_path}/pid ]; do :; done")
    ended = run_local(SweepConfig(jobs=2), planned, tmp_path)
    assert next(ended) == (planned[1], None)
    ended.close()
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_gpus_are_those_that_may_be_used(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    assert visible_gpus(2) == ["4", "6"] and visible_gpus(1) == ["4"]
    with pytest.raises(ValueError, match="gpus=3: CUDA_VISIBLE_DEVICES=4,6 has 2; accepted: up to 2"):
        visible_gpus(3)


def test_submitit_runs_the_same_commands(tmp_path):
    """With submitit's local executor, which stands for SLURM."""
    submitit = pytest.importorskip("submitit")
    planned = fakes(tmp_path, f"touch {tmp_path}/a", "exit 3")
    config = SweepConfig(launcher="slurm", slurm={"timeout_min": 2})
    errors = {run.name: error for run, error in run_slurm(config, planned, tmp_path / "logs", cluster="local")}
    assert (tmp_path / "a").exists() and errors["run 0"] is None and "status 3" in errors["run 1"]
    again = sweep.PreemptibleCommand(["x"]).checkpoint()
    assert isinstance(again, submitit.helpers.DelayedSubmission) and again.function.command == ["x"]


def test_without_slurm_there_is_one_clear_line(tmp_path, monkeypatch):
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match=r"launcher=slurm: .*srun"):
        next(run_slurm(SweepConfig(), fakes(tmp_path, "true"), tmp_path))


def test_a_wrong_parameter_is_named(tmp_path):
    pytest.importorskip("submitit")
    config = SweepConfig(slurm={"timeout_mins": 2})
    with pytest.raises(ValueError, match=r"launcher=slurm: .*timeout_mins"):
        next(run_slurm(config, fakes(tmp_path, "true"), tmp_path, cluster="local"))


def test_the_command_reports_failures_with_code_1(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sweep, "launch", lambda *_: {"quickstart seed=0": "code 9 (x.log)"})
    assert sweep.entry(["seeds=[0]", "scale=smoke", f"out={tmp_path}"]) == 1
    assert capsys.readouterr().err == "error: quickstart seed=0: code 9 (x.log)\n"
    assert list(tmp_path.iterdir()) == []
