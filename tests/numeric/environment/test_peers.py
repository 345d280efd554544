"""The environment inside the libraries it is for, each really run: on an exported model of the zoo where one is needed.

TRL is part of the extra `test`. reasoning-gym, verifiers and lm-evaluation-harness bring dozens of packages, some of
which must be compiled; where they are not installed their tests are skipped (`make peers` installs and runs them).
"""

import asyncio
import json

import pytest
import torch

from synth.environment import lm_eval_adapter, reasoning_gym_adapter, verifiers_adapter
from synth.environment.__main__ import main as show_environment
from synth.environment.rewards import score
from synth.environment.tasks import environment
from synth.environment.trl_adapter import answer_reward, gkd_dataset, grpo_dataset, step_reward, strict_reward
from synth.judge.free_text import judge
from synth.problem.records import from_record, world_of
from train.config.compose import run_entry
from train.export import ExportConfig, main

TINY = environment("tiny", seed=5, split="test", form="native", examples=0)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Folders of a teacher and a student of the zoo."""
    root = tmp_path_factory.mktemp("exported")
    for name in ("teacher", "student"):
        words = [f"checkpoint=zoo/tiny-{name}-0", f"out={root / name}", "custom_code=true"]
        assert run_entry("export", ExportConfig, main, "", words) == 0
    return root


@pytest.fixture(scope="module")
def opened(exported):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    def read(name: str):
        folder, settings = exported / name, {"trust_remote_code": True}
        return (
            AutoModelForCausalLM.from_pretrained(folder, **settings),
            AutoTokenizer.from_pretrained(folder, **settings),
        )

    return read


def quiet(folder) -> dict:
    return {"output_dir": str(folder), "max_steps": 2, "logging_steps": 1, "report_to": [], "use_cpu": True,
            "save_strategy": "no", "learning_rate": 1e-4, "disable_tqdm": True}  # fmt: skip


def test_an_exported_model_solves_tasks_as_a_chat(opened):
    """Its own text, special tokens kept or skipped, is judged right where its tokens are; row 2 of the issue."""
    model, tokenizer = opened("teacher")
    tasks = list(TINY.tasks(0, 16))
    chats = [[{"role": "user", "content": t.record["problem"]}] for t in tasks]
    prompts = [tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) for chat in chats]
    assert prompts == [t.prompt for t in tasks]
    batch = tokenizer(prompts, return_tensors="pt", padding=True, add_special_tokens=False)
    new = model.generate(**batch)[:, batch["input_ids"].shape[1] :]
    right = {}
    for skip in (False, True):
        texts = tokenizer.batch_decode(new, skip_special_tokens=skip)
        for reading in ("strict", "tolerant"):
            right[skip, reading] = [score(t.record, text, reading).right for t, text in zip(tasks, texts, strict=True)]
    assert sum(right[True, "strict"]) >= 12 and len({tuple(r) for r in right.values()}) == 1


def test_trl_trains_on_the_rewards(opened, tmp_path):
    from trl import GRPOConfig, GRPOTrainer

    model, tokenizer = opened("teacher")
    seen = []

    def record_rewards(completions, record, **kwargs):
        seen.extend(zip(record, completions, strict=True))
        return step_reward(completions, record)

    settings = {"per_device_train_batch_size": 4, "num_generations": 4, "max_completion_length": 64}
    trainer = GRPOTrainer(
        model, reward_funcs=[answer_reward, record_rewards, strict_reward], processing_class=tokenizer,
        args=GRPOConfig(**quiet(tmp_path), **settings), train_dataset=grpo_dataset(TINY, 8),
    )  # fmt: skip
    trainer.train()
    rows = [row for row in trainer.state.log_history if "reward" in row]
    assert len(rows) == 2 and len(seen) == 8
    means = {name: sum(row[f"rewards/{name}/mean"] for row in rows) / 2 for name in ("answer_reward", "strict_reward")}
    assert means["answer_reward"] >= means["strict_reward"] > 0.3  # the zoo's teacher solves most of them
    for record, text in seen:
        problem, world = from_record(json.loads(record)), world_of(json.loads(record))
        assert score(record, text, "strict").right == bool(judge(problem, world, text, "strict")[0].right[0])


def test_trl_distils_on_the_gold_chats(opened, tmp_path):
    from trl.experimental.gkd import GKDConfig, GKDTrainer

    (student, tokenizer), (teacher, _) = opened("student"), opened("teacher")
    before = [p.clone() for p in student.parameters()]
    settings = {"per_device_train_batch_size": 2, "lmbda": 0.5, "max_new_tokens": 32, "max_length": 192}
    trainer = GKDTrainer(
        student, teacher_model=teacher, args=GKDConfig(**quiet(tmp_path), **settings), processing_class=tokenizer,
        train_dataset=gkd_dataset(TINY, 8),
    )  # fmt: skip
    batch = trainer.data_collator([gkd_dataset(TINY, 1)[0]])
    kept = tokenizer.decode(batch["input_ids"][0][batch["labels"][0] != -100])
    assert kept == TINY[0].completion and tokenizer.decode(batch["prompts"][0]) == TINY[0].prompt
    trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    assert len(losses) == 2 and all(0 < loss < 1 for loss in losses)
    assert any(not torch.equal(a, b) for a, b in zip(before, student.parameters(), strict=True))


def test_reasoning_gym_has_it_by_name():
    gym = pytest.importorskip("reasoning_gym")
    reasoning_gym_adapter.register()
    assert reasoning_gym_adapter.register() is gym.factory.DATASETS["igsm"][0]
    settings = {"preset": "med", "max_ops": 4, "seed": 3, "size": 6, "examples": 1}
    data, again = (gym.create_dataset("igsm", **settings) for _ in range(2))
    assert len(data) == 6 and list(data) == list(again) and data[0] != data[1]
    for entry in data:
        assert set(entry) == {"question", "answer", "metadata"} and entry["metadata"]["ops"] <= 4
        assert data.score_answer(entry["metadata"]["solution"], entry) == 1.0
        assert data.score_answer(f"I say: \\boxed{{{entry['answer']}}}", entry) == 0.5
        assert data.score_answer(None, entry) == data.score_answer("x", entry) == 0.0
    assert json.dumps(data[0])
    exact = gym.create_dataset("igsm", preset="med", min_ops=3, max_ops=3, size=3)
    assert all(entry["metadata"]["ops"] == 3 for entry in exact)
    course = gym.factory.create_curriculum("igsm")
    first = course.generate_configuration({"seed": 1, "size": 3})
    course.increment_attr_level("ops")
    harder = course.generate_configuration({"seed": 1, "size": 3})
    assert harder.max_ops > first.max_ops and len(list(gym.create_dataset("igsm", **vars(harder)))) == 3
    parts = [("igsm", {"preset": "tiny"}), ("chain_sum", {})]
    specs = [gym.composite.DatasetSpec(name=name, weight=1, config=config) for name, config in parts]
    mixed = gym.create_dataset("composite", seed=1, size=4, datasets=specs)
    assert {mixed[i]["metadata"]["source_dataset"] for i in range(4)} <= {"igsm", "chain_sum"}
    with pytest.raises(ValueError, match="min_ops=9; accepted: 1 to 4"):
        gym.create_dataset("igsm", preset="med", min_ops=9, max_ops=4)


def test_verifiers_scores_a_trace():
    vf = pytest.importorskip("verifiers.v1")
    tasks = verifiers_adapter.taskset("med", ops=4, seed=2, count=5)
    assert [t.data.idx for t in tasks] == [0, 1, 2, 3, 4] and tasks.bounded
    assert [t.data.prompt for t in tasks.take(2)] == [t.data.prompt for t in tasks][:2]
    assert not verifiers_adapter.taskset("tiny").bounded
    env = environment("med", ops=4, seed=2, form="text")
    for task, expected in zip(tasks, env.tasks(0, 5), strict=True):
        assert task.data.prompt == expected.prompt
        for text, rewards in ((expected.completion, (1.0, 1.0, 1.0)), (f"Answer: {expected.answer}", (1.0, 0.0, 0.0))):
            found = asyncio.run(_scored(vf, task, text))
            assert (found.rewards["answer"].score, found.rewards["steps"].score, found.metrics["right"]) == rewards
            assert found.reward == pytest.approx((rewards[0] + rewards[1]) / 2)


async def _scored(vf, task, text: str):
    trace = vf.Trace(
        task=vf.TraceTask(type=type(task).__name__, data=task.data), agent=vf.AgentInfo(config=vf.AgentConfig()),
        root_reply=text,
    )  # fmt: skip
    await task.score(trace)
    return trace


def test_lm_eval_runs_the_task_on_an_exported_model(opened, tmp_path, capsys):
    pytest.importorskip("lm_eval")
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    words = [
        "--preset",
        "tiny",
        "--form",
        "native",
        "--examples",
        "0",
        "--count",
        "12",
        "--lm-eval",
        str(tmp_path / "t"),
    ]
    show_environment(words)
    assert capsys.readouterr().out.strip() == str(tmp_path / "t" / "igsm_tiny.yaml")
    model, tokenizer = opened("teacher")
    found = simple_evaluate(
        HFLM(pretrained=model, tokenizer=tokenizer, batch_size=4, add_bos_token=False, device="cpu"),
        tasks=["igsm_tiny"], task_manager=TaskManager(include_path=str(tmp_path / "t")), bootstrap_iters=0,
    )["results"]["igsm_tiny"]  # fmt: skip
    assert found["right,none"] >= 0.5 and found["answer,none"] >= found["right,none"]
    documents = lm_eval_adapter.documents("med", 2, 0, "test", 1, "chat", "tolerant", {"ops": 3})["test"]
    assert lm_eval_adapter.results(documents[0], [documents[0]["completion"]]) == {"answer": 1, "steps": 1, "right": 1}
    assert "Example 1" in documents[0]["prompt"]
