"""Peak memory of one piece of work: `python -m tests.helpers.peak_memory ours training 'llama, nano'`.

Prints the MiB by which the resident memory rose over what it was before the first step (model, batches and libraries
loaded), from the kernel's high-water mark, which is put back before. Linux only.
"""

import gc
import sys
from pathlib import Path

from tests.bench.test_model_speed import Ours, Plain, Rollouts, batches, pair
from train.core.torch_setup import set_up


def status(name: str) -> float:
    """MiB of a line of /proc/self/status."""
    text = Path("/proc/self/status").read_text(encoding="ascii")
    return int(text.split(f"{name}:")[1].split()[0]) / 1024


def main(who: str, what: str, shape: str) -> None:
    set_up()
    if what == "training":
        source = batches()
        source.batch(0)
        work = Ours(pair(shape)[0], source) if who == "ours" else Plain(pair(shape)[1], source)
    else:
        both = Rollouts(shape, until_eos=False)  # a model that learns first leaves freed memory behind
        work = both.ours if who == "ours" else both.generate
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forgets the high-water mark
    before = status("VmRSS")
    work()
    print(status("VmHWM") - before)


if __name__ == "__main__":
    main(*sys.argv[1:])
