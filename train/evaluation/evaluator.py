"""Evaluation of a model: it solves problems, the checker judges each step, and the results are counted.

A solution is right when every step is (`full`); the final answer alone is reported beside `floor`, the accuracy of the
best constant answer. Problems are taken by index, so that models can be compared problem by problem. pass@k: how often
at least one of k sampled solutions is right. Try: `python -m train.evaluate --help`.

Legend: N problems, B problems of a batch, R response tokens, T document tokens.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import comb
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from models.decode.beam import beam_search
from models.decode.sampling import Generators, Samples, finish_reason, sample
from models.gpt import GPT
from synth.contexts.context_tokens import cut, render
from synth.dataset import Source
from synth.documents import Documents
from synth.judge.checker import KINDS, MALFORMED, Verdicts
from synth.kernel.progress import Progress
from synth.kernel.rng import key
from synth.oracle.next_token import Oracle
from synth.problem.arrays import Problems
from synth.problem.records import to_record
from synth.ranges import AboveZero, Count, NotNegative, Positive, Range, settings
from synth.store.encodings import PHRASE, Encoding, encoding_of
from synth.store.files import finite, write_json_lines
from synth.world.vocabulary import HOW_MANY, World
from train.data.batches import collate, longest_document
from train.evaluation.repetition import periods
from train.statistics import SHARE, Estimate, nested_mean, wilson

BATCH = 128  # rollouts at a time: then the key-value cache of a small model fits into the CPU's cache
LOGITS = 2**23  # most log-probabilities at a time for the held-out loss: 32 MB, of which several copies live at once


@settings
class Sampling:
    """How solutions are drawn: temperature 0 is greedy. `max_new_tokens` null: twice the longest right solution. beams
    above 1: beam search; with temperature 1 the beam sampling of Part 2.1 (beam 4, multinomial)."""

    temperature: NotNegative = 0.0  # 0 for greedy
    top_k: Count = 0  # only the likeliest so many tokens
    top_p: Annotated[float, Range(above=0, most=1)] = 1.0  # only the nucleus of this probability
    max_new_tokens: Positive | None = None  # most tokens of a response
    beams: Positive = 1  # of a beam search, 1 for none
    seed: int = 0  # of the draws

    def __post_init__(self) -> None:
        if self.beams > 1 and (self.temperature not in (0.0, 1.0) or self.top_k != 0 or self.top_p != 1.0):
            raise ValueError(
                f"sampling.beams={self.beams}: keeps the model's own distribution; accepted: temperature 0 or 1, "
                "top_k 0, top_p 1"
            )


@dataclass(frozen=True)
class Evaluation:
    """The responses to N problems, in the order asked, and the checker's verdicts.

    index, ops, answer: int[N], the problem, its operations, its true answer. tokens_NR: int, the responses, padded.
    length: int[N], with the end token. finished: bool[N], whether there is one.
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
        steps_right = ((v.kind >= 0) & (v.kind < MALFORMED)).sum(axis=1)
        values, counts = np.unique(self.answer, return_counts=True)
        constant = values[counts.argmax()]
        floor = self.answer == constant
        columns = {"right": v.right, "published": v.published, "answer_right": v.answer_right, "steps": v.steps}
        columns |= {"steps_right": steps_right, "floor_right": floor}
        rows = []
        for ops in np.unique(self.ops):
            same = self.ops == ops
            row = {"ops": int(ops), "n": int(same.sum())} | {k: int(c[same].sum()) for k, c in columns.items()}
            rows.append(row | {"full": rate(v.right[same])})
        return {
            "n": n,
            "full": rate(v.right),
            "published": rate(v.published),
            "answer": rate(v.answer_right),
            "step": float(steps_right.sum() / max(1, v.steps.sum())),
            "floor": float(floor.mean()),
            "floor_answer": int(constant),
            "length_mean": float(self.length.mean()),
            "truncation": float(1 - self.finished.mean()),
            "repetition": float((periods(self.tokens_NR, self.length) > 0).mean()),
            "retries": float(v.retries.mean()),
            "unneeded": float(v.unneeded.mean()),
            "retries_right": float(v.retries[v.right].mean()) if v.right.any() else None,
            "unneeded_right": float(v.unneeded[v.right].mean()) if v.right.any() else None,
            "by_ops": rows,
        }

    def samples(self, source: Source, count: int) -> list[dict[str, Any]]:
        """The first `count` rollouts as text, each step with the checker's verdict."""
        encoding, documents = encoding_of(source), self.documents
        records = []
        for i in range(min(count, len(self.index))):
            response = self.tokens_NR[i, : self.length[i]]
            record = {"index": int(self.index[i]), "ops": int(self.ops[i]), "answer": int(self.answer[i])}
            problem = documents.problems.take(i)
            text = transcript(encoding, documents.prompt_tokens(i), response, self.verdicts, i, problem)
            finished = bool(self.finished[i])
            records.append(record | {"finished": finished, "finish_reason": finish_reason(finished)} | text)
        return records


