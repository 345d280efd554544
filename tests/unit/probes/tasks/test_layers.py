"""Probes: labels against the graph itself, shared texts, what is trained and what is not, intervals, the journal."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from models.gpt import GPT, GPTConfig
from models.hooks import capture, hook_names
from probes.queries.labels import GIVEN, TASKS, between_steps, task_of
from probes.queries.table import Split, draw
from probes.readout.activations import (
    RESIDUAL,
    Texts,
    chosen_sites,
    last_states,
    names_between_markers,
    names_in_line,
    read,
)
from probes.readout.controls import majority, random_weights
from probes.readout.linear import LinearConfig, Reading, fit, measure
from probes.readout.vprobe import VProbeConfig
from probes.settings import ProbeSettings, QueryConfig
from probes.tasks import export, mistakes
from probes.tasks.layers import Part, margin, parts, rows, select
from synth.dataset import Source
from synth.problem.records import to_record
from synth.spec import preset
from synth.world.vocabulary import END, MID, SOLUTION, START, STOP

RETRY = preset("tiny", retry_rate=0.3)
BACKWARD = preset("tiny", order="qp", retry_rate=0.3)


def tiny_model(source, seed=0, **settings):
    config = {"n_layer": 2, "n_head": 2, "n_embd": 16, "context": 256, "qk_norm": True, "token_shift": 2, "conv": 2}
    return GPT(GPTConfig(vocab_size=source.world.size, **config | settings), seed)


@pytest.fixture(scope="module")
def source():
    return Source(RETRY, 0, "train", "probe")


# --- labels ---


def ancestors(record):
    """Names of the query and everything it rests on, by walking the record's terms."""
    terms = {p["name"]: [name for term in p["terms"] for name in term] for p in record["parameters"]}
    seen, todo = set(), [record["query"]]
    while todo:
        name = todo.pop()
        if name not in seen:
            seen.add(name)
            todo += terms[name]
    return seen


def records(source, table):
    problems = table.documents.problems
    return [to_record(problems.take(i), source.world, source.spec.order) for i in range(len(table.documents))]


@pytest.mark.parametrize("spec", [RETRY, BACKWARD], ids=["pq", "qp"])
def test_nece_is_being_an_ancestor_of_the_query(spec):
    source = Source(spec, 1, "train", "probe")
    table = draw(TASKS["nece"], source, range(60), most=10, seed=0)
    needed = [ancestors(record) for record in records(source, table)]
    names = [source.world.name_of(*name) for name in table.name]
    assert [name in needed[i] for name, i in zip(names, table.row, strict=True)] == (table.label == 1).tolist()
    assert set(table.label) == {0, 1}
    for q in range(0, len(table), 17):
        prompt = table.documents.prompt_tokens(table.row[q])
        assert np.array_equal([*table.text(q), SOLUTION], prompt) and "How many" in source.world.decode(prompt)


@pytest.mark.parametrize("spec", [RETRY, BACKWARD], ids=["pq", "qp"])
def test_value_is_what_the_text_has_defined_and_unknown_otherwise(spec):
    source = Source(spec, 1, "train", "probe")
    world = source.world
    table = draw(TASKS["value"], source, range(150), most=10, seed=0)
    facts = [{p["name"]: p["value"] for p in record["parameters"]} for record in records(source, table)]
    taken_back = 0
    for q in range(len(table)):
        prompt = table.documents.prompt[table.row[q]]
        written = world.decode(table.text(q)[prompt:])
        name = world.name_of(*table.name[q])
        taken_back += f"Define {name} as BACK" in written
        known = re.search(rf"Define {re.escape(name)} as (?!BACK)", written)
        assert table.label[q] == (facts[table.row[q]][name] if known else world.modulus)
    assert taken_back > 20 and len(set(table.label)) > 5


def test_a_text_of_value_ends_at_the_start_or_after_a_step(source):
    documents = source.documents(range(50))
    where, ends = between_steps(documents)
    steps = np.array([len(np.unique(documents.step[a:b][documents.segment[a:b] == 3])) for a, b in spans(documents)])
    assert np.array_equal(np.bincount(where), steps + 1)
    before = documents.tokens[documents.offsets[where] + ends - 1]
    first = np.append(True, where[1:] != where[:-1])
    assert (before[first] == SOLUTION).all() and (before[~first] == source.world.phrases[STOP]).all()
    cuts = draw(TASKS["value"], source, range(400), most=1, seed=0).cut
    prompt = source.documents(range(400)).prompt
    chance = np.mean(1 / (np.bincount(between_steps(source.documents(range(400)))[0])))
    assert abs((cuts == prompt).mean() - chance) < 0.07  # 3 standard errors


