"""The claims of the papers: each can be judged, its verdict follows from its numbers, the page from both."""

import json
from collections import Counter
from dataclasses import replace

import pytest

from tests.helpers.paths import ROOT
from train import claims
from train.claims import FILE, Claim, read
from train.config.compose import load
from train.config.schema import build
from train.recipe import RecipeConfig, stages_of
from train.runs.expectation import Result

TEXT = FILE.read_text(encoding="utf-8")
CLAIMS = read(TEXT)
ONE = {"claim": "x", "paper": "p", "place": "fig. 1", "published": "much", "recipe": "capability", "why": "so"}
ONE |= {
    "expect": {"measure": "cell", "stage": "gain", "cell": {"table": "accuracy", "column": "gain"}, "at_least": 0.0}
}
FOUND = {"value": 0.1, "low": 0.05, "high": 0.15, "n": 100, "seeds": 2}


def claim(verdict="supported", direction="higher", **found) -> Claim:
    return build(Claim, ONE | {"direction": direction, "result": {"verdict": verdict} | FOUND | found})


def problems(stage) -> tuple:
    """What decides which problems a stage reads, but for how their solutions are written."""
    writing = ("retry_rate", "retry_kind", "mask_mistakes", "missing_premise", "shortest", "solution_order")
    own = {
        k: v for k, v in stage.settings.items() if k.startswith("data.overrides.") and k.split(".")[2] not in writing
    }
    return stage.settings["data"], own


def can_judge(stages, expect) -> bool:
    """Whether the stages of a recipe leave what the measure of an expectation is taken from."""
    stage, other = stages.get(expect.stage), stages.get(expect.against or expect.stage)
    if stage is None or other is None:
        return False
    if expect.measure in ("probe_margin", "cell"):
        return stage.entry in ("probes.run", "train.opd.test_time")
    if expect.measure in ("collapsed", "stable"):
        return stage.entry == "train.opd.run"
    outside = expect.measure == "lead_out"
    evaluations = [s for s in stages.values() if s.entry == "train.evaluate"]
    judging = {s.settings["checkpoint"] for s in evaluations for made in (stage, other)
               if (problems(s) != problems(made)) == outside}  # fmt: skip
    return {f"@{stage.name}", f"@{other.name}"} <= judging


def test_each_claim_points_at_a_recipe_and_a_measure_that_exist():
    recipes = {one.recipe for _, one in CLAIMS}
    stages = {
        name: {s.name: s for s in stages_of(load("recipe", RecipeConfig, [f"recipe={name}"]))} for name in recipes
    }
    assert [one.claim for _, one in CLAIMS if not can_judge(stages[one.recipe], one.expect)] == []
    assert len(CLAIMS) >= 40 and len({one.claim for _, one in CLAIMS}) == len(CLAIMS)
    gone = replace(CLAIMS[0][1].expect, stage="nobody")
    assert not can_judge(stages[CLAIMS[0][1].recipe], gone)


def test_every_claim_says_where_it_stands_and_why_its_verdict_is_so():
    for _, one in CLAIMS:
        assert all(text.strip() for text in (one.paper, one.place, one.published, one.why)), one.claim
        assert one.result.verdict not in ("supported", "contradicted") or one.result.seeds >= 2, one.claim
        assert one.result.low <= one.result.value <= one.result.high, one.claim


def test_the_page_the_file_and_the_front_page_are_what_the_command_makes():
    assert FILE.with_suffix(".md").read_text(encoding="utf-8") == claims.page(TEXT, CLAIMS)
    assert claims.RESULT.findall(TEXT) == [f"    result: {one.result}" for _, one in CLAIMS]
    counts = Counter(one.result.verdict for _, one in CLAIMS)
    words = ("supported", "contradicted", "not decided", "not reached")
    assert ", ".join(f"{counts[word]} {word}" for word in words) in (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        ({}, "supported"),
        ({"value": -0.1, "low": -0.15, "high": -0.05}, "contradicted"),
        ({"low": -0.05}, "not decided"),
        ({"seeds": 1}, "not decided"),
        ({"n": 29}, "not decided"),
        ({"low": float("-inf"), "high": float("inf")}, "not decided"),
    ],
)
def test_the_verdict_follows_from_the_numbers(found, verdict):
    assert claim(verdict, **found).result.verdict == verdict
    turned = {"supported": "contradicted", "contradicted": "supported"}.get(verdict, verdict)
    assert claim(turned, "lower", **found).result.verdict == turned
    claim("not reached", **found)
    others = {"supported", "contradicted", "not decided"} - {verdict}
    for other in others:
        with pytest.raises(ValueError, match=f"x: verdict={other}; accepted: not reached, {verdict}"):
            claim(other, **found)
    with pytest.raises(ValueError, match="verdict=unsure: accepted: supported, contradicted"):
        claim("unsure")


