"""What TensorBoard and W&B hold of a run, read back from their files: the rows of metrics.jsonl, each step once."""

import struct
import time

import pytest
from torch import nn

from synth.store.files import read_json_lines
from tests.unit.train.core.test_loop import OPTIM, dying_at, objective, start
from train.core.budget_and_ledger import Budget, Diverged
from train.core.event_logs import EventLogs, scalars
from train.core.loop import StepOutput, train
from train.opd import metrics

WHOLE = Budget(steps=23)


def by_operations(model, step):
    output = objective(model, step)
    counts = [{"ops": 1, "n": 3, "right": step % 4}, {"ops": 2, "n": 5, "right": 1, "full": {"rate": 0.2, "low": 0.0}}]
    metrics = {**output.metrics, "accuracy_by_ops": counts, "rkl": float("nan")}
    return StepOutput(output.loss, metrics, 8, {"update": 1.0})


def dying(model, step):
    return by_operations(model, step) if step < 17 else dying_at(17)(model, step)


def run_twice(tmp_path, name):
    """A run that dies between two saves and is started again; its folder."""
    logs = EventLogs([name], {"optim": {"lr": 0.05}}, metrics.described, metrics.table())
    run, model, out = start(tmp_path)
    logs.check()
    with pytest.raises(Diverged):
        train(run, model, dying, OPTIM, WHOLE, out, logs=logs)
    train(run, nn.Linear(4, 1), by_operations, OPTIM, WHOLE, out, logs=logs)
    rows = read_json_lines(run.path / "metrics.jsonl")
    assert [row["step"] for row in rows] == [5, 10, 15, 20, 23]
    return run.path, rows


def test_tensorboard_reads_the_rows_of_metrics_jsonl_each_step_once(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder, rows = run_twice(tmp_path, "tensorboard")
    assert len(list((folder / "tensorboard").iterdir())) == 1
    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    wanted = {name for row in rows for name, _ in scalars(row)}
    assert (
        set(events.Tags()["scalars"]) == wanted and {"loss", "mine", "accuracy_by_ops/2/full/rate", "flops"} <= wanted
    )
    for name in wanted:
        held = [(event.step, event.value) for event in events.Scalars(name)]
        logged = [(row["step"], dict(scalars(row)).get(name)) for row in rows]
        assert held == [(step, pytest.approx(value, rel=1e-6)) for step, value in logged if value is not None]
    about = events.SummaryMetadata("accuracy_by_ops/2/right").summary_description
    assert "for each number of operations" in about and "rkl" not in wanted


def wandb_records(path):
    """The records of a file of W&B: LevelDB's log format behind a header of seven bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, body, found = path.read_bytes(), 7, b"", []
    while at + 7 <= len(data):
        left = 32768 - at % 32768
        _, length, kind = struct.unpack("<IHB", data[at : at + 7]) if left >= 7 else (0, 0, 0)
        if kind == 0:  # the rest of a block is padding
            at += left
            continue
        body += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            found.append(Record.FromString(body))
            body = b""
    return found


def test_wandb_offline_holds_the_rows_of_metrics_jsonl_each_step_once(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    folder, rows = run_twice(tmp_path, "wandb")
    files = list((folder / "wandb").glob("offline-run-*/run-*.wandb"))
    assert len(files) == 1
    records = []
    while not records or records[-1].WhichOneof("record_type") != "exit":  # its own process writes a little later
        time.sleep(0.1)
        records = wandb_records(files[0])
    run = next(record.run for record in records if record.WhichOneof("record_type") == "run")
    assert (run.project, run.display_name) == ("glasshouse", folder.name)
    assert {item.key: item.value_json for item in run.config.update}["optim"] == '{"lr":0.05}'
    history = [record.history for record in records if record.WhichOneof("record_type") == "history"]
    assert [one.step.num for one in history] == [row["step"] for row in rows]
    for one, row in zip(history, rows, strict=True):
        held = {"/".join(item.nested_key) or item.key: float(item.value_json) for item in one.item}
        assert {k: v for k, v in held.items() if not k.startswith("_")} == pytest.approx(dict(scalars(row)))


@pytest.mark.parametrize("entry", ["train.pretrain", "train.opd.run"])
def test_a_missing_package_is_one_line_and_nothing_is_written(entry, tmp_path, monkeypatch, capsys):
    import importlib

    monkeypatch.setattr("train.core.event_logs.importlib.util.find_spec", lambda name: None)
    words = {"train.pretrain": ["budget.steps=1"], "train.opd.run": ["method=gkd", "scale=smoke"]}[entry]
    module = importlib.import_module(entry)
    name, schema = ("opd", module.OpdConfig) if entry == "train.opd.run" else ("pretrain", module.PretrainConfig)
    rewrite = getattr(module, "rewrite", None)
    words = [*words, "log=[tensorboard]", f"out.root={tmp_path / 'runs'}"]
    assert module.run_entry(name, schema, module.main, "", words, rewrite) == 2
    (error,) = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("compiling")]
    assert error.startswith("error: log=[tensorboard]: the package tensorboard is not installed; accepted: pip install")
    assert not (tmp_path / "runs").exists()


def test_wandb_without_a_login_is_one_line(monkeypatch, tmp_path):
    pytest.importorskip("wandb").teardown()  # of another mode
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))  # no ~/.netrc
    with pytest.raises(ValueError, match=r"^log=\[wandb\]: No API key.*accepted: wandb login, WANDB_MODE=offline"):
        EventLogs(["wandb"]).check()


def test_another_log_is_named(capsys):
    from train.pretrain import PretrainConfig, main, run_entry

    assert run_entry("pretrain", PretrainConfig, main, "", ["log=[mlflow]"]) == 2
    assert "log=['mlflow']: accepted: a list with some of tensorboard, wandb" in capsys.readouterr().err
