"""`Source`: streams of documents by index; document i is a pure function of (spec, seed, split, stream, i).

    source = Source(preset("tiny"), seed=0, split="train")
    documents = source.documents(range(1000))       # tokens, offsets, and the truth for every token

There are no files and no state, so any worker can make any part at any time, in any order.
"""

from synth.contexts.privileged import add_contexts
from synth.documents import Documents
from synth.problem.arrays import Integers
from synth.problem_source import ProblemSource


class Source(ProblemSource):
    """An endless stream of documents of one spec, with the privileged contexts that the spec asks for."""

    def documents(self, indices: Integers) -> Documents:
        """Problems at the given indices with their documents."""
        documents = super().documents(indices)
        return add_contexts(self, indices, documents) if self.spec.contexts else documents
