"""The six tasks against definitions in plain Python on records and texts; where texts break off; pairs; slips."""

import re
from dataclasses import replace

import numpy as np
import pytest

from probes.queries import labels
from probes.queries.labels import TASKS
from probes.queries.table import defined_at, draw
from synth.dataset import Source
from synth.problem.records import to_record
from synth.spec import preset
from synth.world.vocabulary import BACK, SOLUTION

MIXED = preset("med", ops=8, retry_rate=0.3)
SLIPS = preset("med", ops=8, retry_rate=0.4, retry_kind="slip", uncorrected=0.5)
WORLDS = {
    "pq": MIXED,
    "qp": replace(MIXED, order="qp"),
    "slips": SLIPS,
    "missing": replace(MIXED, missing_premise=1.0),
    "reask": replace(MIXED, reask=True),
}


class Facts:
    """What is true of a problem, from its record alone."""

    def __init__(self, record: dict) -> None:
        self.direct = {p["name"]: {n for term in p["terms"] for n in term} for p in record["parameters"]}
        self.value = {p["name"]: p["value"] for p in record["parameters"]}
        self.query, self.needed = record["query"], {p["name"] for p in record["parameters"] if p["needed"]}

    def rests_on(self, name: str) -> set[str]:
        seen: set[str] = set()
        todo = [*self.direct[name]]
        while todo:
            other = todo.pop()
            if other not in seen:
                seen.add(other)
                todo += self.direct[other]
        return seen

    def distance(self, name: str) -> int:
        front, steps = {self.query}, 0
        seen = set(front)
        while name not in front:
            front = {n for f in front for n in self.direct[f]} - seen
            seen |= front
            steps += 1
            if not front:
                return -1
        return steps


def defined_in(text: str) -> set[str]:
    """Parameters that the sentences of a solution define."""
    return {m[1] for s in text.split(". ") if "BACK" not in s and (m := re.match(r" ?Define (.*?) as ", s))}


def truth(task: str, facts: Facts, name: str, other: str, written: str, modulus: int) -> int:
    known = defined_in(written)
    ready = facts.direct[name] <= known
    return {
        "nece": name in facts.needed,
        "dep": other in facts.rests_on(name),
        "known": name in known,
        "value": facts.value[name] if name in known else modulus,
        "can_next": ready,
        "nece_next": ready and name not in known and name in facts.needed,
    }[task]


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("task", TASKS)
def test_labels_are_what_the_record_and_the_text_say(task, world):
    source = Source(WORLDS[world], 3, "train", "probe")
    names, problems = source.world, source.problems(range(40))
    facts = [Facts(to_record(problems.take(i), names, source.spec.order)) for i in range(40)]
    table = draw(TASKS[task], source, range(40), most=10, seed=1)
    for q in range(len(table)):
        i, text = table.row[q], names.decode(table.text(q))
        written = names.decode(table.text(q)[table.documents.prompt[i] :])
        name, other = names.name_of(*table.name[q][:2]), names.name_of(*table.name[q][-2:])
        assert table.label[q] == truth(task, facts[i], name, other, written, names.modulus), (text, name)
        assert facts[i].value[name] is not None and facts[i].value[other] is not None
        assert ("How many" in text) == (task != "dep" or source.spec.order == "qp")
        assert (SOLUTION in table.text(q)) == (task not in ("nece", "dep"))
        assert task not in ("nece", "dep") or text.endswith(("?", "."))
        assert (table.other[q] >= 0) == (task == "dep") and table.other[q] != table.slot[q]
    assert len(set(table.label)) == (2 if task != "value" else len(set(table.label))) > 1
    distance = labels.distance(problems)[table.row, table.slot]
    expected = [facts[i].distance(names.name_of(*n[:2])) for i, n in zip(table.row, table.name, strict=True)]
    assert distance.tolist() == expected


def test_a_slip_that_nobody_takes_back_defines_its_parameter():
    source = Source(SLIPS, 3, "train", "probe")
    documents = source.documents(range(60))
    known = defined_at(documents, int(source.world.phrases[BACK])) < len(documents.tokens)
    standing = 0
    for i in range(60):
        text = source.world.decode(documents.response(i))
        assert known[i].sum() == len(defined_in(text)) == documents.problems.needed[i].sum()
        wrong = documents.mistake[documents.offsets[i] : documents.offsets[i + 1]].any()
        standing += wrong and "BACK" not in text
    assert standing > 5


def test_pairs_are_drawn_without_replacement_and_in_both_directions():
    source = Source(MIXED, 3, "train", "probe")
    table = draw(TASKS["dep"], source, range(600), most=10, seed=1)  # more than one chunk of documents
    pairs = list(zip(table.row, table.slot, table.other, strict=True))
    assert len(set(pairs)) == len(pairs) and np.bincount(table.row).max() == 10
    assert {(table.slot < table.other).any(), (table.slot > table.other).any()} == {True}
    later = draw(TASKS["dep"], source, range(560, 600), most=10, seed=1)
    assert np.array_equal(later.slot, table.slot[table.row >= 560])
