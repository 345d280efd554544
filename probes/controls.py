"""What a probe's accuracy is worth: the same questions answered without the model, and without what the model learned.

    majority         always the most frequent label of the queries the probe was fitted on
    random_weights   the same probe, fitted the same way, on the same architecture with fresh initial weights

Every result stands beside both. What a probe reads from random weights is in the text and the probe, not in the model.
"""

import numpy as np

from models.gpt import GPT
from probes.labels import Queries
from synth.hashing import key


def majority(fit: Queries, test: Queries) -> np.ndarray:
    """Which test queries the most frequent label answers, bool[Q]."""
    return test.label == np.bincount(fit.label).argmax()


def random_weights(model: GPT, seed: int) -> GPT:
    """A model of the same architecture, drawn anew from the law of initial weights."""
    return GPT(model.config, key(seed, "probe control", 0)).to(model.embed.weight.device).eval()