def spans(documents):
    return zip(documents.offsets, documents.offsets[1:], strict=False)


def test_queries_are_addressed_by_problem(source):
    several, alone = (draw(TASKS["value"], source, indices, most=3, seed=5) for indices in (range(10, 30), [17]))
    mine = several.row == 7
    assert mine.sum() == len(alone) == 3
    for field in ("cut", "slot", "label"):
        assert np.array_equal(getattr(several, field)[mine], getattr(alone, field))
    other = draw(TASKS["value"], source, range(10, 30), most=3, seed=6)
    assert not np.array_equal(other.slot, several.slot)


def test_parameters_are_drawn_without_replacement_and_uniformly(source):
    table = draw(TASKS["nece"], source, range(300), most=4, seed=0)
    pairs = list(zip(table.row, table.slot, strict=True))
    assert len(set(pairs)) == len(pairs) and np.bincount(table.row).max() == 4
    problems = table.documents.problems
    assert problems.exists[table.row, table.slot].all()
    some = draw(TASKS["nece"], source, range(300), most=1, seed=0).label.mean()
    share = np.mean([problems.needed[i][problems.exists[i] > 0].mean() for i in range(300)])
    assert abs(some - share) < 0.08


def test_balance_asks_about_as_many_of_either_group(source):
    for task in TASKS.values():
        table = draw(task, source, range(120), most=5, seed=0, balance=True)
        group = task.group(table.label, task.classes(source.world.modulus))
        counts = np.stack([np.bincount(table.row[group == g], minlength=120) for g in (0, 1)])
        assert (counts[0] == counts[1]).all() and 1 <= counts[0].max() <= 2
    with pytest.raises(ValueError, match="no query"):
        draw(TASKS["value"], source, [i for i in range(30) if start_only(source, i)][:1], 10, 0, balance=True)


def start_only(source, i):
    table = draw(TASKS["value"], source, [i], 1, 0)
    return table.cut[0] == table.documents.prompt[0]


def test_nece_never_asks_what_the_name_alone_would_tell(source):
    """With nece=given neither about the parameter in the question, nor about abstract ones; else it asks about all."""
    table = draw(task_of("nece", GIVEN), source, range(200), most=10, seed=0)
    assert (table.slot != table.documents.problems.query[table.row]).all()
    assert (table.slot < 48).all() and 0 < table.label.mean() < 1
    table = draw(TASKS["nece"], source, range(200), most=10, seed=0)
    assert (table.slot == table.documents.problems.query[table.row]).any() and (table.slot >= 48).any()


# --- hidden states ---


@pytest.mark.parametrize(
    "settings", [{}, {"conv": 0, "token_shift": 0, "rope_fraction": 0.5}], ids=["all parts", "plain"]
)
def test_states_are_those_of_a_pass_over_the_querys_own_row(source, settings):
    model = tiny_model(source, **settings)
    table = draw(TASKS["value"], source, range(12), most=4, seed=0)
    endings, names = names_in_line(table, source.world), list(hook_names(model.config))
    states = read(model, table, endings, names, size=5, dtype=torch.float32)
    assert torch.equal(read(model, table, endings, names, size=5), states.half())
    for q in range(0, len(table), 3):
        with torch.no_grad(), capture(model, names) as store:
            model(torch.from_numpy(np.concatenate([table.text(q), endings[q]]))[None].long())
        for s, name in enumerate(names):
            torch.testing.assert_close(states[s, q], store[name][0, -1], rtol=1e-4, atol=1e-5)


