"""Which target the student is compared with: the teacher part of a method. Model x context x transform.

Teacher and student are aligned by response position, never by column: a sequence's output at column prompt + t - 1
predicts response token t, so a teacher may read a longer prompt and still score the same tokens. Targets never carry
gradient.

Some teachers are copies of the student that change with it: a moving average, a copy that is renewed. They do so in
`follow`, which is called before the batch of step k is drawn, after k updates of the student; checkpoints hold them. So
a run that was killed and resumed scores step k by the same weights as one that was not.

Legend: B rows, T columns, R response columns, N response positions, n some of them, C channels, V vocabulary.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import field, replace
from typing import Any

import torch
from torch import Tensor, nn

from models.branches import branched_hidden, repeated_prompts
from models.gpt import GPT, has_hooks
from synth.contexts.context_tokens import parse
from synth.ranges import Positive, settings
from synth.spec import Spec
from train.config.schema import Choice
from train.core.budget_and_ledger import forward_flops
from train.opd.log_probs import LogProbs, Targets, next_token_log_probs
from train.opd.rollout_batch import Rollouts, positions
from train.opd.teacher.transforms import Identity, Transform


def frozen(model: GPT) -> GPT:
    """The model in evaluation mode with all gradients off."""
    return model.eval().requires_grad_(False)


class HiddenStates(nn.Module):
    """A model's hidden states at response positions, as a module whose gradients processes can average."""

    def __init__(self, model: GPT) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens_BT: Tensor, prompt_B: Tensor, length_B: Tensor) -> Tensor:
        """[N, C], N = length_B.sum(), row after row: what the unembedding reads to predict the next token there.

        The last column, which predicts nothing that is scored, is not read at all.

        Args:
            tokens_BT: int64, prompt and response, padded on the right.
            prompt_B, length_B: tokens of this model's prompt and of the response.
        """
        branches = repeated_prompts(self.model, tokens_BT, prompt_B, length_B)
        if branches is not None and not has_hooks(self.model):
            return branched_hidden(self.model, branches)
        row_N, time_N = positions(length_B)
        at_N = row_N * (tokens_BT.shape[1] - 1) + prompt_B[row_N] - 1 + time_N
        return self.model.hidden(tokens_BT[:, :-1], at_N=at_N)


@torch.no_grad()
def log_probs_of(model: GPT, tokens_BT: Tensor, prompt_B: Tensor, length_B: Tensor) -> LogProbs:
    """A model's log-probabilities of the next token at response positions, made without gradient when asked for."""
    hidden_NC, unembedding_VC = HiddenStates(model)(tokens_BT, prompt_B, length_B), model.unembedding
    return torch.no_grad()(lambda at: next_token_log_probs(hidden_NC[at], unembedding_VC))


def log_probs_with_context(model: GPT, rollouts: Rollouts) -> LogProbs:
    """The model's log-probabilities of the responses, given what a teacher reads before them."""
    return log_probs_of(model, *rollouts.with_contexts(), rollouts.length_B)


def gathered(sources: Sequence[LogProbs], which_N: Tensor, place_N: Tensor) -> LogProbs:
    """Position i has the log-probabilities of `sources[which_N[i]]`, at that source's own position `place_N[i]`."""

    def at(block: slice) -> Tensor:
        which_n, place_n = which_N[block], place_N[block]
        used = which_n.unique().tolist()
        found = torch.cat([sources[i](place_n[which_n == i]) for i in used])
        order_n = torch.cat([(which_n == i).nonzero().squeeze(1) for i in used])
        return torch.empty_like(found).index_copy_(0, order_n, found)

    return torch.no_grad()(at)


class ScoringModel:
    """What scores the responses. models: its frozen checkpoints, none where it has no parameters of its own. choice:
    how it was chosen among several, for the run folder."""

    choice: Mapping[str, Any] | None = None

    def __init__(self, *models: GPT) -> None:
        self.models = [frozen(model) for model in models]

    def follow(self, student: GPT, step: int) -> None:
        """Called before every step with the student's weights of that moment."""

    @abstractmethod
    def log_probs(self, rollouts: Rollouts, student: GPT) -> LogProbs:
        """Log-probabilities at the response positions, without gradient."""

    def has_target(self, rollouts: Rollouts) -> Tensor | None:
        """bool[B, R]: where there is a target at all; None: everywhere."""
        return None

    def readers(self, rollouts: Rollouts, student: GPT) -> list[tuple[GPT, Tensor]]:
        """The models that read these rows, and bool[B] which rows each reads, for the ledger."""
        every_B = torch.ones_like(rollouts.prompt_B, dtype=torch.bool)
        return [(model, every_B) for model in self.models]

    def writers(self, rollouts: Rollouts, student: GPT) -> list[tuple[GPT, Tensor]]:
        """The models that could continue these rows, and bool[B] which each would; a row of none has no such model."""
        return self.readers(rollouts, student)

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        pass


class Frozen(ScoringModel):
    """One model that never changes: an external checkpoint, or the student at step 0."""

    def log_probs(self, rollouts: Rollouts, student: GPT) -> LogProbs:
        return log_probs_with_context(self.models[0], rollouts)


