"""Responses that models write to the same problems, and what other models make of them, token by token.

    found = sample_responses(model, documents, world, log, "student", budget=60, seed=0, samples=8, temperature=1.0)
    scores = response_logprobs(teacher, found.prompts(), found.tokens)

Legend: N responses, R response tokens, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from models.gpt import GPT
from probes.runs import ResumeLog, periods
from probes.tasks.retry_upon_regret import continue_texts
from synth.documents import Documents, pad_rows
from synth.judge.checker import Verdicts, check_responses
from synth.kernel.progress import Progress
from synth.kernel.rng import key
from synth.world.vocabulary import EOS, World

BATCH = 64  # texts side by side, in sampling and in scoring


class Responses(NamedTuple):
    """N responses to the prompts of `documents`; response n answers document `row[n]`."""

    documents: Documents
    row: np.ndarray  # int64[N]
    tokens: list[list[int]]  # after `<solution>`, the end token included where it came
    verdicts: Verdicts

    def prompts(self) -> list[list[int]]:
        return [self.documents.prompt_tokens(i).tolist() for i in self.row]

    @property
    def ended(self) -> np.ndarray:
        """bool[N]: whether the response came to its end token."""
        return np.array([EOS in tokens for tokens in self.tokens], dtype=bool)

    @property
    def lengths(self) -> np.ndarray:
        """int64[N], tokens with the end token."""
        return np.array([len(tokens) for tokens in self.tokens], dtype=np.int64)

    @property
    def loops(self) -> np.ndarray:
        """bool[N]: whether the response ends in a loop."""
        return periods(pad_rows(self.tokens), self.lengths) > 0


def response_budget(model: GPT, documents: Documents, setting: str) -> int:
    """Most tokens of a response: twice the longest right one, as far as the context goes. Raises ValueError, naming the
    setting of the checkpoint, when there is no room for a right one."""
    longest = int((np.diff(documents.offsets) - documents.prompt).max())
    available = model.config.context - int(documents.prompt.max())
    if available < longest:
        raise ValueError(
            f"{setting}: reads {model.config.context} tokens, and prompts and right solutions have "
            f"{int(documents.prompt.max())} and {longest}; accepted: a model with a longer context"
        )
    return min(2 * longest, available)


def sample_responses(
    model: GPT, documents: Documents, world: World, log: ResumeLog, label: str, budget: int, seed: int,
    samples: int = 1, temperature: float = 0.0,
) -> Responses:  # fmt: skip
    """`samples` responses to each problem (temperature 0: the likeliest one, repeated), with their verdicts. Their
    parts of the log, and their random numbers, are those of `label`."""
    row = np.repeat(np.arange(len(documents)), samples)
    tokens: list[list[int]] = []
    for k in Progress(range(0, len(row), BATCH * 4), desc=label, unit=" batches"):
        prompts = [documents.prompt_tokens(i).tolist() for i in row[k : k + BATCH * 4]]
        settings = {"temperature": temperature, "seed": key(seed, f"analysis {label}", k) % 2**63}
        tokens += log.once(f"{label} {k}", lambda p=prompts, s=settings: continue_texts(model, p, budget, **s))
    return Responses(documents, row, tokens, check_responses(documents.problems.take(row), world, tokens))


@torch.no_grad()
def next_token_logprobs(
    model: GPT, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]], label: str = ""
) -> Iterator[tuple[int, Tensor]]:
    """(n, log-probabilities [R, V] of the model at every token of response n), in no particular order of n."""
    device = model.embed.weight.device
    order = np.argsort([len(p) + len(r) for p, r in zip(prompts, responses, strict=True)], kind="stable")
    blocks = range(0, len(order), BATCH)
    for k in Progress(blocks, desc=label, unit=" batches", disable=not label):
        rows = order[k : k + BATCH]
        texts = [[*prompts[n], *responses[n]][:-1] for n in rows]  # the last token predicts nothing that is asked
        tokens_BT = torch.from_numpy(pad_rows(texts)).to(device)
        width = tokens_BT.shape[1]
        spans = [range(b * width + len(prompts[n]) - 1, b * width + len(texts[b])) for b, n in enumerate(rows)]
        at_N = torch.tensor([at for span in spans for at in span], device=device)
        logp_NV = F.log_softmax(model(tokens_BT, at_N=at_N), dim=-1)
        for n, logp_RV in zip(rows, logp_NV.split([len(span) for span in spans]), strict=True):
            yield int(n), logp_RV


def response_logprobs(
    model: GPT, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]], label: str = ""
) -> list[np.ndarray]:
    """Log-probability of each token of each response, nats, float64[R] for every response."""
    found: list[np.ndarray] = [np.zeros(0)] * len(responses)
    for n, logp_RV in next_token_logprobs(model, prompts, responses, label):
        token_R1 = torch.tensor(responses[n], device=logp_RV.device)[:, None]
        found[n] = logp_RV.gather(1, token_R1)[:, 0].double().cpu().numpy()
    return found


def step_means(responses: Responses, logp: Sequence[np.ndarray]) -> np.ndarray:
    """Mean log-probability of the tokens of each step, nats, float64[N, S]; nan behind the last step."""
    v = responses.verdicts
    mean_NS = np.full(v.kind.shape, np.nan)
    for n, s in zip(*np.nonzero(v.kind >= 0), strict=True):
        span = logp[n][v.start[n, s] : v.stop[n, s]]
        mean_NS[n, s] = span.mean() if len(span) else np.nan
    return mean_NS