def test_gradients_flow_through_a_shared_text_as_through_rows(source):
    model = tiny_model(source)
    table = draw(TASKS["nece"], source, range(4), most=3, seed=0)
    endings = names_between_markers(table)
    batch = Texts(table, endings).batch(np.array([2, 0, 3]), torch.device("cpu"))
    weight = torch.randn(16, generator=torch.Generator().manual_seed(0))
    (shared,) = torch.autograd.grad((last_states(model, batch) @ weight).square().sum(), model.embed.weight)
    rows = [torch.from_numpy(np.concatenate([table.text(q), endings[q]]))[None].long() for q in batch.which_Q]
    loss = sum((model.hidden(row)[0, -1] @ weight).square() for row in rows)
    (plain,) = torch.autograd.grad(loss, model.embed.weight)
    assert plain.abs().max() > 1e-3
    torch.testing.assert_close(shared, plain, rtol=1e-3, atol=1e-5 * float(plain.abs().max()))


def test_endings_name_the_parameter(source):
    table = draw(TASKS["nece"], source, range(3), most=2, seed=0)
    world, name = source.world, source.world.name_of(*table.name[0])
    for closed, text in ((False, f" Define {name}"), (True, f" Define {name} as")):
        ending = names_in_line(table, world, closed)[0]
        assert ending[0] == SOLUTION and world.decode(ending) == text
    inside = draw(TASKS["value"], source, range(3), most=2, seed=0)
    assert world.decode(names_in_line(inside, world)[0][:1]) == " Define"
    marked = names_between_markers(table)
    assert (marked[:, 0] == START).all() and (marked[:, -1] == END).all() and np.array_equal(marked[:, 1:3], table.name)
    pairs = draw(TASKS["dep"], source, range(3), most=2, seed=0)
    a, b = (world.name_of(*name) for name in (pairs.name[0, :2], pairs.name[0, 2:]))
    assert world.decode(names_in_line(pairs, world)[0]) == f". The number of each {a} equals each {b}"[1:]
    marked = names_between_markers(pairs)
    assert (marked[:, [0, 3, 6]] == [START, MID, END]).all() and np.array_equal(marked[:, [1, 2, 4, 5]], pairs.name)


# --- the linear probe ---


def test_a_planted_signal_is_found_and_noise_is_not():
    rng = np.random.default_rng(0)
    labels = rng.choice(3, 900, p=[0.6, 0.3, 0.1])
    noise = rng.normal(size=(900, 12)).astype(np.float32)
    planted = noise.copy()
    planted[:, 3:6] += 20 * np.eye(3)[labels]
    states, y = torch.from_numpy(np.stack([planted, noise])), torch.from_numpy(labels)
    fitted = fit(states[:, :600], y[:600], 3, (1e-3, 1e-1))
    accuracy = (fitted.predict(states[:, 600:]) == y[600:]).double().mean(-1)
    assert (accuracy[0] == 1.0).all()
    assert (accuracy[1] - (y[600:] == 0).double().mean()).abs().max() < 0.05


def test_the_penalty_is_chosen_on_validation_and_every_layer_reported(source):
    model = tiny_model(source)
    table = [draw(TASKS["nece"], source, indices, 4, 0) for indices in (range(40), range(40, 60), range(60, 80))]
    config = LinearConfig(("nece",), (1e-4, 1e-2, 10.0))
    readings = measure(model, source.world, Split(*table), 2, config)
    assert [r.site for r in readings] == ["hook_embed", "blocks.0.hook_resid_post", "blocks.1.hook_resid_post"]
    assert [r.layer for r in readings] == [0, 1, 2]
    states = [read(model, part, names_in_line(part, source.world), chosen_sites(model, RESIDUAL)) for part in table]
    fitted = fit(states[0], torch.from_numpy(table[0].label), 2, config.l2)
    right = [fitted.predict(x).numpy() == part.label for x, part in zip(states, table, strict=True)]
    for layer, reading in enumerate(readings):
        choice = config.l2.index(reading.chosen["l2"])
        assert reading.validation == right[1][layer].mean(-1).max() == right[1][layer, choice].mean()
        assert np.array_equal(reading.right, right[2][layer, choice])


# --- controls and results ---


def test_the_random_control_is_the_same_architecture_with_other_weights(source):
    model = tiny_model(source)
    control = random_weights(model, 0)
    assert control.config == model.config
    for name, tensor in model.named_parameters():
        if tensor.ndim == 2 and not name.endswith("shift"):
            assert not torch.equal(tensor, control.get_parameter(name)), name
    assert all(
        torch.equal(a, b) for a, b in zip(control.parameters(), random_weights(model, 0).parameters(), strict=True)
    )


