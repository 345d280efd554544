"""The checker on the specification's worked examples: every kind of step, every ending, the published leniencies, text.

Generated problems and fuzzing are in `test_checker_generated.py`.
"""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from synth.judge.check_text import check_text
from synth.judge.checker import EARLY, ENDED, ENDINGS, KINDS, LATE, NEVER, Verdicts, check
from synth.problem.records import read_record
from synth.world import vocabulary as W

ENGLISH = W.load("english", 23, 4, 5, 20, 104)


def kinds(verdicts: Verdicts, i: int = 0) -> list[str]:
    return [KINDS[k] for k in verdicts.kind[i, : verdicts.steps[i]]]


def judge(problem, world, tokens) -> Verdicts:
    return check(problem, world, np.array([tokens], dtype=np.int64).reshape(1, -1), [len(tokens)])


def respond(world, text: str, answer: int) -> list[int]:
    return [*world.encode(text), W.ANSWER, world.first_number + answer, W.EOS]


# ---- the worked examples of the specification, with names of this world


def parameter(
    name, value, constant=None, constant_op=None, combine=None, terms=(), needed=True, kind="instance"
) -> dict:
    return {
        "name": name, "kind": kind, "value": value, "needed": needed, "constant": constant,
        "combine_constant": constant_op, "combine": combine, "terms": [list(t) for t in terms],
    }  # fmt: skip


def make(layers, parameters, query, answer, order, ops=1):
    record = {
        "id": "x", "answer": answer, "ops": ops, "edges": 1, "modulus": 23, "split_bin": 0, "order": "pq",
        "query": query, "layers": [{"category": c, "items": i} for c, i in layers], "parameters": parameters,
        "needed_order": order,
    }  # fmt: skip
    return read_record(record, ENGLISH), record


def example_a():
    """One constant, one sum with it, and one parameter that is not needed."""
    (park, lane), (robin, finch) = ("Maple Hill", "Oak Row"), ("Green Basket", "Happy Cart")
    k, f, t = f"{park}'s {robin}", f"{lane}'s {finch}", f"{lane}'s {robin}"
    parameters = [
        parameter(k, 9),
        parameter(f, 5, 11, "mul", terms=[[t]], needed=False),
        parameter(t, 13, 4, "add", terms=[[k]]),
        parameter(f"{park}'s Supermarket", 9, terms=[[k]], needed=False, kind="abstract"),
        parameter(f"{lane}'s Supermarket", 18, combine="sum", terms=[[t], [f]], needed=False, kind="abstract"),
    ]
    parameters[0]["constant"] = 9
    problem, _ = make([("District", [park, lane]), ("Supermarket", [robin, finch])], parameters, t, 13, [k, t])
    return problem, f" Define {k} as k; so k = 9.", f" Define {t} as T; so T = 4 + k = 4 + 9 = 13.", (k, f, t)


def example_c():
    """Difference, product of a constant and a sum, an abstract sum of products."""
    hall, chess, robot, red, blue = "Maple Hill", "Green Basket", "Happy Cart", "Golden Shelf", "Corner Larder"
    r, h, b, m, e = (
        f"{hall}'s {chess}",
        f"{hall}'s {robot}",
        f"{chess}'s {red}",
        f"{robot}'s {red}",
        f"{robot}'s {blue}",
    )
    q, d, z = f"{chess}'s Product", f"{robot}'s Product", f"{hall}'s Product"
    parameters = [
        parameter(e, 7, 5, "mul", "sum", [[b], [m]]),
        parameter(r, 6, 6),
        parameter(m, 21, combine="difference", terms=[[r], [b]]),
        parameter(b, 8, 8),
        parameter(h, 9, 3, "add", terms=[[r]]),
        parameter(q, 8, terms=[[b]], kind="abstract"),
        parameter(d, 5, combine="sum", terms=[[m], [e]], kind="abstract"),
        parameter(z, 1, combine="sum", terms=[[r, q], [h, d]], kind="abstract"),
    ]
    layers = [("District", [hall]), ("Supermarket", [chess, robot]), ("Product", [red, blue])]
    problem, record = make(layers, parameters, z, 1, [r, h, b, m, e, q, d, z], 11)
    text = (
        f" Define {r} as r; so r = 6. Define {h} as H; so H = 3 + r = 3 + 6 = 9. Define {b} as b; so b = 8."
        f" Define {m} as M; so M = r - b = 6 - 8 = 21."
        f" Define {e} as e; u = b + M = 8 + 21 = 6; so e = 5 * u = 5 * 6 = 7. Define {q} as q; so q = b = 8."
        f" Define {d} as D; so D = M + e = 21 + 7 = 5."
        f" Define {z} as z; J = r * q = 6 * 8 = 2; x = H * D = 9 * 5 = 22; so z = J + x = 2 + 22 = 1."
    )
    return problem, record, text


