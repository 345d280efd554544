"""The torch settings that make a run repeatable, in one place.

Small models are fastest on one thread (two threads fight at barriers when the other core is busy), and the number of
threads is a setting of the run because it changes the order of sums, hence the last bits of a result.
"""

import ctypes
import os
import platform
from typing import Literal

import torch

from synth.cli import say_when_compiling

Precision = Literal["float32", "bfloat16"]


def set_up(
    threads: int = 1, device: str = "cpu", precision: str = "float32", distributed: bool = False
) -> torch.device:
    """Deterministic kernels, full float32 precision, and the number of threads. Where the kernels of synth, which such
    commands need, are yet to be compiled, it says so. Raises ValueError on a bad setting.

    `precision` is only checked against the device: bfloat16 is switched on where the matrix products are.
    `distributed`: the command can run in several processes of torchrun; others refuse it.
    """
    if threads < 1:
        raise ValueError(f"threads={threads}: accepted: 1 or more")
    if (size := int(os.environ.get("WORLD_SIZE", "1"))) > 1 and not distributed:
        raise ValueError(f"WORLD_SIZE={size}: this command runs in one process; accepted: start it without torchrun")
    if device not in ("cpu", "cuda"):
        raise ValueError(f"device={device}: accepted: cpu, cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device=cuda: no CUDA device is available; accepted: cpu")
    if precision == "bfloat16" and device == "cuda" and not torch.cuda.is_bf16_supported():
        raise ValueError("precision=bfloat16: this CUDA device has none; accepted: float32")
    torch.set_num_threads(threads)
    use_deterministic_kernels(device)
    # a debugging aid that writes NaN over all new memory; torch defines the setting when it is imported
    torch.utils.deterministic.fill_uninitialized_memory = False  # pyright: ignore[reportAttributeAccessIssue]
    torch.set_float32_matmul_precision("highest")
    torch.set_flush_denormal(True)  # gradients of a solved task turn denormal, which slows a CPU many times over
    keep_freed_memory()
    say_when_compiling("problem_source", "judge.checker", "oracle.next_token")
    return torch.device(device)


def use_deterministic_kernels(device: str, compiled: bool = False) -> None:
    """Makes torch, and with `compiled` its compiler, choose deterministic kernels; where CUDA has none, it warns.

    torch.use_deterministic_algorithms does both, but imports the compiler, a second of every command on a CPU. On a
    CUDA device packed attention is compiled anyway.
    """
    if compiled or device == "cuda":
        torch.use_deterministic_algorithms(True, warn_only=device == "cuda")
    else:
        torch.set_deterministic_debug_mode("error")


def keep_freed_memory() -> bool:
    """Makes glibc keep up to 1 GiB of freed memory; returns False where the C library is another one. A training step
    frees all that it allocates; getting the same pages back from the system costs a page fault each."""
    if platform.libc_ver()[0] != "glibc":
        return False
    trim_threshold, mmap_threshold = -1, -3  # numbers of malloc.h
    mallopt = ctypes.CDLL(None).mallopt
    return all(mallopt(number, 2**30) for number in (trim_threshold, mmap_threshold))


def return_freed_memory() -> bool:
    """Gives the system what lies freed between what is still in use; returns False where the C library is not glibc.

    Tensors of ever new sizes leave holes that no later one fills, so without this a run of hours holds several times
    what it uses. Called at each checkpoint: the pages that are needed again cost a fault each.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    return bool(ctypes.CDLL(None).malloc_trim(0))