def test_majority_is_the_most_frequent_label_of_the_fitted_queries(source):
    table = draw(TASKS["nece"], source, range(10), most=3, seed=0)
    ones, zeros = (replace(table, label=np.full(len(table), label)) for label in (1, 0))
    assert majority(ones, ones).all() and not majority(ones, zeros).any()


def test_rows_hold_controls_and_groups_and_validation_selects(source):
    table = draw(TASKS["value"], source, range(40), most=4, seed=0)
    classes, unknown = 8, table.label == 7
    readings = [
        Reading("hook_embed", 0, 0.9, unknown, {"l2": 0.1}),
        Reading("blocks.0.hook_resid_post", 1, 0.8, np.ones(len(table), bool), {"l2": 0.1}),
    ]
    control = [reading._replace(right=unknown, validation=0.5) for reading in readings]
    kinds = {"trained": readings, "random": control, "shuffled": control, "names": control}
    split = Split(table, table, table)
    result = select(rows("value", "linear", split, classes, kinds, control[0]))
    assert [row.get("selected", False) for row in result] == [
        True,
        False,
    ]  # although it is the worse one on the test part
    first = result[0]
    for control_name in ("random", "majority", "shuffled", "position", "names"):
        assert first["accuracy"] == first[control_name] == pytest.approx(unknown.mean())
        assert first[f"{control_name}_low"] == first["low"] and first[f"{control_name}_high"] == first["high"]
    assert (
        first["selectivity"] == 0 and -first["selectivity_low"] == first["selectivity_high"] < 0.2
    )  # alike everywhere
    second = result[1]
    assert second["selectivity"] == pytest.approx(1 - unknown.mean())
    assert second["selectivity_low"] == pytest.approx(1 - second["names_high"])
    assert second["selectivity_high"] == pytest.approx(1 - second["names_low"])
    assert first["by_label"]["known"]["accuracy"] == 0 and first["by_label"]["unknown"]["accuracy"] == 1
    for split_by in ("by_label", "by_need", "by_distance"):
        inside = sum(part["n"] for part in first[split_by].values())
        assert inside == (first["by_need"]["needed"]["n"] if split_by == "by_distance" else len(table))
    assert first["low"] < first["accuracy"] < first["high"] and json.dumps(result)
    equal = margin(split, kinds, control[0])
    assert equal["value"] == 0 and -equal["low"] == equal["high"] < 0.2 and equal["problems"] == 40
    kinds["trained"] = [readings[1]]
    above = margin(split, kinds, control[0])
    assert above["value"] == pytest.approx(1 - unknown.mean()) and above["low"] < above["value"] < above["high"]
    assert all(c["above"]["value"] == pytest.approx(above["value"]) for c in above["controls"].values())


def test_parts_follow_the_settings():
    settings = ProbeSettings(linear=LinearConfig(("nece", "value")), vprobe=VProbeConfig(("nece",)))
    done = parts(settings)
    assert len(done) == 2 + 3 * 4 and len(set(done)) == len(done) and Part("value", "vprobe", "random") not in done


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LinearConfig(("neces",)), "neces"),
        (lambda: LinearConfig(l2=(0.0,)), "l2"),
        (lambda: VProbeConfig(steps=0), "steps=0"),
        (lambda: VProbeConfig(lr=0.0), "lr=0.0"),
        (lambda: VProbeConfig(weight_decay=-1.0), "weight_decay"),
        (lambda: QueryConfig(fit=0), "fit=0"),
        (lambda: QueryConfig(nece="some"), "nece=some"),
        (lambda: LinearConfig(sites=()), "sites"),
        (lambda: LinearConfig(memory=0), "memory=0"),
        (lambda: mistakes.Settings(problems=0), "problems=0"),
        (lambda: mistakes.Settings(probe="mlp"), "probe=mlp"),
        (lambda: mistakes.Settings(temperature=0.0), "temperature=0.0"),
        (lambda: export.Settings(tasks=("neces",)), "neces"),
        (lambda: export.Settings(sites=()), "sites"),
        (lambda: QueryConfig(most=1, balance=True), "most=1"),
        (lambda: ProbeSettings(linear=LinearConfig(()), vprobe=VProbeConfig(())), "both empty"),
    ],
)
def test_settings_that_cannot_work_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