def example_b():
    """A constant added to a sum, and an abstract sum of three whose first two are summed again."""
    jar, bead, coin, pin = "Maple Hill", "Green Basket", "Happy Cart", "Golden Shelf"
    c, v, n, a = f"{jar}'s {bead}", f"{jar}'s {coin}", f"{jar}'s {pin}", f"{jar}'s Supermarket"
    parameters = [
        parameter(c, 20, 20),
        parameter(v, 20, terms=[[c]]),
        parameter(n, 8, 14, "add", "sum", [[c], [v]]),
        parameter(a, 2, combine="sum", terms=[[c], [v], [n]], kind="abstract"),
    ]
    problem, _ = make([("District", [jar]), ("Supermarket", [bead, coin, pin])], parameters, a, 2, [c, v, n, a], 6)
    start = f" Define {c} as c; so c = 20. Define {v} as V; so V = c = 20."
    third = f" Define {n} as n; y = c + V = 20 + 20 = 17; so n = 14 + y = 14 + 17 = 8."
    return problem, start + third, f" Define {a} as A; g = c + V = 20 + 20 = 17; so A = g + n = 17 + 8 = 2.", a


def test_worked_examples_are_right():
    problem, first, second, _ = example_a()
    for verdicts in (
        check_text(problem, ENGLISH, first + second),
        check_text(problem, ENGLISH, first + second, 13),
        judge(problem, ENGLISH, respond(ENGLISH, first + second, 13)),
    ):
        assert verdicts.right[0] and verdicts.published[0] and verdicts.answer_right[0]
        assert kinds(verdicts) == ["right", "right"] and verdicts.answer[0] == 13 and verdicts.first_mistake[0] == -1
    problem, start, last, _ = example_b()
    assert check_text(problem, ENGLISH, start + last, 2).right[0]
    problem, _, text = example_c()
    assert check_text(problem, ENGLISH, text, 1).right[0]


def test_other_foldings_of_the_same_tree_are_right_and_other_trees_are_not():
    problem, start, _, a = example_b()
    head = f" Define {a} as A; "
    for body in ("so A = n + y = 8 + 17 = 2", "g = n + c = 8 + 20 = 5; so A = V + g = 20 + 5 = 2"):
        assert check_text(problem, ENGLISH, start + head + body + ".", 2).right[0], body
    for body, kind in (
        ("g = c + V = 20 + 20 = 17; so A = g - n = 17 - 8 = 9", "wrong constant or operator"),
        ("g = c + c = 20 + 20 = 17; so A = g + n = 17 + 8 = 2", "wrong dependencies"),
        (
            "g = c + V = 20 + 20 = 17; h = g + V = 17 + 20 = 14; so A = h + n = 14 + 8 = 22",
            "wrong constant or operator",
        ),
        ("g = c + V = 20 + 20 = 17; h = c * V = 20 * 20 = 9; so A = g + n = 17 + 8 = 2", "wrong dependencies"),
        ("g = 17; so A = g + n = 17 + 8 = 2", "wrong dependencies"),
        ("g = c + V = 20 + 20 = 17; so g = g + n = 17 + 8 = 2", "malformed"),
        ("c = c + V = 20 + 20 = 17; so A = c + n = 17 + 8 = 2", "wrong reference"),
    ):
        verdicts = check_text(problem, ENGLISH, start + head + body + ".", 2)
        assert kinds(verdicts)[-1] == kind and not verdicts.right[0], body
    problem, _, text = example_c()
    good, swaps = (
        "u = b + M = 8 + 21 = 6; so e = 5 * u = 5 * 6 = 7",
        ["u = M + b = 21 + 8 = 6; so e = u * 5 = 6 * 5 = 7"],
    )
    assert check_text(problem, ENGLISH, text.replace(good, swaps[0]), 1).right[0]
    spread = "f = 5 * b = 5 * 8 = 17; g = 5 * M = 5 * 21 = 13; so e = f + g = 17 + 13 = 7"
    assert kinds(check_text(problem, ENGLISH, text.replace(good, spread), 1))[4] == "wrong constant or operator"


