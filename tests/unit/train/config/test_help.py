"""`--help`: words for every setting of every command, from the dataclass, and answers without torch."""

import dataclasses
import pickle
import subprocess
import sys

import pytest

from probes.run import TASKS
from tests.helpers.commands import environment
from tests.helpers.paths import ROOT
from tests.unit.train.config.test_entries import ENTRIES
from train.config import notes
from train.config.compose import load
from train.config.help import all_words, page, words_of
from train.config.loader import Command
from train.config.schema import defaults
from train.pretrain import PretrainConfig

SCHEMAS = ENTRIES | {f"probe {name}": task.config for name, task in TASKS.items()}


@pytest.mark.parametrize("command", SCHEMAS)
def test_every_setting_has_half_a_line_of_words(command):
    assert [name for name, words in all_words(SCHEMAS[command]) if not words] == []


@dataclasses.dataclass(frozen=True)
class Two:
    """Words stand here or there. rate: how fast. `share`: of 'all'."""

    rate: float = 0.5
    share: float = 0.5  # of the whole
    silent: str = "a"


def test_words_are_the_comment_or_else_the_sentence_of_the_docstring():
    assert words_of(Two) == {"rate": "how fast", "share": "of the whole"}
    assert dict(all_words(Two))[".silent"] == ""


def test_the_page_shows_defaults_words_ranges_and_what_is_below_null():
    text = page(Command("pretrain", PretrainConfig, doc="What it does."))
    assert text.startswith("What it does.")
    for line in ("of the initial weights", "[float32, bfloat16]", "  lora: null", "    rank: 16", "most operations"):
        assert line in text
    assert "model=gpt2-12-12" in text


@pytest.mark.parametrize("command", ["pretrain", "opd"])
def test_a_note_stands_in_for_the_dataclasses_without_torch(command, tmp_path, monkeypatch):
    monkeypatch.setattr(notes, "FOLDER", tmp_path)
    notes.note(command, SCHEMAS[command], lambda: "the page")
    read = notes.read(command)
    assert read is not None and read["help"] == "the page"
    assert defaults(read["schema"]) == defaults(SCHEMAS[command])
    code = "import pathlib, pickle, sys; from train.config import notes; notes.FOLDER = pathlib.Path(sys.argv[1]); "
    code += "assert notes.read(sys.argv[2])['help']; print('torch' in sys.modules)"
    words = [sys.executable, "-c", code, str(tmp_path), command]
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, env=environment(), check=True)
    assert done.stdout == "False\n"


def test_a_stand_in_refuses_what_the_dataclass_refuses(tmp_path, monkeypatch):
    monkeypatch.setattr(notes, "FOLDER", tmp_path)
    notes.note("pretrain", PretrainConfig, str)
    schema = notes.read("pretrain")["schema"]
    for word in ("sed=1", "optim.lr=x", "init_vocabulary=none", "batch.documents=0", "data.overrides.ops=many"):
        said = []
        for one in (schema, PretrainConfig):
            with pytest.raises(ValueError) as error:
                load("pretrain", one, [word])
            said.append(str(error.value))
        assert said[0] == said[1], word


def test_a_note_of_other_files_or_a_damaged_one_counts_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(notes, "FOLDER", tmp_path)
    notes.note("pretrain", PretrainConfig, str)
    path = tmp_path / "settings-pretrain.pickle"
    whole = path.read_bytes()
    path.write_bytes(b"0" * 32 + whole[32:])
    assert notes.read("pretrain") is None
    path.write_bytes(whole[:60])
    assert notes.read("pretrain") is None and pickle.loads(whole[32:])["schema"]