def rate(right_N: np.ndarray) -> dict[str, float]:
    """{"rate", "low", "high"} of a yes-no column."""
    return as_json(wilson(int(right_N.sum()), len(right_N)))


def as_json(estimate: Estimate) -> dict[str, float]:
    """{"rate", "low", "high"} of an estimate."""
    return {"rate": estimate.value, "low": estimate.low, "high": estimate.high}


def evaluate(
    model: GPT, source: Source, indices: Sequence[int], sampling: Sampling | None = None, batch: int = BATCH
) -> Evaluation:
    """The model's solutions of the problems `indices` of `source`; a pure function of the arguments."""
    sampling = sampling or Sampling()
    documents, encoding = source.documents(indices), encoding_of(source)
    prompt_N = np.asarray(documents.prompt)
    prompts = [documents.prompt_tokens(i).tolist() for i in range(len(documents))]
    longest = int((np.diff(documents.offsets) - prompt_N).max())
    budget = sampling.max_new_tokens or min(2 * longest, model.config.context - int(prompt_N.max()))
    tokens_NR = np.full((len(prompts), budget), encoding.pad, dtype=np.int64)
    length, finished = np.zeros(len(prompts), dtype=np.int64), np.zeros(len(prompts), dtype=bool)
    order, draws = np.argsort(prompt_N, kind="stable"), _generators(indices, sampling)
    for k in _batches(order, batch, "solving"):
        rows = order[k : k + batch].tolist()
        out = _respond(model, [prompts[i] for i in rows], budget, sampling, encoding, [draws[i] for i in rows])
        tokens_NR[rows, : out.tokens_BT.shape[1]] = out.tokens_BT.cpu().numpy()
        length[rows], finished[rows] = out.lengths_B.cpu().numpy(), out.finished_B.cpu().numpy()
    problems = documents.problems
    verdicts = encoding.check(problems, tokens_NR, length)
    index = np.asarray(indices, dtype=np.int64)
    return Evaluation(index, problems.ops, problems.answer, tokens_NR, length, finished, verdicts, documents)


def _generators(indices: Sequence[int], how: Sampling) -> list[torch.Generator]:
    """What the solution of each problem is drawn with, which belongs to the problem and to how often it was asked
    before: neither the batch nor the other problems change its draws."""
    asked, found = Counter(), []
    for index in map(int, indices):
        found.append(torch.Generator().manual_seed(key(how.seed, f"evaluation draw {asked[index]}", index)))
        asked[index] += 1
    return found


def _batches(rows: np.ndarray, size: int, desc: str) -> Progress:
    """Where each batch begins, with a bar where all of them take more than a moment."""
    return Progress(range(0, len(rows), size), desc=desc, unit=" batches", delay=2, leave=False)


def _respond(
    model: GPT, prompts: list[list[int]], budget: int, how: Sampling, tokens: Encoding, generator: Generators
) -> Samples:
    ends: dict[str, Any] = {"eos": tokens.eos, "pad": tokens.pad}
    if how.beams > 1:
        ends["generator"] = generator if how.temperature > 0 else None
        return beam_search(model, prompts, budget, beams=how.beams, **ends)
    settings = {"temperature": how.temperature, "top_k": how.top_k, "top_p": how.top_p}
    return sample(model, prompts, budget, generator=generator, **settings, **ends)