def test_each_mutation_gets_its_kind():
    problem, one, two, (k, _, t) = example_a()
    cases = [
        (two, ["not ready"]),
        (two + one, ["not ready", "right"]),
        (one + one + two, ["right", "repeated", "right"]),
        (one + two.replace("4 ", "5 ").replace("13", "14"), ["right", "wrong constant or operator"]),
        (one + two.replace("+", "*").replace("13", "13"), ["right", "wrong constant or operator"]),
        (one + two.replace("13", "14"), ["right", "wrong arithmetic"]),
        (one + two.replace("+ 9 = 13", "+ 8 = 12"), ["right", "wrong reference"]),
        (one + two.replace("+ 9 = 13", "- 9 = 18"), ["right", "wrong reference"]),
        (one + two.replace("4 + k", "4 + q"), ["right", "wrong dependencies"]),
        (one + two.replace("; so T", "; so S"), ["right", "malformed"]),
        (one + two.replace(" as T; so T", " as k; so k"), ["right", "wrong reference"]),
        (
            one.replace("9", "8") + two.replace("9 = 13", "8 = 12"),
            ["wrong constant or operator", "uncorrected mistake"],
        ),
        (one.replace(k, f"{k.split(chr(39))[0]}'s Happy Cart") + two, ["unknown parameter", "not ready"]),
        (one.replace("so k = 9", "so k = 9 = 9") + two, ["malformed", "not ready"]),
        (one + " Hello there." + two, ["right", "malformed", "right"]),
        (one + two[:-1], ["right", "malformed"]),
        (one.replace(k, t.split("'")[0]) + two, ["malformed", "not ready"]),
    ]
    for text, expected in cases:
        verdicts = check_text(problem, ENGLISH, text, 13)
        assert kinds(verdicts) == expected, text
        assert not verdicts.right[0]
        assert verdicts.first_mistake[0] == next(i for i, x in enumerate(expected) if x != "right")


def test_unneeded_steps_and_retries_are_allowed_and_counted():
    problem, one, two, (k, f, _) = example_a()
    total = f" Define {k.split(chr(39))[0]}'s Supermarket as m; so m = k = 9."
    retry = f" Define {f} as BACK."
    verdicts = check_text(problem, ENGLISH, retry + one + retry + total + two, 13)
    assert kinds(verdicts) == ["retry", "right", "retry", "unneeded", "right"]
    assert verdicts.right[0] and verdicts.published[0] and verdicts.retries[0] == 2 and verdicts.unneeded[0] == 1
    strange = check_text(problem, ENGLISH, one + f" Define {k.split(chr(39))[0]}'s Happy Cart as BACK." + two, 13)
    assert kinds(strange)[1] == "unknown parameter" and strange.published[0] and not strange.right[0]


def test_the_end_is_judged():
    problem, one, two, (_, f, _) = example_a()
    steps = ENGLISH.encode(one + two)
    n = ENGLISH.first_number
    extra = ENGLISH.encode(f" Define {f} as q; so q = 11 * T = 11 * 13 = 5.")
    cases = [
        ([*steps, W.ANSWER, n + 13, W.EOS], ENDED, True, True, True),
        ([*steps, W.ANSWER, n + 13, W.EOS, W.EOS, 9], ENDED, True, True, True),
        ([*steps, W.ANSWER, n + 12, W.EOS], ENDED, False, False, False),
        ([*steps, W.EOS], ENDED, False, False, True),
        ([*steps, W.ANSWER, W.EOS], ENDED, False, False, False),
        ([*steps, W.ANSWER, n + 13], NEVER, True, False, True),
        ([*steps, W.ANSWER, n + 13, W.PAD, W.EOS], NEVER, True, False, True),
        ([*steps, W.ANSWER, n + 13, n + 13, W.EOS], LATE, True, False, True),
        (steps, NEVER, False, False, True),
        (steps[:-1], NEVER, False, False, True),
        ([*steps, *extra, W.ANSWER, n + 13, W.EOS], LATE, True, False, False),
        ([*steps, *steps, W.ANSWER, n + 13, W.EOS], LATE, True, False, False),
        ([*ENGLISH.encode(one), W.ANSWER, n + 13, W.EOS], EARLY, True, False, False),
        ([W.ANSWER, n + 13, W.EOS], EARLY, True, False, False),
        ([], NEVER, False, False, False),
    ]
    wrong = [*steps, W.ANSWER, n + 12]
    cases += [  # a revised answer counts, behind the last verdict on an answer
        ([*wrong, W.WRONG, *steps, W.ANSWER, n + 13, W.EOS], ENDED, True, True, True),
        ([*wrong, W.WRONG, *wrong, W.WRONG, *steps, W.ANSWER, n + 13, W.EOS], ENDED, True, True, True),
        ([*steps, W.ANSWER, n + 13, W.RIGHT, *wrong, W.EOS], ENDED, False, False, False),
        ([*wrong, W.EOS, W.WRONG, *steps, W.ANSWER, n + 13, W.EOS], ENDED, False, False, False),
        ([W.WRONG, *steps, W.ANSWER, n + 13, W.EOS], ENDED, True, False, False),
    ]
    for tokens, ending, answer, right, published in cases:
        verdicts = judge(problem, ENGLISH, tokens)
        found = verdicts.ending[0], verdicts.answer_right[0], verdicts.right[0], verdicts.published[0]
        assert found == (ending, answer, right, published), (ENDINGS[ending], tokens[-4:])
    assert kinds(judge(problem, ENGLISH, steps[:-1])) == ["right", "malformed"]
    revised = judge(problem, ENGLISH, cases[-5][0])
    assert revised.start[0, 0] == len(wrong) + 1 and revised.stop[0, 1] == len(wrong) + 1 + len(steps)


