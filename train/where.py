"""Where the distance to the oracle sits: KL by kind of token and by operations, in nats a document.

    python -m train.where checkpoint=RUN data=six problems=1024

owner, thing: the name after `Define`, which is the plan. new letter: one that the solution has not used; old letter:
one that it has. number: of the world's modulus. other: everything else of a response.
"""

import sys
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F

from models.gpt import GPT
from synth.dataset import Source
from synth.oracle import Oracle
from synth.world import DEFINE
from train import checkpoint
from train.config import REQUIRED, plain, run_entry
from train.data import DataConfig, check_world, collate
from train.machine import set_up
from train.rundir import Out, open_run

KINDS = ("owner", "thing", "new letter", "old letter", "number", "other")


@dataclass(frozen=True)
class WhereConfig:
    """Settings of the command."""

    checkpoint: str = REQUIRED
    data: DataConfig = field(default_factory=DataConfig)
    problems: int = 1024
    out: Out = field(default_factory=lambda: Out("runs/where", "where"))


@torch.no_grad()
def kl_by_kind(model: GPT, source: Source, indices: range, batch: int = 64) -> dict[str, dict[str, float]]:
    """{operations, or "all": {"documents", "tokens", and nats a document of every kind}}, phrase tokens only."""
    documents, world = source.documents(indices), source.world
    law, offsets, tokens = Oracle(source.spec).documents(documents), np.asarray(documents.offsets), documents.tokens
    kl, kind = np.zeros(len(tokens)), np.full(len(tokens), len(KINDS), dtype=np.int64)
    order = np.argsort(np.diff(offsets), kind="stable")
    for k in range(0, len(order), batch):
        rows = order[k : k + batch]
        logp = F.log_softmax(model(collate(documents, rows).tokens_BT[:, :-1]), -1).numpy()
        for m, i in enumerate(rows):
            begin, end = offsets[i] + documents.prompt[i], offsets[i + 1]
            kind[begin:end] = _kinds(tokens[begin - 1 : end], world)
            first, n = law.rows[i], end - begin
            inside = slice(law.starts[first], law.starts[first + n])
            at = np.repeat(np.arange(n), np.diff(law.starts[first : first + n + 1]))
            p, logq = law.p[inside], logp[m, documents.prompt[i] - 1 + at, law.ids[inside]]
            kl[begin:end] = np.bincount(at, p * (np.log(p) - logq), minlength=n)
    ops = documents.problems.ops
    of_token, found = np.repeat(ops, np.diff(offsets)), {}
    for name in ("all", *np.unique(ops).tolist()):
        here = kind < len(KINDS) if name == "all" else (kind < len(KINDS)) & (of_token == name)
        n = len(ops) if name == "all" else int((ops == name).sum())
        sums = np.bincount(kind[here], kl[here], minlength=len(KINDS)) / n
        found[str(name)] = {"documents": n, "tokens": int(here.sum()), **dict(zip(KINDS, sums.tolist(), strict=True))}
    return found


def _kinds(tokens: np.ndarray, world) -> np.ndarray:
    """The kind of every token but the first, which is `<solution>`."""
    seen: set[int] = set()
    kinds = np.full(len(tokens), KINDS.index("other"), dtype=np.int64)
    for i in range(1, len(tokens)):
        token = int(tokens[i])
        if world.first_letter <= token < world.first_letter + world.n_letters:
            kinds[i] = KINDS.index("old letter" if token in seen else "new letter")
            seen.add(token)
        elif world.first_number <= token < world.first_number + world.modulus:
            kinds[i] = KINDS.index("number")
        elif tokens[i - 1] == world.phrases[DEFINE]:
            kinds[i] = KINDS.index("owner")
        elif i > 1 and tokens[i - 2] == world.phrases[DEFINE]:
            kinds[i] = KINDS.index("thing")
    return kinds[1:]


def table(found: dict[str, dict[str, float]]) -> str:
    lines = [f"{'ops':>4} {'n':>6} {'nats':>8} " + " ".join(f"{k:>10}" for k in KINDS)]
    for name, row in found.items():
        total = sum(row[k] for k in KINDS)
        lines.append(f"{name:>4} {row['documents']:6} {total:8.3f} " + " ".join(f"{row[k]:10.3f}" for k in KINDS))
    return "\n".join(lines)


def main(config: WhereConfig) -> None:
    """Measures into a run folder; a complete one is left as it is."""
    set_up()
    check_world(checkpoint.notes(config.checkpoint), config.data, config.checkpoint)
    model, source = checkpoint.load_model(config.checkpoint), config.data.source("test", "evaluation")
    run = open_run(plain(config), {"checkpoint": checkpoint.digest(config.checkpoint)}, {"data": config.data.seed})
    if not run.complete:
        found = kl_by_kind(model, source, range(config.problems))
        run.write_json("summary.json", {"kl": found})
        print(table(found))
    print(run.path)


if __name__ == "__main__":
    sys.exit(run_entry("where", WhereConfig, main, __doc__ or ""))
