"""Hugging Face fast tokenizers of a world's tokens, and the folders of other tokenizers as tokens of a world.

`synth.tokenizer` saves them. A special token of the world (`<problem>`, ...) is an id of every tokenizer, its marker:

    tokenizer                        <problem> <solution> <answer>  <eos>        <pad>       the others
    phrase, word                     2 3 4                          1            0           ids below len(SPECIALS)
    GPT-2's vocabulary (50257 ids)   222 223 224 (raw bytes)        50256        221         225 to 227, 188 and on
    any other folder                 added behind its vocabulary    its own, or  its own, or added
                                                                    added        added

GPT-2's are the published ids (Part 2.1), all of bytes that no text of a world holds; its pad is the byte 0x7F and not
50256, so that the end of a document can be told from the padding behind it. Documents are not packed here: each begins
with its `<problem>`, without the 50256 of a document before it. GPT-2's files are not downloaded; a user who has
`vocab.json` and `merges.txt` (or `tokenizer.json`) in a folder names it.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from synth.world.vocabulary import EOS, PAD, POSSESSIVE, SPECIALS, World

if TYPE_CHECKING:  # takes seconds to import
    from transformers import PreTrainedTokenizerFast

GPT2_SIZE, GPT2_EOS, GPT2_PAD = 50257, 50256, 221
GPT2_RAW_BYTES = (*range(222, 228), *range(188, 220), *range(228, 255))  # in the order in which specials take them
LEFT, RIGHT = "\u2060", "\u2061"  # stand around a name while a text is put together
WORD = re.compile(rf"{POSSESSIVE}\b| ?\w+| ?[^\w\s]|\s")


def fast_tokenizer(world: World) -> "PreTrainedTokenizerFast":
    """The phrase vocabulary as a PreTrainedTokenizerFast: `encode` is `world.encode`, `decode` is `world.decode`. Ids
    are the world's. `decode` leaves specials out with skip_special_tokens=True, and a text that is not of the world is
    an error, as with `world.encode`. The possessive is dropped before the lookup; in decoding, names are put between
    marks, two marks that meet become the possessive, and the others vanish."""
    from tokenizers import Regex, decoders, pre_tokenizers

    others = "|".join(re.escape(t[1:]) for t in world.vocabulary[len(SPECIALS) : world.first_name] if t[:1] == " ")
    around = [(Regex(f"^ (?!(?:{others})$)"), f"{LEFT} "), (Regex(f"^{LEFT}.*\\K$"), RIGHT)]
    joined = [(RIGHT + LEFT, world.possessive), (LEFT, ""), (RIGHT, "")]
    mark, join = ([decoders.Replace(*pair) for pair in pairs] for pairs in (around, joined))
    split = pre_tokenizers.Split(world.possessive, "removed")
    return _lookup(list(world.vocabulary), split, decoders.Sequence([*mark, decoders.Fuse(), *join]))


def word_tokenizer(world: World) -> "PreTrainedTokenizerFast":
    """Words with the space before them, numbers, letters, `'s` and signs as tokens; specials have the world's ids."""
    from tokenizers import decoders

    texts = [world.possessive, *world.vocabulary[len(SPECIALS) :]]
    words = dict.fromkeys(word for text in texts for word in WORD.findall(text))
    return _lookup([*SPECIALS, *words], None, decoders.Fuse())


def _lookup(vocabulary: list[str], pre_tokenizer, decoder):
    """A tokenizer that takes the longest token of a list at each place of a text."""
    from tokenizers import AddedToken, Tokenizer, models

    tokenizer = Tokenizer(models.WordLevel({text: i for i, text in enumerate(vocabulary)}, unk_token="<unk>"))
    if pre_tokenizer is not None:
        tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoder
    # added tokens are found in the text itself, the longest first, before any rule about words
    tokenizer.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in vocabulary[: len(SPECIALS)]])
    tokenizer.add_tokens([AddedToken(t, normalized=False) for t in vocabulary[len(SPECIALS) :]])
    return _transformers(tokenizer)


