"""Recipes as jobs: what is submitted and in which order, what a dry run prints, submitit's local executor, torchrun.

Stages are the stand-in command of `test_runner`. SLURM is a stand-in too: an `sbatch` that keeps what it is given.
"""

import json
import os
import re
import shlex
import signal
import stat
import sys
from pathlib import Path

import pytest

from tests.unit.train.recipes.test_runner import STAND_IN, stage, starts
from train.config.compose import load
from train.recipe import RecipeConfig, entry, stages_of
from train.recipes.cluster import Cluster, script, submissions, submit
from train.recipes.plan import PlanFile
from train.recipes.runner import Runner
from train.recipes.stage import Resources, Stage, StageFailed, Work, check_graph

DISTRIBUTED = """
import os, sys
from pathlib import Path
words = dict(word.split("=", 1) for word in sys.argv[1:])
folder = Path(words["out.root"]) / "pair"
folder.mkdir(parents=True, exist_ok=True)
import torch.distributed as dist
dist.init_process_group("gloo")
found = [None] * dist.get_world_size()
dist.all_gather_object(found, os.environ.get("CUDA_VISIBLE_DEVICES"))
if dist.get_rank() == 0:
    (folder / "summary.json").write_text(str(found))
    Path(words["out.path_file"]).write_text(f"{folder}\\n")
dist.destroy_process_group()
"""


@pytest.fixture
def bench(tmp_path, monkeypatch):
    """A folder for runs, with the stand-ins importable by the processes of stages."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "stand_in.py").write_text(STAND_IN)
    (tmp_path / "code" / "stand_in_pair.py").write_text(DISTRIBUTED)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "code"))
    monkeypatch.setattr("train.recipes.stage.DISTRIBUTED", ("stand_in_pair",))
    monkeypatch.setattr("train.recipes.runner.code_digest", lambda: "as it is")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "runs" / "demo"


def counted(failures):
    """Stands for the report: how many stages failed, and how."""
    return list(failures)


def planned(root: Path, stages: list[Stage], wait: bool = True):
    check_graph(stages)
    plan = PlanFile(root / "plan-seed0.json", {"seed": 0}, stages)
    return submissions({0: plan}, stages, {0: {}}, "as it is", counted, wait)


def run_all(root: Path, stages: list[Stage]) -> Cluster:
    cluster = Cluster(root, {"cpus_per_task": 1}, "local")
    submit(planned(root, stages), cluster)
    return cluster


def test_submitit_runs_the_stages_in_order_and_the_report_when_the_last_has_ended(bench, capsys):
    pytest.importorskip("submitit")
    stages = [stage("b", x="@a"), stage("a", seconds=0.3), stage("bad", mode="fail"), stage("never", x="@bad")]
    jobs = run_all(bench, stages).jobs
    failures = jobs["report"].result()
    assert len(failures) == 2 and "the reason it failed" in failures[0] and "needs bad, which failed" in failures[1]
    folders = {name: Path(jobs[f"{name}-seed0"].result()) for name in "ab"}
    assert json.loads((folders["b"] / "config.yaml").read_text())["x"] == str(folders["a"])
    assert "b-seed0                  job" in capsys.readouterr().out
    plan = json.loads((bench / "plan-seed0.json").read_text())["stages"]
    assert {row["name"]: row["folder"] for row in plan if "folder" in row} == {n: f.name for n, f in folders.items()}
    again = [one.name for one in planned(bench, stages)]  # what is complete is not submitted again
    assert again == ["bad-seed0", "never-seed0", "report"]
    plan = PlanFile(bench / "plan-seed0.json", {}, stages[:2])
    assert Runner(plan, 0, 2).run(stages[:2]) == folders and starts(folders["a"]) == 1, "launcher=local goes on from it"


@pytest.mark.skipif(sys.platform != "linux", reason="the process of a job is found by Linux's /proc")
def test_a_preempted_job_goes_back_to_the_queue_and_its_stage_continues(bench):
    pytest.importorskip("submitit")
    jobs = run_all(bench, [stage("a", seconds=3)]).jobs
    job = jobs["a-seed0"]
    while not (found := list(bench.glob("a-*/runs"))):
        assert job.state == "RUNNING"
    task = int(Path(f"/proc/{job.job_id}/task/{job.job_id}/children").read_text().split()[0])
    os.kill(task, signal.SIGUSR2)  # as SLURM does before it takes the node away
    folder = Path(job.result())
    assert folder == found[0].parent and starts(folder) == 2 and jobs["report"].result() == []
    assert "Requeued job" in job.stdout()


def test_two_processes_of_a_stage_are_torchruns_here_and_in_a_job(bench):
    pytest.importorskip("submitit")
    pair = Stage("pair", "stand_in_pair", {}, resources=Resources(processes=2))
    plan = PlanFile(bench / "plan-seed0.json", {}, [pair])
    folder = Runner(plan, 0, 2, gpus=["3"]).run([pair])["pair"]
    assert (folder / "summary.json").read_text() == "['', '']", "two ranks, and no GPU for who asks for none"
    (folder / "summary.json").unlink()
    assert run_all(bench, [pair]).jobs["pair-seed0"].result() == str(folder)


def test_what_a_process_of_torchrun_refuses_is_the_users_line(tmp_path):
    (tmp_path / "logs").mkdir()
    work = Work.of(Stage("a", "train.pretrain", resources=Resources(gpus=8)), tmp_path, 0, {}, "")
    work.log.write_text("error: threads=0: accepted: 1 or more\nTraceback of torchrun\nChildFailedError\n")
    with pytest.raises(StageFailed, match=r"^stage a: threads=0: accepted: 1 or more$") as failed:
        work.result(1)
    assert failed.value.usage


def test_gpus_are_given_to_one_stage_at_a_time(bench, monkeypatch):
    code = STAND_IN.replace('"threads": threads', '"threads": os.environ["CUDA_VISIBLE_DEVICES"]')
    (bench.parents[1] / "code" / "gpu_stage.py").write_text(code)
    stages = [Stage(name, "gpu_stage", {"seconds": 0.3, "n": name}, resources=Resources(gpus=1)) for name in "abc"]
    stages.append(Stage("d", "gpu_stage", {"device": "cuda"}))
    folders = Runner(PlanFile(bench / "plan.json", {}, stages), 0, 4, gpus=["4", "6"]).run(stages)
    spans = [json.loads((folder / "summary.json").read_text()) for folder in folders.values()]
    assert {span["threads"] for span in spans} == {"4", "6"}
    for one in spans:
        others = [o for o in spans if o is not one and o["threads"] == one["threads"]]
        assert all(o["start"] >= one["end"] or o["end"] <= one["start"] for o in others)
    many = [Stage("e", "gpu_stage", {}, resources=Resources(gpus=3))]
    with pytest.raises(ValueError, match="gpus=2: stage e asks for 3"):
        Runner(PlanFile(bench / "plan.json", {}, many), 0, 4, gpus=["4", "6"]).run(many)


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """Commands of SLURM that keep every job file and number the jobs from 100."""
    (tmp_path / "bin").mkdir()
    keep = f"""#!{sys.executable}
