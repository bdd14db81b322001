"""Several processes that train one detector: who am I, add up, gather, tell, wait."""

from __future__ import annotations

import atexit
import contextlib
import inspect
import io
import multiprocessing
import os
import re
import sys
import threading
from dataclasses import dataclass, field
from datetime import timedelta
from types import TracebackType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from damoyolo.errors import RunError, UserError, counted
from damoyolo.machine import usable_cores

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
"""What torchrun tells each process; the first three are numbers."""

TIMEOUT = timedelta(minutes=30)
"""How long a process waits for the others, also for the first meeting."""

PEER_LOST = "another process of the run has ended or does not answer"

LAUNCHED = "DAMOYOLO_LAUNCHED"
"""Set in the environment by `launch`, which tells the user itself why a run ended: the number of a pipe whose
other end only the launcher has, or nothing but a word where processes inherit no pipes."""

LOST_CODE, STOPPED_CODE = 3, 130
"""Exit codes of a process started by `launch`: another one was lost, or Ctrl-C."""

_TELLTALES = ("gloo/", "by peer")
"""What the messages of gloo, which raises plain RuntimeErrors, have in common."""

_DDP_OPTIONS = inspect.signature(DistributedDataParallel).parameters
_KEEP_BUFFERS: dict[str, Any] = {
    "forward_sync_buffers" if "forward_sync_buffers" in _DDP_OPTIONS else "broadcast_buffers": False
}
"""Renamed in torch 2.14."""


@dataclass(frozen=True)
class World:
    """The processes of a run as one of them sees them; by itself a process group of one, without any.

    Every method is called by all processes, in the same order. As a context manager it closes at the end, and
    an error from a process that is gone becomes a `RunError`, or a silent end where `launch` tells the user.

    Args:
        rank: number of this process, from 0.
        size: how many there are, on all machines.
        local_rank: number of this process on its machine.
        device: where this process computes.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def is_first(self) -> bool:
        """Whether this is the one that writes files and talks."""
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over the processes, the same bits in each, without gradient; on CPU or `device`."""
        if self.size == 1:
            return tensor.detach()
        total = tensor.detach().clone()
        dist.all_reduce(total)
        return total

    def stack(self, tensor: Tensor) -> Tensor:
        """The tensors of all processes, equal in shape, along a new first dimension, without gradient."""
        if self.size == 1:
            return tensor.detach()[None]
        parts = [torch.empty_like(tensor) for _ in range(self.size)]
        dist.all_gather(parts, tensor.detach())
        return torch.stack(parts)

    def gather(self, value: Any) -> list[Any] | None:
        """The values of all processes by rank in the first process, None in the others.

        A value is made of tensors, numbers, strings, lists, tuples and dicts; nothing else travels, because
        none of it can do harm when it is read. Tensors arrive on the CPU.
        """
        if self.size == 1:
            return [value]
        packed = _pack(value)
        lengths = self.stack(torch.tensor(len(packed))).tolist()
        padded = torch.cat([packed, packed.new_zeros(max(lengths) - len(packed))])
        parts = [torch.empty_like(padded) for _ in range(self.size)] if self.is_first else None
        dist.gather(padded, parts)
        return [_unpack(part[:n]) for part, n in zip(parts, lengths, strict=True)] if parts else None

    def broadcast(self, value: Any) -> Any:
        """The first process's value in every process; see `gather` for what can travel."""
        if self.size == 1:
            return value
        packed = _pack(value) if self.is_first else torch.empty(0, dtype=torch.uint8)
        length = torch.tensor(len(packed))
        dist.broadcast(length, 0)
        if not self.is_first:
            packed = torch.empty(int(length), dtype=torch.uint8)
        dist.broadcast(packed, 0)
        return value if self.is_first else _unpack(packed)

    def barrier(self) -> None:
        """Wait until every process is here."""
        self.sum(torch.zeros(1))

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module, with the first process's weights and buffers, whose gradients are the processes' mean.

        Every parameter that is trained must reach the loss in each process. Buffers go their own ways.
        """
        if self.size == 1:
            return module
        self.share_buffers(module)
        return DistributedDataParallel(
            module,
            device_ids=[self.device] if self.device.type == "cuda" else None,
            gradient_as_bucket_view=True,
            **_KEEP_BUFFERS,
        )

    def share_buffers(self, module: nn.Module) -> None:
        """Give every process the first one's buffers, such as running statistics, in place."""
        if self.size > 1:
            for buffer in module.buffers():
                dist.broadcast(buffer, 0)

    def close(self) -> None:
        """Leave the process group, where there is one."""
        if self.size > 1 and dist.is_initialized():
            dist.destroy_process_group()

    def __enter__(self) -> World:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()  # after an error it could wait for ever; the end of the process closes as well
            return
        lost = self.size > 1 and _comes_from_a_peer(error)
        if os.environ.get(LAUNCHED):
            code = LOST_CODE if lost else _exit_code(error)
            atexit.register(_leave, code)
            if code in (LOST_CODE, STOPPED_CODE):
                raise SystemExit(code) from error
        if lost:
            raise RunError(
                f"{PEER_LOST} ({_reason(error)}); the run goes on from its last checkpoint with --resume"
            ) from error