@torch.no_grad()
def held_out_loss(model: GPT, source: Source, indices: Sequence[int], batch: int = BATCH) -> dict[str, float]:
    """Losses on held-out documents, in nats a token.

    loss, floor: the model's mean loss on solution tokens, and the generator's entropy on the same. eos: the model's
    mean probability of the end token where solutions end. kl: KL(generator || model) over all response tokens, 0 for a
    model that knows all that can be known. It sums over the generator's whole distribution (`synth.oracle.next_token`);
    with tokens that are not phrases it is loss - floor, which has the same mean and more noise; it is left out where
    the distribution has no closed form (solution_order=published).
    """
    documents, encoding = source.documents(indices), encoding_of(source)
    is_closed = source.spec.solution_order == "uniform"
    oracle = Oracle(source.spec) if is_closed and encoding.name == PHRASE else None
    lengths = np.diff(documents.offsets)
    order = np.argsort(lengths, kind="stable")
    batch = min(batch, max(1, LOGITS // int(lengths.max() * model.config.vocab_size)))
    device, sums = next(model.parameters()).device, Counter()
    for k in _batches(order, batch, "held-out loss"):
        rows = order[k : k + batch]
        b = collate(documents, rows, fill=encoding.pad).to(device)
        position_T = torch.arange(1, b.tokens_BT.shape[1])
        prompt_B1, length_B1 = (torch.from_numpy(np.asarray(a)[rows])[:, None] for a in (documents.prompt, lengths))
        response_BT = ((position_T >= prompt_B1) & (position_T < length_B1)).to(device)
        at_N = response_BT.flatten().nonzero().squeeze(1)
        logp_NV = F.log_softmax(model(b.tokens_BT[:, :-1], at_N=at_N), dim=-1)
        token_N = b.tokens_BT[:, 1:].flatten()[at_N]
        is_target_N, is_end_N = b.solution_BT[:, 1:].flatten()[at_N], token_N == encoding.eos
        loss_N, targets = F.nll_loss(logp_NV, token_N, reduction="none"), int(is_target_N.sum())
        sums.update({"eos": float(logp_NV[is_end_N, encoding.eos].exp().sum()), "ends": int(is_end_N.sum())})
        sums.update({"loss": float(loss_N[is_target_N].sum()), "floor": b.floor * targets, "targets": targets})
        if oracle is not None:
            sums.update({"kl": kl_sum(oracle, documents, rows, logp_NV), "tokens": len(at_N)})
    found = {"loss": sums["loss"] / sums["targets"], "floor": sums["floor"] / sums["targets"]}
    found["eos"] = sums["eos"] / sums["ends"]
    if is_closed:
        found["kl"] = found["loss"] - found["floor"] if oracle is None else sums["kl"] / sums["tokens"]
    return found


def kl_sum(oracle: Oracle, documents: Documents, rows: np.ndarray, logp_NV: Tensor) -> float:
    """KL(oracle || model) in nats, summed over the tokens of the responses of these rows. logp_NV: the model's
    log-probabilities at those tokens, row by row; only the entries of the oracle are looked up."""
    truth = oracle(documents.problems.take(rows), [documents.response(i) for i in rows])
    is_token = np.ones(len(truth.status), dtype=bool)
    is_token[truth.rows[1:] - 1] = False  # the position after a response's last token
    entries = np.diff(truth.starts)  # of each position
    is_entry = np.repeat(is_token, entries)
    position, p = np.repeat(np.cumsum(is_token) - 1, entries)[is_entry], truth.probs[is_entry]
    token = truth.ids[is_entry].astype(np.int64)
    logp = logp_NV[torch.from_numpy(position).to(logp_NV.device), torch.from_numpy(token).to(logp_NV.device)]
    return float((p * (np.log(p) - logp.double().cpu().numpy())).sum())


def check_context_length(source: Source, problems: int, context: int, setting: str) -> None:
    """Raises ValueError, naming the setting, when one of the first `problems` documents does not fit the context."""
    if (longest := longest_document(source, problems)) > context:
        text = f"such problems have up to {longest} tokens, the model reads {context}; accepted: less"
        raise ValueError(f"{setting}: {text}")


def write_samples(run: Path, records: list[dict[str, Any]], **more: Any) -> None:
    """Writes samples.jsonl: one rollout a line, with the verdict of each step."""
    write_json_lines(run / "samples.jsonl", [finite(record | more) for record in records])


def transcript(
    vocabulary: World | Encoding,
    prompt: np.ndarray,
    response: np.ndarray,
    verdicts: Verdicts,
    row: int,
    problem: Problems,
) -> dict[str, Any]:
    """One response as JSON: prompt, response: text; right: whether every step and the answer are; steps: text and kind
    ("right" or the mistake) of each; record: the problem, for `synth.check`; context: text of the sections before the
    problem, where there are any.

    vocabulary: renders tokens, the world or the encoding they are in. prompt, response: token ids without padding.
    verdicts: of a batch, in which the response is row `row`. problem: as a batch of one.
    """
    spans = zip(verdicts.start[row], verdicts.stop[row], verdicts.kind[row], strict=True)
    steps = list(spans)[: int(verdicts.steps[row])]
    if isinstance(vocabulary, Encoding):
        world, phrases = vocabulary.world, vocabulary.phrases(prompt.tolist())
    else:
        world, phrases = vocabulary, prompt
    context, asked = cut(phrases)
    texts = {"context": render(world, context)} if context else {}
    texts |= {"prompt": world.decode(asked), "response": vocabulary.decode(response)}
    judged = [{"text": vocabulary.decode(response[start:stop]), "kind": KINDS[kind]} for start, stop, kind in steps]
    order = "qp" if world.phrases[HOW_MANY] in asked[:2] else "pq"
    record = {"id": f"problem of row {row}"} | to_record(problem, world, order) | {"world": world.name}
    return texts | {"right": bool(verdicts.right[row]), "steps": judged, "record": record}


@settings
class PassConfig:
    """`samples` solutions of each of `problems` problems at `temperature`; 0 samples: pass@k is not measured."""

    samples: Count = 0  # of each problem for pass@k, 0 for none
    problems: Positive = 128  # how many for pass@k
    temperature: AboveZero = 1.0  # of these samples


def pass_at_k(right_N: Sequence[int], n: int, k: int) -> np.ndarray:
    """The estimate for each problem, float64[N], from how many of its `n` samples were right; 1 <= k <= n."""
    if not 1 <= k <= n:
        raise ValueError(f"k={k}: accepted: 1 to n={n}")
    by_count = np.array([1 - comb(n - c, k) / comb(n, k) for c in range(n + 1)])
    return by_count[np.asarray(right_N, dtype=np.int64)]


def sample_solutions(model: GPT, source: Source, config: PassConfig, seed: int, batch: int = BATCH) -> Evaluation:
    """The solutions that `config` asks for, those of one problem in consecutive rows."""
    sampling = Sampling(temperature=config.temperature, seed=seed)
    return evaluate(model, source, np.repeat(np.arange(config.problems), config.samples).tolist(), sampling, batch)


def pass_rates(right_PN: np.ndarray, ops_P: np.ndarray) -> dict[str, Any]:
    """pass@k of P problems with n solutions each, for k = 1, 2, 4, ... and n.

    right_PN: bool[P, n], whether a solution is right. ops_P: int[P]. Returns samples (n), problems (P), right (right
    samples of each problem), at ({k: rate, low, high}, intervals over problems), by_ops (rates by operations).
    """
    problems, n = right_PN.shape
    right_P = right_PN.sum(axis=1)
    estimates = {str(k): pass_at_k(right_P, n, k) for k in sorted({2**i for i in range(n.bit_length())} | {n})}
    rates = {k: as_json(nested_mean([value_P], SHARE)) for k, value_P in estimates.items()}
    rows = []
    for ops in np.unique(ops_P):
        same = ops_P == ops
        row = {"ops": int(ops), "problems": int(same.sum())}
        rows.append(row | {k: float(value_P[same].mean()) for k, value_P in estimates.items()})
    return {"samples": n, "problems": problems, "right": right_P.tolist(), "at": rates, "by_ops": rows}


def pass_rates_of(drawn: Evaluation, samples: int) -> dict[str, Any]:
    """`pass_rates` of what `sample_solutions` returned."""
    return pass_rates(drawn.verdicts.right.reshape(-1, samples), drawn.ops[::samples])