import pathlib, shutil, sys
kept = pathlib.Path({str(tmp_path)!r}) / "kept"
kept.mkdir(exist_ok=True)
number = 100 + len(list(kept.iterdir()))
shutil.copy(sys.argv[-1], kept / f"{{number}}.sh")
print("Submitted batch job", number)
"""
    for name in ("sbatch", "srun", "sacct", "scancel"):
        path = tmp_path / "bin" / name
        path.write_text(keep)
        path.chmod(path.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    return tmp_path / "kept"


def test_slurm_is_asked_for_the_resources_and_the_order(slurm, tmp_path, monkeypatch, capsys):
    pytest.importorskip("submitit")
    monkeypatch.chdir(tmp_path)
    words = ["recipe=quickstart", "scale=smoke", "launcher=slurm", "slurm.slurm_partition=big", "out=runs"]
    assert entry([*words, "stages.teacher.resources={gpus: 8, nodes: 2, minutes: 600}"]) == 0
    files = {int(path.stem): path.read_text() for path in slurm.iterdir()}
    asked = {n: dict(re.findall(r"^#SBATCH --([\w-]+)=(.*)$", text, re.M)) for n, text in files.items()}
    by_name = {one["job-name"].removeprefix("quickstart-smoke."): (n, one) for n, one in asked.items()}
    number, teacher = by_name["teacher-seed0"]
    assert (teacher["gpus-per-node"], teacher["nodes"], teacher["time"]) == ("8", "2", "600")
    assert teacher["partition"] == "big" and teacher["dependency"] == "singleton" and teacher["signal"] == "USR2@90"
    assert teacher["cpus-per-task"] == "16" and teacher["ntasks-per-node"] == "1"
    student = by_name["student-seed0"][0]
    assert by_name["opd-seed0"][1]["dependency"] == f"afterok:{student}:{number},singleton"
    assert by_name["opd-seed0"][1]["kill-on-invalid-dep"] == "yes" and "gpus-per-node" not in by_name["opd-seed0"][1]
    others = sorted(set(files) - {by_name["report"][0]})
    assert by_name["report"][1]["dependency"] == f"afterany:{':'.join(map(str, others))},singleton"
    said = capsys.readouterr().out
    assert f"teacher-seed0            job {number}" in said and "runs/quickstart-smoke/report.html is written" in said


def test_a_dry_run_prints_every_command_at_paper_size_and_writes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["recipe=paper", "scale=cluster", "worlds=[hard]", "launcher=slurm", "dry_run=true"]
    assert entry(words) == 0 and list(tmp_path.iterdir()) == []
    lines = capsys.readouterr().out.splitlines()
    about = {line.split()[1].rstrip(":"): (line, lines[k + 1]) for k, line in enumerate(lines) if line.startswith("#")}
    line, command = about["opd-hard-seed0"]
    assert "1 node, 8 GPUs each, 8 processes, 720 minutes; after student-hard-seed0, teacher-hard-seed0" in line
    assert command.startswith("torchrun --standalone --nproc-per-node=8 -m train.opd.run method=opd student=")
    assert 'teacher="$(cat runs/paper-cluster/logs/teacher-hard-seed0.path)"' in command
    assert "model=gpt2-12-12" in about["teacher-hard-seed0"][1] and "data=hard" in about["teacher-hard-seed0"][1]
    assert about["eval-opd-hard-seed0"][1].startswith("python -m train.evaluate checkpoint=")
    assert "after the end of teacher-hard-seed0" in about["report"][0] and len(about) == 9
    for _, command in about.values():
        assert shlex.split(command)


def test_the_script_of_a_dry_run_is_one_that_a_shell_runs(bench):
    import subprocess

    stages = [stage("b", x="@a"), stage("a")]
    text = script(planned(bench, stages)[:-1], bench).replace("python -m", f"{shlex.quote(sys.executable)} -m")
    path = os.pathsep.join(filter(None, [os.environ["PYTHONPATH"], str(Path(__file__).resolve().parents[4])]))
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    subprocess.run(["sh", "-ec", text], check=True, env=environment, capture_output=True)
    made = json.loads(next(bench.glob("b-*/config.yaml")).read_text())
    assert made["x"] == str(next(bench.glob("a-*")))


def test_resources_add_up_and_what_is_nearest_to_the_stage_wins():
    config = load("recipe", RecipeConfig, ["recipe=paper", "scale=cluster", "stages.opd.resources.nodes=4"])
    found = {one.name: one.resources for one in stages_of(config)}
    assert found["student-med"] == Resources(gpus=8, minutes=240) and found["teacher-med"].minutes == 1440
    assert found["opd-hard"] == Resources(gpus=8, nodes=4, minutes=720)
    assert found["opd-hard"].command("e", ["x=1"], "7", "n1")[1] == [
        "--nnodes=4", "--rdzv-backend=c10d", "--rdzv-id=7", "--rdzv-endpoint=n1:29500", "--nproc-per-node=8",
        "-m", "e", "x=1",
    ]  # fmt: skip
    assert found["eval-opd-med"].command("e", ["x=1"]) == ("e", ["x=1"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["launcher=pbs"], "launcher=pbs: accepted: local, slurm"),
        (["slurm.partition=x"], "slurm={'partition': 'x'}: has no effect with launcher=local"),
        (["launcher=slurm", "gpus=2"], "gpus=2: has no effect with launcher=slurm"),
        (["stages.probe.resources.gpus=2"], "stage probe: resources: probes.run is one process; accepted: gpus"),
        (["stages.probe.resources.gpu=2"], "did you mean gpus?"),
        (["stages.probe.resources.nodes=0"], "nodes=0: accepted: 1 or more"),
        (["launcher=slurm", "slurm.slurm_partitionn=x"], "launcher=slurm: "),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(words, said, tmp_path, monkeypatch, capsys, request):
    if "slurm_partitionn" in words[-1]:
        request.getfixturevalue("slurm")
    assert entry([*words, "scale=smoke", f"out={tmp_path / 'runs'}"]) == 2
    error = capsys.readouterr().err
    assert said in error and len(error.splitlines()) == 1 and not (tmp_path / "runs").exists()


def test_without_slurm_there_is_one_clear_line(tmp_path, monkeypatch, capsys):
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert entry(["launcher=slurm", "scale=smoke", f"out={tmp_path / 'runs'}"]) == 2
    assert re.match(r"error: launcher=slurm: .*srun.*; accepted: a machine of the cluster\n$", capsys.readouterr().err)
    assert not (tmp_path / "runs").exists()
