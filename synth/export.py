"""Documents as files: JSON lines, parquet, or token shards with a manifest and a data card.

Nothing half-written is left behind: everything is written under a temporary name and renamed at the end.
"""

import dataclasses
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from synth.context import recipes
from synth.dataset import Documents, Source
from synth.document import STEP_SEGMENT
from synth.problem import to_record
from synth.sections import CONTEXT, render
from synth.spec import Spec

CHUNK = 500  # documents made at a time
SHARD_ARRAYS = ("tokens", "segment", "step", "param", "mistake", "loss", "logp")


def spec_hash(spec: Spec) -> str:
    """Ten hex digits that name a spec."""
    return hashlib.blake2b(json.dumps(dataclasses.asdict(spec), sort_keys=True).encode(), digest_size=5).hexdigest()


def record(source: Source, documents: Documents, i: int, index: int) -> dict:
    """JSON record (design section 6) of document i of `documents`, whose index in the stream is `index`."""
    world, spec = source.world, source.spec
    span = slice(documents.offsets[i], documents.offsets[i + 1])
    tokens, segment = documents.tokens[span], documents.segment[span]
    problem = documents.problems.take(i)
    names = problem.slot_names()[0]
    mistakes = {}
    for step, slot, wrong in zip(documents.step[span], documents.param[span], documents.mistake[span], strict=True):
        if wrong:
            mistakes[int(step)] = {"step": int(step), "kind": spec.retry_kind, "parameter": world.name_of(*names[slot])}
    head = {
        "id": f"{spec_hash(spec)}-{source.seed}-{source.stream}-{source.split}-{index}",
        "problem": world.decode(tokens[: documents.prompt[i]][segment[: documents.prompt[i]] != CONTEXT]),
        "solution": world.decode(tokens[segment == STEP_SEGMENT]),
    }
    tail = {"mistakes": list(mistakes.values())}
    if spec.contexts:
        tail |= {"context": render(world, tokens[segment == CONTEXT]), "context_recipe": recipes(source, [index])[0]}
    return head | to_record(problem, world, spec.order) | tail


def records(source: Source, start: int, stop: int) -> Iterator[dict]:
    """Records of documents start..stop-1."""
    for first in range(start, stop, CHUNK):
        documents = source.documents(range(first, min(first + CHUNK, stop)))
        for i in range(len(documents)):
            yield record(source, documents, i, first + i)


def _lines(job: tuple[Spec, int, str, int, int]) -> list[str]:
    spec, seed, split, start, stop = job
    return [json.dumps(r, ensure_ascii=False) for r in records(Source(spec, seed, split), start, stop)]


def _arrays(job: tuple[Spec, int, str, int, int]) -> Documents:
    spec, seed, split, start, stop = job
    return Source(spec, seed, split).documents(range(start, stop))


def _map(function: Callable, spec: Spec, seed: int, split: str, start: int, stop: int, workers: int) -> Iterator:
    """`function` over the chunks of a stream, in order, in `workers` processes; a progress bar when it takes long."""
    from tqdm import tqdm

    jobs = [(spec, seed, split, first, min(first + CHUNK, stop)) for first in range(start, stop, CHUNK)]
    bar = tqdm(total=stop - start, unit="problem", delay=2, file=sys.stderr, disable=None)
    if workers == 1:
        for job in jobs:
            yield function(job)
            bar.update(job[4] - job[3])
    else:
        with get_context("spawn").Pool(workers) as pool:
            for job, result in zip(jobs, pool.imap(function, jobs), strict=True):
                yield result
                bar.update(job[4] - job[3])
    bar.close()


