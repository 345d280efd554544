"""Every method of configs/method on small random models: it runs, and what must change nothing changes nothing."""

from copy import deepcopy

import pytest
import torch

from models import GPT
from synth.store import encodings
from tests.helpers.opd_batches import model
from tests.helpers.opd_methods import FAITHFUL, NAMES, descend, judged, method, objective
from train.opd import objective as objective_module
from train.opd.objective import Objective


def step(o: Objective, student: GPT, k: int) -> tuple[float, torch.Tensor, dict]:
    student.zero_grad()
    output = o(student, k)
    output.loss.backward()
    return output.loss.item(), torch.cat([p.grad.flatten() for p in student.parameters()]), dict(output.metrics)


@pytest.fixture
def half_right(monkeypatch):
    """Every other response counts as right (by its tokens), so that random models have successes and failures."""
    monkeypatch.setattr(encodings, "check", judged)


@pytest.fixture
def weighed(monkeypatch):
    """The terms of every batch, as the objective makes them."""
    seen, weigh = [], objective_module.weigh
    monkeypatch.setattr(objective_module, "weigh", lambda *args: seen.append(weigh(*args)) or seen[-1])
    return seen


OTHER = {"paper": "release", "release": "paper"}
FORMS = [(name, []) for name in NAMES]
FORMS += [(name, [f"method.faithful={OTHER[form]}"]) for name, form in FAITHFUL.items()]


@pytest.mark.parametrize("name, words", FORMS, ids=lambda one: one if isinstance(one, str) else "-".join(one))
def test_three_steps_are_the_same_in_one_piece_in_micro_batches_and_after_a_restart(
    name, words, source, half_right, weighed
):
    """Loss and gradient do not depend on the cut; a run that is stopped and taken up goes on with the same numbers.

    Weights and advantages carry no gradient.
    """
    m, moved = method(name, *words), 0.0
    whole, cut = model(source, 0), model(source, 0)
    o, pieces = objective(m, source, whole), objective(m, source, cut, micro_batch=3)
    for k in range(3):
        loss, gradient, metrics = step(o, whole, k)
        other, other_gradient, _ = step(pieces, cut, k)
        assert other == pytest.approx(loss, rel=1e-4, abs=1e-6)
        torch.testing.assert_close(other_gradient, gradient, atol=2e-5, rtol=2e-3)
        assert torch.isfinite(gradient).all() and all(value == value for value in metrics.values()), metrics
        moved += float(gradient.norm())
        saved = deepcopy(o.state_dict())
        descend(whole)
        cut.load_state_dict(whole.state_dict())
    assert moved > 1e-4, "nothing was learned in three steps"
    held = [value for terms in weighed for term in terms for value in vars(term).values()]
    assert len(weighed) == 6 and not any(isinstance(v, torch.Tensor) and v.requires_grad for v in held)
    resumed = objective(m, source, model(source, 0))
    resumed.load_state_dict(saved)
    again, goes_on = step(resumed, whole, 3), step(o, whole, 3)
    assert again[0] == goes_on[0] and torch.equal(again[1], goes_on[1])
