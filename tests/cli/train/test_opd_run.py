"""`train.opd.run` as a user meets it: help, a run of every kind of method, a second start, and what goes wrong."""

import json
from pathlib import Path

import pytest

from synth.store.files import read_json_lines
from tests.helpers.run_folders import files_of
from train import pretrain
from train.config.compose import run_entry
from train.opd import run as opd_run
from train.opd.metrics import definition
from train.opd.objective import Objective

SMALL = [
    "data=smoke", "prompts=6", "max_new=16", "budget.steps=4", "evaluate.every=2", "evaluate.problems=4",
    "evaluate.documents=4", "evaluate.samples=2", "out.save_every=2", "evaluate.samples_per_problem=2",
    "evaluate.sampled_problems=4",
]  # fmt: skip
FILES = {
    "config.yaml", "manifest.json", "metrics.jsonl", "checkpoints.jsonl", "checkpoints", "samples.jsonl", "ledger.json",
    "summary.json", "SHA256SUMS",
}  # fmt: skip


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, Path]:
    """Checkpoints of a student and a teacher, made in this process; `other` reads another world."""
    root = tmp_path_factory.mktemp("models")
    for seed, name, data in ((0, "student", "smoke"), (1, "teacher", "smoke"), (2, "other", "med")):
        words = [
            f"data={data}", "model=smoke", "model.context=400", f"seed={seed}", "budget.steps=2", "batch.documents=2",
            "batch.bucket=1", "evaluate.every=0", f"out.root={root}", f"out.name={name}",
        ]  # fmt: skip
        assert run_entry("pretrain", pretrain.PretrainConfig, pretrain.main, "", words) == 0
    return {folder.name.split("-")[0]: folder for folder in root.iterdir()}


def opd(*words: str) -> int:
    """The command in this process: the exit code it would have."""
    return run_entry("opd", opd_run.OpdConfig, opd_run.main, opd_run.__doc__ or "", words)


def test_help_names_the_methods_and_an_example(command):
    shown = command("train.opd.run", "--help")
    assert shown.returncode == 0 and shown.stderr == ""
    assert "python -m train.opd.run student=" in shown.stdout
    assert "crisp | curio_sft | dasd | distillm | distillm2 | drgrpo | eopd | exopd | gad | gkd | grpo" in shown.stdout


def test_a_run_is_complete_and_starting_it_again_changes_nothing(command, models, tmp_path):
    words = [*SMALL, f"student={models['student']}", f"teacher={models['teacher']}", f"out.root={tmp_path}"]
    first = command("train.opd.run", *words)
    assert first.returncode == 0, first.stderr
    folder = next(tmp_path.glob("*-????????"))
    came_out, path = first.stdout.splitlines()
    assert came_out.startswith(f"opd from {models['student']} on data tiny ") and "n = 4 held-out problems" in came_out
    assert path == str(folder) and folder.name.startswith("opd-") and first.stderr == ""
    assert {p.name for p in folder.iterdir()} - {".lock"} == FILES
    rows = read_json_lines(folder / "metrics.jsonl")
    assert [row["step"] for row in rows] == [0, 1, 2, 3, 4]
    wanted = {
        "loss", "grad_norm", "rkl", "fkl", "student_entropy", "teacher_entropy", "advantage", "eos", "length_mean",
        "length_p95", "truncation", "retries", "repetition", "accuracy_strict", "accuracy_answer",
    }  # fmt: skip
    assert wanted <= set(rows[1])
    assert {"eval_pass_1", "eval_pass_2", "eval_ood", "eos_gold", "eval_step"} <= set(rows[0]) & set(rows[2])
    assert {"update_norm", "accuracy_by_ops", "length_median", "repetition_zlib", "rkl_large"} <= set(rows[1])
    assert all(definition(key) is not None for row in rows for key in row)
    samples = read_json_lines(folder / "samples.jsonl")
    assert [(sample["step"], sample["index"]) for sample in samples] == [(0, 0), (0, 1), (2, 12), (2, 13)]
    assert {"ops", "prompt", "response", "answer", "right", "finished", "finish_reason", "steps"} <= set(samples[0])
    flops = json.loads((folder / "ledger.json").read_text())["flops"]
    assert flops["update"] == pytest.approx(3 * flops["teacher"])
    before = files_of(folder)
    assert opd(*words) == 0
    assert files_of(folder) == before


