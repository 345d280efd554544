"""`python -m synth.audit`: proves what the generator wrote, and finds each thing that is changed in a right record."""

import copy
import json
import re
from graphlib import TopologicalSorter

import pytest
import sympy

from synth import audit
from synth.dataset import Source
from synth.judge.audit_record import CHECKS, audit_record, evaluate, shape
from synth.problem.validate_record import factors
from synth.spec import preset
from synth.store import writers

SPEC = preset("med", retry_rate=0.3)


def records(spec, split, count=30):
    return list(writers.records(Source(spec, 0, split), 0, count))


def write(path, rows) -> str:
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    return str(path)


def outcome(capsys, *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stopped:
        audit.main(list(arguments))
    out, err = capsys.readouterr()
    return stopped.value.code, out, err


def test_right_files_are_proved(tmp_path, capsys):
    files = [write(tmp_path / f"{split}.jsonl", records(SPEC, split)) for split in ("train", "test")]
    code, out, err = outcome(capsys, *files)
    assert (code, err) == (0, "")
    assert "shared by train.jsonl and test.jsonl: 0 problems, 0 solution templates" in out
    assert out.endswith("proved\n")
    for check in CHECKS:
        assert f"wrong: {check}" in out


def test_a_split_by_problem_shares_templates_but_no_problem(tmp_path, capsys):
    files = [write(tmp_path / f"{split}.jsonl", records(preset("tiny"), split, 150)) for split in ("train", "test")]
    code, out, _ = outcome(capsys, *files)
    assert code == 1
    assert "0 problems" in out
    assert outcome(capsys, *files, "--split-by", "problem")[0] == 0


def test_a_leak_is_found_through_a_disguise(tmp_path, capsys):
    """The same problem with its sentences in another order is the same problem."""
    rows = records(SPEC, "train")
    leaked = copy.deepcopy(rows[7])
    leaked["parameters"].reverse()
    leaked["problem"] = (
        " "
        + " ".join(f"{s}." for s in [*reversed(leaked["problem"].strip().split(". ")[:-1])])
        + leaked["problem"][leaked["problem"].rindex(" How many") :]
    )
    files = [write(tmp_path / "a.jsonl", rows), write(tmp_path / "b.jsonl", [leaked])]
    code, out, _ = outcome(capsys, *files, "--split-by", "problem")
    assert code == 1
    assert "shared by a.jsonl and b.jsonl: 1 problems, 1 solution templates" in out


def test_values_are_those_of_sympy():
    """The audit computes with integers of Python; sympy gives the same, nan where a premise is missing."""
    undetermined = 0
    for record in records(preset("hard", missing_premise=0.4), "train", 25):
        parameters = {p["name"]: p for p in record["parameters"]}
        value = {}
        for name in TopologicalSorter({n: factors(p) for n, p in parameters.items()}).static_order():
            p = parameters[name]
            terms = [sympy.Mul(*(value[factor] for factor in term)) for term in p["terms"]]
            total = terms[0] - terms[1] if p["combine"] == "difference" else sympy.Add(*terms)
            if p["constant"] is not None:
                total = p["constant"] * total if p["combine_constant"] == "mul" else p["constant"] + total
            value[name] = total if p.get("given", True) else sympy.nan
        wanted = {n: None if v is sympy.nan else sympy.Mod(v, record["modulus"]) for n, v in value.items()}
        assert evaluate(parameters, record["modulus"]) == wanted
        undetermined += None in wanted.values()
    assert undetermined > 3


def of_kind(rows, kind, needed=None):
    """(record, parameter) of the first record that has such a parameter."""
    for row in rows:
        for p in row["parameters"]:
            if p["kind"] == kind and p["terms"] and (needed is None or p["needed"] == needed):
                return row, p
    raise AssertionError("no such parameter")


def changes(rows):
    """(what is changed, the check that must see it, changed record)."""

    def changed(row, **fields):
        return {**copy.deepcopy(row), **fields}

    row = max(rows, key=lambda r: len(r["needed_order"]) if r["mistakes"] else 0)
    yield "answer", "values", changed(row, answer=(row["answer"] + 1) % 23)
    yield "ops", "operations", changed(row, ops=row["ops"] + 1)
    yield "edges", "operations", changed(row, edges=row["edges"] - 1)
    yield "order of need", "needed", changed(row, needed_order=row["needed_order"][::-1])
    yield "one needed less", "needed", changed(row, needed_order=row["needed_order"][1:])
    yield "question", "problem text", changed(row, problem=row["problem"].replace("How many", "How few"))
    yield "key", "record", {k: v for k, v in row.items() if k != "layers"}
    yield "extra key", "record", changed(row, more=1)
    yield "mistake left out", "mistakes", changed(row, mistakes=row["mistakes"][1:])
    yield (
        "mistake elsewhere",
        "mistakes",
        changed(row, mistakes=[{**row["mistakes"][0], "step": 99}, *row["mistakes"][1:]]),
    )
    sentences = [s for s in row["solution"].split(" Define ") if s]
    swapped = "".join(f" Define {s}" for s in [sentences[-1], *sentences[:-1]])
    yield "last step first", "solution text", changed(row, solution=swapped, mistakes=shifted(row, 1))
    number = row["solution"].rindex(" ") + 1
    wrong = (int(row["solution"][number:-1]) + 1) % 23
    yield "last number", "solution text", changed(row, solution=f"{row['solution'][:number]}{wrong}.")
    yield (
        "layer",
        "structure",
        changed(row, layers=[{**row["layers"][0], "items": row["layers"][0]["items"][::2]}, *row["layers"][1:]]),
    )
    for kind in ("instance", "abstract"):
        source, p = of_kind(rows, kind)
        other = copy.deepcopy(source)
        next(q for q in other["parameters"] if q["name"] == p["name"])["value"] = (p["value"] + 1) % 23
        yield f"value of an {kind} parameter", "values", other
    source, p = of_kind(rows, "instance", needed=True)
    other = copy.deepcopy(source)
    next(q for q in other["parameters"] if q["name"] == p["name"])["needed"] = False
    yield "needed flag", "needed", other
    other = copy.deepcopy(source)
    next(q for q in other["parameters"] if q["name"] == p["name"])["terms"][0] = [p["name"]]
    yield "circle", "record", other


def shifted(row, by):
    return [{**m, "step": m["step"] + by} for m in row["mistakes"]]


def test_every_change_is_found(tmp_path, capsys):
    rows = records(SPEC, "train")
    seen = set()
    for what, check, changed in changes(rows):
        found = dict(audit_record(changed))
        assert check in found, (what, found)
        seen.add(check)
    assert seen == set(CHECKS)
    code, out, _ = outcome(capsys, write(tmp_path / "x.jsonl", [*rows, changed]))
    assert code == 1
    assert out.endswith("something is wrong\n")
    assert f"{changed['id']}: record: " in out


def test_another_letter_of_the_same_value_is_found():
    """The numbers hold, but the step rests on another parameter than its sentence says."""
    changed = 0
    for record in records(preset("med", modulus=3, ops=10, edges=14), "all", 40):
        value, sentences = {}, record["solution"].split(". ")
        for k, sentence in enumerate(sentences):
            last = sentence.rsplit("; so ", 1)[1]
            for letter in re.findall("[A-Za-z]", last.split(" = ")[1] if last.count(" = ") > 1 else ""):
                for other in [x for x in value if x != letter and value[x] == value.get(letter)]:
                    clause = re.sub(rf"(?<= ){letter}(?= )", other, last)
                    wrong = [*sentences[:k], sentence.replace(last, clause), *sentences[k + 1 :]]
                    found = dict(audit_record({**record, "solution": ". ".join(wrong)}))
                    assert found.keys() == {"solution text"}, wrong
                    changed += 1
            value[last[0]] = last.rstrip(".").rsplit(" = ", 1)[1]
        assert not list(audit_record(record))
    assert changed > 20


def test_what_is_not_determined_is_a_plain_sum_too():
    for record in records(preset("med", missing_premise=1.0), "all", 40):
        for i, p in enumerate(record["parameters"]):
            if p["kind"] == "abstract" and p["value"] is None:
                wrong = copy.deepcopy(record)
                wrong["parameters"][i]["constant"] = 3
                assert "structure" in dict(audit_record(wrong))
                return
    raise AssertionError("no such parameter")


@pytest.mark.parametrize(
    "text", ["", "not json\n", "[1, 2]\n", '{"id": "x"\n', "\xff"], ids=["empty", "text", "list", "cut", "bytes"]
)
def test_files_that_cannot_be_read_are_one_line(tmp_path, capsys, text):
    path = tmp_path / "x.jsonl"
    path.write_bytes(text.encode("latin-1"))
    code, out, err = outcome(capsys, str(path))
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {path}")
    assert err.count("\n") == 1
    assert "accepted" in err


def test_help_and_missing_file_of_a_real_process(command, tmp_path):
    done = command("synth.audit", "--help")
    assert done.returncode == 0
    assert "python -m synth.audit train.jsonl test.jsonl" in done.stdout
    done = command("synth.audit", tmp_path / "none.jsonl")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert "none.jsonl" in done.stderr
    assert command("synth.audit", "--split-by", "luck", "x.jsonl").returncode == 2


def test_a_record_of_nonsense_is_wrong_not_a_crash(tmp_path, capsys):
    right = records(SPEC, "train", 1)[0]
    for field in right:
        for value in (None, 0, "x", [], {}, [None], [{}]):
            list(audit_record({**right, field: value}))
    code, _, _ = outcome(capsys, write(tmp_path / "x.jsonl", [{**right, "parameters": None}]))
    assert code == 1


def test_folders_and_parquet_are_proved_like_lines(tmp_path, capsys):
    pytest.importorskip("pyarrow")
    spec = preset("med", world="voyage", retry_rate=0.3, missing_premise=0.3)
    writers.write_shards(spec, 0, "train", 0, 20, 1, str(tmp_path / "shards"), shard=8)
    writers.write_parquet(spec, 0, "test", 0, 20, 1, str(tmp_path / "test.parquet"))
    code, out, err = outcome(capsys, str(tmp_path / "shards"), str(tmp_path / "test.parquet"))
    assert (code, err) == (0, "")
    assert "shared by shards and test.parquet: 0 problems, 0 solution templates" in out
    path = tmp_path / "shards" / "shard-00001" / "tokens.npy"
    path.write_bytes(path.read_bytes()[:-4] + b"\7\0\0\0")
    code, out, err = outcome(capsys, str(tmp_path / "shards"))
    assert (code, out) == (2, "")
    assert "shard-00001 is corrupted: tokens.npy" in err


def test_small_cells_of_test_files_are_warned_of(tmp_path, capsys):
    rows = records(preset("med", ops=3), "test", 60)
    _, out, _ = outcome(capsys, write(tmp_path / "test.jsonl", rows))
    cells = {k: {shape(r) for r in rows if r["ops"] == k} for k in (1, 2, 3)}
    for ops, shapes in cells.items():
        warning = f"warning: test.jsonl: {ops} operations: {len(shapes)} different template"
        assert (warning in out) == (0 < len(shapes) < 20)
    _, out, _ = outcome(capsys, write(tmp_path / "train.jsonl", records(preset("med", ops=3), "train")))
    assert "warning" not in out


def test_the_shape_of_a_problem_is_one_for_each_split_bin():
    bins = {}
    for r in records(preset("med", ops=4), "all", 200):
        assert bins.setdefault(shape(r), r["split_bin"]) == r["split_bin"]
    assert len(bins) < 150


def test_a_record_that_is_there_twice_is_found(tmp_path, capsys):
    rows = records(SPEC, "train", 5)
    code, out, _ = outcome(capsys, write(tmp_path / "x.jsonl", [*rows, rows[2]]))
    assert code == 1
    assert f"{rows[2]['id']}: repeated ids" in out
