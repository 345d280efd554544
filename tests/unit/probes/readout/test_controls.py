"""Signals put there by hand, the controls, and no way from the fitted problems to the tested ones."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from models.gpt import GPT, GPTConfig
from probes.queries.labels import GIVEN, TASKS, task_of
from probes.queries.table import Split, draw
from probes.readout.activations import Branch, chosen_sites, names_in_line
from probes.readout.controls import NAMES, SHUFFLED, random_weights, read_position, relabelled, sentence_places
from probes.readout.linear import LinearConfig, measure
from probes.tasks.layers import margin, shared_templates
from synth.dataset import Source
from synth.spec import preset

WORLD = preset("tiny", ops=4, edges=8)
CONFIG = LinearConfig(("nece",), (1e-2,))


def split_of(task, spec=WORLD, fit=300, rest=150, balance=False):
    train, test = (Source(spec, 1, side, "probe") for side in ("train", "test"))
    pieces = ((train, range(fit)), (train, range(fit, fit + rest)), (test, range(rest)))
    asked = TASKS[task] if isinstance(task, str) else task
    return Split(*(draw(asked, source, r, 10, 0, balance) for source, r in pieces))


class Planted(GPT):
    """Its residual stream has, from the first block on, the label of the query that it reads; before that, nothing."""

    def plant(self, split, world, classes):
        self.label, self.classes, self.at = {}, classes, None
        for part in split:
            for q, ending in enumerate(names_in_line(part, world)):
                self.label[(*part.text(q).tolist(), *ending.tolist())] = int(part.label[q])
        self.blocks[0].register_forward_hook(self._add)

    def hidden(self, tokens_BT, cache=None, segments_BT=None, at_N=None):
        self.at = None
        if isinstance(cache, Branch):
            texts, length = cache.text.tokens_PT.tolist(), cache.length_Q.tolist()
            rows = [texts[p][:n] for p, n in zip(cache.row_Q.tolist(), length, strict=True)]
            self.at = [self.label[(*row, *u)] for row, u in zip(rows, tokens_BT.tolist(), strict=True)]
        return super().hidden(tokens_BT, cache, segments_BT, at_N)

    def _add(self, _module, _inputs, x_BTC):
        if self.at is None:
            return x_BTC
        x_BTC = x_BTC.clone()
        x_BTC[:, -1, : self.classes] += 30 * torch.eye(self.classes)[self.at]
        return x_BTC


@pytest.mark.parametrize("task", TASKS)
def test_what_is_planted_is_read_whole_and_what_is_not_there_stays_at_the_control(task):
    split = split_of(task)
    source = Source(WORLD, 1, "train", "probe")
    classes = TASKS[task].classes(source.world.modulus)
    model = Planted(GPTConfig(source.world.size, 2, 2, 16, 256), 0)
    control = measure(random_weights(model, 0), source.world, split, classes, CONFIG)
    model.plant(split, source.world, classes)
    embedding, *blocks = measure(model, source.world, split, classes, CONFIG)
    assert all(reading.right.all() for reading in blocks)
    assert abs(embedding.right.mean() - control[0].right.mean()) < 0.06
    shuffled = measure(model, source.world, relabelled(split, SHUFFLED, task, 0), classes, CONFIG)
    names = relabelled(split, NAMES, task, 0)
    found = margin(
        split,
        {"trained": [embedding, *blocks], "random": control, "shuffled": shuffled},
        read_position(split, task, source.world.modulus, (1e-2,))[0],
    )
    assert found["accuracy"] == 1 and found["low"] > 0 and found["controls"]["shuffled"]["above"]["low"] > 0
    assert found["value"] == pytest.approx(1 - max(c["accuracy"] for c in found["controls"].values()))
    assert all(np.array_equal(a.slot, b.slot) for a, b in zip(split, names, strict=True))


def test_random_weights_and_shuffled_labels_stay_near_majority():
    split = split_of(task_of("nece", GIVEN), fit=600, rest=300, balance=True)
    world = WORLD.load_world()
    model = GPT(GPTConfig(world.size, 4, 2, 32, 256, qk_norm=True), 5)
    shuffled = relabelled(split, SHUFFLED, "nece", 0)
    position = read_position(split, "nece", world.modulus, (1e-2,))[0]
    for pieces in (split, shuffled):
        assert all(abs(reading.right.mean() - 0.5) < 0.06 for reading in measure(model, world, pieces, 2, CONFIG))
    assert abs(position.right.mean() - 0.5) < 0.1


def test_shuffling_moves_the_labels_of_the_fitted_part_alone():
    split = split_of("known", fit=60, rest=30)
    shuffled = relabelled(split, SHUFFLED, "known", 0)
    assert sorted(shuffled.fit.label) == sorted(split.fit.label) and (shuffled.fit.label != split.fit.label).any()
    assert shuffled.validation is split.validation and shuffled.test is split.test
    assert relabelled(split, "trained", "known", 0) is split


def test_every_name_has_one_label_of_its_own_in_all_parts():
    split = split_of("known", fit=60, rest=30)
    names = relabelled(split, NAMES, "known", 0)
    label: dict = {}
    for part in names:
        for name, y in zip(map(tuple, part.name), part.label, strict=True):
            assert label.setdefault(name, y) == y
    assert set(label.values()) <= set(split.fit.label) and len(set(label.values())) == 2
    other = relabelled(split, NAMES, "known", 1)
    assert any((a.label != b.label).any() for a, b in zip(names, other, strict=True))


def test_position_reads_a_label_that_is_a_position_and_no_other():
    split = split_of("known", fit=400, rest=200)
    places = [replace(part, label=(sentence_places(part.documents)[part.row, part.slot] == 0) * 1) for part in split]
    assert read_position(Split(*places), "known", 7, (1e-3,))[0].right.all()
    rng = np.random.default_rng(0)
    noise = Split(*(replace(part, label=rng.integers(0, 2, len(part))) for part in split))
    assert abs(read_position(noise, "known", 7, (1e-1,))[0].right.mean() - 0.5) < 0.08


@pytest.mark.parametrize("order", ["uniform", "published"])
def test_no_template_is_on_both_sides(order):
    spec = preset("med", ops=6, edges=10, solution_order=order)
    split = split_of("nece", spec, fit=300, rest=100)
    assert shared_templates(split, order == "published") == 0
    assert shared_templates(split._replace(test=split.fit), order == "published") == 1


def test_sites_are_chosen_by_name_or_kind_and_memory_changes_nothing():
    world = WORLD.load_world()
    model, split = GPT(GPTConfig(world.size, 2, 2, 64, 256), 0), split_of("known", fit=400, rest=40)
    sites = ("ln_final.hook_normalized", "hook_mlp_out", "blocks.1.hook_resid_mid")
    config = LinearConfig(("known",), (1e-2, 1e-1), sites)
    whole = measure(model, world, split, 2, config)
    assert [(r.site, r.layer) for r in whole] == [
        ("blocks.0.hook_mlp_out", 1),
        ("blocks.1.hook_resid_mid", 2),
        ("blocks.1.hook_mlp_out", 2),
        ("ln_final.hook_normalized", 2),
    ]
    apart = measure(model, world, split, 2, replace(config, memory=1))  # one site at a time
    for a, b in zip(whole, apart, strict=True):
        assert a.site == b.site and (a.right == b.right).mean() > 0.995
    with pytest.raises(ValueError, match=r"export\.sites=hook_z: accepted for this model: hook_embed"):
        chosen_sites(model, ("hook_z",), "export.sites")


def test_position_knows_which_parameter_the_question_asks_for():
    """In a small world most needed parameters are the query, and reading the question is not reading a plan."""
    split = split_of("nece")
    asked = [part.slot == part.documents.problems.query[part.row] for part in split]
    named = Split(*(replace(part, label=q.astype(np.int64)) for part, q in zip(split, asked, strict=True)))
    assert 0 < asked[2].mean() < 1 and read_position(named, "nece", 7, (1e-3,))[0].right.all()
