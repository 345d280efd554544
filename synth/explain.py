"""What the exact oracle says of solutions, token by token: `python -m synth.explain FILE.jsonl`.

Each line of the file is a JSON record of a problem with a solution's text in it, as for `synth.check`: the generator's
own, or a model's. For every place where more than one token could come, or where a token came that could not, it shows
the token written, its probability and what else could have come; then the solution's probability and its entropy. The
options say how the solutions are distributed; what concerns the problem is read from the record.
"""

import math

import numpy as np

from synth import cli
from synth.cli import rate, share, whole_number

EXAMPLE = """examples:
  python -m synth.generate --ops 4 --count 1 --out - | python -m synth.explain -
  python -m synth.generate --ops 4 --retry-rate 0.3 --count 1 --out - | python -m synth.explain - --retry-rate 0.3
  python -m synth.explain rollouts.jsonl --field completion --policy correct --retry-rate 0.3"""
SHOWN = 4  # alternatives of a token


def explain(oracle, problem, text: str) -> str:
    """The oracle's account of one solution text for a batch of one; ValueError when it is no text of the world."""
    from synth.oracle.next_token import ABSTAINED, EXACT, STATUSES

    world = oracle.world
    tokens = np.array(world.encode(text), dtype=np.int64)
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
        if not others and not said:
            continue
        rest = ", ".join(f"{world.vocabulary[i].strip()} {p:.3g}" for i, p in others[:SHOWN])
        more = f", and {len(others) - SHOWN} more" if len(others) > SHOWN else ""
        beside = f"   else {rest}{more}" if rest else ""
        lines.append(f"  {t:4d} {chance}  {world.vocabulary[token].strip():24s}{said}{beside}")
    possible = np.isfinite(logp).all()
    total = (
        f"log-probability {logp.sum():.3f}" if possible else f"impossible at token {int(np.argmin(np.isfinite(logp)))}"
    )
    return "\n".join([*lines, f"  {len(tokens)} tokens, {total}, entropy along it {entropy.sum():.3f} nats"])


def build_parser() -> cli.Parser:
    parser = cli.Parser("synth.explain", __doc__, EXAMPLE)
    parser.add_argument("file", metavar="FILE", help="JSON lines, or - for standard input")
    parser.add_argument("--field", default="solution", help="the key of the text to explain (default: solution)")
    parser.add_argument(
        "--policy", choices=("continue", "correct", "abstain"), default="continue",
        help="what to say after something impossible (default: continue, believe what is written)",
    )  # fmt: skip
    parser.add_argument("--retry-rate", type=rate, default=0.0, help="rate of inserted mistakes (default 0)")
    parser.add_argument("--retry-kind", choices=("retry", "weak", "miss", "slip"), default="retry")
    parser.add_argument("--uncorrected", type=share, default=0.0, help="share of slips left standing (default 0)")
    parser.add_argument("--world", metavar="FILE", help="the file of the records' world, where it is not shipped")
    parser.add_argument("--letter-order", choices=("random", "ordered"), default="random")
    parser.add_argument(
        "--letters", type=whole_number(1, 104), default=52, help="how many letters the world has (default 52)"
    )
    parser.add_argument("--no-shortest", dest="shortest", action="store_false", help="unneeded steps are written too")
    return parser


def main(argv: list[str] | None = None) -> None:
    args = build_parser().parse_args(argv)
    if args.world:
        cli.require_world(args.world)
    records = cli.read_records(args.file)
    cli.use_plain_python(len(records) <= cli.PLAIN_PYTHON_UP_TO)
    from tqdm import tqdm

    from synth.oracle.next_token import Oracle
    from synth.spec import Spec

    names = ("retry_rate", "retry_kind", "uncorrected", "letter_order", "letters", "shortest")
    settings = {name: getattr(args, name) for name in names}
    lines = []
    for number, record in tqdm(records, unit="record", delay=2, disable=None, leave=False):
        try:
            problem, world, text = cli.problem_and_text(record, args.field, args.world)
            spec = Spec(modulus=world.modulus, ops=1, **settings)
            account = explain(Oracle(spec, args.policy, world), problem, text)
        except ValueError as error:
            cli.fail(f"{cli.name_of(args.file)} line {number}: {error}")
        lines += [str(record.get("id", f"line {number}")), account]
    cli.print_lines(lines)


if __name__ == "__main__":
    main()
