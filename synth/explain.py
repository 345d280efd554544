"""What the exact oracle says of solutions, token by token: `python -m synth.explain FILE.jsonl`.

Each line of the file is a JSON record of a problem with a solution's text in it, as for `synth.check`: the generator's
own, or a model's. For every place where more than one token could come, or where a token came that could not, it shows
the token written, its probability and what else could have come; then the solution's probability and its entropy. The
options say how the solutions are distributed; what concerns the problem is read from the record.
"""

import math
import sys
from typing import Any

import numpy as np

from synth import cli
from synth.exit_codes import run_command

EXAMPLE = """examples:
  python -m synth.generate --ops 4 --count 1 --out - | python -m synth.explain -
  python -m synth.generate --ops 4 --retry-rate 0.3 --count 1 --out - | python -m synth.explain - --retry-rate 0.3
  python -m synth.explain rollouts.jsonl --field completion --policy correct --retry-rate 0.3"""
SHOWN = 4  # alternatives of a token


def explain(oracle, problem, text: str) -> str:
    """The oracle's account of one solution text for a batch of one; ValueError when it is no text of the world."""
    from synth.judge.check_text import judged_tokens
    from synth.oracle.next_token import ABSTAINED, EXACT, STATUSES

    world = oracle.world
    tokens = np.array(judged_tokens(text, world)[0], dtype=np.int64)
    if tokens.min(initial=0) < 0:
        world.encode(text)
    expected = oracle(problem, [tokens])
    logp, entropy = expected.logp(np.append(tokens, 0))[:-1], expected.entropy()[:-1]
    lines = []
    for t, token in enumerate(tokens):
        ids, probs = expected.at(t)
        others = [(int(ids[k]), probs[k]) for k in np.argsort(-probs, kind="stable") if ids[k] != token]
        if expected.status[t] == EXACT and not others:
            continue
        chance = f"{math.exp(logp[t]):8.4f}" if expected.status[t] != ABSTAINED else "       ?"
        said = "" if expected.status[t] == EXACT else f"  ({STATUSES[expected.status[t]]})"
        rest = ", ".join(f"{world.vocabulary[i].strip()} {p:.3g}" for i, p in others[:SHOWN])
        more = f", and {len(others) - SHOWN} more" if len(others) > SHOWN else ""
        beside = f"   else {rest}{more}" if rest else ""
        lines.append(f"  {t:4d} {chance}  {world.vocabulary[token].strip():24s}{said}{beside}")
    impossible = np.flatnonzero(~np.isfinite(logp))
    total = f"impossible at token {impossible[0]}" if len(impossible) else f"log-probability {logp.sum():.3f}"
    return "\n".join([*lines, f"  {len(tokens)} tokens, {total}, entropy along it {entropy.sum():.3f} nats"])


def main(argv: list[str] | None = None) -> None:
    args = cli.command_parser("explain", __doc__, EXAMPLE).parse_args(argv)
    names = ("retry_rate", "retry_kind", "uncorrected", "letter_order", "letters", "shortest")
    settings = {name: getattr(args, name) for name in names}

    def account(name: str, record: dict, world: Any, text: str) -> str:
        from synth.oracle.next_token import Oracle
        from synth.problem.records import read_record
        from synth.spec import Spec

        spec = Spec(modulus=world.modulus, ops=1, **settings)
        return f"{name}\n{explain(Oracle(spec, args.policy, world), read_record(record, world), text)}"

    cli.print_lines(
        [account(*entry) for entry in cli.records_and_texts(args, cli.PLAIN_PYTHON_UP_TO, "oracle.next_token")]
    )


if __name__ == "__main__":
    sys.exit(run_command(main))
