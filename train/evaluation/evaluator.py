"""Judging a model: it solves problems, the checker looks at each step, and the results are counted.

A solution is right when every step is (`full`); the final answer alone is reported beside what the best constant answer
would reach. Problems are taken by index, so all models are asked the same ones and can be compared problem by problem.
Try: `python -m train.evaluate --help`.

Legend: N problems, B problems of a batch, R response tokens, T document tokens.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from models.decode.beam import beam_search
from models.decode.sampling import Samples, finish_reason, sample
from models.gpt import GPT
from synth.dataset import Source
from synth.documents import Documents
from synth.judge.checker import MALFORMED, Verdicts
from synth.kernel.rng import key
from synth.oracle.next_token import Oracle
from synth.store.encodings import PHRASE, Encoding, encoding_of
from synth.store.files import finite, write_json_lines
from train.data.batches import collate
from train.evaluation.repetition import periods
from train.evaluation.transcript import transcript
from train.statistics import wilson

BATCH = 128  # rollouts side by side: the cache of a small model stays inside the CPU's own
LOGITS = 2**26  # most log-probabilities made at once for the held-out loss: 256 MB


@dataclass(frozen=True)
class Sampling:
    """How answers are drawn: temperature 0 is greedy. `max_new_tokens` null: twice the longest right solution.

    beams above 1: beam search, which with temperature 1 is the beam sampling of Part 2.1 (beam 4, multinomial).
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    max_new_tokens: int | None = None
    beams: int = 1
    seed: int = 0

    def __post_init__(self):
        if self.temperature < 0:
            raise ValueError(f"sampling.temperature={self.temperature}: accepted: 0 (greedy) or more")
        if self.top_k < 0:
            raise ValueError(f"sampling.top_k={self.top_k}: accepted: 0 (off) or more")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"sampling.top_p={self.top_p}: accepted: 0 < top_p <= 1")
        if self.max_new_tokens is not None and self.max_new_tokens < 1:
            raise ValueError(f"sampling.max_new_tokens={self.max_new_tokens}: accepted: 1 or more, or null")
        if self.beams < 1:
            raise ValueError(f"sampling.beams={self.beams}: accepted: 1 or more")
        if self.beams > 1 and (self.temperature not in (0.0, 1.0) or self.top_k != 0 or self.top_p != 1.0):
            raise ValueError(
                f"sampling.beams={self.beams} keeps the model's own law; accepted: temperature 0 or 1, top_k 0, top_p 1"
            )


@dataclass(frozen=True)
class Evaluation:
    """The answers to N problems, in the order asked, and what the checker says.

    index, ops, answer: int[N], the problem, its operations, its true answer. tokens_NR: int, the responses, padded.
    length: int[N], with the end token. finished: bool[N], ended by it.
    """

    index: np.ndarray
    ops: np.ndarray
    answer: np.ndarray
    tokens_NR: np.ndarray
    length: np.ndarray
    finished: np.ndarray
    verdicts: Verdicts
    documents: Documents

    def summary(self) -> dict[str, Any]:
        """Counts and rates with Wilson's 95% intervals, overall and by number of operations; JSON."""
        v, n = self.verdicts, len(self.index)
        good = ((v.kind >= 0) & (v.kind < MALFORMED)).sum(axis=1)
        values, counts = np.unique(self.answer, return_counts=True)
        constant = values[counts.argmax()]
        floor = self.answer == constant
        loops = periods(self.tokens_NR, self.length) > 0
        rows = []
        for ops in np.unique(self.ops):
            of = self.ops == ops
            row = {"ops": int(ops), "n": int(of.sum()), "right": int(v.right[of].sum())}
            row |= {"published": int(v.published[of].sum()), "answer_right": int(v.answer_right[of].sum())}
            row |= {"steps": int(v.steps[of].sum()), "steps_right": int(good[of].sum())}
            rows.append(row | {"floor_right": int(floor[of].sum()), "full": rate(v.right[of])})
        return {
            "n": n,
            "full": rate(v.right),
            "published": rate(v.published),
            "answer": rate(v.answer_right),
            "step": float(good.sum() / max(1, v.steps.sum())),
            "floor": float(floor.mean()),
            "floor_answer": int(constant),
            "length_mean": float(self.length.mean()),
            "truncation": float(1 - self.finished.mean()),
            "repetition": float(loops.mean()),
            "retries": float(v.retries.mean()),
            "unneeded": float(v.unneeded.mean()),
            "retries_right": float(v.retries[v.right].mean()) if v.right.any() else None,
            "unneeded_right": float(v.unneeded[v.right].mean()) if v.right.any() else None,
            "by_ops": rows,
        }

    def samples(self, source: Source, count: int) -> list[dict[str, Any]]:
        """The first `count` rollouts as text, each step with the checker's word for it."""
        written, documents = encoding_of(source), self.documents
        records = []
        for i in range(min(count, len(self.index))):
            response = self.tokens_NR[i, : self.length[i]]
            facts = {"index": int(self.index[i]), "ops": int(self.ops[i]), "answer": int(self.answer[i])}
            text = transcript(written, documents.prompt_tokens(i), response, self.verdicts, i)
            finished = bool(self.finished[i])
            records.append(facts | {"finished": finished, "finish_reason": finish_reason(finished)} | text)
        return records


