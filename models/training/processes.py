"""What the processes of a run must agree on; with one process, or without a process group, nothing is sent."""

from __future__ import annotations

import torch
import torch.distributed as dist


def world_size() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Return the number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def barrier() -> None:
    """Wait for all processes."""
    if world_size() > 1:
        dist.barrier()


def largest(*values: float) -> tuple[float, ...]:
    """Return each value's maximum over processes."""
    if world_size() == 1:
        return values
    shared = torch.tensor(values, dtype=torch.float64, device=_device())
    dist.all_reduce(shared, dist.ReduceOp.MAX)
    return tuple(shared.tolist())


def check_equal(name: str, value: int) -> None:
    """Check that `value` is the same everywhere.

    Raises:
        ValueError: It is not; the message shows every process's value.
    """
    counts = [torch.zeros(1, dtype=torch.int64, device=_device()) for _ in range(world_size())]
    if world_size() > 1:
        dist.all_gather(counts, torch.tensor([value], device=_device()))
    if len({int(count) for count in counts}) > 1:
        raise ValueError(
            f"{name}: expected the same on every process, got {[int(count) for count in counts]}; "
            "a process without a batch would leave the others waiting"
        )


def _device() -> torch.device:
    """Where tensors must lie that are sent."""
    on_gpu = dist.is_initialized() and dist.get_backend() == "nccl"
    return torch.device("cuda" if on_gpu else "cpu")
