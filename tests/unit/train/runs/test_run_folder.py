"""Run folders: same work same folder, other work refused, nothing half-written."""

import json
import subprocess
import sys

import pytest
import torch
import yaml

from models.decode import cpu_kernels
from synth.store.files import HOST, read_json
from train.core.budget_and_ledger import Budget, Ledger, TrainState
from train.runs import run_folder
from train.runs.run_folder import config_hash, open_run, run_path

GONE = 2**22 + 1  # no process has this id: above the kernel's most


def config(tmp_path, **changes):
    return {
        "seed": 0,
        "init": None,
        "optim": {"lr": 0.1},
        "out": {"root": str(tmp_path / "runs"), "name": "a", "folder": None},
    } | changes


def start(config, **more):
    return open_run(config, **more, entry="tests", kind="training")


def test_a_run_folder_holds_its_config_and_where_it_came_from(tmp_path):
    run = start(config(tmp_path), seeds={"weights": 0}, data="abc")
    assert run.path == run_path(config(tmp_path)) and run.path.name == f"a-{config_hash(config(tmp_path))[:8]}"
    assert yaml.safe_load((run.path / "config.yaml").read_text()) == config(tmp_path)
    manifest = read_json(run.path / "manifest.json")
    assert manifest["seeds"] == {"weights": 0} and manifest["data"] == "abc"
    assert manifest["entry"] == "tests" and manifest["kind"] == "training"
    assert {"command", "commit", "changes", "versions", "hardware", "time", "config"} <= set(manifest)
    assert str(tmp_path) not in json.dumps(manifest)
    assert not run.resumed and not run.complete


def test_the_same_config_resumes_and_says_so(tmp_path):
    start(config(tmp_path)).close()
    run = start(config(tmp_path))
    assert run.resumed and len(read_json(run.path / "manifest.json")["resumed"]) == 1
    run.write_json("summary.json", {"x": float("nan")})
    assert run.complete and read_json(run.path / "summary.json") == {"x": None}


def test_another_machine_or_another_pass_warns_that_the_last_bits_differ(tmp_path, monkeypatch, capsys):
    torch.set_num_threads(1)
    first = start(config(tmp_path))
    first.close()
    hardware = read_json(first.path / "manifest.json")["hardware"]
    assert hardware["cpu_pass"] == ("compiled" if cpu_kernels.COMPILED else "modules") and hardware["threads"] == 1
    start(config(tmp_path)).close()
    assert capsys.readouterr().err == "" and "hardware" not in read_json(first.path / "manifest.json")["resumed"][0]
    way, other = hardware["cpu_pass"], "modules" if cpu_kernels.COMPILED else "compiled"
    monkeypatch.setattr(cpu_kernels, "COMPILED", not cpu_kernels.COMPILED)
    start(config(tmp_path)).close()
    said = f"the last bits may differ from those of an unbroken run: cpu_pass is {way} there and {other} here"
    assert capsys.readouterr().err == f"{first.path}: {said}\n"
    assert read_json(first.path / "manifest.json")["resumed"][1]["hardware"]["cpu_pass"] == other


def test_a_run_of_a_version_without_the_compiled_pass_warns_too(tmp_path, monkeypatch, capsys):
    before = run_folder._hardware()
    old = {key: value for key, value in before.items() if key != "cpu_pass"} | {"threads": 1, "cpu": "another"}
    with monkeypatch.context() as patch:
        patch.setattr(run_folder, "_hardware", lambda: old)
        start(config(tmp_path)).close()
    monkeypatch.setattr(run_folder, "_hardware", lambda: before | {"threads": 1, "cpu": "this", "cpu_pass": "compiled"})
    run = start(config(tmp_path))
    assert "cpu is another there and this here; cpu_pass is modules there and compiled here" in capsys.readouterr().err
    run.write_json("summary.json", {})
    run.close()
    start(config(tmp_path)).close()
    assert "last bits" not in capsys.readouterr().err, "nothing is computed in a complete run"


def test_the_path_of_the_folder_is_written_where_it_is_asked_for(tmp_path):
    wanted = config(
        tmp_path, out={"root": str(tmp_path), "name": "a", "folder": None, "path_file": str(tmp_path / "p")}
    )
    run = start(wanted)
    assert (tmp_path / "p").read_text() == f"{run.path}\n" and run.path.name.endswith(config_hash(config(tmp_path))[:8])
    (tmp_path / "p").unlink()
    run.close()
    assert start(wanted).resumed and (tmp_path / "p").read_text() == f"{run.path}\n"


def test_what_a_killed_process_left_half_written_is_removed(tmp_path):
    """In the folder, and beside it, where another process has made it meanwhile."""
    run = start(config(tmp_path))
    (run.path / ".ledger.json.123.tmp").write_text("{")
    run.close()
    (run.path.parent / f".{run.path.name}.{HOST}-{GONE}.tmp").mkdir()
    again = start(config(tmp_path))
    assert not list(again.path.glob(".*.tmp")) and not list(run.path.parent.glob(".*.tmp"))