def test_published_leniencies_pass_there_and_only_there():
    problem, one, two, (k, f, _) = example_a()
    owner = k.split("'")[0]
    wrong_leaf = f" Define {f} as q; so q = 12 * T = 12 * 13 = 18."
    no_edge = f" Define {owner}'s Happy Cart as q; so q = 7."
    for text, kind in (
        (one + no_edge + two, "unknown parameter"),
        (one + two.replace("4 + k = 4 + 9 = 13", "k + 4 = 9 + 4 = 13"), "right"),
        (one + two[:-1], "malformed"),
        (one + two.replace("4 + k = 4 + 9", "k - 19 = 9 - 19"), "wrong constant or operator"),
    ):
        verdicts = check_text(problem, ENGLISH, text, 13)
        assert verdicts.published[0] and kind in kinds(verdicts), text
        assert verdicts.right[0] == (kind == "right")
    # an unneeded leaf with a wrong constant, in another problem: here it may not follow the query
    assert not check_text(problem, ENGLISH, one + two + wrong_leaf, 13).published[0]


def test_a_total_without_parts_is_zero():
    hill, row, cart, basket = "Maple Hill", "Oak Row", "Happy Cart", "Green Basket"
    a, total = f"{hill}'s {cart}", f"{row}'s Supermarket"
    parameters = [parameter(a, 3, 3, needed=False), parameter(total, 0, kind="abstract")]
    problem, _ = make([("District", [hill, row]), ("Supermarket", [cart, basket])], parameters, total, 0, [total])
    assert check_text(problem, ENGLISH, f" Define {total} as f; so f = 0.", 0).right[0]
    wrong = check_text(problem, ENGLISH, f" Define {total} as f; so f = 3.", 0)
    assert kinds(wrong) == ["wrong value"] and not wrong.published[0] and not wrong.right[0]


def test_spans_point_at_the_step_in_tokens_and_in_text():
    problem, one, two, _ = example_a()
    tokens, text = respond(ENGLISH, one + two, 13), one[1:] + " Nonsense!." + two
    by_token, by_text = judge(problem, ENGLISH, tokens), check_text(problem, ENGLISH, text)
    assert [ENGLISH.decode(tokens[a:b]) for a, b in zip(by_token.start[0], by_token.stop[0], strict=True)] == [one, two]
    assert [text[a:b] for a, b in zip(by_text.start[0], by_text.stop[0], strict=True)] == [one[1:], " Nonsense!.", two]


@settings(max_examples=20)
@given(st.text(" .;=Define askTBACK'0123-+*<eos>\n\x00é漢\ud800", max_size=80), st.none() | st.integers(-3, 99))
def test_no_text_raises(text, answer):
    problem, one, two, _ = example_a()
    for whole in (text, one + text, one + text + two, text + one + two, one + two + text):
        verdicts = check_text(problem, ENGLISH, whole, answer)
        said, right = " ".join(whole.partition("<eos>")[0].split()), (one + two).strip()
        assert verdicts.right[0] == (
            (said == right and answer in (None, 13)) or (said, answer) == (f"{right} 13", None)
        )


def test_an_answer_of_any_kind_is_judged():
    problem, one, two, _ = example_a()
    for answer in (12, 36, -10, 10**30, 13.0, "13", True, [13]):
        verdicts = check_text(problem, ENGLISH, one + two, answer)
        assert not verdicts.right[0] and verdicts.ending[0] == ENDED, answer
    assert check_text(problem, ENGLISH, one + two, np.int32(13)).right[0]


def test_a_terse_world_that_writes_few_phrases_is_judged_alike():
    problem, one, two, _ = example_a()
    start, end = [W.DEFINE, W.AS, W.SO], [W.STOP, W.SO, W.AS]
    for silent in (start, [*start, W.SEMICOLON, W.IS], [W.STOP, W.DEFINE], end):
        phrases = ENGLISH.phrases.copy()
        phrases[silent] = -1
        fields = {name: getattr(ENGLISH, name) for name in ENGLISH.__dataclass_fields__}
        world = W.World(**(fields | {"phrases": phrases}))
        gone = {int(ENGLISH.phrases[s]) for s in silent}
        right = [x for x in respond(ENGLISH, one + two, 13) if x not in gone]
        wrong = [x for x in respond(ENGLISH, one + two.replace("13", "14"), 13) if x not in gone]
        assert judge(problem, world, right).right[0], silent
        assert kinds(judge(problem, world, wrong)) == ["right", "wrong arithmetic"]
        assert kinds(judge(problem, world, [x for x in right if world.decode([x]) != " T"])) == ["right", "malformed"]
