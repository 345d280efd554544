"""Documents of a stream as JSON records: the problem, both texts, and the inserted mistakes."""

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from typing import Any

from synth.contexts.context_tokens import render
from synth.contexts.privileged import recipes
from synth.dataset import Source
from synth.documents import CONTEXT_SEGMENT, SOLUTION_SEGMENT, Documents
from synth.problem.records import to_record
from synth.spec import Spec
from synth.store.files import sha256
from synth.world.vocabulary import BACK, path_of

CHUNK = 500  # documents made at a time


def spec_hash(spec: Spec) -> str:
    """Ten hex digits that name a spec; a world file counts with what is in it, wherever it lies."""
    settings = dataclasses.asdict(spec)
    if spec.world.endswith(".json"):
        settings["world"] = sha256(path_of(spec.world))
    return hashlib.blake2b(json.dumps(settings, sort_keys=True).encode(), digest_size=5).hexdigest()


def record(source: Source, documents: Documents, i: int, index: int) -> dict:
    """JSON record of document i of `documents`, whose index in the stream is `index`."""
    world, spec = source.world, source.spec
    span = slice(documents.offsets[i], documents.offsets[i + 1])
    tokens, segment = documents.tokens[span], documents.segment[span]
    problem = documents.problems.take(i)
    names = problem.slot_names()[0]
    mistakes: dict[int, dict] = {}
    columns = (tokens, documents.step[span], documents.param[span], documents.mistake[span])
    for token, step, slot, wrong in zip(*columns, strict=True):
        if wrong:
            entry = {"step": int(step), "kind": spec.retry_kind, "parameter": world.name_of(*names[slot])}
            mistakes.setdefault(int(step), entry | {"corrected": False})
            mistakes[int(step)]["corrected"] |= bool(token == world.phrases[BACK])
    head = {
        "id": f"{spec_hash(spec)}-{source.seed}-{source.stream}-{source.split}-{index}",
        "problem": world.decode(tokens[: documents.prompt[i]][segment[: documents.prompt[i]] != CONTEXT_SEGMENT]),
        "solution": world.decode(tokens[segment == SOLUTION_SEGMENT]),
    }
    tail: dict[str, Any] = {"mistakes": list(mistakes.values())}
    if world.name != "english":
        tail["world"] = world.name
    if spec.contexts:
        tail["context"] = render(world, tokens[segment == CONTEXT_SEGMENT])
        tail["context_recipe"] = recipes(source, [index])[0]
    return head | to_record(problem, world, spec.order) | tail


def records(source: Source, start: int, stop: int) -> Iterator[dict]:
    """Records of documents start..stop-1."""
    for first in range(start, stop, CHUNK):
        documents = source.documents(range(first, min(first + CHUNK, stop)))
        for i in range(len(documents)):
            yield record(source, documents, i, first + i)
