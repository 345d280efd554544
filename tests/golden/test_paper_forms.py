"""Methods with two forms: the one that follows the paper, on the batches of the released numbers, against its formula.

Each formula is written out here in plain tensors, from the words of the method's file. The other form, equal to the
release, is held by `test_released_objectives.py`; that the two differ, here.

Legend: B rows, R response columns, N response positions, V vocabulary.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from synth.world.vocabulary import EOS, SPECIALS
from tests.helpers.opd_methods import NAMES, method
from tests.helpers.released_objectives.golden_files import File, Variant, ours
from train.opd.rollout_batch import positions

FOLDER = Path(__file__).parent / "released"


class Case:
    """The tensors of a file at its response positions; `q`, `p` and `r` are log-probabilities."""

    def __init__(self, name: str) -> None:
        self.file = File.read(FOLDER / f"{name}-1.npz")
        self.row_N, self.time_N = positions(self.file.length_B)
        self.z_BRV = self.file.tensor("in_student_logits").clone().requires_grad_()
        self.y_N = self.file.tensor("in_tokens")[self.row_N, self.time_N]
        self.right_B = self.file.tensor("in_reward") > 0.5 if "in_reward" in self.file else None

    def q(self, temperature: float = 1.0) -> Tensor:
        return torch.log_softmax(self.z_BRV[self.row_N, self.time_N] / temperature, dim=-1)

    @property
    def p(self) -> Tensor:
        return self.file.log_probs("teacher")

    def token(self, log_NV: Tensor) -> Tensor:
        return log_NV.gather(-1, self.y_N[:, None]).squeeze(-1)

    def over_rows(self, value_N: Tensor) -> Tensor:
        """The mean over each response, then over responses."""
        return self.row_mean(value_N).mean()

    def row_mean(self, value_N: Tensor) -> Tensor:
        length_B = self.file.length_B
        return torch.zeros(len(length_B), dtype=value_N.dtype).index_add(0, self.row_N, value_N) / length_B

    def alike(self, row: int) -> Tensor:
        """bool[B]: the responses to the same prompt that are as right."""
        group_B = self.file.tensor("in_group")
        return (group_B == group_B[row]) & (self.right_B == self.right_B[row])


def kl(a: Tensor, b: Tensor) -> Tensor:
    return (a.exp() * (a - b)).sum(-1)


def entropy(a: Tensor) -> Tensor:
    return -(a.exp() * a).sum(-1)


def jsd(p: Tensor, q: Tensor, beta: float) -> Tensor:
    m = torch.log(beta * p.exp() + (1 - beta) * q.exp())
    return beta * kl(p, m) + (1 - beta) * kl(q, m)


def renormalised(c: Case, index_NK: Tensor) -> Tensor:
    """Reverse KL of both distributions given the support."""
    q, p = (torch.log_softmax(x.gather(-1, index_NK), dim=-1) for x in (c.q(), c.p))
    return kl(q, p)


def lightning(c: Case) -> Tensor:
    d = (c.token(c.p) - c.token(c.q())).detach().clamp(-5.0, 5.0)
    return -(d * c.token(c.q())).mean()


def minillm(c: Case) -> Tensor:
    """The exact first term; of the tokens that follow, the mean log-ratio; fresh samples of the mixture."""
    share = 0.2
    d = (c.token(c.p) - c.token(c.q())).detach()
    after = torch.stack([d[(c.row_N == r) & (c.time_N > t)].sum() / max(1, int(((c.row_N == r) & (c.time_N > t)).sum()))
                         for r, t in zip(c.row_N.tolist(), c.time_N.tolist(), strict=True)])  # fmt: skip
    mixed = ((1 - share) * c.token(c.q()).exp() + share * c.token(c.p).exp()).detach()
    rho = c.token(c.q()).exp() / mixed
    return (kl(c.q(), c.p) - torch.minimum(rho * after, rho.clamp(0.8, 1.2) * after)).mean()


def paced(c: Case) -> Tensor:
    group_B = c.file.tensor("in_group")
    rate_B = torch.stack([c.right_B[group_B == g].double().mean() for g in group_B])
    weight_N = (rate_B * (1 - rate_B))[c.row_N]
    return (weight_N * kl(c.p, c.q())).sum() / (weight_N > 0).sum()


def revisiting(c: Case) -> Tensor:
    kept_N = (c.y_N == EOS) | (c.y_N >= len(SPECIALS))
    return renormalised(c, c.p.topk(32).indices)[kept_N].mean()


def scope(c: Case) -> Tensor:
    q = c.q(0.6)
    score_B = {True: -c.row_mean(c.token(q).detach()), False: c.row_mean(c.token(c.p))}
    own_B = torch.where(c.right_B, score_B[True], score_B[False]).exp()
    weight_B = torch.stack([own_B[i] / own_B[c.alike(i)].mean() for i in range(len(own_B))])
    weight_N, right_N = weight_B[c.row_N], c.right_B[c.row_N]
    return (weight_N * kl(q, c.p))[~right_N].mean() - (weight_N * c.token(q))[right_N].mean()


def tip(c: Case) -> Tensor:
    value_N, vocabulary = kl(c.q(), c.p), torch.tensor(float(c.p.shape[-1]))
    h, d = (entropy(c.q()) / vocabulary.log()).detach(), (value_N / value_N.max()).detach()
    kept_N = (h + d - h * d) >= (h + d - h * d).quantile(0.5)
    return value_N[kept_N].sum() / len(value_N)


def tsd_kd(c: Case) -> Tensor:
    q, p = c.q(), c.p
    direct = (torch.sigmoid(entropy(q) - entropy(p)).detach() * jsd(p, q, 0.9)).mean()
    h = entropy(q)
    opener_N = torch.cat([h[c.row_N == r].cumsum(0) - h[c.row_N == r] < 0.1 * h[c.row_N == r].sum()
                          for r in range(len(c.file.length_B))])  # fmt: skip
    index = q.detach().topk(10).indices
    order = index.gather(-1, p.gather(-1, index).argsort(-1, descending=True))
    z = q.gather(-1, order)
    ranking = sum(z[:, j:].logsumexp(-1) - z[:, j] for j in range(10))
    return direct + 0.1 * ranking[opener_N].mean() + h[h >= h.quantile(0.9)].mean()


FORMULAS: dict[str, Callable[[Case], Tensor]] = {
    "gkd": lambda c: c.over_rows(jsd(c.p, c.q(), 0.5)),
    "crisp": lambda c: c.over_rows(kl(c.q(), c.p)),
    "exopd": lambda c: kl(c.q(), torch.log_softmax(1.25 * c.p - 0.25 * c.file.log_probs("reference"), -1)).mean(),
    "rethinking": lambda c: renormalised(c, c.q().detach().topk(16).indices).mean(),
    "lightning": lightning,
    "minillm": minillm,
    "paced": paced,
    "revisiting": revisiting,
    "scope": scope,
    "tip": tip,
    "tsd_kd": tsd_kd,
}
ONE_STEP = {"drgrpo", "grpo", "iw_opd", "mopd", "rlsd", "sdft", "sdpo"}  # the same where a batch is used once
SAME_LOSS = {"curio_sft"}  # the teacher differs


@pytest.mark.parametrize("name", FORMULAS)
def test_the_paper_s_form_is_its_formula_and_not_the_release_s(name):
    case = Case(name)
    loss = FORMULAS[name](case)
    (gradient_BRV,) = torch.autograd.grad(loss, case.z_BRV)
    found, found_BRV = ours(case.file, Variant("", name, from_student=True, form="paper"))
    assert found == pytest.approx(loss.item(), rel=1e-6)
    scale = float(gradient_BRV.abs().max())
    torch.testing.assert_close(found_BRV, gradient_BRV, atol=1e-6 * scale, rtol=0.0)
    _, released_BRV = ours(case.file, Variant("", name))
    assert float((released_BRV - found_BRV).abs().max()) > 1e-3 * scale


@pytest.mark.parametrize("name", sorted(ONE_STEP - {"mopd", "rlsd", "sdft", "sdpo"}))
def test_on_fresh_samples_both_forms_have_one_gradient(name):
    case = Case(name)
    forms = [Variant("", name, from_student=True, form=form) for form in ("paper", "release")]
    torch.testing.assert_close(*(ours(case.file, form)[1] for form in forms), atol=1e-9, rtol=1e-9)


def test_every_method_with_two_forms_is_held_here():
    assert {name for name in NAMES if method(name).faithful} == set(FORMULAS) | ONE_STEP | SAME_LOSS
