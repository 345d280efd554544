"""Sweeps by Hydra: which runs they are, where these land, and that its launchers really run them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.commands import environment
from tests.helpers.effort import TORTURE
from tests.helpers.paths import ROOT
from tests.helpers.torture.toy_command import FAILURES, run

LAUNCHERS = {
    "basic": [],
    "joblib": ["hydra.launcher.n_jobs=2"],
    "submitit_local": ["hydra.launcher.timeout_min=5"],
}


@pytest.fixture
def configs(tmp_path, monkeypatch):
    """A folder of configurations; the working directory is another one, empty."""
    (tmp_path / "configs").mkdir()
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return tmp_path / "configs"


def landed() -> dict[str, dict]:
    return {path.name: json.loads(path.read_text()) for path in Path("runs/toy").glob("*")}


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_every_combination_runs_once_and_its_folder_says_what_differs(configs, launcher):
    if launcher != "basic":
        pytest.importorskip(f"hydra_plugins.hydra_{launcher.partition('_')[0]}_launcher")
    more = [f"hydra/launcher={launcher}", *LAUNCHERS[launcher]]
    assert run(configs, "-m", "lr=1e-3,2e-3", "seed=range(0,2)", "path=/x/my runs #1", *more) == 0
    found = landed()
    assert sorted(found) == [f"toy-lr={lr}-seed={seed}" for lr in (0.001, 0.002) for seed in (0, 1)]
    last = found["toy-lr=0.002-seed=1"]
    assert (last["config"]["lr"], last["config"]["seed"], last["config"]["path"]) == (0.002, 1, "/x/my runs #1")
    assert {"lr=0.002", "seed=1"} <= set(last["argv"]) and "-m" not in last["argv"], "the command of this run alone"
    assert sorted(path.name for path in Path().iterdir()) == ["runs"]
    assert sorted(path.name for path in Path("runs").iterdir()) == ["sweeps", "toy"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["lr=0.1,big"], "lr=big: expected a number"),
        (["seed=1,-1"], "seed=-1: accepted: 0 or more"),
        (["sed=1,2"], "sed=1: unknown setting (did you mean seed?)"),
        (["seed=1,2", "lr=big"], "lr=big: expected a number"),
        (["seed=1,2", "hydra/launcher=slrm"], "hydra/launcher"),
        (["seed=interval(0,1)"], "INTERVAL_SWEEP"),
        (["--cfg", "job"], "several of --run, --multirun"),
    ],
)
def test_a_wrong_sweep_is_refused_whole(configs, capsys, words, said):
    assert run(configs, "-m", *words) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and said in error
    assert list(Path().iterdir()) == []


def test_without_slurm_there_is_one_clear_line(configs, capsys, monkeypatch):
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    monkeypatch.setenv("PATH", str(configs))
    assert run(configs, "-m", "seed=0,1", "hydra/launcher=submitit_slurm") == 2
    assert "srun" in capsys.readouterr().err and list(Path().iterdir()) == []


@pytest.mark.parametrize("seed, code", [(9, 1), (8, 2), (7, 1)])
def test_a_run_that_fails_decides_the_exit_code_and_stops_no_other(configs, capsys, seed, code):
    assert run(configs, "-m", f"seed={seed},1") == code
    said = capsys.readouterr().err
    assert said == f"error: {FAILURES[seed]}\n" and sorted(landed()) == ["toy-seed=1"]
    assert run(configs, f"seed={seed}") == code
    assert capsys.readouterr().err == said


def test_what_waits_for_the_job_is_filled_in_there(configs):
    words = ["-m", "seed=3,4", "path=${hydra:job.num}/${seed}", "out.name=${hydra:job.num}"]
    assert run(configs, *words) == 0
    assert {name: one["config"]["path"] for name, one in landed().items()} == {"0-seed=3": "0/3", "1-seed=4": "1/4"}


def test_single_runs_leave_no_folder_of_hydra(configs):
    assert run(configs, "seed=3") == 0
    assert sorted(landed()) == ["toy"] and sorted(path.name for path in Path("runs").iterdir()) == ["toy"]


@pytest.mark.skipif(not TORTURE, reason="three processes that import torch")
def test_a_module_that_runs_as_main_is_found_by_a_launcher_s_processes(tmp_path):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    words = ["data=smoke", "model=smoke", "budget.steps=2", "batch.documents=2", "evaluate.every=0", "seed=0,1"]
    command = [sys.executable, "-m", "train.pretrain", "-m", *words, "hydra/launcher=joblib"]
    subprocess.run(command, cwd=tmp_path, env=environment(PYTHONPATH=str(ROOT)), check=True)
    assert len(list((tmp_path / "runs/pretrain").glob("pretrain-seed=[01]-????????"))) == 2
