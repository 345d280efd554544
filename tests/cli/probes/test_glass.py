"""`probes.glass` as a user meets it: its page in a real browser, stepped through with its keys; and what goes wrong.

The browser test needs Chromium (Debian's package `chromium`; `.ci/run` installs it) and is skipped without.
"""

import json
import shutil
import subprocess
from html import unescape

import numpy as np
import pytest
import torch

from models.huggingface import export
from probes import glass
from probes.runs import open_checkpoint
from probes.viewer.problem_json import Solution, log_probabilities, panel_json, problem_json
from synth.judge.checker import check
from synth.problem.records import to_record
from tests.helpers.untrained_models import save_untrained
from train.config.compose import run_entry
from train.core import checkpoint
from train.data.batches import DataConfig
from train.export import for_generating

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DATA = DataConfig("tiny")
SMALL = ("readout.problems=40", "readout.layer=1")

# What a person does: look, step with the arrow key, go back, hover a token and a parameter, hide the read-outs.
VISIT = """
const said = { errors: [], steps: [] };
addEventListener("error", (event) => said.errors.push(event.message));
addEventListener("securitypolicyviolation", (event) => said.errors.push(event.blockedURI));
const all = (selector, from = document) => [...from.querySelectorAll(selector)];
const press = (key) => document.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
const hover = (one) => {
  one.dispatchEvent(new MouseEvent("mouseenter"));
  return document.getElementById("card").textContent;
};
const sections = all(".panels > section");
const count = (panel) => {
  const seen = { later: all(".row.later", panel).length };
  for (const name of ["ready", "done", "wrong", "now"]) seen[name] = all(".node." + name, panel).length;
  const badges = all(".badge", panel).filter((one) => one.style.display !== "none");
  return { ...seen, badges: badges.map((one) => one.textContent) };
};
const place = () => document.querySelector("output").textContent;
const look = () => said.steps.push({ place: place(), panels: sections.map(count) });
const words = (row) => [row.querySelector(".tokens").textContent, row.querySelector("small").textContent];
try {
  const longest = Math.max(...sections.map((panel) => all(".row", panel).length));
  look();
  for (let i = 0; i < longest; i++) { press("ArrowRight"); look(); }
  press("ArrowRight"); press("Home"); press("End"); press("ArrowLeft"); look();
  said.title = document.querySelector("h1").textContent;
  said.verdicts = all(".verdict").map((one) => one.textContent);
  said.rows = sections.map((panel) => all(".row", panel).map(words));
  said.never = all(".rows .token.never").map((one) => one.textContent);
  said.token = hover(all(".rows .token")[1]);
  said.node = hover(document.querySelector(".node.query"));
  said.chips = all(".node .chip").filter((one) => one.style.display !== "none" && one.textContent).length;
  press("p");
  said.hidden = all(".node .chip").every((one) => getComputedStyle(one).display === "none");
  said.markup = all("main script, main img, main i > i").length;
} catch (error) { said.errors.push(String(error)); }
const out = document.createElement("pre");
out.id = "said";
out.textContent = JSON.stringify(said);
document.body.append(out);
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_untrained(tmp_path_factory.mktemp("runs") / "teacher-00000000", data=DATA, seed=0, mlp="swiglu")


def look(*words):
    return run_entry("glass", glass.GlassConfig, glass.main, "", list(words))


def visit(page, folder):
    """What VISIT says of a page, opened in headless Chromium."""
    copy = folder / "visited.html"
    copy.write_text(page.replace("</body>", f"<script>{VISIT}</script></body>"), encoding="utf-8")
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--dump-dom"]
    profile = f"--user-data-dir={folder / 'profile'}"
    done = subprocess.run(
        [*command, profile, "--virtual-time-budget=4000", "--window-size=1500,1100", copy.as_uri()],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert '<pre id="said">' in done.stdout, done.stderr[-2000:]
    return json.loads(unescape(done.stdout.split('<pre id="said">')[1].split("</pre>")[0]))


def panel_of(name, model, source, documents, tokens):
    tokens = np.asarray(tokens, dtype=np.int64)
    verdicts = check(documents.problems, source.world, tokens[None], np.array([len(tokens)]))
    logp_RV = log_probabilities(model, documents.prompt_tokens(0).tolist(), tokens)
    return panel_json(name, Solution(tokens, logp_RV, verdicts, True), source, documents, "continue", logp_RV)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: install the package chromium")
def test_the_page_opens_and_steps_through_a_right_and_a_wrong_solution(model, tmp_path):
    opened = open_checkpoint(model)
    source = opened.data.source("test", "look")
    index = int(np.flatnonzero(source.problems(range(60)).ops == 3)[0])
    documents = source.documents([index])
    right = documents.response(0).astype(np.int64)
    wrong = right.copy()
    results = np.flatnonzero((right >= source.world.first_number) & (right < source.world.first_letter))
    wrong[results[0]] = source.world.first_number + (right[results[0]] - source.world.first_number + 1) % 7
    panels = [
        panel_of("<i>right</i>", opened.model, source, documents, right),
        panel_of("wrong", opened.model, source, documents, wrong),
    ]
    problem = problem_json(source, documents)
    page = glass.page({"where": "<img src=x onerror=alert(1)>", "problem": problem, "panels": panels})
    said = visit(page, tmp_path)
    assert said["errors"] == [] and said["markup"] == 0
    steps = [row for row in panels[0]["rows"] if row["step"] >= 0]
    assert len(steps) == int(documents.problems.needed[0].sum())
    first, *walked, back = said["steps"]
    assert (
        first["place"] == "before the solution" and first["panels"][0]["done"] == 0 and first["panels"][0]["ready"] > 0
    )
    for k, seen in enumerate(walked[: len(steps)], start=1):
        one = seen["panels"][0]
        assert one["done"] == k and one["now"] == 1 and one["wrong"] == 0 and one["badges"].count(str(k)) == 1
        assert one["later"] == len(panels[0]["rows"]) - k
    assert walked[-1]["panels"][0]["ready"] == 0 and walked[-1]["panels"][1]["wrong"] >= 1
    assert back["place"].startswith(f"step {len(walked) - 1} of")
    assert said["title"] == f"{problem['question']} {documents.problems.answer[0]}"
    assert said["verdicts"][0] == "fully correct" and said["verdicts"][1].startswith("step 1: ")
    for panel, rows in zip(panels, said["rows"], strict=True):
        assert [kind for _, kind in rows] == [row["kind"] for row in panel["rows"]]
    text = "".join(said["rows"][0][0][0].split())
    assert text == "".join(source.world.decode(right[: steps[0]["stop"]]).split())
    assert len(said["never"]) >= 1
    for words in ("the model", "the other model", "the oracle", "what the oracle allows"):
        assert words in said["token"]
    assert "this is the question" in said["node"]


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: install the package chromium")
def test_the_commands_own_page_shows_read_outs(model, tmp_path):
    assert look(f"checkpoint={model}", "index=3", f"out={tmp_path}/a.html", *SMALL) == 0
    said = visit((tmp_path / "a.html").read_text(encoding="utf-8"), tmp_path)
    assert said["errors"] == [] and len(said["verdicts"]) == 1
    assert said["chips"] > 0 and said["hidden"] and "probe at layer 1" in said["node"]


def test_two_checkpoints_side_by_side_on_a_record_and_the_same_page_twice(command, model, tmp_path):
    other = save_untrained(tmp_path / "runs" / "student-00000000", data=DATA, seed=1, mlp="swiglu")
    source = DATA.source("test", "records")
    records = [to_record(source.problems([i]), source.world, "pq") for i in range(2)]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    words = (f"checkpoint={model}", f"beside={other}", f"text={tmp_path}/p.jsonl", "index=1", "readout.problems=0")
    done = command("probes.glass", *words, f"out={tmp_path}/a.html", timeout=200)
    assert done.returncode == 0 and done.stderr == "" and done.stdout.strip() == f"{tmp_path}/a.html", done.stderr
    page = (tmp_path / "a.html").read_text(encoding="utf-8")
    account = json.loads(page.split('id="page-data">')[1].split("</script>")[0])
    assert [p["name"] for p in account["panels"]] == ["teacher-00000000, step-1", "student-00000000, step-1"]
    assert account["where"] == "record 1 of p.jsonl" and account["problem"]["answer"] == str(records[1]["answer"])
    assert all("q" in token for panel in account["panels"] for token in panel["tokens"])
    assert look(*words, f"out={tmp_path}/b.html") == 0
    assert (tmp_path / "b.html").read_text(encoding="utf-8") == page
    assert sorted(p.name for p in tmp_path.glob("*.html*")) == ["a.html", "b.html"]


def test_a_hugging_face_folder_is_a_checkpoint_too(model, tmp_path):
    folder = tmp_path / "exported"
    folder.mkdir()
    gpt, encoding = checkpoint.load_model(model), DATA.encoding()
    export.save(gpt, folder, eos=encoding.eos, pad=encoding.pad, custom_code=True)
    for_generating(encoding.tokenizer, gpt.config.context).save_pretrained(folder)
    opened = open_checkpoint(folder)
    assert opened.data.preset == "tiny" and opened.name == "exported"
    torch.testing.assert_close(opened.model.embed.weight, gpt.embed.weight)
    with pytest.raises(ValueError, match="its vocabulary is not that of preset=med"):
        open_checkpoint(folder, preset="med")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["checkpoint=/no/such"], "checkpoint=/no/such: does not exist"),
        (["beside=/no/such"], "beside=/no/such: does not exist"),
        (["index=-1"], "index=-1: accepted: 0 or more"),
        (["split=dev"], "split=dev: accepted: train, test, all"),
        (["policy=guess"], "policy=guess: accepted: continue"),
        (["temperature=-1"], "temperature=-1"),
        (["out=page.txt"], "out=page.txt: accepted: a file name that ends in .html"),
        (["out=/no/such/a.html"], "the folder above it does not exist"),
        (["text=/no/such.jsonl"], "text=/no/such.jsonl: cannot be read"),
        (["readout.layer=7"], "readout.layer=7: accepted: 0 (the embedding) to 2"),
        (["readout.problems=3"], "readout.problems=3"),
        (["readout.tasks=[dep]"], "readout.tasks=['dep']: accepted: a list with some of nece, known"),
        (["preset=med"], "data.preset=med"),
        (["probe=/no/such"], "probe=/no/such: holds no summary.json"),
    ],
)
def test_bad_settings_are_one_line_and_nothing_is_written(model, tmp_path, capsys, words, message):
    assert look(f"checkpoint={model}", f"out={tmp_path}/a.html", *words) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and message in error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r | {"modulus": 23}, "modulus=23; accepted: 7"),
        (lambda r: r | {"layers": [{"category": "Zoo", "items": ["Lion"]}, *r["layers"]]}, "'Zoo' is no name"),
        (lambda r: {k: v for k, v in r.items() if k != "parameters"}, "parameters"),
        (lambda r: [], "record 0 is no JSON object"),
    ],
)
def test_a_bad_record_is_one_line(model, tmp_path, capsys, change, message):
    source = DATA.source("test", "records")
    record = change(to_record(source.problems([0]), source.world, "pq"))
    (tmp_path / "p.jsonl").write_text(json.dumps(record) + "\n")
    assert look(f"checkpoint={model}", f"text={tmp_path}/p.jsonl", f"out={tmp_path}/a.html") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and message in error and not (tmp_path / "a.html").exists()


def test_help_names_the_settings(command):
    done = command("probes.glass", "--help")
    assert done.returncode == 0 and done.stderr == ""
    for words in ("python -m probes.glass checkpoint=", "beside", "readout", "layer", "policy"):
        assert words in done.stdout
