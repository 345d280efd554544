"""What the glass shows agrees with the model, the oracle, the checker and the truth; its page is one file."""

import itertools
import json
import math

import numpy as np
import pytest
import torch

from models.gpt import GPT, GPTConfig
from models.hooks import capture
from probes.glass import page
from probes.queries.labels import TASKS
from probes.readout.activations import RESIDUAL, chosen_sites
from probes.viewer.problem_json import Solution, log_probabilities, panel_json, problem_json, readings, solve
from probes.viewer.readouts import ASKED, ReadoutConfig, fit_readout, places, states_at
from synth.judge import checker as C
from synth.judge.checker import check
from synth.oracle.next_token import Oracle
from synth.world.vocabulary import DEFINE
from train.data.batches import DataConfig

DATA = DataConfig("tiny", {"ops": 3, "edges": 6, "retry_rate": 0.3})


@pytest.fixture(scope="module")
def source():
    return DATA.source("test", "look")


@pytest.fixture(scope="module")
def documents(source):
    """One problem of three operations."""
    index = int(np.flatnonzero(source.problems(range(40)).ops == 3)[0])
    return source.documents([index])


@pytest.fixture(scope="module")
def model(source):
    return GPT(GPTConfig(source.world.size, 2, 2, 16, 256), 0).eval()


def written(model, source, documents, tokens):
    """A given response as the model's solution."""
    tokens = np.asarray(tokens, dtype=np.int64)
    verdicts = check(documents.problems, source.world, tokens[None], np.array([len(tokens)]))
    return Solution(tokens, log_probabilities(model, documents.prompt_tokens(0).tolist(), tokens), verdicts, True)


@pytest.fixture(scope="module")
def panel(model, source, documents):
    return panel_json("right", written(model, source, documents, documents.response(0)), source, documents, "continue")


def test_the_rows_are_the_checkers_steps_and_cover_every_token(panel, documents):
    assert panel["right"] and panel["first_mistake"] == -1 and panel["answer"] == str(int(documents.problems.answer[0]))
    edges = [(row["start"], row["stop"]) for row in panel["rows"]]
    assert edges[0][0] == 0 and edges[-1][1] == len(panel["tokens"]) == len(documents.response(0))
    assert all(a[1] == b[0] for a, b in itertools.pairwise(edges))
    for row in panel["rows"]:
        if row["kind"] == "right" and row["step"] >= 0:
            assert row["written"] == documents.problems.value[0, row["slot"]]
    assert panel["rows"][-1]["step"] == -1 and panel["rows"][-1]["group"] == "right"


def test_a_steps_text_is_the_texts_of_its_tokens(panel, source, documents):
    whole = "".join(token["text"] for token in panel["tokens"] if "special" not in token)
    assert whole == source.world.decode(documents.response(0))


def test_probabilities_are_the_models_and_the_oracles(panel, model, source, documents):
    tokens = torch.from_numpy(documents.tokens.astype(np.int64))
    with torch.no_grad():
        logp = (
            model(tokens[None, :-1])[0].log_softmax(-1).gather(1, tokens[1:, None])[int(documents.prompt[0]) - 1 :, 0]
        )
    assert panel["logp"] == pytest.approx(float(logp.sum()), abs=1e-3)
    np.testing.assert_allclose([t["p"] for t in panel["tokens"]], logp.exp(), atol=1e-5)
    law = Oracle(source.spec).documents(documents)
    np.testing.assert_allclose(
        np.log([t["o"] for t in panel["tokens"]]).sum(),
        law.logp(np.append(documents.response(0), 0))[:-1].sum(),
        atol=1e-2,
    )
    assert all(math.isclose(sum(p for _, p in t["allowed"]), 1, abs_tol=1e-4) or "more" in t for t in panel["tokens"])
    assert panel["kl"] > 0 and not any("status" in t for t in panel["tokens"])


def test_after_a_mistake_the_oracle_says_so(model, source, documents):
    response = documents.response(0).astype(np.int64).copy()
    numbers = (response >= source.world.first_number) & (response < source.world.first_number + source.world.modulus)
    at = int(np.flatnonzero(numbers)[0])
    response[at] = source.world.first_number + (response[at] - source.world.first_number + 1) % source.world.modulus
    panel = panel_json("wrong", written(model, source, documents, response), source, documents, "continue")
    assert not panel["right"] and panel["tokens"][at]["o"] == 0.0
    assert {t.get("status") for t in panel["tokens"][at + 1 :]} - {None} and panel["first_mistake"] >= 0


