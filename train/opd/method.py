"""A method: one choice for each of the six parts.

    loss = lam_D(t) 1/Z sum_it w_it D(T[p]_it, q_it)  +  sum_j lam_j Reg_j  +  lam_R(t) Outcome

Nothing here knows a method by name. `also` holds further distillation terms on the same batch, each with a divergence
and weights of its own; `fork` looks into the future of high-loss tokens (`fork.py`).
"""

from dataclasses import dataclass, field

from train.opd.checks import Schedule
from train.opd.divergence.divergence import DivergenceConfig
from train.opd.outcome import OutcomeConfig
from train.opd.regularizer import RegularizerConfig
from train.opd.source.samplers import MODEL_OF, SourceConfig
from train.opd.teacher.contexts import PEERS, sections
from train.opd.teacher.targets import TeacherConfig
from train.opd.topd import ForkConfig
from train.opd.weight.weight import WeightConfig

OFF_POLICY = "a source whose tokens another distribution drew (source.kind, temperature, top_p or reuse)"
BY_STEP = {"before_mistake", "after_mistake", "teacher_sentences"}


@dataclass(frozen=True)
class Term:
    """One distillation term: `coefficient` times the weighted divergence."""

    divergence: DivergenceConfig
    weight: WeightConfig = field(default_factory=WeightConfig)
    coefficient: float = 1.0

    def __post_init__(self) -> None:
        if not self.coefficient > 0.0:
            raise ValueError(f"also.coefficient={self.coefficient}: accepted are positive numbers")
        if self.divergence.kind == "none":
            raise ValueError("also.divergence.kind=none adds nothing; accepted: a divergence, or no entry in also")