@pytest.mark.parametrize(
    ("method", "generates", "reads"),
    [
        ("kd", False, True),  # gold solutions under the teacher's distribution
        ("seqkd", True, False),  # the teacher writes; its words are learnt, not its distribution
        ("scope", True, True),
        ("drgrpo", True, False),  # the verifier alone
        ("oracle", True, False),  # a teacher that is no network
        ("distillm", False, True),  # documents first
    ],
)
def test_a_method_pays_for_what_it_is_made_of(method, generates, reads, models, tmp_path, capsys):
    """Tokens are generated, and a teacher network reads them, where the method says so."""
    teacher = [] if method in ("drgrpo", "oracle") else [f"teacher={models['teacher']}"]
    words = [*SMALL, "budget.steps=2", f"method={method}", f"student={models['student']}", f"out.root={tmp_path}"]
    assert opd(*words, *teacher) == 0, capsys.readouterr().err
    folder = next(tmp_path.glob("*-????????"))
    assert json.loads((folder / "summary.json").read_text())["steps"] == 2
    assert folder.name.startswith(f"{method}-")
    flops = json.loads((folder / "ledger.json").read_text())["flops"]
    assert (flops.get("generation", 0.0) > 0, flops.get("teacher", 0.0) > 0) == (generates, reads)
    assert flops["update"] > 0


def test_a_self_teacher_is_measured_first_and_stops_where_it_cannot_read(models, tmp_path, capsys):
    words = [*SMALL, "budget.steps=2", "method=opsd", "skill.problems=8", f"student={models['student']}"]
    words += [f"out.root={tmp_path}", "max_new=12"]
    assert opd(*words) == 2
    shown = capsys.readouterr()
    assert "lacks this skill (context=gold: 0.0% with, 0.0% without" in shown.err and list(tmp_path.iterdir()) == []
    assert opd(*words, "skill.stop=false") == 0
    folder = next(tmp_path.glob("*-????????"))
    skill = json.loads((folder / "skill.json").read_text())
    assert skill["context"] == "gold" and skill["problems"] == 8 and not skill["clear"]
    assert all(sample["context"].startswith("<gold>") for sample in read_json_lines(folder / "samples.jsonl"))
    before = files_of(folder)
    assert opd(*words, "skill.stop=false") == 0 and files_of(folder) == before


def test_a_killed_run_of_a_method_with_memory_goes_on_as_if_nothing_had_been(models, tmp_path):
    """Responses used again and an averaged teacher come back from the checkpoint."""
    base = [*SMALL, "method=sdft", "skill.problems=2", "skill.stop=false", "max_new=12", f"student={models['student']}"]
    base += ["budget.steps=4", "out.save_every=1", "method.source.reuse=3"]
    losses = []
    for name, stops in (("whole", ()), ("killed", (2,))):
        folder = tmp_path / name
        words = [*base, f"out.folder={folder}"]
        for stop in stops:
            keep = Objective.__call__

            def dying(self, model, step, keep=keep, stop=stop):
                if step == stop:
                    raise KeyboardInterrupt
                return keep(self, model, step)

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(Objective, "__call__", dying)
                assert opd(*words) == 130
        assert opd(*words) == 0
        losses.append([row["loss"] for row in read_json_lines(folder / "metrics.jsonl") if "loss" in row])
    assert losses[0] == losses[1] and len(losses[0]) == 4


def test_a_budget_of_flops_counts_everything_that_was_spent(models, tmp_path):
    words = [*SMALL, "budget.steps=null", "budget.flops=4e8", f"student={models['student']}", f"out.root={tmp_path}"]
    assert opd(*words, f"teacher={models['teacher']}") == 0
    summary = json.loads((next(tmp_path.glob("*-????????")) / "summary.json").read_text())
    assert summary["flops"] == pytest.approx(sum(summary["ledger"]["flops"].values()))
    last = summary["flops"] / summary["steps"]
    assert 4e8 <= summary["flops"] < 4e8 + 2 * last


