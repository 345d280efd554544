"""Weights of one vocabulary in another: what both have stays to the bit, what is new starts afresh."""

import pytest
import torch

from models.gpt import GPT, GPTConfig
from train.core.extend_vocabulary import checkpoint_encoding, extend_vocabulary, same_texts
from train.data.batches import DataConfig, vocabulary_notes

SMALL, LARGE = DataConfig("tiny"), DataConfig("tiny", {"modulus": 23, "names": 15, "subcategories": 2})


def model(data, tied=False, seed=0):
    return GPT(GPTConfig(data.encoding().size, 1, 2, 16, 64, tied=tied), seed)


def grown(data, other, tied=False):
    return extend_vocabulary(model(data, tied), vocabulary_notes(data), other, "runs/x", seed=1)


def test_texts_are_matched_and_those_that_name_no_single_token_are_not():
    assert same_texts(["a", "b", "c", "", ""], ["b", "", "d", "a"]) == [(0, 3), (1, 0)]
    assert same_texts(["a", "b"], ["b", "a", "a"]) == [(1, 0)]


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("tokens", ["phrase", "word"])
def test_shared_tokens_keep_their_rows_and_logits_and_new_ones_are_random(tied, tokens):
    small, large = (DataConfig(d.preset, d.overrides, tokens=tokens) for d in (SMALL, LARGE))
    old, new, fresh = model(small, tied), grown(small, large, tied), model(large, tied, seed=1)
    words, more = small.encoding().vocabulary(), large.encoding().vocabulary()
    assert set(words) < set(more) and new.config.vocab_size == len(more)
    at = [more.index(word) for word in words]
    assert at != list(range(len(words)))
    rest = sorted(set(range(len(more))) - set(at))
    for name, rows in new.state_dict().items():
        if name in ("embed.weight", "unembed.weight"):
            assert torch.equal(rows[at], old.state_dict()[name])
            assert torch.equal(rows[rest], fresh.state_dict()[name][rest]) and (rows[rest].std() > 0).all()
        else:
            assert torch.equal(rows, old.state_dict()[name])
    ids = torch.randint(len(words), (2, 12), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = new(torch.tensor(at)[ids])[..., at]
        torch.testing.assert_close(logits, old(ids), rtol=1e-5, atol=1e-6)


def test_there_and_back_is_the_same_model():
    old = model(SMALL)
    back = extend_vocabulary(grown(SMALL, LARGE), vocabulary_notes(LARGE), SMALL, "runs/x", seed=2)
    assert all(torch.equal(a, b) for a, b in zip(old.state_dict().values(), back.state_dict().values(), strict=True))


def test_tokens_of_another_kind_are_refused():
    with pytest.raises(ValueError, match=r"data.tokens=word: runs/x was trained on data.tokens=phrase; accepted: data"):
        grown(SMALL, DataConfig("tiny", tokens="word"))


def test_a_vocabulary_that_has_changed_since_is_refused():
    notes = {**vocabulary_notes(SMALL), "vocabulary": "another"}
    with pytest.raises(ValueError, match="its vocabulary is not the one runs/x was trained with"):
        checkpoint_encoding(notes, "runs/x")
