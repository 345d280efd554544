"""The linear probe: multinomial logistic regression on the states of every layer, all layers fitted in one go.

Each layer and each strength of the L2 penalty is a problem of its own, and convex; they are solved side by side as one
batched problem. States are standardised, the penalty is chosen on the validation part, layer by layer.

    fit(states_SNC, labels_N, classes, l2=(1e-3, 1e-2))             # one for each site and penalty
    probes = fit_probes([fitted_on, validation], labels, classes, l2)   # one for each site
    probes.predict(unseen_SNC), probes.best                         # and the site that is best on the validation part

Legend: S sites, R strengths, N queries, C channels, K classes.
"""

from collections.abc import Callable, Sequence
from typing import Annotated, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from models.gpt import GPT
from probes.queries.labels import TaskNames
from probes.queries.table import Split
from probes.readout.activations import RESIDUAL, chosen_sites, layer_of, names_in_line, read
from synth.ranges import AboveZero, Filled, Positive, settings
from synth.world.vocabulary import World

STEPS, TOLERANCE = 300, 3e-4  # most steps of L-BFGS; largest gradient entry at the end, in preconditioned variables


@settings
class LinearConfig:
    """`tasks` it is fitted for; strengths `l2` to choose from: loss = mean cross-entropy + l2/2 * squared weights.
    `sites`: where it reads, TransformerLens's names; hook_mlp_out is that of every block. As many of them are read and
    fitted together as their states fit into `memory` MiB (in float32); it changes no result beyond rounding."""

    tasks: TaskNames = ("nece", "value")  # what is read
    l2: Annotated[tuple[AboveZero, ...], Filled] = (1e-3, 1e-2, 1e-1)  # penalties of the weights to choose from
    sites: Annotated[tuple[str, ...], Filled] = RESIDUAL
    memory: Positive = 4096  # most bytes of activations at once


class Reading(NamedTuple):
    """What a probe read at one site: accuracy on the validation part, and which test queries it got right."""

    site: str
    layer: int
    validation: float
    right: np.ndarray  # bool[Q]
    chosen: dict[str, float]  # settings chosen on the validation part


class Fit(NamedTuple):
    """S x R classifiers: logits = (x - mean) / scale @ weight + bias."""

    mean_SC: Tensor
    scale_SC: Tensor
    weight_SRCK: Tensor
    bias_SRK: Tensor
    loss_SR: Tensor  # at the optimum, penalty included

    def predict(self, states_SNC: Tensor) -> Tensor:
        """Most likely labels, int64 [S, R, N]."""
        x_SNC = standardise(states_SNC, self.mean_SC, self.scale_SC)
        return _logits(x_SNC, self.weight_SRCK, self.bias_SRK).argmax(-1).permute(0, 2, 1)


class LinearProbes(NamedTuple):
    """A probe for each of S sites, with the penalty that is best on the validation part."""

    mean_SC: Tensor
    scale_SC: Tensor
    weight_SCK: Tensor
    bias_SK: Tensor
    strength_S: np.ndarray  # int64, which of the penalties
    validation_S: np.ndarray  # float64, accuracy on the validation part

    @property
    def best(self) -> int:
        """The site that is best on the validation part, the first of equals."""
        return int(self.validation_S.argmax())

    def at(self, site: int) -> "LinearProbes":
        """The probe of one site alone."""
        s = slice(site, site + 1)
        weights = (self.mean_SC[s], self.scale_SC[s], self.weight_SCK[s], self.bias_SK[s])
        return LinearProbes(*weights, self.strength_S[s], self.validation_S[s])

    def logits(self, states_SNC: Tensor) -> Tensor:
        """[S, N, K]"""
        x_SNC = standardise(states_SNC.to(self.mean_SC.device), self.mean_SC, self.scale_SC)
        return torch.baddbmm(self.bias_SK[:, None], x_SNC, self.weight_SCK)

    def predict(self, states_SNC: Tensor) -> np.ndarray:
        """Most likely labels, int64[S, N]."""
        return self.logits(states_SNC).argmax(-1).cpu().numpy()

    def direction(self, site: int) -> np.ndarray:
        """Of two classes: the unit vector in the residual stream along which the second one grows, float64[C]."""
        weight_CK = self.weight_SCK[site] / self.scale_SC[site][:, None]
        way_C = (weight_CK[:, 1] - weight_CK[:, 0]).double().cpu().numpy()
        return way_C / np.linalg.norm(way_C)


def fit_probes(
    states: Sequence[Tensor], labels: Sequence[np.ndarray], classes: int, l2: Sequence[float]
) -> LinearProbes:
    """Probes fitted to the states [S, N, C] of the first part, their penalties chosen with the second."""
    fitted = fit(states[0], torch.from_numpy(labels[0]).to(states[0].device), classes, l2)
    right_SRN = fitted.predict(states[1]).cpu() == torch.from_numpy(labels[1])
    accuracy_SR = right_SRN.double().mean(-1).numpy()
    strength_S, site_S = accuracy_SR.argmax(1), np.arange(len(accuracy_SR))
    weight_SCK, bias_SK = fitted.weight_SRCK[site_S, strength_S], fitted.bias_SRK[site_S, strength_S]
    return LinearProbes(fitted.mean_SC, fitted.scale_SC, weight_SCK, bias_SK, strength_S, accuracy_SR.max(1))