@dataclass(frozen=True)
class Method:
    """A point in the space of six parts. Refuses combinations in which a setting has no effect or a wrong one."""

    name: str
    source: SourceConfig
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    divergence: DivergenceConfig = field(default_factory=DivergenceConfig)
    weight: WeightConfig = field(default_factory=WeightConfig)
    regularizer: RegularizerConfig = field(default_factory=RegularizerConfig)
    outcome: OutcomeConfig = field(default_factory=OutcomeConfig)
    also: list[Term] = field(default_factory=list)
    schedule: Schedule | None = None  # of the distillation terms
    fork: ForkConfig | None = None

    def __post_init__(self) -> None:
        self._check_teacher()
        self._check_context()
        self._check_sampling()
        self._check_groups()
        self._check_terms()

    def _check_teacher(self) -> None:
        kind, params = self.divergence.kind, self.teacher.params
        scored, author = self.scores, self.author == "teacher"
        if (scored or author) and params == "none":
            what = f"source.kind={self.source.kind}" if author else self._what_scores()
            raise ValueError(f"teacher.params=none: {what} needs a teacher; accepted: external, oracle, init, ...")
        if not (scored or author) and params != "none":
            raise ValueError(
                f"teacher.params={params} has no effect with divergence.kind={kind} and "
                f"source.kind={self.source.kind}; accepted: none"
            )
        for name, idle in (("transform", "id"), ("context", "none")):
            value = getattr(self.teacher, name)
            if not scored and value != idle:
                raise ValueError(f"teacher.{name}={value} has no effect with divergence.kind={kind}; accepted: {idle}")
        if author and (params not in ("external", "init") or self.teacher.route is not None):
            raise ValueError(
                f"source.kind={self.source.kind} samples from one frozen teacher, and teacher.params={params}, "
                f"teacher.route={self.teacher.route}; accepted: external or init, null (of the oracle: kind=gold)"
            )
        if params == "oracle" and self.teacher.transform != "mix":
            endless = [t.divergence.kind for t in self.terms if not t.divergence.bounded]
            if endless or self.outcome.modulate or self.weight.needs & {"rkl", "log_p"}:
                raise ValueError(
                    f"teacher.params=oracle rules tokens out, which {(endless or ['the weights'])[0]} cannot bear; "
                    "accepted: fkl, jsd, skew_fkl, skew_rkl, or teacher.transform=mix"
                )

    def _what_scores(self) -> str:
        if self.divergence.needs_teacher:
            return f"divergence.kind={self.divergence.kind}"
        return f"outcome.modulate={self.outcome.modulate}" if self.outcome.modulate else "a further term or weight"

    def _check_context(self) -> None:
        context, source = self.teacher.context, self.source
        if any("success" in term.weight.sample for term in self.terms) and "success" not in sections(context):
            raise ValueError(
                f"weight.sample=success: teacher.context={context} shows no right peers; accepted: success1"
            )
        if context == "none":
            return
        if not self.teacher.is_self and self.teacher.params != "external":
            raise ValueError(f"teacher.context={context} has no effect with teacher.params={self.teacher.params}")
        if source.kind == "revision":
            raise ValueError("source.kind=revision already holds a context; accepted: teacher.context=none")
        if sections(context) & PEERS and (source.samples or 1) < 2:
            raise ValueError(
                f"teacher.context={context} shows the other responses to the same prompt; accepted: source.samples "
                f"above 1, got {source.samples}"
            )

    def _check_sampling(self) -> None:
        source = self.source
        from_student = source.kind not in ("gold", "mix", "teacher", "spliced", "revision") and source.temperature
        for term in self.terms:
            if term.divergence.support == "sampled" and not from_student:
                raise ValueError(
                    f"divergence.support=sampled: source.kind={source.kind} at temperature {source.temperature} does "
                    "not draw tokens from the student; accepted: source.kind=student with source.temperature above 0"
                )
            if term.divergence.clip is not None and not source.off_policy:
                raise ValueError(f"divergence.clip={term.divergence.clip} has nothing to act on; it needs {OFF_POLICY}")
            if not term.divergence.ratio and not source.off_policy:
                raise ValueError(f"divergence.ratio=false changes nothing here; it needs {OFF_POLICY}")
            if "importance" in term.weight.token and not (source.off_policy and from_student):
                raise ValueError(f"weight.token=importance has nothing to act on; it needs {OFF_POLICY}")
            if source.kind == "revision" and BY_STEP & {*term.weight.token, *term.weight.sample}:
                raise ValueError(f"source.kind=revision has two solutions in a row; {sorted(BY_STEP)} need one")
        if self.outcome.clip is not None and not source.off_policy and self.outcome.modulate != "trrd":
            raise ValueError(f"outcome.clip={self.outcome.clip} has nothing to act on; it needs {OFF_POLICY}")
        if self.outcome.kind != "none" and not (from_student and (source.samples or 0) > 1):
            raise ValueError(
                f"outcome.kind={self.outcome.kind} compares responses to one prompt; accepted: source.kind=student "
                "with source.samples above 1 and source.temperature above 0"
            )

    def _check_groups(self) -> None:
        for term in self.terms:
            if term.weight.needs_group and (self.source.samples or 1) < 2:
                raise ValueError(
                    f"weight.sample={term.weight.sample} compares responses to one prompt; accepted: source.samples "
                    f"above 1, got {self.source.samples}"
                )
        one = self.teacher.params == "external" and self.teacher.route is None and self.teacher.context == "none"
        if self.fork is not None and not one:
            raise ValueError(
                "fork: teacher and student both write futures; accepted: teacher.params=external, no route or context"
            )

    def _check_terms(self) -> None:
        if self.divergence.kind != "none":
            return
        if self.also or self.fork is not None or self.schedule is not None:
            raise ValueError(
                "divergence.kind=none with also, fork or schedule; accepted: put the first term in divergence"
            )
        if self.outcome.kind == "none":
            raise ValueError(
                "divergence.kind=none leaves nothing to learn; accepted: none together with an outcome.kind"
            )
        if self.outcome.combiner != "add":
            raise ValueError(f"outcome.combiner={self.outcome.combiner} joins two terms; accepted with one: add")
        used = self.weight.normaliser if self.regularizer != RegularizerConfig() else WeightConfig().normaliser
        if self.weight != WeightConfig(normaliser=used):
            raise ValueError(
                f"weight.sample={self.weight.sample}, weight.normaliser={self.weight.normaliser} weigh the divergence, "
                "and divergence.kind=none; accepted: none, token"
            )

    @property
    def terms(self) -> list[Term]:
        """All distillation terms, the method's own first."""
        own = [] if self.divergence.kind == "none" else [Term(self.divergence, self.weight)]
        return own + list(self.also)

    @property
    def needs(self) -> set[str]:
        """Signals that must be measured before the coefficients are known."""
        needs = set().union(self.regularizer.needs, *(term.weight.needs for term in self.terms))
        return needs | ({"rkl"} if self.fork is not None else set())

    @property
    def scores(self) -> bool:
        """Whether a teacher's log-probabilities are read at all."""
        reads = any(term.divergence.needs_teacher for term in self.terms) or self.outcome.modulate is not None
        return reads or bool(self.needs & {"teacher_entropy", "rkl", "log_p"})

    @property
    def author(self) -> str | None:
        """Which frozen model the source needs: teacher, initial (the student at step 0), or none."""
        return MODEL_OF.get(self.source.kind)

    @property
    def needs_teacher(self) -> bool:
        """Whether a checkpoint must be given."""
        return self.teacher.params == "external"

    @property
    def needs_reference(self) -> bool:
        """Whether the student at step 0 must be kept and scored."""
        return self.teacher.needs_reference or self.regularizer.needs_reference

    @property
    def needs_bare_prompts(self) -> bool:
        """Whether prompts must come without contexts that the data may have: the method puts its own there."""
        return self.teacher.context != "none" or self.source.kind == "revision"

    @property
    def phrases_only(self) -> bool:
        """Whether it handles tokens as the phrases of the world: contexts, the oracle, masks of special tokens."""
        special = any("special" in term.weight.token for term in self.terms)
        return self.needs_bare_prompts or self.teacher.params == "oracle" or special

    def check_vocabulary(self, size: int) -> None:
        """Raise ValueError when the support of a divergence does not fit a vocabulary of this size."""
        for term in self.terms:
            if term.divergence.k is not None and term.divergence.k >= size:
                raise ValueError(
                    f"divergence.k={term.divergence.k}: accepted are whole numbers from 1 to {size - 1}, one less than "
                    "the vocabulary; divergence.support=full takes all of it"
                )