class Route(Choice):
    """Which of several teachers scores a response. chooses: one for all of them, by problems of the data's world."""

    chooses = False

    @abstractmethod
    def models(self, checkpoints: Sequence[GPT], student: GPT, spec: Spec | None) -> ScoringModel:
        """Raises ValueError when the number of checkpoints is not that of the route."""


class TeacherConfig(Choice):
    """Whose distribution is the target. context: what the teacher reads beyond the student's prompt, none or a recipe
    of `synth.contexts.context_tokens` such as success2+failure1; of several with / between them the first at hand.
    transform: what is made of its distribution. route: between several external teachers.

    is_self: whether the student teaches itself. one_model: whether a single frozen model stands behind it. trained: the
    share of the loss in which it learns itself.
    """

    context = contrast = "none"
    contrasts = 1
    transform: Transform = Identity()
    route: Route | None = None
    is_self = False
    one_model = False
    trained = 0.0

    @abstractmethod
    def scoring_model(self, student: GPT, checkpoints: Sequence[GPT], spec: Spec | None) -> ScoringModel | None:
        """What scores the responses.

        Args:
            student: as it is at step 0.
            checkpoints: the external teachers, in the order of `teacher` and `teachers`.
            spec: of the data, for the oracle.
        Raises ValueError when the number of checkpoints is wrong, or the oracle has no closed form.
        """


@settings
class ReadingTeacher(TeacherConfig):
    """A model that reads a prompt, and may read a context before it. contrast: another one that it is asked with, too,
    `contrasts` times, for outcomes that compare both (RLCSD)."""

    context: str = "none"  # recipe of what the teacher reads beside the prompt
    transform: Transform = field(default_factory=Identity)
    contrast: str = "none"
    contrasts: Positive = 4  # other contexts whose scores are compared with it

    def __post_init__(self) -> None:
        for recipe in (*self.context.split("/"), self.contrast):
            parse(recipe)


class Teacher:
    """What scores the responses: a scoring model and its transform, and where asked for the student at step 0.

    model: None where the method has no teacher. reference: None where nothing needs the student at step 0. old: the
    student as it drew a batch that is used again, where something needs its whole distribution.
    """

    def __init__(
        self,
        config: TeacherConfig,
        model: ScoringModel | None,
        reference: GPT | None = None,
        old: ScoringModel | None = None,
    ) -> None:
        self.config, self.model, self.old = config, model, old
        self.reference = None if reference is None else frozen(reference)
        self.choice: Mapping[str, Any] | None = None  # of the model, among several

    def follow(self, student: GPT, step: int) -> None:
        """Called before every step."""
        for model in filter(None, (self.model, self.old)):
            model.follow(student, step)

    def targets(self, rollouts: Rollouts, student: GPT) -> Targets:
        """Log-probabilities of target, reference and old student at the response positions, without gradient; None
        where there is none."""
        teacher = reference = None
        old = None if self.old is None else self.old.log_probs(replace(rollouts, context=()), student)
        if self.reference is not None:
            reference = log_probs_of(self.reference, rollouts.tokens_BT, rollouts.prompt_B, rollouts.length_B)
        if self.model is not None:
            teacher = self._transformed(self.model.log_probs(rollouts, student), reference)
        return teacher, reference, old

    def _transformed(self, teacher: LogProbs, reference: LogProbs | None) -> LogProbs:
        transform = self.config.transform
        first = reference if transform.needs_reference else None
        return torch.no_grad()(lambda at: transform(teacher(at), None if first is None else first(at)))

    def has_target(self, rollouts: Rollouts) -> Tensor | None:
        """bool[B, R]: where there is a target; None: everywhere. A row whose context stayed empty has none."""
        has_target_BR = None if self.model is None else self.model.has_target(rollouts)
        if self.config.context == "none":
            return has_target_BR
        has_context_BR = rollouts.has_context_B[:, None].expand(rollouts.trainable_BR.shape)
        return has_context_BR if has_target_BR is None else has_target_BR & has_context_BR

    def context_limit(self, student: GPT) -> int:
        """Tokens that all models read at most which may read a context."""
        models = [] if self.model is None else self.model.models
        return min([student.config.context, *(model.config.context for model in models)])

    def cost(self, rollouts: Rollouts, student: GPT) -> tuple[int, float]:
        """Tokens read and FLOPs spent to score these rows, contexts included; a row's last token is only a target."""
        bare_B = rollouts.prompt_B + rollouts.length_B
        context_B = torch.tensor([len(c) for c in rollouts.context or [()] * len(rollouts)], device=bare_B.device)
        readers = [] if self.model is None else self.model.readers(rollouts, student)
        lengths = [(model, (bare_B + context_B)[rows_B]) for model, rows_B in readers]
        old = [] if self.old is None else self.old.models
        lengths += [(model, bare_B) for model in [*old, *filter(None, [self.reference])]]
        tokens = sum(int(length_B.sum()) for _, length_B in lengths)
        return tokens, sum((forward_flops(model.config, length_B - 1) for model, length_B in lengths), 0.0)

    def state_dict(self) -> dict[str, Any]:
        own = {} if self.model is None else self.model.state_dict()
        return own if self.old is None else own | {"old": self.old.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if self.model is not None:
            self.model.load_state_dict(state)
        if self.old is not None:
            self.old.load_state_dict(state["old"])
