"""The machine as a command sets it up: memory is kept, kernels are deterministic, nothing needless is loaded."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys, torch
from train.core.torch_setup import keep_freed_memory, set_up
if sys.argv[1] == "kept":
    set_up()
    if not keep_freed_memory():
        print(-1)
        sys.exit()
counts = []
for _ in range(15):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    held = torch.zeros(2**24)  # 64 MiB, 16384 pages; glibc by itself learns to keep blocks of up to 32
    del held
    counts.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(sorted(counts)[7])  # the heap may grow once more at any time
"""


def faults(name: str, root) -> float:
    plain = {
        key: value for key, value in os.environ.items() if key != "GLIBC_TUNABLES"
    }  # huge pages fault rarely anyway
    words = [sys.executable, "-c", PROGRAM, name]
    done = subprocess.run(words, capture_output=True, text=True, check=True, cwd=root, env=plain)
    return float(done.stdout)


def test_freed_memory_is_kept(root):
    kept = faults("kept", root)
    if kept < 0:
        pytest.skip("the C library is not glibc")
    assert kept < 100
    assert faults("handed back", root) > 10_000


def test_holes_between_tensors_of_many_sizes_go_back_to_the_system(root):
    code = (
        "import random, torch; from train.core import torch_setup; torch_setup.set_up(); random.seed(0); kept = []\n"
        "def resident(): return int(open('/proc/self/statm').read().split()[1]) * 4096 / 2**20\n"
        "for _ in range(1500):\n"
        "    kept.append(torch.ones(random.randint(1, 1_000_000)))\n"
        "    if len(kept) > 40: kept.pop(random.randrange(len(kept)))\n"
        "before, done = resident(), torch_setup.return_freed_memory()\n"
        "print(done, before, resident())"
    )
    words = [sys.executable, "-c", code]
    done, before, after = subprocess.run(words, cwd=root, capture_output=True, text=True, check=True).stdout.split()
    if done == "False":
        pytest.skip("the C library is not glibc, or keeps nothing")
    assert float(after) < float(before) - 20.0


def test_a_command_that_trains_nothing_loads_neither_shards_nor_the_compiler(root):
    """Each takes most of a second of its start."""
    code = (
        "import sys; import train.evaluate, train.pretrain; from train.core.torch_setup import set_up; set_up();"
        "print({'torch.distributed.fsdp', 'torch._dynamo', 'torch._inductor', 'sympy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_torch_is_deterministic_and_its_compiler_when_it_is_used(root):
    code = (
        "import torch; from train.core.torch_setup import set_up, use_deterministic_kernels; set_up();"
        "print(torch.get_deterministic_debug_mode()); use_deterministic_kernels('cpu', compiled=True);"
        "import torch._inductor.config as c; print(torch.get_deterministic_debug_mode(), c.deterministic)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["2", "2", "True"]
