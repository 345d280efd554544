"""Responses that models write to the same problems, and what other models make of them, token by token.

    written = draw(model, documents, world, parts, samples=8, budget=60, temperature=1.0, seed=0, label="student")
    scores = logprobs(teacher, written.prompts(), written.responses)

Legend: N responses, R response tokens, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from models.gpt import GPT
from probes.analyses.parts import Parts
from probes.queries.dependencies import part
from probes.tasks.retry_upon_regret import continued
from synth.documents import Documents
from synth.judge.checker import Verdicts, check_responses
from synth.kernel.rng import key
from synth.problem.arrays import Problems
from synth.ragged import pad_rows
from synth.world.vocabulary import EOS, PAD, World

BATCH = 64  # texts side by side, in drawing and in scoring


class Written(NamedTuple):
    """N responses to the prompts of `documents`; response n answers document `row[n]`."""

    documents: Documents
    row: np.ndarray  # int64[N]
    responses: list[list[int]]  # tokens after `<solution>`, the end token included where it came
    verdicts: Verdicts

    def prompts(self) -> list[list[int]]:
        return [self.documents.prompt_tokens(i).tolist() for i in self.row]

    @property
    def problems(self) -> Problems:
        return part(self.documents.problems, self.row)

    @property
    def ended(self) -> np.ndarray:
        """bool[N]: whether the response came to its end token."""
        return np.array([EOS in response for response in self.responses], dtype=bool)

    @property
    def lengths(self) -> np.ndarray:
        """int64[N], tokens with the end token."""
        return np.array([len(response) for response in self.responses], dtype=np.int64)

    def grid(self) -> np.ndarray:
        """The responses side by side, int64[N, R], padded."""
        return pad_rows(self.responses)


def budget(model: GPT, documents: Documents, setting: str) -> int:
    """Most tokens of a response: twice the longest right one, as far as the context goes.

    Raises ValueError, naming the setting of the checkpoint, when there is no room for a right one.
    """
    longest = int((np.diff(documents.offsets) - documents.prompt).max())
    room = model.config.context - int(documents.prompt.max())
    if room < longest:
        raise ValueError(
            f"{setting}: reads {model.config.context} tokens, and prompts and right solutions have "
            f"{int(documents.prompt.max())} and {longest}; accepted: a model with a longer context"
        )
    return min(2 * longest, room)


def draw(
    model: GPT,
    documents: Documents,
    world: World,
    parts: Parts,
    *,
    samples: int,
    budget: int,
    temperature: float,
    seed: int,
    label: str,
) -> Written:
    """`samples` responses to each problem (temperature 0: the likeliest one, repeated), with their verdicts.

    They are a part of the analysis, by `label`; so are its random numbers.
    """
    row = np.repeat(np.arange(len(documents)), samples)
    responses: list[list[int]] = []
    for k in tqdm(range(0, len(row), BATCH * 4), desc=label, unit=" batches", disable=None):
        prompts = [documents.prompt_tokens(i).tolist() for i in row[k : k + BATCH * 4]]
        dice = key(seed, f"analysis {label}", k) % 2**63

        def batch(prompts: list = prompts, dice: int = dice) -> list[list[int]]:
            return continued(model, prompts, budget, temperature=temperature, seed=dice)

        responses += parts.of(f"{label} {k}", batch)
    return Written(documents, row, responses, check_responses(part(documents.problems, row), world, responses))


@torch.no_grad()
def laws(
    model: GPT, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]], label: str = ""
) -> Iterator[tuple[int, Tensor]]:
    """(n, log-probabilities [R, V] of the model at every token of response n), in no particular order of n."""
    device = model.embed.weight.device
    order = np.argsort([len(p) + len(r) for p, r in zip(prompts, responses, strict=True)], kind="stable")
    blocks = range(0, len(order), BATCH)
    for k in tqdm(blocks, desc=label, unit=" batches", disable=None if label else True):
        rows = order[k : k + BATCH]
        texts = [[*prompts[n], *responses[n]][:-1] for n in rows]  # the last token predicts nothing that is asked
        width = max(1, max(map(len, texts)))
        tokens_BT = torch.tensor([[*text, *[PAD] * (width - len(text))] for text in texts], device=device)
        spans = [range(b * width + len(prompts[n]) - 1, b * width + len(texts[b])) for b, n in enumerate(rows)]
        at_N = torch.tensor([at for span in spans for at in span], device=device)
        logp_NV = F.log_softmax(model(tokens_BT, at_N=at_N), dim=-1)
        for n, logp_RV in zip(rows, logp_NV.split([len(span) for span in spans]), strict=True):
            yield int(n), logp_RV


def logprobs(
    model: GPT, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]], label: str = ""
) -> list[np.ndarray]:
    """Log-probability of each token of each response, nats, float64[R] for every response."""
    found: list[np.ndarray] = [np.zeros(0)] * len(responses)
    for n, logp_RV in laws(model, prompts, responses, label):
        token_R1 = torch.tensor(responses[n], device=logp_RV.device)[:, None]
        found[n] = logp_RV.gather(1, token_R1)[:, 0].double().cpu().numpy()
    return found


def step_means(written: Written, logp: Sequence[np.ndarray]) -> np.ndarray:
    """Mean log-probability of the tokens of each step, nats, float64[N, S]; nan behind the last step."""
    v = written.verdicts
    out_NS = np.full(v.kind.shape, np.nan)
    for n, s in zip(*np.nonzero(v.kind >= 0), strict=True):
        span = logp[n][v.start[n, s] : v.stop[n, s]]
        out_NS[n, s] = span.mean() if len(span) else np.nan
    return out_NS