def _transformers(tokenizer):
    from transformers import PreTrainedTokenizerFast

    settings = {"eos_token": SPECIALS[EOS], "pad_token": SPECIALS[PAD], "clean_up_tokenization_spaces": False}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **settings)


def train_bpe(texts: Iterable[str], merges: int) -> "PreTrainedTokenizerFast":
    """A byte-level BPE (GPT-2's kind) with `merges` merges learnt from texts; specials have the world's ids."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    size = len(SPECIALS) + len(alphabet) + merges
    settings = {"initial_alphabet": alphabet, "special_tokens": list(SPECIALS), "show_progress": False}
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=size, **settings))
    return _transformers(tokenizer)


def load_folder(folder: str) -> tuple["PreTrainedTokenizerFast", list[int]]:
    """The tokenizer of a folder, with a marker for every special: (PreTrainedTokenizerFast, markers int[SPECIALS]).
    Raises ValueError when the folder is missing, holds no tokenizer, or one without a fast form."""
    accepted = "accepted: phrase, word, or a folder with a Hugging Face fast tokenizer"
    if not Path(folder).is_dir():
        raise ValueError(f"tokens={folder}: no such folder; {accepted}")
    from transformers import AutoTokenizer, GPT2TokenizerFast  # pyright: ignore[reportAttributeAccessIssue]

    try:
        files = {p.name for p in Path(folder).iterdir()}
        bare = {"vocab.json", "merges.txt"} <= files and not {"tokenizer.json", "tokenizer_config.json"} & files
        tokenizer = _quiet((GPT2TokenizerFast if bare else AutoTokenizer).from_pretrained, folder)
        backend = tokenizer.backend_tokenizer
    except Exception as error:  # transformers and tokenizers raise many types for a folder they cannot read
        why = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(f"tokens={folder}: no fast tokenizer in it ({why[:100]}); {accepted}") from None
    backend.no_padding()
    backend.no_truncation()
    return tokenizer, gpt2_markers() if _is_gpt2(backend) else added_markers(tokenizer)


def _quiet(function, folder: str):
    """`function(folder)` from the files there alone, without transformers' words about what it could not find."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        return function(folder, local_files_only=True)
    finally:
        logging.set_verbosity(level)


def _is_gpt2(backend) -> bool:
    """Whether the ids are GPT-2's: raw bytes at 188..255 and the end of a text at 50256."""
    raw = [backend.id_to_token(i) for i in (188, 221, 222, 223, 224)]
    return (
        backend.get_vocab_size() == GPT2_SIZE
        and raw == ["\u0100", "\u0121", "\u0122", "\u0123", "\u0124"]  # how byte-level BPE writes 0, 7F, 80, 81, 82
        and backend.id_to_token(GPT2_EOS) == "<|endoftext|>"
    )


def gpt2_markers() -> list[int]:
    """Marker of each special in GPT-2's vocabulary."""
    raw = iter(GPT2_RAW_BYTES)
    own = {PAD: GPT2_PAD, EOS: GPT2_EOS}
    return [own[i] if i in own else next(raw) for i in range(len(SPECIALS))]


def added_markers(tokenizer: "PreTrainedTokenizerFast") -> list[int]:
    """Marker of each special in another tokenizer, which gets those that it lacks as added special tokens."""
    from tokenizers import AddedToken

    own: dict[int, Any] = {EOS: tokenizer.eos_token, PAD: tokenizer.pad_token}
    if own[PAD] == own[EOS]:
        own[PAD] = None
    names = [own.get(i) or name for i, name in enumerate(SPECIALS)]
    added: Any = [AddedToken(name, normalized=False, special=True) for name in names]
    tokenizer.add_tokens(added, special_tokens=True)
    tokenizer.eos_token, tokenizer.pad_token = names[EOS], names[PAD]
    return cast(list[int], tokenizer.convert_tokens_to_ids(names))
