"""task=futures: which high-loss tokens are forks, and can a distance between futures tell? (TOPD, 2606.00305)

    python -m probes.run task=futures checkpoint=STUDENT futures.teacher=TEACHER

At the tokens of the student's own answers where the reverse KL to the teacher is highest, student and teacher each go
on for a short window. The paper takes a large distance between the two futures for a fork, without a truth to hold it
against. Here the checker is that truth: `fork` where the two have not derived the same parameters rightly, or one is
wrong and the other is not (`train.opd.topd`). Detectors, each as area under the ROC curve:

    transport     entropic optimal transport between the student's embeddings of the two futures' tokens (cosine cost)
    tokens        share of tokens that the two do not have in common
    kl            the token's reverse KL itself
    entropy       the student's entropy there

As a control the student goes on a second time: how often are two of its own futures a fork?
"""

from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor

from models.gpt import GPT
from probes.analyses.responses import BATCH, Responses, next_token_logprobs, response_budget, sample_responses
from probes.runs import CYCLE, CaptionedFigure, ClusterBootstrap, ResumeLog, derivation_states
from probes.settings import ProbeConfig
from probes.tables import Rows, cell, estimate_of
from probes.tasks.retry_upon_regret import continue_texts
from probes.tasks.task import Models, Summary, task_of
from synth.documents import pad_rows
from synth.judge.checker import check_responses
from synth.kernel.rng import key
from synth.ranges import AboveZero, Positive, Range, settings
from synth.world.vocabulary import EOS

SHARPNESS, SWEEPS = 0.1, 50  # of the entropic transport: its temperature, and iterations of Sinkhorn
POINTS = 21  # of a ROC curve


@settings
class Settings:
    """`model` is the student. `share`: of the tokens with the highest reverse KL, of which at most `tokens` are taken.
    `window`: tokens of a future."""

    teacher: str | None = None  # a run folder or checkpoint
    problems: Positive = 200  # how many
    share: Annotated[float, Range(above=0, most=1)] = 0.2
    tokens: Positive = 600  # of a future
    window: Positive = 16
    temperature: AboveZero = 1.0  # of the samples


class Candidates(NamedTuple):
    """Tokens of high reverse KL: response, place in it, reverse KL and the student's entropy there."""

    row: np.ndarray
    place: np.ndarray
    kl: np.ndarray
    entropy: np.ndarray


def run(config: ProbeConfig, c: Settings, models: Models, log: ResumeLog) -> dict[str, Any]:
    """Tables `forks` and `detectors`, and the curves `roc`."""
    source, student, teacher = config.data.source("test", "futures"), models["model"], models["futures.teacher"]
    documents = source.documents(range(c.problems))
    budget = response_budget(student, documents, "model")
    draws = (1, c.temperature)
    responses = sample_responses(student, documents, source.world, log, "rollouts", budget, config.seed, *draws)
    last = min(student.config.context, teacher.config.context) - c.window
    found = candidates(responses, student, teacher, c.share, c.tokens, last)
    prompts, problem = responses.prompts(), responses.row[found.row]
    prefixes = [responses.tokens[n][:t] for n, t in zip(found.row, found.place, strict=True)]
    texts = [[*prompts[n], *prefix] for n, prefix in zip(found.row, prefixes, strict=True)]
    futures, states = {}, {}
    for name, model in (("student", student), ("teacher", teacher), ("again", student)):
        seed = key(config.seed, f"analysis future {name}", 0) % 2**63
        futures[name] = continue_texts(model, texts, c.window, temperature=c.temperature, seed=seed)
        whole = [[*prefix, *future] for prefix, future in zip(prefixes, futures[name], strict=True)]
        verdicts = check_responses(documents.problems.take(problem), source.world, whole)
        ended = np.array([EOS in future for future in futures[name]])
        states[name] = derivation_states(verdicts, np.array([len(text) for text in whole]), ended)
    pairs = (zip(states["student"], states[name], strict=True) for name in ("teacher", "again"))
    fork, own = (np.array([a != b for a, b in pair]) for pair in pairs)
    scores = {
        "transport": transport(student.embed.weight.detach(), futures["student"], futures["teacher"]),
        "tokens": np.array([uncommon(a, b) for a, b in zip(futures["student"], futures["teacher"], strict=True)]),
        "kl": found.kl,
        "entropy": found.entropy,
    }
    bootstrap = ClusterBootstrap(problem)
    forks = {"student and teacher": fork, "student twice": own}
    chosen = f"the {c.share:.0%} with the highest reverse KL in {len(documents)} answers"
    tables = {
        "forks": [{"futures": name, "forks": cell(bootstrap.rate(value))} for name, value in forks.items()],
        "detectors": [{"detector": name, "auroc": cell(bootstrap.auroc(s, fork))} for name, s in scores.items()],
    }
    curves = {"roc": [row for name, s in scores.items() for row in roc(name, s, fork)]}
    notes = [f"{len(fork)} tokens, of {chosen}; futures of {c.window} tokens"]
    return {"tables": tables, "curves": curves, "notes": notes}


