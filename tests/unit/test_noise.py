"""Signal and noise of gradients that are known."""

import pytest
import torch
from torch import nn

from train.loop import StepOutput
from train.noise import measure, off_diagonal, worth

SIGNAL = torch.linspace(-1.0, 1.0, 40)


def objective(scale, sigma, seed):
    def loss(model, step):
        noise = torch.randn(40, generator=torch.Generator().manual_seed(1000 * seed + step)) * sigma
        return StepOutput((model.weight[0] * (scale * SIGNAL + noise)).sum(), {}, 1, {})

    return loss


def test_means_of_products_leave_out_the_noise():
    model = nn.Linear(40, 1, bias=False)
    found = measure(model, {"a": objective(1.0, 2.0, 1), "b": objective(2.0, 2.0, 2), "c": objective(1.0, 0.5, 1)}, 300)
    size = float(SIGNAL.square().sum())
    for name, scale, sigma in (("a", 1.0, 2.0), ("b", 2.0, 2.0), ("c", 1.0, 0.5)):
        s = found[name]
        assert s.covariance == pytest.approx(40 * sigma**2, rel=0.1)
        assert abs(s.square.value - scale**2 * size) < 4 * s.square.error < 0.5 * scale**2 * size
        assert abs(s.along.value - scale * size) < 4 * s.along.error
    same_time = found["b"]._replace(seconds=found["a"].seconds)
    assert worth(same_time, found["a"]) == pytest.approx(4.0, rel=0.35)


def test_the_error_is_that_of_the_mean():
    generator = torch.Generator().manual_seed(0)
    values, errors = [], []
    for _ in range(200):
        g = torch.randn(12, 30, generator=generator) + 0.3
        mean = off_diagonal((g @ g.T).double())
        values.append(mean.value)
        errors.append(mean.error)
    assert torch.tensor(values).mean() == pytest.approx(30 * 0.09, rel=0.1)
    assert torch.tensor(values).std() == pytest.approx(float(torch.tensor(errors).mean()), rel=0.25)