def test_the_graph_and_the_text_are_the_problems(source, documents):
    told = problem_json(source, documents)
    nodes = {node["slot"]: node for node in told["graph"]["nodes"]}
    problem = documents.problems
    assert [s for s, node in nodes.items() if node["query"]] == [int(problem.query[0])]
    assert {s for s, node in nodes.items() if node["needed"]} == set(np.flatnonzero(problem.needed[0] > 0).tolist())
    assert all(below in nodes for node in nodes.values() for below in node["below"])
    assert "".join(piece["text"] for piece in told["sentences"]) == source.world.decode(documents.prompt_tokens(0))
    assert told["question"].endswith("?") and told["answer"] == str(int(problem.answer[0]))


def test_the_models_own_solution_is_judged(model, source, documents):
    solution = solve(model, source.world, documents, 0.0, 0)
    panel = panel_json("own", solution, source, documents, "abstain")
    assert panel["reason"] == C.reason(solution.verdicts, 0) and len(panel["tokens"]) == len(solution.tokens)
    again = solve(model, source.world, documents, 1.0, 7)
    assert (solve(model, source.world, documents, 1.0, 7).tokens == again.tokens).all()
    short = GPT(GPTConfig(source.world.size, 1, 1, 8, int(documents.prompt[0])), 0)
    with pytest.raises(ValueError, match="accepted: a shorter problem"):
        solve(short, source.world, documents, 0.0, 0)


def test_a_read_out_reads_the_state_behind_the_name(model, source, documents):
    prompt, response = documents.prompt_tokens(0), documents.response(0)
    cuts, slots = [len(prompt), len(prompt) + 5], [int(s) for s in documents.problems.sentences[0, :2]]
    whole = np.concatenate([prompt, response])
    site = chosen_sites(model, RESIDUAL)[-1]
    states = states_at(model, source.world, documents, whole, slots, cuts, site)
    names = documents.problems.slot_names()[0]
    for i, (cut, slot) in enumerate((cut, slot) for cut in cuts for slot in slots):
        row = [*whole[:cut], source.world.phrases[DEFINE], *names[slot]]
        with torch.no_grad(), capture(model, [site]) as store:
            model(torch.tensor([[int(token) for token in row]]))
        torch.testing.assert_close(states[i], store[site][0, -1], atol=1e-4, rtol=1e-3)


def test_read_outs_of_every_row_are_probabilities(model, source, documents):
    config = ReadoutConfig(problems=24, l2=(1e-2,))
    probes = [
        fit_readout(model, t, DATA.source("train", "p"), source, p, config) for t, p in places(model, config).items()
    ]
    solution = written(model, source, documents, documents.response(0))
    panel = panel_json("read", solution, source, documents, "continue")
    panel["reads"] = readings(model, source.world, documents, solution, panel["rows"], probes)
    assert tuple(panel["reads"]) == config.tasks and set(config.tasks) < set(ASKED)
    assert len(panel["reads"]["value"]["at"]) == len(panel["rows"]) and len(panel["reads"]["nece"]["at"]) == 1
    for task, read in panel["reads"].items():
        assert 0 <= read["low"] <= read["accuracy"] <= read["high"] <= 1 and read["n"] > 0
        labels = TASKS[task].classes(source.world.modulus)
        for laws in read["at"]:
            assert laws and all(0 <= k < labels and 0 <= p <= 1 for law in laws.values() for k, p in law)


def test_places_come_from_the_settings_or_a_probe_run(model, tmp_path):
    assert places(model, ReadoutConfig(layer=1))["nece"].layers == (1,)
    assert places(model, ReadoutConfig())["value"].layers == (0, 1, 2)
    with pytest.raises(ValueError, match=r"readout.layer=9: accepted: 0 \(the embedding\) to 2"):
        places(model, ReadoutConfig(layer=9))
    sites, head = chosen_sites(model, RESIDUAL), {"task": "nece", "probe": "linear", "l2": 0.01}
    rows = [head | {"layer": k, "site": sites[k], "validation": v} for k, v in ((0, 0.6), (2, 0.9), (1, 0.7))]
    (tmp_path / "summary.json").write_text(json.dumps({"results": rows}))
    found = places(model, ReadoutConfig(), str(tmp_path))
    assert found["nece"] == ((2,), (0.01,)) and found["value"].layers == (0, 1, 2)
    with pytest.raises(ValueError, match=r"holds no summary.json"):
        places(model, ReadoutConfig(), str(tmp_path / "none"))


def test_the_page_is_one_file_and_takes_no_markup_from_a_text(source, documents, panel):
    told = {"where": "</script><b>&", "problem": problem_json(source, documents), "panels": [panel]}
    text = page(told)
    assert text.count("</script>") == 2 and "<b>&" not in text
    assert "default-src 'none'" in text and "innerHTML" not in text
    outside = [part for part in ("src=", "href=", "@import", "url(http", "https://") if part in text]
    assert outside == []
    data = text.split('id="page-data">')[1].split("</script>")[0]
    assert json.loads(data)["where"] == told["where"]
