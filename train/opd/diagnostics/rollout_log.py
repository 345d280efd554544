"""Some rollouts of the training batches as text, so that a person can see what the student says as it is distilled.

`samples.jsonl`, one rollout a line: step (the weights' updates so far), index of the problem in the stream, ops,
answer, finished, finish_reason (`stop` or `length`), the problem's record, and the transcript with the checker's word
for each step. `python -m synth.check samples.jsonl` judges them again. Lines of steps that a resumed run repeats are
replaced.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from models.decode.sampling import finish_reason
from synth.store.encodings import Encoding
from synth.store.files import append_json_line, finite, last_json_line, read_json_lines, write_json_lines
from synth.world.vocabulary import World
from train.evaluation.evaluator import transcript
from train.opd.rollout_batch import ORIGINS, Rollouts


class SampleLog:
    """Called with every batch; writes every `every` steps (0: never) the first response to each of `count` prompts.
    index: the document of the stream at a place of the prompts."""

    def __init__(
        self, path: Path, world: World | Encoding, every: int, count: int, index: Callable[[int], int] = int
    ) -> None:
        self.path, self.world, self.every, self.count, self.index = path, world, every, count, index

    def __call__(self, step: int, rollouts: Rollouts) -> None:
        """`rollouts` is the batch of step `step`."""
        if self.every == 0 or self.count == 0 or step % self.every:
            return
        if self.path.exists() and last_json_line(self.path).get("step", step) >= step:
            write_json_lines(self.path, [line for line in read_json_lines(self.path) if line["step"] < step])
        for record in self.records(step, rollouts):
            append_json_line(self.path, finite({"step": step} | record), durable=False)

    def records(self, step: int, rollouts: Rollouts) -> list[dict[str, Any]]:
        """The chosen rollouts as JSON; none where the batch is gold documents."""
        group_B = rollouts.group_B.cpu().numpy()
        rows = np.unique(group_B, return_index=True)[1][: self.count]
        sampled_B = (rollouts.origin_B != ORIGINS.index("gold")).cpu().numpy()
        tokens_BT, finished_B = rollouts.tokens_BT.cpu().numpy(), rollouts.finished_B.cpu().numpy()
        prompt_B, length_B = rollouts.prompt_B.cpu().numpy(), rollouts.length_B.cpu().numpy()
        records = []
        for row in rows[sampled_B[rows]].tolist():
            prompt, response = np.split(tokens_BT[row, : prompt_B[row] + length_B[row]], prompt_B[row : row + 1])
            if rollouts.context:
                prompt = np.array([*rollouts.context[row], *prompt])
            facts = {
                "index": self.index(rollouts.first + int(group_B[row])),
                "ops": int(rollouts.problems.ops[row]),
                "answer": int(rollouts.problems.answer[row]),
                "finished": bool(finished_B[row]),
                "finish_reason": finish_reason(bool(finished_B[row])),
            }
            problem = rollouts.problems.take(row)
            records.append(facts | transcript(self.world, prompt, response, rollouts.verdicts, row, problem))
        return records
