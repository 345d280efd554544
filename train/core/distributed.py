"""Training in several processes: torchrun starts them, each takes its rows of every batch, and rank 0 writes.

    torchrun --nproc-per-node=2 -m train.pretrain ...                  # DDP; on a CPU the processes talk through gloo
    torchrun --nproc-per-node=8 -m train.pretrain parallel=fsdp ...    # FSDP2: weights, gradients and moments in shards
    torchrun --nproc-per-node=2 -m train.opd.run ...                   # distillation: DDP

Without torchrun there is one process and nothing here does anything. Batches, loss and weights are those of a single
process to rounding, so a run may continue with another number of processes.
"""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils._pytree import tree_map

from models.gpt import GPT
from train.core.lora import has_lora, merge_lora

T = TypeVar("T")


@dataclass(frozen=True)
class Group:
    """The rank of this process, and how many the run has."""

    rank: int = 0
    world_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, the only one that writes and prints."""
        return self.rank == 0

    def sum(self, values: Sequence[float]) -> list[float]:
        """Each number summed over the processes, in float64."""
        if self.world_size == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(total)
        return total.tolist()

    def mean(self, value: Tensor) -> float:
        """The mean over the processes of a scalar."""
        return self.sum([value.item()])[0] / self.world_size

    def gather(self, value: T) -> list[T]:
        """The values of all processes, by rank, on every process; tensors in them must be on the CPU."""
        if self.world_size == 1:
            return [value]
        every: list[Any] = [None] * self.world_size
        dist.all_gather_object(every, value)
        return every

    def from_main(self, action: Callable[[], T]) -> T:
        """Runs `action` on rank 0 only; every process returns its result or raises its ValueError."""
        if self.world_size == 1:
            return action()
        outcome: list[Any] = [None, None]
        if self.is_main:
            try:
                outcome[0] = action()
            except ValueError as error:
                outcome[1] = str(error)
        dist.broadcast_object_list(outcome, src=0)
        if outcome[1] is not None:
            raise ValueError(outcome[1])
        return outcome[0]


@contextlib.contextmanager
def process_group(device: torch.device) -> Iterator[Group]:
    """The group of all processes that torchrun started; on GPUs each takes the one of its local rank."""
    rank, world_size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if world_size == 1:
        yield Group(device=device)
        return
    if device.type == "cuda":
        local_size, gpus = int(os.environ["LOCAL_WORLD_SIZE"]), torch.cuda.device_count()
        if local_size > gpus:
            raise ValueError(f"--nproc-per-node={local_size}: this machine has {gpus} GPUs; accepted: up to {gpus}")
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Group(rank, world_size, device)
    finally:
        dist.destroy_process_group()


def shard(model: GPT, group: Group) -> None:
    """FSDP2 in place, block by block; must come before the optimiser is made."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(group.device.type, (group.world_size,))
    for block in model.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)


def sharded(x: nn.Module | Tensor) -> bool:
    """Whether a model or a tensor is in shards; does not import FSDP, which takes long."""
    if isinstance(x, nn.Module):
        fsdp = sys.modules.get("torch.distributed.fsdp")
        return fsdp is not None and isinstance(x, fsdp.FSDPModule)
    tensor = sys.modules.get("torch.distributed.tensor")
    return tensor is not None and isinstance(x, tensor.DTensor)


def replicate(forward: nn.Module, model: GPT, group: Group) -> nn.Module:
    """`forward` (the model, or its compiled form) wrapped so that processes average their gradients."""
    if group.world_size == 1 or sharded(model):
        return forward
    return DistributedDataParallel(forward)


@contextlib.contextmanager
def gradients_averaged(model: GPT, forward: nn.Module, now: bool) -> Iterator[None]:
    """Backward passes of what is computed inside average gradients over processes if `now`: the last micro-batch's."""
    if sharded(model):
        cast(Any, model).set_requires_gradient_sync(now)  # of torch's FSDPModule
    waits = forward.no_sync() if isinstance(forward, DistributedDataParallel) and not now else contextlib.nullcontext()
    with waits:
        yield


def full_model(model: nn.Module) -> nn.Module:
    """The model itself, or a copy with plain, whole weights where it is in shards or has LoRA adapters. Every process
    must call it."""
    if has_lora(model):
        return merge_lora(cast(GPT, model))
    if not sharded(model):
        return model
    tensors = unsharded(model.state_dict())
    with torch.device("meta"):
        copy = GPT(cast(GPT, model).config)
    copy.load_state_dict(tensors, assign=True)
    return copy.eval()


def unsharded(tree: Any) -> Any:
    """The same nested values with every sharded tensor gathered. Every process must call it."""
    # cloned: uneven shards are gathered with padding behind them in memory, which safetensors refuses
    return tree_map(lambda x: cast(Any, x).full_tensor().clone() if isinstance(x, Tensor) and sharded(x) else x, tree)


def shard_like(tensor: Tensor, other: Tensor) -> Tensor:
    """A whole tensor, which every process has, sharded as `other` is."""
    if not sharded(other) or tensor.ndim == 0:
        return tensor
    from torch.distributed.tensor import distribute_tensor

    mesh, placements = cast(Any, other).device_mesh, cast(Any, other).placements
    return distribute_tensor(tensor.to(other.device), mesh, placements, src_data_rank=None)
