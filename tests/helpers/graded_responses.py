"""What the tests of analyses share: problems with right and wrong answers, and a small model."""

import numpy as np

from models.gpt import GPT, GPTConfig
from probes.analyses.responses import Written
from synth.contexts.peers import failures
from synth.dataset import Source
from synth.judge.checker import check_responses
from synth.spec import preset

SOURCE = Source(preset("tiny", letter_order="random"), 3, "test", "analyses")
WORLD = SOURCE.world
DOCUMENTS = SOURCE.documents(range(30))
GOLD = [DOCUMENTS.response(i).tolist() for i in range(30)]
BAD = failures(SOURCE, DOCUMENTS.problems, np.arange(30), "bad")[0]


def written(*groups):
    """One response of each group to every document, beside each other."""
    row = np.repeat(np.arange(30), len(groups))
    responses = [list(map(int, group[i])) for i in range(30) for group in groups]
    problems = DOCUMENTS.problems.take(row)
    return Written(DOCUMENTS, row, responses, check_responses(problems, WORLD, responses))


def model(seed=0):
    return GPT(GPTConfig(WORLD.size, 2, 2, 16, 256), seed).eval()
