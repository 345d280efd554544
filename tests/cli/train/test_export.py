"""`train.export` as a user meets it: a folder that solves a problem in `transformers`, and what goes wrong."""

import copy
import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from huggingface_hub import ModelCard
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from models import gpt
from models.gpt import GPT, GPTConfig
from synth.judge.checker import check
from synth.store.files import read_json
from synth.world.vocabulary import EOS, PAD, PROBLEM, SOLUTION
from train.config.compose import run_entry
from train.core import checkpoint, zoo_paths
from train.core.budget_and_ledger import TrainState
from train.core.extend_vocabulary import checkpoint_encoding
from train.data.batches import DataConfig, check_vocabulary, vocabulary_notes
from train.export import ExportConfig, main

pytestmark = pytest.mark.timeout(600)  # the first command may have to compile the checker

DATA = DataConfig("tiny", {"ops": 2, "edges": 4})
WORLD = DATA.spec().load_world()
SHAPE = {"vocab_size": WORLD.size, "n_layer": 2, "n_head": 2, "n_embd": 32, "context": 128}
SHAPES = {
    "papers": {**SHAPE, "norm": "layernorm", "bias": True},
    "qwen3": {**SHAPE, "mlp": "swiglu", "qk_norm": True, "tied": False},
    "quickstart": {**SHAPE, "mlp": "relu2", "token_shift": 2, "conv": 2, "tied": False},
}


def documents():
    return DATA.source("test").documents(range(3))


def trained(settings: dict, folder):
    """A run folder whose model knows three problems by heart."""
    model, d = GPT(GPTConfig(**settings)), documents()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    rows = [torch.from_numpy(d.tokens[a:b].astype(np.int64)) for a, b in zip(d.offsets, d.offsets[1:], strict=False)]
    x = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=PAD)
    for _ in range(80):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x[:, :-1]).flatten(0, 1), x[:, 1:].flatten(), ignore_index=PAD)
        loss.backward()
        optimizer.step()
    folder.mkdir()
    checkpoint.save(folder, model, optimizer, TrainState(), vocabulary_notes(DATA))
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    return {name: trained(settings, root / name) for name, settings in SHAPES.items()}


