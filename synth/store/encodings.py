"""Documents in other tokens: the same text, with the truth of every phrase token carried over to the new ones.

    encoding("word", world).documents(documents)       # or a tokenizer's folder; "phrase" changes nothing
    source(preset("med"), 0, tokens="gpt2/")            # a stream of such documents

The text of each sentence, step and answer is tokenized by itself, so no token crosses the border of a step or of a
part, and the spans of steps are exact for every tokenizer. Inside them a token has the truth of the phrase token that
holds its first character, and the log-probability of a phrase token stands at the token that holds its first character:
its sum over a step, an answer or a document is the generator's own. Both matter only where a tokenizer merges across
phrase tokens, which byte-level BPE of GPT-2's kind does not. Specials become the encoding's markers
(`synth.store.hf_tokenizer`). Solutions in other tokens are judged as their text.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from functools import cached_property, lru_cache

import numpy as np

from synth.dataset import Source
from synth.documents import Documents, pad_rows
from synth.judge.check_text import tokenize
from synth.judge.checker import Verdicts, check
from synth.problem.arrays import Integers, Problems
from synth.spec import Spec
from synth.store import hf_tokenizer
from synth.world.vocabulary import EOS, PAD, SPECIALS, World

PHRASE, WORD = "phrase", "word"
TOGETHER = 40  # tokens of a text on which a tokenizer is tried


class Encoding:
    """Phrase tokens: the world's own, every method the identity or the world's. Base of the other encodings."""

    pad: int = PAD
    eos: int = EOS

    def __init__(self, name: str, world: World) -> None:
        self.name, self.world = name, world

    @property
    def size(self) -> int:
        """Number of token ids."""
        return self.world.size

    @cached_property
    def tokenizer(self):
        """The PreTrainedTokenizerFast of these tokens."""
        return hf_tokenizer.fast_tokenizer(self.world)

    def vocabulary(self) -> list[str]:
        """Each token id as text; in another tokenizer as that spells it."""
        return list(self.world.vocabulary)

    def named(self) -> dict[str, int]:
        """Token id of each special."""
        return {name: i for i, name in enumerate(SPECIALS)}

    def fingerprint(self) -> str:
        """sha256 that is equal for equal token ids of equal texts."""
        return hashlib.sha256(json.dumps(list(self.world.vocabulary)).encode()).hexdigest()

    def documents(self, documents: Documents) -> Documents:
        """Documents of phrase tokens in these tokens, the truth carried over."""
        return documents

    def tokens(self, phrases: Integers) -> list[int]:
        """Phrase tokens of one text, specials among them, in these tokens."""
        return list(phrases)

    def phrases(self, ids: Integers) -> list[int]:
        """Token ids as phrase tokens; a sentence that is no text of the world becomes one token of no meaning."""
        return [int(i) for i in ids]

    def decode(self, ids: Iterable[int]) -> str:
        """Text of token ids, markers left out."""
        return self.world.decode(ids)

    def check(self, problems: Problems, responses_NR: np.ndarray, length_N: np.ndarray) -> Verdicts:
        """The checker's verdicts on responses in these tokens; steps' starts and stops are positions among them."""
        return check(problems, self.world, responses_NR, length_N)


class TextEncoding(Encoding):
    """Tokens of a Hugging Face tokenizer; markers int[SPECIALS]: the id of each special of the world. Raises ValueError
    when the tokenizer does not give back the world's texts."""

    def __init__(self, name: str, world: World, tokenizer, markers: Sequence[int]) -> None:
        super().__init__(name, world)
        self.tokenizer, self._backend = tokenizer, tokenizer.backend_tokenizer
        self.markers = np.array(markers, dtype=np.int64)
        self.pad, self.eos = int(self.markers[PAD]), int(self.markers[EOS])
        self._size = 1 + max(*self._backend.get_vocab(with_added_tokens=True).values(), int(self.markers.max()))
        self._special = np.full(self._size, -1)
        self._special[self.markers] = np.arange(len(SPECIALS))
        self._lengths = np.array([len(text) for text in world.vocabulary])
        self._lengths[: len(SPECIALS)] = 0
        self._anchor_text = world.vocabulary[world.first_letter]
        self._try()

    @property
    def size(self) -> int:
        return self._size

    def vocabulary(self) -> list[str]:
        return [self._backend.id_to_token(i) or "" for i in range(self._size)]

    def named(self) -> dict[str, int]:
        return dict(zip(SPECIALS, self.markers.tolist(), strict=True))

    def fingerprint(self) -> str:
        parts = [self._backend.to_str(), self.markers.tolist(), list(self.world.vocabulary)]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def documents(self, documents: Documents) -> Documents:
        tokens, doc_of = documents.tokens, np.repeat(np.arange(len(documents)), np.diff(documents.offsets))
        special = tokens < len(SPECIALS)
        new = np.ones(len(tokens), dtype=bool)
        same = [a[1:] == a[:-1] for a in (doc_of, documents.segment, documents.step)]
        new[1:] = special[1:] | special[:-1] | ~np.logical_and.reduce(same)
        firsts = np.flatnonzero(new)
        ids, phrase, home = self._convert(tokens, firsts)
        logp = np.zeros(len(ids))
        np.add.at(logp, home, documents.logp)
        offsets = np.searchsorted(phrase, documents.offsets)
        prompt = np.searchsorted(phrase, documents.offsets[:-1] + documents.prompt) - offsets[:-1]
        truth = [getattr(documents, name)[phrase] for name in ("segment", "step", "param", "mistake", "loss")]
        ids, prompt = ids.astype(np.int32), prompt.astype(np.int32)
        return Documents(ids, *truth, logp=logp, offsets=offsets, prompt=prompt, problems=documents.problems)

    def tokens(self, phrases: Integers) -> list[int]:
        array = np.array(phrases, dtype=np.int64)
        special = array < len(SPECIALS)
        new = special | np.concatenate([[True], special[:-1]])
        return self._convert(array, np.flatnonzero(new))[0].tolist() if len(array) else []

    def phrases(self, ids: Integers) -> list[int]:
        row = np.array(ids, dtype=np.int64)
        return self._read(self._runs([row])[0], row)[0]

    def decode(self, ids: Iterable[int]) -> str:
        return "".join(text for text, _, _ in self._runs([np.fromiter(ids, dtype=np.int64)])[0])

    def check(self, problems: Problems, responses_NR: np.ndarray, length_N: np.ndarray) -> Verdicts:
        rows = self._runs([row[:n] for row, n in zip(responses_NR, length_N, strict=True)])
        read = [self._read(runs, responses_NR[i]) for i, runs in enumerate(rows)]
        length = np.array([len(phrases) for phrases, _ in read], dtype=np.int64)
        phrases_NR = pad_rows([phrases for phrases, _ in read])
        place_NR = np.repeat(np.asarray(length_N, dtype=np.int32)[:, None], phrases_NR.shape[1] + 1, axis=1)
        for place_R, (_, places) in zip(place_NR, read, strict=True):
            place_R[: len(places)] = places
        verdicts = check(problems, self.world, phrases_NR, length)
        return verdicts._replace(
            start=np.take_along_axis(place_NR, verdicts.start, axis=1),
            stop=np.take_along_axis(place_NR, verdicts.stop, axis=1),
        )

    def _convert(self, tokens: np.ndarray, firsts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Phrase tokens [T], cut into units at `firsts`, as (ids [U], phrase token of each [U], token of each phrase
        token [T]); a special is a unit of its own."""
        world, name = self.world, tokens >= self.world.first_name
        joined = np.concatenate([[False], name[1:] & name[:-1]])
        sizes = self._lengths[tokens] + len(world.possessive) * joined
        start, text_end = np.cumsum(sizes) - sizes, np.append(firsts[1:], len(tokens))
        joint = ("", world.possessive)
        pieces = [joint[j] + world.vocabulary[t] for t, j in zip(tokens.tolist(), joined.tolist(), strict=True)]
        is_text = (tokens[firsts] >= len(SPECIALS)).tolist()
        spans = list(zip(firsts.tolist(), text_end.tolist(), strict=True))
        encoded = iter(
            self._encode(["".join(pieces[a:b]) for (a, b), text in zip(spans, is_text, strict=True) if text])
        )
        marker = self.markers[np.where(is_text, 0, tokens[firsts])].tolist()
        units = [next(encoded) if text else ([m], [(0, 0)]) for text, m in zip(is_text, marker, strict=True)]
        count = np.array([len(ids) for ids, _ in units])
        ids = np.array([i for unit, _ in units for i in unit], dtype=np.int64)
        spans = np.array([span for _, offsets in units for span in offsets], dtype=np.int64).reshape(-1, 2)
        spans += np.repeat(start[firsts], count)[:, None]
        low, high = np.repeat(firsts, count), np.repeat(text_end - 1, count)
        phrase = np.clip(np.searchsorted(start, spans[:, 0], side="right") - 1, low, high)
        until = np.cumsum(count)
        unit_of = np.repeat(np.arange(len(firsts)), text_end - firsts)
        home = np.searchsorted(spans[:, 1], start, side="right")
        return ids, phrase, np.clip(home, (until - count)[unit_of], until[unit_of] - 1)

    def _encode(self, texts: list[str]) -> list[tuple[list[int], list[tuple[int, int]]]]:
        """Token ids and character spans of each text."""
        shift = [int(self._drop and text[:1] == " ") for text in texts]
        fed = [text[n:] for text, n in zip(texts, shift, strict=True)]
        encoded = self._backend.encode_batch(fed, add_special_tokens=False)
        return [(e.ids, [(a + n, b + n) for a, b in e.offsets]) for e, n in zip(encoded, shift, strict=True)]

    def _texts(self, runs: list[list[int]]) -> list[str]:
        """The text of each run of ids as it reads behind other text: some decoders drop the first space of all."""
        behind = self._backend.decode_batch([self._anchor + run for run in runs], skip_special_tokens=False)
        return [text[self._anchor_length :] for text in behind]

    def _runs(self, rows: list[np.ndarray]) -> list[list[tuple[str, int, int]]]:
        """Each row cut at its markers: (text, special or -1, position of the first token) of each piece."""
        cut, runs = [], []
        for row in rows:
            special = np.where((row >= 0) & (row < self._size), self._special[np.clip(row, 0, self._size - 1)], -1)
            at = np.flatnonzero(special >= 0)
            edges = np.unique(np.concatenate([[0], at, at + 1, [len(row)]]))
            pieces = [(a, b, int(special[a])) for a, b in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)]
            runs += [row[a:b].tolist() for a, b, s in pieces if s < 0]
            cut.append(pieces)
        texts = iter(self._texts(runs))
        return [[(next(texts) if s < 0 else "", s, a) for a, _, s in pieces] for pieces in cut]

    def _read(self, runs: list[tuple[str, int, int]], row: np.ndarray) -> tuple[list[int], list[int]]:
        """Phrase tokens of a row's pieces, and the position in the row of the token where each begins."""
        phrases: list[int] = []
        places: list[int] = []
        for k, (text, special, first) in enumerate(runs):
            if special >= 0:
                phrases.append(special)
                places.append(first)
                continue
            tokens, starts = tokenize(text, self.world)
            last = runs[k + 1][2] if k + 1 < len(runs) else len(row)
            ends = np.cumsum(self._spelled[np.clip(row[first:last], 0, self._size - 1)])
            phrases += tokens
            places += (first + np.minimum(np.searchsorted(ends, starts[:-1], side="right"), last - first - 1)).tolist()
        return phrases, places

    @cached_property
    def _spelled(self) -> np.ndarray:
        """Characters of each token id: int[size]."""
        return np.array([len(text) for text in self._texts([[i] for i in range(self._size)])])

    def _try(self) -> None:
        """Raises ValueError unless every text of the world comes back, and no marker is part of one."""
        world = self.world
        ordinary = list(range(len(SPECIALS), world.size))
        parts = [ordinary[i : i + TOGETHER] for i in range(0, len(ordinary), TOGETHER)]
        texts = [self._anchor_text + world.decode(part) for part in [*([i] for i in ordinary), *parts]]
        wrong = ("", "")
        for self._drop in (False, True):  # a tokenizer that puts a space before every text gets it without its own
            try:
                self._anchor = self._encode([self._anchor_text])[0][0]
                self._anchor_length = len(self._backend.decode(self._anchor, skip_special_tokens=False))
                ids = [ids for ids, _ in self._encode(texts)]
                back = self._texts(ids)
            except Exception as error:  # what tokenizers raises for a text without tokens has no type of its own
                raise ValueError(f"tokens={self.name}: cannot write the world's text ({error}); {_ACCEPTED}") from None
            different = [(text, b) for text, b in zip(texts, back, strict=True) if text != b]
            if not different:
                if clash := sorted({i for row in ids for i in row} & set(self.markers.tolist())):
                    raise ValueError(f"tokens={self.name}: marker {clash[0]} is part of the world's text; {_ACCEPTED}")
                return
            wrong = different[0] if not self._drop else wrong
        raise ValueError(f"tokens={self.name}: {wrong[0]!r} comes back as {wrong[1]!r}; {_ACCEPTED}")


_ACCEPTED = "accepted: phrase, word, or the folder of a tokenizer that loses nothing of a text"


@lru_cache(maxsize=8)
def encoding(tokens: str, world: World) -> Encoding:
    """The encoding that a setting names: phrase, word, or a folder. Raises ValueError when the folder holds no
    tokenizer, or one that loses something of the world's texts."""
    if tokens == PHRASE:
        return Encoding(PHRASE, world)
    if tokens == WORD:
        return TextEncoding(WORD, world, hf_tokenizer.word_tokenizer(world), range(len(SPECIALS)))
    return TextEncoding(tokens, world, *hf_tokenizer.load_folder(tokens))


class Retokenised(Source):
    """A stream whose documents are in the tokens of `encoding`; all else is as in the `Source` of equal arguments."""

    def __init__(self, spec: Spec, seed: int, split: str, stream: str, encoding: Encoding) -> None:
        super().__init__(spec, seed, split, stream)
        self.encoding = encoding
        self._phrases = Source(spec, seed, split, stream)

    def documents(self, indices: Integers) -> Documents:
        return self.encoding.documents(self._phrases.documents(indices))

    def solve(self, problems: Problems, stream: str = "solve", indices: Integers | None = None, **changes) -> Documents:
        return self.encoding.documents(self._phrases.solve(problems, stream, indices, **changes))


def source(spec: Spec, seed: int, split: str = "train", stream: str = "data", tokens: str = PHRASE) -> Source:
    """A stream of documents in the tokens that the setting names."""
    if tokens == PHRASE:
        return Source(spec, seed, split, stream)
    return Retokenised(spec, seed, split, stream, encoding(tokens, spec.load_world()))


def encoding_of(source: Source) -> Encoding:
    """The encoding of a stream's documents."""
    return source.encoding if isinstance(source, Retokenised) else encoding(PHRASE, source.world)
