"""A response as text, step by step, with the checker's verdict on each step: what `samples.jsonl` holds.

Try: `head -1 runs/*/*/samples.jsonl | python -m json.tool`.
"""

from typing import Any

import numpy as np

from synth.contexts.sections import cut, render
from synth.judge.checker import KINDS, Verdicts
from synth.store.encodings import Encoding
from synth.world.vocabulary import World


def transcript(
    vocabulary: World | Encoding, prompt: np.ndarray, response: np.ndarray, verdicts: Verdicts, row: int
) -> dict[str, Any]:
    """One response as JSON.

    Args:
        vocabulary: renders tokens as text: the world, or the encoding they are in.
        prompt, response: token ids of one problem and its response, without padding.
        verdicts: of a batch, in which the response is row `row`.
    Returns:
        prompt, response: text. right: whether every step and the answer are. steps: text and kind ("right" or the
        mistake) of each. context: text of the sections before the problem, where there are any.
    """
    spans = zip(verdicts.start[row], verdicts.stop[row], verdicts.kind[row], strict=True)
    steps = list(spans)[: int(verdicts.steps[row])]
    if isinstance(vocabulary, Encoding):
        world, phrases = vocabulary.world, vocabulary.phrases(prompt)
    else:
        world, phrases = vocabulary, prompt
    context, problem = cut(phrases)
    sections = {"context": render(world, context)} if context else {}
    return sections | {
        "prompt": world.decode(problem),
        "response": vocabulary.decode(response),
        "right": bool(verdicts.right[row]),
        "steps": [
            {"text": vocabulary.decode(response[start:stop]), "kind": KINDS[kind]} for start, stop, kind in steps
        ],
    }