def recipe_folder(folder, seeds, claims=True, value=0.2):
    """A finished recipe: of each seed a plan and one analysis with one number."""
    for seed in seeds:
        run = folder / f"gain-{seed:08d}"
        run.mkdir(parents=True)
        (run / "config.yaml").write_text("data: {preset: tiny}")
        row = {"gain": {"value": value, "low": value - 0.02, "high": value + 0.02, "n": 50}}
        (run / "summary.json").write_text(json.dumps({"tables": {"accuracy": [row]}}))
        plan = {
            "recipe": "capability",
            "claims": claims,
            "seed": seed,
            "stages": [{"name": "gain", "folder": run.name}],
        }
        (folder / f"plan-seed{seed}.json").write_text(json.dumps(plan))


def test_a_finished_recipe_brings_its_numbers(tmp_path, monkeypatch, capsys):
    """A smaller one, one of another recipe and one that makes no claims do not; "not reached" stays."""
    results = ["{verdict: not decided, value: 0.1, low: -0.2, high: 0.3, n: 100, seeds: 3, world: six}",
               "{verdict: not reached, value: 0.1, low: -0.2, high: 0.3, n: 100, seeds: 1, world: six}",
               "{verdict: not reached, value: 0.0, n: 0, seeds: 0, world: ''}"]  # fmt: skip
    entries = [
        "".join(f"    {k}: {json.dumps(v)}\n" for k, v in (ONE | {"claim": f"claim {i}"}).items()).replace(
            "    ", "  - ", 1
        )
        + f"    result: {result}\n"
        for i, result in enumerate(results)
    ]
    file = tmp_path / "claims.yaml"
    file.write_text(text := "# Head\n# words\n\nSome:\n" + "".join(entries))
    monkeypatch.setattr(claims, "FILE", file)
    recipe_folder(tmp_path / "runs" / "smoke", range(4), claims=False)
    assert claims.main(["--runs", str(tmp_path / "runs")]) == 0 and file.read_text() == text
    recipe_folder(tmp_path / "runs" / "two", range(2))
    assert claims.main(["--runs", str(tmp_path / "runs")]) == 0
    found = [one.result for _, one in read(file.read_text())]
    two = Result("not reached", 0.2, 0.1859, 0.2141, 100, 2, "tiny")
    assert found == [read(text)[0][1].result, two, replace(two, verdict="supported")]
    recipe_folder(tmp_path / "runs" / "zz", range(3), value=-0.2)
    assert claims.main(["--runs", str(tmp_path / "runs")]) == 0
    words = [one.result.verdict for _, one in read(file.read_text())]
    assert words == ["contradicted", "not reached", "contradicted"]
    kept = [line for line in text.splitlines() if "result:" not in line]
    assert [line for line in file.read_text().splitlines() if "result:" not in line] == kept
    assert file.with_suffix(".md").read_text().startswith("# Head\nwords\n\n3 claims: 2 contradicted, 1 not reached.")
    assert "contradicted  claim 0  -20.0%" in capsys.readouterr().out


def test_a_field_that_is_not_accepted_is_one_line(tmp_path, monkeypatch, capsys):
    file = tmp_path / "claims.yaml"
    file.write_text("Some:\n  - {claim: x, papr: p}\n")
    monkeypatch.setattr(claims, "FILE", file)
    with pytest.raises(SystemExit) as end:
        claims.main([])
    error = capsys.readouterr().err
    assert end.value.code == 2 and "papr=p: unknown setting (did you mean paper?)" in error and error.count("\n") == 1