def open_world(device: torch.device) -> World:
    """This process among those that torchrun, or `launch`, started; alone where nobody did.

    On CPU the processes talk through gloo; on CUDA tensors there travel through nccl, each process has the
    device with its local rank's number, and what lies on the CPU still goes through gloo.

    A process that `launch` started ends, from now on, when the launcher is gone.

    Raises:
        UserError: if the environment is incomplete or the machine lacks a device.
        RunError: if the others do not come within `TIMEOUT`.
    """
    given = {name: os.environ[name] for name in VARIABLES if os.environ.get(name)}
    pipe = os.environ.get(LAUNCHED, "")
    if pipe.isdecimal():
        threading.Thread(target=_end_with_launcher, args=(int(pipe),), daemon=True).start()
    if not given:
        return World(device=device)
    rank, size, local_rank = _read_numbers(given)
    if size == 1:
        return World(device=device)
    device = _choose_local(device, local_rank)
    try:
        if device.type == "cuda":
            torch.cuda.set_device(device)
            dist.init_process_group("cpu:gloo,cuda:nccl", timeout=TIMEOUT, device_id=device)
        else:
            dist.init_process_group("gloo", timeout=TIMEOUT)
    except (RuntimeError, ValueError) as error:
        where = f"{given['MASTER_ADDR']}:{given['MASTER_PORT']}"
        raise RunError(
            f"process {rank} of {size} met no others at {where} ({_reason(error)}); "
            "check MASTER_ADDR and MASTER_PORT and that every process was started"
        ) from error
    return World(rank, size, local_rank, device)


def is_launched() -> bool:
    """Whether torchrun or `launch` started this process."""
    return any(os.environ.get(name) for name in VARIABLES[:3])


def _end_with_launcher(pipe: int) -> None:
    """End this process, as `kill -9` would, when nobody holds the other end of the pipe any more."""
    with contextlib.suppress(OSError):  # not inherited by this process
        os.read(pipe, 1)
        os._exit(LOST_CODE)


def _exit_code(error: BaseException) -> int:
    """With which the command line ends."""
    if isinstance(error, KeyboardInterrupt):
        return STOPPED_CODE
    return 2 if isinstance(error, UserError) else 1


def _leave(code: int) -> None:
    """End without taking gloo down, which in the middle of a run sometimes aborts the process."""
    for worker in multiprocessing.active_children():
        worker.terminate()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _read_numbers(given: dict[str, str]) -> tuple[int, int, int]:
    """Rank, size and local rank."""
    missing = [name for name in VARIABLES if name not in given]
    if missing:
        raise UserError(
            f"{', '.join(missing)}: not set in the environment although {', '.join(given)} is; "
            "start with --devices or torchrun, or unset the rest"
        )
    for name in (*VARIABLES[:3], "MASTER_PORT"):
        if not given[name].isdecimal():
            raise UserError(f"{name}: '{given[name]}' in the environment is no number; start with torchrun")
    rank, size, local_rank = (int(given[name]) for name in VARIABLES[:3])
    if rank >= size:
        raise UserError(f"RANK: {rank} in the environment must be less than WORLD_SIZE, which is {size}")
    return rank, size, local_rank


def check_count(processes: int, device: torch.device) -> None:
    """`UserError` unless this machine has a device, or a core, for each of so many processes."""
    if device.type == "cuda":
        most, what = torch.cuda.device_count(), counted(torch.cuda.device_count(), "GPU")
    else:
        most, what = usable_cores(), counted(usable_cores(), "core")
    if processes > most:
        raise UserError(f"devices: {processes} processes cannot share {what}; take {most} or fewer")


def _choose_local(device: torch.device, local_rank: int) -> torch.device:
    """This process's own device."""
    if device.type == "cpu":
        return device
    if device.type != "cuda":
        raise UserError(f"device: '{device}' cannot be shared by several processes; take cpu or cuda")
    count = torch.cuda.device_count()
    if local_rank >= count:
        raise UserError(
            f"device: process {local_rank} of this machine needs cuda:{local_rank}, but there are only "
            f"{count} CUDA devices; start {count} processes or fewer"
        )
    return torch.device("cuda", local_rank)


def _comes_from_a_peer(error: BaseException) -> bool:
    return isinstance(error, dist.DistError) or (
        type(error) is RuntimeError and any(word in str(error) for word in _TELLTALES)
    )


def _reason(error: BaseException) -> str:
    """The first sentence, without the place in gloo's source."""
    first = str(error).partition("\n")[0].partition(". ")[0]
    return re.sub(r"^\[\S+\] ", "", first)[:200]


def _pack(value: Any) -> Tensor:
    """Bytes of a value."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return torch.frombuffer(buffer.getbuffer(), dtype=torch.uint8)


def _unpack(packed: Tensor) -> Any:
    """The value; anything that could run code is refused."""
    return torch.load(io.BytesIO(packed.numpy().tobytes()), map_location="cpu", weights_only=True)
