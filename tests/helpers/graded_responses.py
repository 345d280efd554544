"""What the tests of analyses share: problems with right and wrong answers, and a small model."""

import numpy as np

from models.gpt import GPT, GPTConfig
from probes.analyses.responses import Responses
from synth.contexts.privileged import failures
from synth.dataset import Source
from synth.judge.checker import check_responses
from synth.spec import preset

SOURCE = Source(preset("tiny", letter_order="random"), 3, "test", "analyses")
WORLD = SOURCE.world
DOCUMENTS = SOURCE.documents(range(30))
GOLD = [DOCUMENTS.response(i).tolist() for i in range(30)]
BAD = failures(SOURCE, DOCUMENTS.problems, np.arange(30), "bad")[0]


def responses(*groups):
    """One response of each group to every document, beside each other."""
    row = np.repeat(np.arange(30), len(groups))
    tokens = [list(map(int, group[i])) for i in range(30) for group in groups]
    problems = type(DOCUMENTS.problems)(*(a[row] for a in DOCUMENTS.problems))
    return Responses(DOCUMENTS, row, tokens, check_responses(problems, WORLD, tokens))


def model(seed=0):
    return GPT(GPTConfig(WORLD.size, 2, 2, 16, 256), seed).eval()