def solve(folder, **settings) -> None:
    """Auto classes and `generate` alone, on text, in one batch; the checker says that the solutions are right."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, **settings)
    assert isinstance(tokenizer, PreTrainedTokenizerFast)
    assert set(tokenizer.encode("nothing")) == {PAD}
    assert set(tokenizer.encode(WORLD.vocabulary[WORLD.first_name])) == {WORLD.first_name}
    d = documents()
    texts = [f"<problem>{WORLD.decode(d.prompt_tokens(i))}<solution>" for i in range(len(d))]
    batch = tokenizer(texts, return_tensors="pt", padding=True)
    for i in range(len(d)):
        assert batch["input_ids"][i][batch["attention_mask"][i] == 1].tolist() == d.prompt_tokens(i).tolist()
        assert d.prompt_tokens(i)[0] == PROBLEM and d.prompt_tokens(i)[-1] == SOLUTION
    new = model.generate(**batch)[:, batch["input_ids"].shape[1] :]
    length = (new != PAD).sum(1)
    assert (new.gather(1, length[:, None] - 1) == EOS).all()
    verdicts = check(d.problems, WORLD, new.numpy(), length.numpy())
    assert verdicts.right.all()
    assert tokenizer.batch_decode(new, skip_special_tokens=True) == [WORLD.decode(row) for row in new]


@pytest.mark.parametrize("name", ["papers", "qwen3"])
def test_the_folder_solves_problems(name, runs, tmp_path, capsys):
    folder = tmp_path / "deep" / "exported"
    assert run_entry("export", ExportConfig, main, "", [f"checkpoint={runs[name]}", f"out={folder}"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("logits differ by at most") and said[1] == str(folder)
    assert not [p.name for p in folder.parent.iterdir() if p != folder]
    solve(folder)


def test_the_quickstarts_shape_goes_with_its_code(runs, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(gpt, "shortcut", None)  # the folder's code is that of the modules
    words = [f"checkpoint={runs['quickstart']}", f"out={tmp_path / 'exported'}"]
    assert run_entry("export", ExportConfig, main, "", words) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1 and captured.out == "" and not list(tmp_path.iterdir())
    assert "token_shift=2: has no counterpart in LlamaForCausalLM; accepted: 0" in captured.err
    assert "custom_code=true" in captured.err
    assert run_entry("export", ExportConfig, main, "", [*words, "custom_code=true"]) == 0
    assert "logits differ by at most 0.0e+00" in capsys.readouterr().out
    solve(tmp_path / "exported", trust_remote_code=True)


def test_help(command):
    result = command("train.export", "--help")
    assert result.returncode == 0 and "python -m train.export checkpoint=" in result.stdout


def test_bad_input_is_one_line_and_leaves_nothing(runs, tmp_path, capsys):
    other = tmp_path / "runs"
    other.mkdir()
    notes = {**copy.deepcopy(vocabulary_notes(DATA)), "vocabulary": "another"}
    model = GPT(GPTConfig(**SHAPES["papers"]))
    checkpoint.save(other, model, torch.optim.AdamW(model.parameters()), TrainState(), notes)
    folder = tmp_path / "exported"
    for words, say in (
        ([], "checkpoint: needs a value"),
        ([f"checkpoint={tmp_path / 'nowhere'}", f"out={folder}"], "nowhere: does not exist"),
        ([f"checkpoint={runs['papers']}"], "out: needs a value"),
        ([f"checkpoint={runs['papers']}", f"out={other}"], f"out={other}: exists"),
        ([f"checkpoint={other}", f"out={folder}"], "its vocabulary is not the one"),
    ):
        assert run_entry("export", ExportConfig, main, "", words) == 2
        captured = capsys.readouterr()
        assert captured.out == "" and captured.err.count("\n") == 1 and say in captured.err
        assert [p.name for p in tmp_path.iterdir()] == ["runs"]


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    """A model of the zoo as models/README.md says to export it."""
    folder = tmp_path_factory.mktemp("zoo") / "exported"
    words = ["checkpoint=zoo/tiny-teacher-0", f"out={folder}", "custom_code=true"]
    assert run_entry("export", ExportConfig, main, "", words) == 0
    return folder


def test_a_zoo_model_loads_by_the_line_of_the_readme(zoo, root, monkeypatch):
    page = (root / "models" / "README.md").read_text(encoding="utf-8")
    (line,) = [line for line in page.splitlines() if 'from_pretrained("exported", trust' in line]
    assert "train.export checkpoint=zoo/tiny-teacher-0 out=exported custom_code=true" in page
    monkeypatch.chdir(zoo.parent)
    names = {"AutoModelForCausalLM": AutoModelForCausalLM}
    exec(line.strip(), names)
    own = checkpoint.load_model("zoo/tiny-teacher-0")
    assert names["model"].num_parameters() == sum(p.numel() for p in own.parameters())


def test_the_model_card_has_numbers_licence_and_commands(zoo, runs, tmp_path):
    """As huggingface_hub reads it."""
    card = ModelCard.load(zoo / "README.md", ignore_metadata_errors=False)
    known = read_json(zoo_paths.ZOO / "tiny-teacher-0" / "card.json")
    head = (card.data.license, card.data.library_name, card.data.pipeline_tag)
    assert head == ("mit", "transformers", "text-generation")
    (result,) = card.data.eval_results
    assert result.metric_value == round(known["right"] / known["n"], 4) and result.dataset_name == "tiny"
    assert f"n = {known['n']}" in card.text and " ".join(known["evaluation"]) in card.text
    for part in (" ".join(known["command"]), "train.export checkpoint=zoo/tiny-teacher-0", "trust_remote_code=True"):
        assert part in card.text
    assert "93.1% [91.9, 94.1]" in card.text
    words = [f"checkpoint={runs['papers']}", f"out={tmp_path / 'native'}"]
    assert run_entry("export", ExportConfig, main, "", words) == 0
    card = ModelCard.load(tmp_path / "native" / "README.md", ignore_metadata_errors=False)
    assert card.data.eval_results is None and "not measured" in card.text and "trust_remote_code" not in card.text


def test_the_tokenizer_writes_a_chat(zoo):
    tokenizer = AutoTokenizer.from_pretrained(zoo, trust_remote_code=True)
    d = documents()
    chat = [{"role": "user", "content": WORLD.decode(d.prompt_tokens(0))}]
    ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
    assert ids == d.prompt_tokens(0).tolist()


def test_an_exported_folder_is_a_checkpoint_wherever_one_is_read(zoo, tmp_path):
    own, folder = checkpoint.load_model("zoo/tiny-teacher-0"), checkpoint.load_model(zoo, "teacher")
    x = torch.from_numpy(documents().tokens[:40].astype(np.int64))[None]
    assert torch.equal(own(x), folder(x)) and folder.config == own.config
    assert checkpoint.notes(zoo) == checkpoint.notes("zoo/tiny-teacher-0")
    assert len(checkpoint.weights_digest(zoo)) == 64
    foreign = tmp_path / "foreign"
    shutil.copytree(zoo, foreign)
    (foreign / checkpoint.ORIGIN).unlink()  # as another tool saves it again
    assert checkpoint.notes(foreign)["vocabulary"] == checkpoint.notes(zoo)["vocabulary"]
    tokens = Tokenizer(WordLevel({f"w{i}": i for i in range(29)}, unk_token="w0"))
    PreTrainedTokenizerFast(tokenizer_object=tokens, eos_token="w1", pad_token="w0").save_pretrained(foreign)
    with pytest.raises(ValueError, match=r"not the one .*foreign was trained with; accepted: a model"):
        check_vocabulary(checkpoint.notes(foreign, "teacher"), DataConfig("tiny"), str(foreign))
    with pytest.raises(ValueError, match="does not say what data it was trained on"):
        checkpoint_encoding(checkpoint.notes(foreign), "foreign")
    with pytest.raises(ValueError, match=r"checkpoint=.*exported: is a Hugging Face folder"):
        checkpoint.find(zoo)
    (foreign / "model.safetensors").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"teacher=.*foreign: .*cannot be read"):
        checkpoint.load_model(foreign, "teacher")
