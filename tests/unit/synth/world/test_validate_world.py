"""World files: the shipped ones have no fault, every fault is found, all at once, and a second world works."""

import copy
import json

import numpy as np
import pytest

from synth.dataset import Source
from synth.judge.audit_record import audit_record
from synth.problem.records import from_record
from synth.spec import Spec, preset
from synth.store import writers
from synth.world import validate_world, vocabulary

VOYAGE = validate_world.read(vocabulary.path_of("voyage"))


@pytest.mark.parametrize("name", [p.stem for p in sorted(vocabulary.FOLDER.glob("*.json"))])
def test_the_shipped_worlds_have_no_fault(name):
    assert vocabulary.validate(validate_world.read(vocabulary.path_of(name))) == []
    assert vocabulary.read(name)["name"] == name


def small(**changes) -> dict:
    """A right world of one categorisation with 2 sub-categories of 4 names."""
    group = VOYAGE["categorisations"][0]
    items = [[names[:4] for names in layer[:2]] for layer in group["items"]]
    data = {"name": "small", "phrases": dict(VOYAGE["phrases"])}
    return data | {"categorisations": [{"categories": list(group["categories"]), "items": items}]} | changes


def with_name(name) -> dict:
    data = copy.deepcopy(small())
    data["categorisations"][0]["items"][2][1][3] = name
    return data


def with_phrase(role, text) -> dict:
    return small(phrases=VOYAGE["phrases"] | {role: text})


FAULTS = [
    (
        with_name("Northern Armada"),
        "layer 3, sub-category 2: 'Northern Armada' is already in categorisation 1, layer 1",
    ),
    (with_name("Cargo Bay"), "'Cargo Bay' is already in categorisation 1, category 3"),
    (with_name(7), "7 is no name; accepted: text"),
    (with_name(" x y"), "begins or ends with space"),
    (with_name("St. Mary"), "contains '. '"),
    (with_name("This as That"), "contains ' as '"),
    (with_name("a = b"), "contains ' = '"),
    (with_name("one; two"), "contains '; '"),
    (with_name("Ann's Box"), 'contains the possessive "\'s"'),
    (with_name("12"), "name '12' reads like a number"),
    (with_name("b"), "name 'b' reads like a letter"),
    (with_name("Let"), "name 'Let' reads like the phrase define"),
    (with_name("Titanium Box is"), "' Titanium Box is' can also be read as ' Titanium Box'"),
    (with_phrase("undetermined", ""), "undetermined is empty"),
    (with_phrase("plus", " minus"), "plus and minus are both ' minus'"),
    (with_phrase("plus", 3), "plus is 3; accepted: text"),
    (with_phrase("plus", " 3"), "plus ' 3' reads like a number"),
    (with_phrase("have", "'s it?"), 'can also be read as "\'s"'),
    (small(phrases={k: v for k, v in VOYAGE["phrases"].items() if k != "back"}), "role 'back' is missing"),
    (with_phrase("shout", "!"), "role 'shout' is unknown"),
    (small(possessive=""), "possessive: ''; accepted: a text without spaces"),
    (small(possessive=" of"), "possessive: ' of'; accepted"),
    (small(extra=1), "extra: an unknown key"),
    (small(categorisations=[]), "not a list of at least one categorisation"),
    (small(categorisations=[{"categories": ["A b"], "items": []}]), "categories: not a list of 4"),
    ({}, "phrases: missing"),
]


@pytest.mark.parametrize(("data", "message"), FAULTS, ids=[m for _, m in FAULTS])
def test_every_fault_is_found(data, message):
    assert vocabulary.validate(small()) == []
    found = vocabulary.validate(json.loads(json.dumps(data)))
    assert any(message in fault for fault in found), found


def test_all_faults_are_found_at_once():
    data = with_name("12")
    data["categorisations"][0]["items"][0][0].append("Lonely Armada")
    data["categorisations"][0]["items"][1][0] = []
    data["phrases"].pop("stop")
    data["phrases"]["and_each"] = " equals"
    found = vocabulary.validate(data)
    assert len(found) == 5, found
    for part in ("role 'stop' is missing", "both ' equals'", "not a list of at least 2", "1 lists of 2", "reads like"):
        assert any(part in fault for fault in found), (part, found)


def test_a_file_of_ones_own_is_a_world(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(small(possessive="::")), encoding="utf-8")
    spec = Spec(world=str(path), categorisations=1, subcategories=2, names=4)
    source = Source(spec, 0, "all")
    documents = source.documents(range(20))
    assert source.world.encode(source.world.decode(documents.tokens)) == [
        int(t) for t in documents.tokens if t >= len(vocabulary.SPECIALS)
    ]
    for r in writers.records(source, 0, 20):
        assert r["world"] == "small"
        assert ":: " in r["query"]
        assert list(audit_record(r, str(path))) == []
        assert "unknown" in dict(audit_record(r))["record"]
        with pytest.raises(ValueError, match="bad or missing field 'world': world='small' does not exist"):
            from_record(r)
    copied = tmp_path / "other.json"
    copied.write_bytes(path.read_bytes())
    assert writers.spec_hash(spec) == writers.spec_hash(
        Spec(world=str(copied), categorisations=1, subcategories=2, names=4)
    )
    path.write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match="is no JSON"):
        validate_world.read(path)


def test_a_folder_of_shards_carries_its_world_file(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(small()), encoding="utf-8")
    spec = Spec(world=str(path), categorisations=1, subcategories=2, names=4)
    writers.write_shards(spec, 0, "train", 0, 8, 1, str(tmp_path / "shards"))
    wanted = list(writers.records(Source(spec, 0, "train"), 0, 8))
    path.unlink()
    shards = writers.read_shards(tmp_path / "shards", verify=True)
    assert str(tmp_path) not in (tmp_path / "shards" / "manifest.json").read_text(encoding="utf-8")
    assert list(shards.records()) == wanted


def test_the_second_world_is_other_words_for_the_same_problems():
    ours, theirs = (Source(preset("med", world=name, retry_rate=0.3), 0, "train") for name in ("english", "voyage"))
    a, b = ours.documents(range(10)), theirs.documents(range(10))
    assert np.array_equal(a.offsets, b.offsets)
    assert np.array_equal(a.problems.value, b.problems.value)
    assert not set(ours.world.decode(a.tokens).split()) >= {"hence", "RETRACTED"}
    assert set(theirs.world.decode(b.tokens).split()) >= {"hence", "Let", "plus"}
