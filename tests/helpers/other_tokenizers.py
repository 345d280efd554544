"""Tokenizers of many kinds, learnt from generated text, for tests: none of them needs a download."""

import json

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from synth.dataset import Source
from synth.documents import Documents
from synth.spec import preset
from synth.store.hf_tokenizer import GPT2_SIZE, train_bpe

SPEC = preset("med", retry_rate=0.3, mask_mistakes="name", names=4)
SOURCE = Source(SPEC, 0, "train", "tokenizers")
WORLD = SOURCE.world


def texts(documents: Documents) -> list[str]:
    """The problem and the solution of each document."""
    n = range(len(documents))
    return [WORLD.decode(part) for i in n for part in (documents.prompt_tokens(i), documents.response(i))]


TEXTS = texts(SOURCE.documents(range(60))) + list(WORLD.vocabulary[WORLD.phrases.max() :])


def byte_level():
    """GPT-2's kind: pieces start at spaces, so none crosses a phrase token."""
    return train_bpe(iter(TEXTS), 300)


def _bpe(**settings):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.decoder = settings.pop("decoder", decoders.Fuse())
    for name, value in settings.items():
        setattr(tokenizer, name, value)
    tokenizer.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=400, show_progress=False))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<eos>")


def unaligned():
    """Merges run over spaces, names and full stops alike; its pad token is its end token."""
    return _bpe()


def sentencepiece():
    """Spaces are a letter of their own, and a text without one gets one."""
    meta = {"replacement": "\u2581", "prepend_scheme": "always", "split": True}
    return _bpe(pre_tokenizer=pre_tokenizers.Metaspace(**meta), decoder=decoders.Metaspace(**meta))


def unigram():
    """The most probable cut into learnt pieces, of whole texts with their spaces."""
    meta = {"replacement": "\u2581", "prepend_scheme": "never", "split": False}
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(**meta), decoders.Metaspace(**meta)
    trainer = trainers.UnigramTrainer(vocab_size=400, show_progress=False, special_tokens=["<unk>"], unk_token="<unk>")
    tokenizer.train_from_iterator(TEXTS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


def prepending():
    """Llama's: a space is put before every text, and the first space is dropped in decoding."""
    steps = [decoders.Replace("\u2581", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    return _bpe(
        normalizer=normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]),
        decoder=decoders.Sequence(steps),
    )


def lowercasing():
    """Loses capitals."""
    return _bpe(normalizer=normalizers.Lowercase())


def without_letters():
    """Has no token for most letters, and none for what it does not know."""
    tokenizer = Tokenizer(models.BPE(vocab={"a": 0, " ": 1}, merges=[]))
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def without_unknown():
    """Whole words, and no token for an unknown one."""
    tokenizer = Tokenizer(models.WordLevel({" Define": 0}, unk_token="<unk>"))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def gpt2_like(folder):
    """A folder laid out like GPT-2's: byte alphabet in its order, some merges, dummies, and <|endoftext|> last."""
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [b for b in range(256) if b not in visible]
    symbols = [chr(b) for b in visible] + [chr(256 + k) for k in range(len(hidden))]
    learnt = json.loads(byte_level().backend_tokenizer.to_str())["model"]["merges"]
    merges = [tuple(m) for m in learnt]
    vocabulary = [*symbols, *dict.fromkeys(a + b for a, b in merges)]
    vocabulary += [f"dummy{k}" for k in range(GPT2_SIZE - 1 - len(vocabulary))] + ["<|endoftext|>"]
    folder.mkdir()
    (folder / "vocab.json").write_text(json.dumps({t: i for i, t in enumerate(vocabulary)}), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges), encoding="utf-8")
    return folder