def rate(right_N: np.ndarray) -> dict[str, float]:
    """{"rate", "low", "high"} of a yes-no column."""
    r = wilson(int(right_N.sum()), len(right_N))
    return {"rate": r.value, "low": r.low, "high": r.high}


def evaluate(
    model: GPT, source: Source, indices: Sequence[int], sampling: Sampling | None = None, batch: int = BATCH
) -> Evaluation:
    """Has `model` solve the problems `indices` of `source`. A pure function of its arguments."""
    sampling = sampling or Sampling()
    documents, tokens = source.documents(indices), encoding_of(source)
    offsets, prompt_N = np.asarray(documents.offsets), np.asarray(documents.prompt)
    prompts = [documents.tokens[o : o + p].tolist() for o, p in zip(offsets, prompt_N, strict=False)]
    longest = int((np.diff(offsets) - prompt_N).max())
    budget = sampling.max_new_tokens or min(2 * longest, model.config.context - int(prompt_N.max()))
    tokens_NR = np.full((len(prompts), budget), tokens.pad, dtype=np.int64)
    length, finished = np.zeros(len(prompts), dtype=np.int64), np.zeros(len(prompts), dtype=bool)
    order = np.argsort(prompt_N, kind="stable")
    for k in range(0, len(order), batch):
        rows = order[k : k + batch]
        generator = torch.Generator().manual_seed(key(sampling.seed, "evaluation", k))
        out = _continue(model, [prompts[i] for i in rows], budget, sampling, tokens, generator)
        tokens_NR[rows, : out.tokens_BT.shape[1]] = out.tokens_BT.cpu().numpy()
        length[rows], finished[rows] = out.lengths_B.cpu().numpy(), out.finished_B.cpu().numpy()
    problems = documents.problems
    verdicts = tokens.check(problems, tokens_NR, length)
    index = np.asarray(indices, dtype=np.int64)
    return Evaluation(index, problems.ops, problems.answer, tokens_NR, length, finished, verdicts, documents)


def _continue(
    model: GPT,
    prompts: list[list[int]],
    budget: int,
    sampling: Sampling,
    tokens: Encoding,
    generator: torch.Generator,
) -> Samples:
    """Responses to prompts, drawn as `sampling` says."""
    ends: dict[str, int] = {"eos": tokens.eos, "pad": tokens.pad}
    if sampling.beams > 1:
        drawn = generator if sampling.temperature > 0 else None
        return beam_search(model, prompts, budget, beams=sampling.beams, generator=drawn, **ends)
    law = {"temperature": sampling.temperature, "top_k": sampling.top_k, "top_p": sampling.top_p}
    return sample(model, prompts, budget, generator=generator, **law, **ends)


