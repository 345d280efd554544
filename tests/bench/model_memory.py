"""Peak memory of one piece of work: `python -m tests.bench.model_memory ours training 'llama, nano'`.

Prints the MiB that it adds with model, batches and libraries loaded.
"""

import sys

from tests.bench.model_peers import Ours, Plain, Rollouts, batches, pair
from tests.bench.peak_memory import added_by
from train.core.torch_setup import set_up


def main(who: str, what: str, shape: str) -> None:
    set_up()
    if what == "training":
        source = batches()
        source.batch(0)
        work = Ours(pair(shape)[0], source) if who == "ours" else Plain(pair(shape)[1], source)
    else:
        both = Rollouts(shape, until_eos=False)  # a model that learns first leaves freed memory behind
        work = both.ours if who == "ours" else both.generate
    print(added_by(work))


if __name__ == "__main__":
    main(*sys.argv[1:])
