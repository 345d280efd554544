"""A method: one choice for each of the six parts.

    loss = lam_D(t) 1/Z sum_it w_it D(T[p]_it, q_it)  +  sum_j lam_j Reg_j  +  lam_R(t) Outcome

Nothing here knows a method by name. `also` holds further distillation terms on the same batch, each with a divergence
and weights of its own; `fork` looks into the future of high-loss tokens (`topd.py`).
"""

from collections.abc import Sequence
from dataclasses import field, replace
from typing import Any, ClassVar, Literal

from synth.ranges import AboveZero, settings
from train.opd.divergence.interface_and_topk import Divergence, NoDivergence
from train.opd.divergence.kl_and_jsd import ReverseKL
from train.opd.divergence.sampled_kl import PolicyGradient, TopKPolicyGradient
from train.opd.log_probs import OF_TEACHER
from train.opd.loss_terms import Extension
from train.opd.outcome.outcome import TRRD, GroupOutcome, NoOutcome, OutcomeConfig
from train.opd.regularizer import GoldLikelihood, RegularizerConfig
from train.opd.schedule import Schedule
from train.opd.source.rollout_sampling import Sampler, StudentSampler
from train.opd.teacher.context import PEERS, sections
from train.opd.teacher.external_and_oracle import ExternalTeacher, NoTeacher, OracleTeacher
from train.opd.teacher.teacher import TeacherConfig
from train.opd.teacher.transforms import Identity, MixWithUniform
from train.opd.topd import LookAhead
from train.opd.trained_reader import TrainedReader
from train.opd.weight.weight import WeightConfig

OFF_POLICY = "a source whose tokens another distribution drew (source, its temperature, top_p or reuse)"


@settings
class Term:
    """One distillation term: `coefficient` times the weighted divergence; schedule: in place of the method's."""

    divergence: Divergence
    weight: WeightConfig = field(default_factory=WeightConfig)
    coefficient: AboveZero = 1.0  # of this term
    schedule: Schedule | None = None

    def __post_init__(self) -> None:
        if isinstance(self.divergence, NoDivergence):
            raise ValueError("also.divergence=none adds nothing; accepted: a divergence, or no entry in also")


