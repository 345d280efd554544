"""The exact teacher: the generator's own distribution of the next token at every prefix."""

import numpy as np
import torch
from torch import Tensor

from models.gpt import GPT
from synth.oracle.next_token import ABSTAINED, Oracle
from train.opd.rollouts import Rollouts, positions
from train.opd.scored import LogProbs
from train.opd.teacher.scoring_models import ScoringModel

IMPOSSIBLE = -1e4  # log-probability of what the oracle rules out: zero as a chance, and finite in sums


class Exact(ScoringModel):
    """The oracle's distribution at every prefix, also an impossible one: a teacher without error.

    Where the oracle abstains the row is uniform, and `has_target` says so. Costs no FLOPs of a model.
    """

    def __init__(self, oracle: Oracle) -> None:
        super().__init__()
        self.oracle = oracle

    def _next_token(self, rollouts: Rollouts):
        """The oracle's answer, and bool[positions]: all but what follows a response's last token."""
        lengths = rollouts.length_B.tolist()
        rows = rollouts.response_BR.cpu().numpy()
        found = self.oracle(rollouts.problems, [row[:n] for row, n in zip(rows, lengths, strict=True)])
        inside = np.ones(len(found.status), dtype=bool)
        inside[found.rows[1:] - 1] = False
        return found, inside

    def log_probs(self, rollouts: Rollouts, student: GPT) -> LogProbs:
        found, inside = self._next_token(rollouts)
        place_N, size = np.flatnonzero(inside), self.oracle.world.size

        def at(block: slice) -> Tensor:
            first, last = place_N[block][0], place_N[block][-1] + 1
            dense_nV = found.log_probs(size, slice(first, last))
            dense_nV[found.status[first:last] == ABSTAINED] = -np.log(size)
            dense_nV = torch.from_numpy(dense_nV[inside[first:last]]).clamp(min=IMPOSSIBLE)
            return dense_nV.to(rollouts.prompt_B.device)

        return at

    def has_target(self, rollouts: Rollouts) -> Tensor:
        found, inside = self._next_token(rollouts)
        has_target_BR = torch.zeros(rollouts.trainable_BR.shape, dtype=torch.bool)
        row_N, time_N = positions(rollouts.length_B.cpu())
        has_target_BR[row_N, time_N] = torch.from_numpy(found.status[inside] != ABSTAINED)
        return has_target_BR.to(rollouts.prompt_B.device)