def measure(model: GPT, world: World, split: Split, classes: int, config: LinearConfig) -> list[Reading]:
    """Fits and tests the probe at every chosen site."""
    names, device = chosen_sites(model, config.sites), model.embed.weight.device
    together = max(1, (config.memory << 20) // (4 * model.config.n_embd * max(map(len, split))))
    readings = []
    for k in range(0, len(names), together):
        sites = names[k : k + together]
        states = [read(model, part, names_in_line(part, world), sites).to(device) for part in split]
        layers = [layer_of(site, model.config) for site in sites]
        readings += fit_and_test(states, split, classes, config.l2, sites, layers)
    return readings


def fit_and_test(
    states: Sequence[Tensor],
    split: Split,
    classes: int,
    l2: Sequence[float],
    sites: Sequence[str],
    layers: Sequence[int],
) -> list[Reading]:
    """The readings of the states [S, N, C] of the three parts of `split`; `sites` and `layers` of the S sites."""
    probes = fit_probes(states[:2], [split.fit.label, split.validation.label], classes, l2)
    right_SN = probes.predict(states[2]) == split.test.label
    columns = zip(sites, layers, probes.validation_S, right_SN, probes.strength_S, strict=True)
    return [Reading(site, layer, float(v), right, {"l2": l2[r]}) for site, layer, v, right, r in columns]


def standardise(states_SNC: Tensor, mean_SC: Tensor, scale_SC: Tensor) -> Tensor:
    return (states_SNC.float() - mean_SC[:, None]) / scale_SC[:, None]


def fit(states_SNC: Tensor, labels_N: Tensor, classes: int, l2: Sequence[float]) -> Fit:
    """Solves the S x R problems with one L-BFGS, starting at the label frequencies."""
    mean_SC, scale_SC = (statistic(states_SNC.float(), 1) for statistic in (torch.mean, torch.std))
    scale_SC = scale_SC.clamp_min(1e-6)
    x_SNC = standardise(states_SNC, mean_SC, scale_SC)
    strength_R = torch.tensor(l2, device=x_SNC.device)
    frequency_K = (labels_N.bincount(minlength=classes) + 0.5) / (len(labels_N) + 0.5 * classes)
    weights, z_SRCK = _coordinates(x_SNC, frequency_K, strength_R)
    bias_SRK = frequency_K.log().repeat(len(x_SNC), len(l2), 1).requires_grad_()

    def losses() -> Tensor:
        weight_SRCK = weights(z_SRCK)
        nll_SR = _cross_entropy(_logits(x_SNC, weight_SRCK, bias_SRK), labels_N)
        return nll_SR + strength_R / 2 * weight_SRCK.square().sum((2, 3))

    optimizer = torch.optim.LBFGS(
        [z_SRCK, bias_SRK], max_iter=STEPS, history_size=10, tolerance_grad=TOLERANCE, tolerance_change=0.0,
        line_search_fn="strong_wolfe",
    )  # fmt: skip

    def closure() -> Tensor:
        optimizer.zero_grad()
        total = losses().sum()
        total.backward()
        return total

    optimizer.step(closure)
    with torch.no_grad():
        return Fit(mean_SC, scale_SC, weights(z_SRCK), bias_SRK.detach(), losses())


def _coordinates(x_SNC: Tensor, frequency_K: Tensor, strength_R: Tensor) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """Coordinates z [S, R, C, K] of the weights, as a map z -> weights and the start z = 0. In them the Hessian where
    only the label frequencies p are known, (diag(p) - pp') x X'X / N + l2, is the identity, so that problems of very
    different curvature converge together."""
    spread_K, class_basis_KK = torch.linalg.eigh(frequency_K.diag() - frequency_K.outer(frequency_K))
    # in float64: in float32 the eigenvectors of many equal eigenvalues (indicators, small worlds) are not always found
    covariance_SCC = (x_SNC.mT @ x_SNC / x_SNC.shape[1]).double()
    spectrum_SC, basis_SCC = (a.to(x_SNC.dtype) for a in torch.linalg.eigh(covariance_SCC))
    curvature_S1CK = spectrum_SC.clamp_min(0)[:, None, :, None] * spread_K.clamp_min(0)
    shrink_SRCK = (curvature_S1CK + strength_R[:, None, None]).rsqrt()

    def weights(z_SRCK: Tensor) -> Tensor:
        return basis_SCC[:, None] @ (shrink_SRCK * z_SRCK) @ class_basis_KK.mT

    return weights, torch.zeros_like(shrink_SRCK, requires_grad=True)


def _logits(x_SNC: Tensor, weight_SRCK: Tensor, bias_SRK: Tensor) -> Tensor:
    """[S, N, R, K]: one matrix product for each site."""
    n_sites, strengths, width, classes = weight_SRCK.shape
    flat_SCE = weight_SRCK.permute(0, 2, 1, 3).reshape(n_sites, width, strengths * classes)
    logits_SNE = torch.baddbmm(bias_SRK.reshape(n_sites, 1, -1), x_SNC, flat_SCE)
    return logits_SNE.unflatten(-1, (strengths, classes))


def _cross_entropy(logits_SNRK: Tensor, labels_N: Tensor) -> Tensor:
    """Mean over queries, [S, R]."""
    n_sites, n, strengths, classes = logits_SNRK.shape
    target = labels_N[None, :, None].expand(n_sites, n, strengths)
    losses = F.cross_entropy(logits_SNRK.reshape(-1, classes), target.reshape(-1), reduction="none")
    return losses.view(n_sites, n, strengths).mean(1)