@torch.no_grad()
def held_out_loss(model: GPT, source: Source, indices: Sequence[int], batch: int = BATCH) -> dict[str, float]:
    """Mean loss of solution tokens, the generator's entropy of the same, and KL(generator || model), in nats a token.

    `eos` is the model's probability of the end where solutions end.

    `kl` sums, at every token of the responses, over the generator's whole law (`synth.oracle.next_token`); in tokens that are not
    the world's own it is loss - floor, which has the same mean and more noise. It is 0 for a model that knows all that
    can be known, and left out where the law has no closed form (solution_order=published).
    """
    documents, tokens = source.documents(indices), encoding_of(source)
    closed = source.spec.solution_order == "uniform"
    oracle = Oracle(source.spec) if closed and tokens.name == PHRASE else None
    lengths = np.diff(documents.offsets)
    order = np.argsort(lengths, kind="stable")
    batch = min(batch, max(1, LOGITS // int(lengths.max() * model.config.vocab_size)))
    device, sums = next(model.parameters()).device, Counter()
    for k in range(0, len(order), batch):
        rows = order[k : k + batch]
        b = collate(documents, rows, fill=tokens.pad).to(device)
        position_T = torch.arange(1, b.tokens_BT.shape[1])
        prompt_B1, length_B1 = (torch.from_numpy(np.asarray(a)[rows])[:, None] for a in (documents.prompt, lengths))
        response_BT = ((position_T >= prompt_B1) & (position_T < length_B1)).to(device)
        at_N = response_BT.flatten().nonzero().squeeze(1)
        logp_NV = F.log_softmax(model(b.tokens_BT[:, :-1], at_N=at_N), dim=-1)
        loss_N = F.nll_loss(logp_NV, b.tokens_BT[:, 1:].flatten()[at_N], reduction="none")
        target_N = b.solution_BT[:, 1:].flatten()[at_N]
        targets = int(target_N.sum())
        ends_N = b.tokens_BT[:, 1:].flatten()[at_N] == tokens.eos
        sums.update({"eos": float(logp_NV[ends_N, tokens.eos].exp().sum()), "ends": int(ends_N.sum())})
        sums.update({"loss": float(loss_N[target_N].sum()), "floor": b.floor * targets, "targets": targets})
        if oracle is not None:
            sums.update({"kl": kl_sum(oracle, documents, rows, logp_NV), "tokens": len(at_N)})
    found = {"loss": sums["loss"] / sums["targets"], "floor": sums["floor"] / sums["targets"]}
    found["eos"] = sums["eos"] / sums["ends"]
    if closed:
        found["kl"] = found["loss"] - found["floor"] if oracle is None else sums["kl"] / sums["tokens"]
    return found


def kl_sum(oracle: Oracle, documents: Documents, rows: np.ndarray, logp_NV: Tensor) -> float:
    """KL(oracle || model) in nats, summed over the tokens of the responses of these rows.

    logp_NV: the model's log-probabilities at those tokens, row by row. Only the law's own entries are looked up, so
    nothing of the size of the vocabulary is made beside them.
    """
    problems = documents.problems._replace(**{k: a[rows] for k, a in documents.problems._asdict().items()})
    law = oracle(problems, [documents.response(i) for i in rows])
    wanted = np.ones(len(law.status), dtype=bool)
    wanted[law.rows[1:] - 1] = False  # the position after a response's last token
    entry = np.repeat(wanted, np.diff(law.starts))
    n = np.repeat(np.cumsum(wanted) - 1, np.diff(law.starts))[entry]
    p = law.probs[entry]
    at = (torch.from_numpy(n).to(logp_NV.device), torch.from_numpy(law.ids[entry].astype(np.int64)).to(logp_NV.device))
    return float((p * (np.log(p) - logp_NV[at].double().cpu().numpy())).sum())


def check_context_length(source: Source, problems: int, context: int, setting: str) -> None:
    """Raises ValueError, naming the setting, when a model of this context cannot read one of the problems solved."""
    longest = int(np.diff(source.documents(range(problems)).offsets).max())
    if longest > context:
        raise ValueError(
            f"{setting}: such problems have up to {longest} tokens, the model reads {context}; accepted: less"
        )


def write_samples(run: Path, records: list[dict[str, Any]], **more: Any) -> None:
    """samples.jsonl: one rollout a line with the verdict of each step."""
    write_json_lines(run / "samples.jsonl", [finite(record | more) for record in records])