def candidates(responses: Responses, student: GPT, teacher: GPT, share: float, most: int, last: int) -> Candidates:
    """The `share` of tokens of highest reverse KL, at most `most`, of those up to position `last` of their text."""
    prompts = responses.prompts()
    of_student = dict(next_token_logprobs(student, prompts, responses.tokens, "student"))
    columns = []
    for n, p_RV in next_token_logprobs(teacher, prompts, responses.tokens, "teacher"):
        q_RV = of_student.pop(n)
        kl_R, entropy_R = (q_RV.exp() * (q_RV - p_RV)).sum(-1), -(q_RV.exp() * q_RV).sum(-1)
        place_R = torch.arange(len(kl_R))
        row_R = torch.full_like(place_R, n)
        fits = place_R + len(prompts[n]) <= last
        columns.append([a.cpu().double()[fits] for a in (row_R, place_R, kl_R, entropy_R)])
    row, place, kl, entropy = (torch.cat(column).numpy() for column in zip(*columns, strict=True))
    best = np.argsort(-kl, kind="stable")[: min(most, max(1, round(share * len(kl))))]
    return Candidates(row[best].astype(int), place[best].astype(int), kl[best], entropy[best])


def uncommon(a: Sequence[int], b: Sequence[int]) -> float:
    """1 - |A and B| / |A or B| of the futures as bags of tokens."""
    size = max([*a, *b], default=0) + 1
    counts = [np.bincount(np.asarray(x, dtype=int), minlength=size) for x in (a, b)]
    return float(1 - np.minimum(*counts).sum() / max(1, np.maximum(*counts).sum()))


def transport(embedding_VC: Tensor, a: Sequence[Sequence[int]], b: Sequence[Sequence[int]]) -> np.ndarray:
    """Sinkhorn's cost between the token embeddings of each pair of futures (Cuturi 2013), float64[N]."""
    unit_VC = F.normalize(embedding_VC.double(), dim=-1)
    found = []
    for k in range(0, len(a), BATCH):
        (a_NI, mass_NI), (b_NJ, mass_NJ) = (_bags(x[k : k + BATCH], embedding_VC.device) for x in (a, b))
        cost_NIJ = 1 - unit_VC[a_NI] @ unit_VC[b_NJ].mT
        f_NI, g_NJ = torch.zeros_like(mass_NI), torch.zeros_like(mass_NJ)
        for _ in range(SWEEPS):
            to_a_NIJ = mass_NJ.log()[:, None] + (g_NJ[:, None] - cost_NIJ) / SHARPNESS
            f_NI = -SHARPNESS * torch.logsumexp(to_a_NIJ, 2)
            to_b_NIJ = mass_NI.log()[:, :, None] + (f_NI[:, :, None] - cost_NIJ) / SHARPNESS
            g_NJ = -SHARPNESS * torch.logsumexp(to_b_NIJ, 1)
        scale_NIJ = ((f_NI[:, :, None] + g_NJ[:, None] - cost_NIJ) / SHARPNESS).exp()
        plan_NIJ = mass_NI[:, :, None] * mass_NJ[:, None] * scale_NIJ
        found.append((plan_NIJ * cost_NIJ).sum((1, 2)).cpu().numpy())
    return np.concatenate(found)


def _bags(texts: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Tokens int64[N, I] and equal masses that sum to one for each text; nought where a text is over."""
    tokens_NI = torch.from_numpy(pad_rows(texts)).to(device)
    length_N1 = torch.tensor([[max(1, len(text))] for text in texts], device=device)
    inside_NI = torch.arange(tokens_NI.shape[1], device=device) < length_N1
    return tokens_NI, inside_NI.double() / length_N1


def roc(name: str, score: np.ndarray, positive: np.ndarray) -> Rows:
    """Points of the ROC curve, at evenly spaced shares of false alarms."""
    if not 0 < positive.sum() < len(positive):
        return []
    order = np.argsort(-score, kind="stable")
    hits = np.cumsum(positive[order]) / positive.sum()
    false = np.cumsum(~positive[order]) / (~positive).sum()
    last = np.append(np.diff(score[order]) != 0, True)  # tied scores enter together
    x, y = np.append(0.0, false[last]), np.append(0.0, hits[last])
    grid = np.linspace(0, 1, POINTS)
    return [{"detector": name, "false_alarms": float(g), "found": float(np.interp(g, x, y))} for g in grid]


def figure(summary: Summary) -> CaptionedFigure:
    """The ROC curves of all detectors."""
    drawn = Figure(figsize=(5.4, 4.6), layout="constrained")
    ax = drawn.subplots()
    for row, color in zip(summary["tables"]["detectors"], CYCLE, strict=False):
        points = [p for p in summary["curves"]["roc"] if p["detector"] == row["detector"]]
        area = estimate_of(row["auroc"])
        text = f"{row['detector']} {area.value:.2f} [{area.low:.2f}, {area.high:.2f}]"
        ax.plot([p["false_alarms"] for p in points], [p["found"] for p in points], color=color, label=text)
    ax.plot([0, 1], [0, 1], color="black", lw=1, ls=":")
    ax.set(title="telling forks from other wordings", xlabel="false alarms", ylabel="forks found")
    ax.legend(title="AUROC", loc="lower right")
    n = summary["tables"]["detectors"][0]["auroc"]["n"]
    caption = f"Truth: the checker's state after the window. {n} tokens; 95% bootstrap intervals over problems."
    return CaptionedFigure(drawn, "Do futures tell a fork?", caption)


TASK = task_of("futures", Settings, run, figure, needs=("teacher",))
