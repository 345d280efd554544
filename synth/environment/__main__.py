"""Problems as prompts for any language model: `python -m synth.environment --preset med --ops 8`.

Without --out it shows the prompts of some tasks. `--out tasks.jsonl` (or -) writes one task a line: prompt, completion
(a right response), answer, ops and record; put a model's text under `response` and `python -m synth.check tasks.jsonl
--field response` judges it. `--lm-eval FOLDER` writes a task of lm-evaluation-harness.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

from synth import cli
from synth.exit_codes import run_command

EXAMPLE = """examples:
  python -m synth.environment --preset tiny                            look at a prompt
  python -m synth.environment --preset med --ops 8 --count 500 --out tasks.jsonl
  python -m synth.environment --preset tiny --form native --count 200 --lm-eval tasks/    for a model of the zoo"""


def main(argv: list[str] | None = None) -> None:
    args = cli.command_parser("environment", __doc__, EXAMPLE).parse_args(argv)
    names = ("ops", "edges", "modulus", "retry_rate", "retry_kind", "missing_premise", "world")
    settings = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    if args.exact_ops:
        settings["exact_ops"] = True
    if args.lm_eval and args.out:
        cli.fail(f"--lm-eval {args.lm_eval} is not possible with --out; accepted: one of the two")
    cli.use_plain_python(args.count <= cli.PLAIN_PYTHON_UP_TO)
    from synth.environment.tasks import environment

    tasks = environment(args.preset, seed=args.seed, split=args.split, examples=args.examples, form=args.form,
                        reading=args.reading, **settings)  # fmt: skip
    if args.lm_eval:
        from synth.environment.lm_eval_adapter import write_task

        tasks[0]  # so that settings without a problem are refused now
        print(write_task(Path(args.lm_eval), f"igsm_{args.preset}", tasks, args.preset, settings, args.count))
    elif args.out:
        write(args.out, tasks, args.start, args.count)
    else:
        show(tasks, args.start, args.count)


def show(tasks: Any, start: int, count: int) -> None:
    """Prints prompts and right responses."""
    for task in tasks.tasks(start, start + count):
        prompt = task.prompt if isinstance(task.prompt, str) else task.prompt[-1]["content"]
        print(f"--- task {task.index}: prompt\n{prompt}\n--- a right response\n{task.completion}\n")


def write(out: str, tasks: Any, start: int, count: int) -> None:
    """Writes tasks as JSON lines."""
    from synth.kernel.progress import Progress
    from synth.store.files import atomic_path

    def line(task: Any) -> str:
        row = {"prompt": task.prompt, "completion": task.completion, "answer": task.answer, "ops": task.record["ops"]}
        return json.dumps(row | {"record": task.record}, ensure_ascii=False) + "\n"

    made = map(line, Progress(tasks.tasks(start, start + count), total=count, desc="written", unit=" tasks", delay=2))
    if out in ("-", os.devnull):
        sys.stdout.writelines(made)
        return
    cli.require_new("out", Path(out))
    with atomic_path(Path(out)) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.writelines(made)


if __name__ == "__main__":
    sys.exit(run_command(main))
