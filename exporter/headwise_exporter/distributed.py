"""Training on several processes, as `torchrun` starts them: one model, each process a share of every batch.

Without torchrun everything here is a no-op for one process. Under it every process trains, and the main one alone
writes files and goes on with the stages after the training.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
from torch import Tensor, distributed

TIMEOUT = timedelta(hours=4)  # a slow download holds up the others


def world_size() -> int:
    """Processes that train together."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def rank() -> int:
    """Number of this process among them."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def is_main() -> bool:
    """Whether this process writes files."""
    return rank() == 0


def barrier() -> None:
    """Wait for all processes."""
    if distributed.is_initialized():
        distributed.barrier()


@contextmanager
def main_first() -> Iterator[None]:
    """The main process goes through before the others: what it downloads or decodes is there for them."""
    if not is_main():
        barrier()
    yield
    if is_main():
        barrier()


def total(value: Tensor) -> Tensor:
    """The sum of a value over all processes."""
    if distributed.is_initialized():
        distributed.all_reduce(value)
    return value


def of_main(value: Tensor) -> Tensor:
    """The main process's value in all processes, so that what they decide by it is the same."""
    if distributed.is_initialized():
        distributed.broadcast(value, 0)
    return value


def training_device() -> torch.device:
    """This process's GPU where there is one, else the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


@contextmanager
def process_group() -> Iterator[None]:
    """Join the processes that torchrun started, if it did; NCCL between GPUs, gloo between CPUs."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    device = training_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=TIMEOUT)
    try:
        yield
    finally:
        distributed.destroy_process_group()