def write_lines(spec: Spec, seed: int, split: str, start: int, stop: int, workers: int, out: str) -> None:
    """JSON lines to a file, or to standard output when `out` is "-"."""
    chunks = _map(_lines, spec, seed, split, start, stop, workers)
    if out == "-":
        for chunk in chunks:
            sys.stdout.write("".join(line + "\n" for line in chunk))
        sys.stdout.flush()
        return
    with _replacing(Path(out)) as temporary, temporary.open("w", encoding="utf-8") as file:
        for chunk in chunks:
            file.writelines(line + "\n" for line in chunk)


def write_parquet(spec: Spec, seed: int, split: str, start: int, stop: int, workers: int, out: str) -> None:
    """The same records as one parquet file (extra `data`); nested fields stay JSON text."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with _replacing(Path(out)) as temporary:
        writer = None
        for chunk in _map(_lines, spec, seed, split, start, stop, workers):
            rows = [json.loads(line) for line in chunk]
            flat = [
                {k: json.dumps(v, ensure_ascii=False) if isinstance(v, list) else v for k, v in r.items()} for r in rows
            ]
            table = pa.Table.from_pylist(flat)
            writer = writer or pq.ParquetWriter(temporary, table.schema)
            writer.write_table(table)
        if writer:
            writer.close()


def write_shards(spec: Spec, seed: int, split: str, start: int, stop: int, workers: int, out: str) -> None:
    """Token shards: one `.npy` per truth array (readable by memory map), offsets, manifest.json and a data card."""
    with _replacing(Path(out)) as folder:
        folder.mkdir()
        parts = list(_map(_arrays, spec, seed, split, start, stop, workers))
        for name in SHARD_ARRAYS:
            np.save(folder / f"{name}.npy", np.concatenate([getattr(p, name) for p in parts]))
        lengths = np.concatenate([np.diff(p.offsets) for p in parts])
        np.save(folder / "offsets.npy", np.concatenate([[0], np.cumsum(lengths)]))
        np.save(folder / "prompt.npy", np.concatenate([p.prompt for p in parts]))
        (folder / "vocabulary.json").write_text(
            json.dumps(spec.load_world().vocabulary, ensure_ascii=False), encoding="utf-8"
        )
        hashes = {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in sorted(folder.iterdir())}
        manifest = {
            "spec": dataclasses.asdict(spec), "seed": seed, "split": split, "first": start, "documents": stop - start,
            "tokens": int(lengths.sum()), "sha256": hashes,
        }  # fmt: skip
        (folder / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
        (folder / "README.md").write_text(_card(manifest, parts), encoding="utf-8")


def _card(manifest: dict, parts: list[Documents]) -> str:
    """The data card, from the manifest."""
    ops = np.concatenate([p.problems.ops for p in parts])
    loss = sum(int(p.loss.sum()) for p in parts)
    floor = -sum(float(p.logp.sum()) for p in parts) / loss
    rows = "\n".join(f"| {k} | {int((ops == k).sum())} |" for k in np.unique(ops))
    return (
        "---\nlicense: mit\ntask_categories: [text-generation]\n---\n"
        f"# Synthetic grade-school maths: {manifest['documents']} problems, {manifest['tokens']} tokens\n\n"
        f"Split `{manifest['split']}`, seed {manifest['seed']}, entropy of the solutions {floor:.4f} nats per token. "
        "One `.npy` per array, aligned token by token; `offsets.npy` cuts documents, `prompt.npy` their prompts.\n\n"
        f"| operations | problems |\n|---|---|\n{rows}\n\n"
        f"Settings:\n\n```json\n{json.dumps(manifest['spec'], indent=2)}\n```\n"
    )


class _replacing:
    """Context: a temporary path beside `target`, renamed to it on success and removed on failure."""

    def __init__(self, target: Path) -> None:
        self.target = target
        self.temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")

    def __enter__(self) -> Path:
        return self.temporary

    def __exit__(self, kind, value, trace) -> None:
        if kind is None:
            self.temporary.rename(self.target)
        elif self.temporary.is_dir():
            shutil.rmtree(self.temporary)
        else:
            self.temporary.unlink(missing_ok=True)