def test_identity_ignores_where_and_sees_what(tmp_path):
    base = config_hash(config(tmp_path))
    assert config_hash(config(tmp_path, out={"root": "elsewhere", "name": "b", "log_every": 3})) == base
    assert config_hash(config(tmp_path, seed=1)) != base
    told, other = ({"name": "x", "deviates": words, "release": {"a": words}} for words in ("so", "otherwise"))
    assert config_hash(config(tmp_path, method=told)) == config_hash(config(tmp_path, method=other)) != base
    assert config_hash(config(tmp_path, optim={"lr": 0.2})) != base


def test_an_input_counts_by_its_contents(tmp_path):
    one, two = config(tmp_path, init="here/x"), config(tmp_path, init="there/y")
    assert config_hash(one, {"init": "d1"}) == config_hash(two, {"init": "d1"}) != config_hash(one, {"init": "d2"})


def test_another_config_in_an_exact_folder_is_refused_and_nothing_changes(tmp_path):
    out = {"root": "", "name": "a", "folder": str(tmp_path / "mine")}
    start(config(tmp_path, out=out)).close()
    before = {p.name: p.read_bytes() for p in (tmp_path / "mine").iterdir()}
    with pytest.raises(ValueError, match=r"mine: is a run of another config \(optim\.lr is 0\.1 there and 0\.2 here\)"):
        start(config(tmp_path, out=out, optim={"lr": 0.2}))
    assert {p.name: p.read_bytes() for p in (tmp_path / "mine").iterdir()} == before


def test_what_differs_is_the_change_and_not_how_yaml_gives_a_list_back(tmp_path):
    out = {"root": "", "name": "a", "folder": str(tmp_path / "mine")}
    probe = {"l2": (0.1, 1.0), "tasks": ("nece", "dep"), "layers": {"at": (0, 1)}}
    start(config(tmp_path, out=out, probe=probe)).close()
    start(config(tmp_path, out=out, probe=probe)).close()
    change = r"another config \(probe\.tasks is \['nece', 'dep'\] there and \['nece'\] here\)"
    with pytest.raises(ValueError, match=change):
        start(config(tmp_path, out=out, probe=probe | {"tasks": ("nece",)}))
    start(config(tmp_path, out=out | {"folder": str(tmp_path / "other")}, init="x"), inputs={"init": "1"}).close()
    with pytest.raises(ValueError, match=r"another config \(the contents of init changed\)"):
        start(config(tmp_path, out=out | {"folder": str(tmp_path / "other")}, init="x"), inputs={"init": "2"})


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    (tmp_path / "mine").mkdir()
    with pytest.raises(ValueError, match="is not a run folder"):
        start(config(tmp_path, out={"root": "", "name": "a", "folder": str(tmp_path / "mine")}))
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match=r"file.*: cannot be created \(Not a directory\)"):
        start(config(tmp_path, out={"root": str(tmp_path / "file"), "name": "a", "folder": None}))


def test_two_processes_cannot_write_one_run(tmp_path):
    run = start(config(tmp_path))
    code = (
        "import json, sys\nfrom train.runs.run_folder import open_run\n"
        "try: open_run(json.loads(sys.argv[1]), entry='tests', kind='merge')\nexcept ValueError as e: print(e)"
    )
    argument = json.dumps(config(tmp_path))
    say = subprocess.run([sys.executable, "-c", code, argument], capture_output=True, text=True, check=True)
    assert "is in use by another process" in say.stdout
    run.close()
    say = subprocess.run([sys.executable, "-c", code, argument], capture_output=True, text=True, check=True)
    assert say.stdout == ""


def test_state_goes_through_json_unchanged():
    state = TrainState(3, 7, 0.1 + 0.2, Ledger({"update": 7}, {"update": 1e17 / 3}, {"update": 0.1}))
    back = TrainState()
    back.load_state_dict(json.loads(json.dumps(state.state_dict())))
    assert back == state


def test_progress_in_each_unit():
    state = TrainState(step=5, tokens=100)
    state.ledger.add(flops={"update": 30.0, "teacher": 10.0})
    assert state.progress(Budget(steps=10)) == 0.5
    assert state.progress(Budget(tokens=400)) == 0.25
    assert state.progress(Budget(flops=80)) == 0.5
    assert state.progress(Budget(steps=3)) == 1.0
    for bad in ({}, {"steps": 1, "tokens": 2}, {"steps": 0}, {"flops": -1.0}):
        with pytest.raises(ValueError, match="budget"):
            Budget(**bad)


def test_the_folder_of_a_distillation_carries_its_method_and_an_earlier_one_goes_on(tmp_path):
    settings = config(tmp_path, method={"name": "gkd"})
    settings["out"]["name"] = "{method}"
    digest = config_hash(settings)[:8]
    assert run_path(settings) == tmp_path / "runs" / f"gkd-{digest}"
    earlier = tmp_path / "runs" / f"opd-{digest}"
    earlier.mkdir(parents=True)
    assert run_path(settings) == earlier
    settings["out"]["name"] = "mine"
    assert run_path(settings).name == f"mine-{digest}"
