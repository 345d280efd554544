"""Records one document at a time, as plainly as they can be made: what `synth.store.columns` must equal, and the peer
that `tests/bench/test_store_speed.py` times it against."""

from typing import Any

from synth.contexts.context_tokens import render
from synth.contexts.privileged import recipes
from synth.dataset import Source
from synth.documents import CONTEXT_SEGMENT, SOLUTION_SEGMENT, Documents
from synth.problem.records import to_record
from synth.store.columns import spec_hash
from synth.world.vocabulary import BACK


def record(source: Source, documents: Documents, i: int, index: int, name: str | None = None) -> dict:
    """The record of document i, whose index in the stream is `index`; name: the hash of the spec, when it is known."""
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
        "id": f"{name or spec_hash(spec)}-{source.seed}-{source.stream}-{source.split}-{index}",
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