@pytest.mark.parametrize(
    "words, message",
    [
        (["student={student}"], "teacher=null: method=opd needs one"),
        (["student=nowhere", "teacher={teacher}"], "student=nowhere: does not exist"),
        (["student={student}", "teacher=nowhere"], "teacher=nowhere: does not exist"),
        (["student={student}", "teacher={teacher}", "method=sft"], "has no effect with method=sft"),
        (["student={student}", "teacher={other}"], "vocabulary is not the one"),
        (["student={other}", "teacher={teacher}"], "vocabulary is not the one"),
        (["student={student}", "teacher={teacher}", "method=distillm", "data.tokens=word"],
         "data.tokens=word: its vocabulary is not the one"),
        (["student={student}", "teacher={teacher}", "method=gkd", "method.outcome.kind=grpo"], "compares responses"),
        (["student={student}", "teacher={teacher}", "evaluate.ood=20"], "evaluate.ood=20: letters=16 is too few"),
        (["student={student}", "teacher={teacher}", "evaluate.samples_per_problem=0"], "evaluate.continuations=1 has"),
        (["student={student}", "teacher={teacher}", "method=minillmm"], "method=minillmm: no such option (did"),
        (["student={student}", "teacher={teacher}", "method.divergence.kind=kl"], "divergence.kind=kl is not known"),
        (["student={student}", "teacher={teacher}", "method.source.temprature=1"], "did you mean temperature?"),
        (["student={student}", "teacher={teacher}", "method.source.samples=many"], "expected an integer"),
        (["student={student}", "teacher={teacher}", "method=tm_opd", "method.divergence.kind=rkl_k1"], "cancels"),
        (["student={student}", "teacher={teacher}", "prompts=0"], "prompts=0: accepted: 1 or more"),
        (["student={student}", "teacher={teacher}", "max_new=390"], "max_new=390: prompts have up to"),
        (["student={student}", "teacher={teacher}", "method.divergence.support=student_topk",
          "method.divergence.support.k=5000"], "divergence.support.k=5000: accepted"),
        (["student={student}", "teacher={teacher}", "method.schedule={{stop: 0.0}}"], "schedule.stop=0.0: unk"),
        (["student={student}", "teacher={teacher}", "method.schedule.steps=60"], "method.schedule.end: needs a value"),
        (["student={student}", "teacher={teacher}", "method.fork={{a: 1}}"], "method.fork.a=1: unknown setting"),
        (["student={student}", "teacher={teacher}", "data.overrides.retry_rate=high"], "expected a number"),
        (["student={student}", "teacher={teacher}", "data.overrides.exact_ops=.inf"], "expected true or false"),
        (["student={student}", "teacher={teacher}", "budget.flops=1e9"], "exactly one"),
        (["teacher={teacher}"], "student: needs a value"),
        (["student={student}", "method=sdpo", "method.source.samples=1"], "source.samples above 1, got 1"),
        (["student={student}", "method=grpo", "method.source.samples=1"], "source.samples above 1"),
        (["student={student}", "teacher={teacher}", "method=paced", "method.source.samples=1"], "compares responses"),
        (["student={student}", "method=mopd", "max_new=90"], "and contexts up to 273"),
        (["student={student}", "method=sdzero1", "max_new=200"], "and contexts up to 202"),
        (["student={student}", "teacher={teacher}", "teachers=[{teacher}]"], "method.teacher.route=null"),
        (["student={student}", "teacher={teacher}", "method=routed"], "1 checkpoints with teacher.route=ops"),
        (["student={student}", "method=oracle", "method.divergence.kind=rkl"], "rules tokens out"),
        (["student={student}", "method=oracle", "data.overrides.solution_order=published"], "no closed form"),
        (["student={student}", "teacher={teacher}", "skill.stop=false"], "skill: has no effect"),
        (["student={student}", "method=oracle", "data.tokens=word"], "method=oracle reads phrases; accepted: phrase"),
        (["student={student}", "method=grpo", "method.outcome.clip=0.2"], "has nothing to act on"),
        (["student={student}", "teacher={teacher}", "method.teacher.context=golden"], "'golden' is no section"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_and_writes_nothing(words, message, models, tmp_path, capsys):
    words = [word.format(**models) for word in words]
    assert opd(*SMALL, *words, f"out.root={tmp_path}") == 2
    shown = capsys.readouterr()
    assert message in shown.err and shown.err.count("\n") == 1 and shown.out == ""
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_another_config_is_refused(models, tmp_path, capsys):
    words = [*SMALL, "budget.steps=1", f"student={models['student']}", "method=sft", f"out.folder={tmp_path / 'here'}"]
    assert opd(*words) == 0
    before = files_of(tmp_path / "here")
    capsys.readouterr()
    assert opd(*words, "seed=5") == 2
    shown = capsys.readouterr().err
    assert "seed is 0 there and 5 here" in shown and shown.count("\n") == 1
    assert files_of(tmp_path / "here") == before


def test_a_replay_of_another_tokenizer_is_refused_before_anything_runs(models, tmp_path, capsys):
    """Kept responses are token ids: a folder of phrases does not go on in words, whoever made its student."""
    here = f"out.folder={tmp_path / 'here'}"
    words = [*SMALL, "budget.steps=2", f"student={models['student']}", f"teacher={models['teacher']}", here]
    assert opd(*words, "method=distillm") == 0
    before = files_of(tmp_path / "here")
    capsys.readouterr()
    assert opd(*words, "method=distillm", "data.tokens=word") == 2
    shown = capsys.readouterr()
    assert "data.tokens=word: its vocabulary is not the one" in shown.err and shown.err.count("\n") == 1
    assert files_of(tmp_path / "here") == before
