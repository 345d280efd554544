"""The linear probe against scikit-learn's logistic regression, on the hidden states of a model.

Both minimise the same loss: scikit-learn's is the sum over queries plus |w|^2 / (2 C), ours the mean plus l2/2 |w|^2,
so C = 1 / (l2 n). With two classes scikit-learn has one weight vector where we have two opposite ones, which halves l2.
"""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from models.gpt import GPT, GPTConfig
from probes.queries.labels import TASKS
from probes.queries.table import draw
from probes.readout.activations import RESIDUAL, chosen_sites, names_in_line, read
from probes.readout.linear import fit, standardise
from synth.dataset import Source
from synth.spec import preset

STRENGTHS = (1e-3, 3e-2)


@pytest.fixture(scope="module")
def model_and_source():
    source = Source(preset("tiny"), 0, "train", "probe")
    config = GPTConfig(source.world.size, 2, 2, 24, 128, init_std=0.2, token_shift=1)
    model = GPT(config, 0)
    with torch.no_grad():
        model.embed.shift.fill_(0.5)
    return model, source


@pytest.mark.parametrize("task", TASKS)
def test_loss_and_accuracy_are_those_of_scikit_learn(model_and_source, task):
    model, source = model_and_source
    fitted_on, tested_on = (draw(TASKS[task], source, r, 10, 0, balance=True) for r in (range(300), range(300, 500)))
    names = chosen_sites(model, RESIDUAL)
    states, unseen = (read(model, t, names_in_line(t, source.world), names) for t in (fitted_on, tested_on))
    classes, n = TASKS[task].classes(source.world.modulus), len(fitted_on)
    ours = fit(states, torch.from_numpy(fitted_on.label), classes, STRENGTHS)
    x, x_new = (standardise(s, ours.mean_SC, ours.scale_SC).double().numpy() for s in (states, unseen))
    predicted = ours.predict(unseen).numpy()
    for layer in range(len(x)):
        for r, l2 in enumerate(STRENGTHS):
            strength = l2 / 2 if classes == 2 else l2
            theirs = LogisticRegression(C=1 / (strength * n), max_iter=5000, tol=1e-8).fit(x[layer], fitted_on.label)
            penalty = strength / 2 * np.square(theirs.coef_).sum()
            loss = log_loss(fitted_on.label, theirs.predict_proba(x[layer]), labels=theirs.classes_) + penalty
            assert float(ours.loss_SR[layer, r]) == pytest.approx(loss, rel=1e-3)
            accuracy = [(p == tested_on.label).mean() for p in (predicted[layer, r], theirs.predict(x_new[layer]))]
            assert accuracy[0] == pytest.approx(accuracy[1], abs=0.005)