@settings
class Method:
    """A point in the space of six parts. Refuses combinations in which a setting has no effect or a wrong one.

    coefficient: of the first distillation term. schedule: of the distillation terms. judge: what counts as right, for
    rewards, weights and contexts: the final answer, as papers have it, or `strict`, every step, too (ours).

    deviates: where and why it is not what its paper says or its authors released.
    faithful: paper | release, which of the two it follows where they differ; `release` and `paper` hold what the other
    form has in place of the parts, so that `method.faithful=release` on a command line is the other form.
    """

    form: ClassVar = "faithful"

    name: str  # of the method
    source: Sampler = field(default_factory=StudentSampler)
    teacher: TeacherConfig = field(default_factory=ExternalTeacher)
    divergence: Divergence = field(default_factory=ReverseKL)
    weight: WeightConfig = field(default_factory=WeightConfig)
    regularizer: RegularizerConfig = field(default_factory=RegularizerConfig)
    outcome: OutcomeConfig = field(default_factory=NoOutcome)
    also: list[Term] = field(default_factory=list)  # further distillation terms on the same batch
    coefficient: AboveZero = 1.0
    schedule: Schedule | None = None
    fork: LookAhead | None = None
    judge: Literal["answer", "strict"] = "answer"
    deviates: str = ""
    faithful: Literal["paper", "release"] | None = None
    release: dict[str, Any] = field(default_factory=dict)  # what the released form has in place of the parts
    paper: dict[str, Any] = field(default_factory=dict)  # what the published form has in place of the parts

    def __post_init__(self) -> None:
        if self.faithful is not None and not (self.release or self.paper):
            raise ValueError(f"method.faithful={self.faithful}: this method has one form; accepted: null")
        self._check_teacher()
        self._check_oracle()
        self._check_context()
        self._check_sampling()
        self._check_outcome()
        self._check_groups()
        self._check_terms()

    def _check_teacher(self) -> None:
        kind, teacher, scored = self.divergence.kind, self.teacher, self.scores
        samples = self.source.model == "teacher"
        if (scored or samples) and isinstance(teacher, NoTeacher):
            what = f"source={self.source.kind}" if samples else self._what_scores()
            raise ValueError(f"teacher=none: {what} needs a teacher; accepted: external, oracle, init, ...")
        if not (scored or samples) and not isinstance(teacher, NoTeacher):
            raise ValueError(
                f"teacher={teacher.kind} has no effect with divergence={kind} and source={self.source.kind}; "
                "accepted: none"
            )
        if not scored and teacher.transform != Identity():
            raise ValueError(
                f"teacher.transform={teacher.transform.kind} has no effect with divergence={kind}; accepted: identity"
            )
        if not getattr(teacher.transform, "normalised", True) and not all(t.divergence.sampled for t in self.terms):
            raise ValueError(
                f"teacher.transform.normalised=false is no distribution, which divergence={kind} needs; accepted: "
                "true, or a sampled divergence: rkl_pg"
            )
        if not scored and teacher.context != "none":
            raise ValueError(f"teacher.context={teacher.context} has no effect with divergence={kind}; accepted: none")
        if samples and not teacher.one_model:
            raise ValueError(
                f"source={self.source.kind} samples from one frozen teacher, and teacher={teacher.kind}, teacher.route="
                f"{teacher.route.kind if teacher.route else 'null'}; accepted: external or init, null (of the oracle: "
                "source=gold)"
            )

    def _check_oracle(self) -> None:
        if not isinstance(self.teacher, OracleTeacher) or isinstance(self.teacher.transform, MixWithUniform):
            return
        endless = [term.divergence.kind for term in self.terms if not term.divergence.bounded]
        if endless or self.outcome.modulate or self.weight.needs & {"rkl", "log_p"}:
            raise ValueError(
                f"teacher=oracle rules tokens out, which {(endless or ['the weights'])[0]} cannot bear; "
                "accepted: fkl, jsd, skew_fkl, skew_rkl, or teacher.transform=mix"
            )

    def _what_scores(self) -> str:
        if self.divergence.needs_teacher:
            return f"divergence={self.divergence.kind}"
        return f"outcome.modulate={self.outcome.modulate.kind}" if self.outcome.modulate else "a further term or weight"

    def _check_context(self) -> None:
        context, source = self.teacher.context, self.source
        if any("success" in term.weight.names for term in self.terms) and "success" not in sections(context):
            raise ValueError(
                f"weight.sample=success: teacher.context={context} shows no right peers; accepted: success1"
            )
        contrast = self.teacher.contrast
        if "log_p_contrast" in self.outcome.needs and "none" in (context, contrast):
            raise ValueError(f"outcome={self.outcome.kind} compares teacher.context and contrast; accepted: both")
        if "log_p_contrast" not in self.outcome.needs and contrast != "none":
            raise ValueError(f"teacher.contrast={contrast}: outcome={self.outcome.kind} reads none; accepted: none")
        if context == "none":
            return
        if not source.one_solution:
            raise ValueError(f"source={source.kind} already holds a context; accepted: teacher.context=none")
        others = 1 if contrast == "none" else 2  # beside the one that is scored
        if (sections(context) | sections(contrast)) & PEERS and source.samples <= others:
            raise ValueError(
                f"teacher.context={context} shows the other responses to the same prompt; accepted: source.samples "
                f"above {others}, got {source.samples}"
            )

    def _check_sampling(self) -> None:
        source = self.source
        for term in self.terms:
            divergence = term.divergence
            if divergence.sampled and (source.guest_rows or not source.from_student):
                raise ValueError(
                    f"divergence={divergence.kind}: source={source.kind} at temperature {source.temperature} does "
                    "not draw tokens from the student; accepted: source=student with source.temperature above 0"
                )
            if isinstance(divergence, PolicyGradient | TopKPolicyGradient) and not source.off_policy:
                if divergence.clip is not None:
                    raise ValueError(f"divergence.clip={divergence.clip} has nothing to act on; it needs {OFF_POLICY}")
                if not getattr(divergence, "ratio", True):
                    raise ValueError(f"divergence.ratio=false changes nothing here; it needs {OFF_POLICY}")
            if "importance" in term.weight.names and not (source.off_policy and source.from_student):
                raise ValueError(f"weight.token=importance has nothing to act on; it needs {OFF_POLICY}")
            by_step = sorted(weight.kind for weight in term.weight.all if weight.by_step)
            if by_step and not source.one_solution:
                raise ValueError(f"source={source.kind} has two solutions in a row; {by_step} need one")

    def _check_outcome(self) -> None:
        outcome, source = self.outcome, self.source
        if not isinstance(outcome, GroupOutcome):
            return
        if outcome.clip is not None and not source.off_policy and not isinstance(outcome.modulate, TRRD):
            raise ValueError(f"outcome.clip={outcome.clip} has nothing to act on; it needs {OFF_POLICY}")
        if outcome.reward is not None and outcome.reward.learned and not source.guest_rows:
            raise ValueError(
                f"outcome.reward={outcome.reward.kind} compares the student's responses with the teacher's, and source="
                f"{source.kind} has none of these; accepted: source=with_teacher"
            )
        if not (source.from_student and source.samples > 1):
            raise ValueError(
                f"outcome={outcome.kind} compares responses to one prompt; accepted: source=student with "
                f"source.samples above 1 and source.temperature above 0"
            )

    def _check_groups(self) -> None:
        for term in self.terms:
            if term.weight.needs_group and self.source.samples < 2:
                raise ValueError(
                    f"weight.sample={[weight.kind for weight in term.weight.sample]} compares responses to one prompt; "
                    f"accepted: source.samples above 1, got {self.source.samples}"
                )
        external = isinstance(self.teacher, ExternalTeacher) and self.teacher.one_model
        if self.fork is not None and not (external and self.teacher.context == "none"):
            raise ValueError(
                "fork: teacher and student both write futures; accepted: teacher=external, no route or context"
            )

    def _check_terms(self) -> None:
        if not isinstance(self.divergence, NoDivergence):
            return
        if self.also or self.fork is not None or self.schedule is not None:
            raise ValueError("divergence=none with also, fork or schedule; accepted: put the first term in divergence")
        if not isinstance(self.outcome, GroupOutcome):
            raise ValueError("divergence=none leaves nothing to learn; accepted: none together with an outcome")
        if self.outcome.combiner != "add":
            raise ValueError(f"outcome.combiner={self.outcome.combiner} joins two terms; accepted with one: add")
        used = self.weight.normaliser if self.regularizer != RegularizerConfig() else WeightConfig().normaliser
        if self.weight != WeightConfig(normaliser=used):
            raise ValueError(
                f"weight.sample={[weight.kind for weight in self.weight.sample]}, weight.normaliser="
                f"{self.weight.normaliser} weigh the divergence, and divergence=none; accepted: none, token"
            )

    @property
    def terms(self) -> list[Term]:
        """All distillation terms, the method's own first."""
        none = isinstance(self.divergence, NoDivergence)
        own = [] if none else [Term(self.divergence, self.weight, self.coefficient, self.schedule)]
        return own + [term if term.schedule else replace(term, schedule=self.schedule) for term in self.also]

    @property
    def changes(self) -> bool:
        """Whether a divergence changes with the step or with the losses so far."""
        return any(term.divergence.changes for term in self.terms)

    def at(self, step: int, losses: Sequence[float]) -> "Method":
        """The method of a step, given its first term's losses at the steps before."""
        if not self.changes:
            return self
        also = [replace(term, divergence=term.divergence.at(step, losses)) for term in self.also]
        return replace(self, divergence=self.divergence.at(step, losses), also=also)

    @property
    def extensions(self) -> list[Extension]:
        """What learns from further rows than the responses, or changes what these count."""
        gold_nll = self.regularizer.gold_nll
        gold = [GoldLikelihood(gold_nll, self.weight.normaliser)] if gold_nll > 0.0 else []
        reader = [TrainedReader(self.teacher.trained)] if self.teacher.trained > 0.0 else []
        return [*([] if self.fork is None else [self.fork]), *reader, *gold]

    @property
    def needs(self) -> set[str]:
        """Signals that must be measured before the coefficients are known."""
        needs = set().union(*(term.weight.needs | term.divergence.needs for term in self.terms))
        needs |= self.regularizer.needs | self.outcome.needs
        return needs | ({"rkl"} if self.fork is not None else set())

    @property
    def scores(self) -> bool:
        """Whether a teacher's log-probabilities are read at all."""
        reads = any(term.divergence.needs_teacher for term in self.terms) or self.outcome.modulate is not None
        return reads or bool(self.needs & OF_TEACHER)

    @property
    def needs_teacher(self) -> bool:
        """Whether a checkpoint must be given."""
        return isinstance(self.teacher, ExternalTeacher)

    @property
    def needs_reference(self) -> bool:
        """Whether the student at step 0 must be kept and scored."""
        return self.teacher.transform.needs_reference or self.regularizer.needs_reference

    @property
    def needs_old(self) -> bool:
        """Whether the student that drew a batch must be kept while that is used again: where its whole distribution is
        read, or a frozen advantage where not it alone drew the tokens."""
        frozen = any(getattr(term.divergence, "frozen_advantage", False) for term in self.terms)
        reads = any(term.divergence.needs_old for term in self.terms) or (frozen and self.source.model == "teacher")
        return self.source.reuse > 1 and reads

    @property
    def needs_bare_prompts(self) -> bool:
        """Whether prompts must come without contexts that the data may have: the method puts its own there."""
        return self.teacher.context != "none" or self.source.context != "none"

    @property
    def phrases_only(self) -> bool:
        """Whether it handles tokens as the phrases of the world: contexts, the oracle, masks of special tokens, fresh
        solutions, a choice among teachers."""
        special = any("special" in term.weight.names for term in self.terms) or self.source.phrases_only
        chooses = self.teacher.route is not None and self.teacher.route.chooses
        return self.needs_bare_prompts or isinstance(self.teacher, OracleTeacher) or special or chooses

    def check_vocabulary(self, size: int) -> None:
        """Raise ValueError when the support of a divergence does not fit a vocabulary of this size."""
        for term in self.terms:
            k = term.divergence.k
            if k is not None and k >= size:
                raise ValueError(
                    f"divergence.support.k={k}: accepted are whole numbers from 1 to {size - 1}, one less than "
                    "the vocabulary; divergence.support=full takes all of it"
                )
