"""How many images a training step has memory for."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from damoyolo.nn.detector import Detector
from damoyolo.training.objective import statistics_untouched

USED_SHARE = 0.7
"""Share of the free memory that a step may take."""
BACKWARD = 1.5
"""Memory of forward and backward pass as a multiple of what the forward pass keeps for the backward pass."""
COPIES = 5
"""Gradients, two moments, the average and the checkpoint, as copies of the weights."""
MOST_IMAGES = 64
SMALL_BATCH, FEWEST_STEPS = 8, 16
"""Above such a batch, an epoch should have so many steps, or a small data set is learnt too slowly."""


def largest_batch(detector: Detector, precision: torch.dtype, device: torch.device) -> int:
    """Images of the detector's own size that one process can take in a step; at least 1.

    What two images keep for the backward pass is counted, not guessed; the statistics of the norms stay.
    """
    images = torch.zeros(2, 3, *detector.card.image_size, device=device)
    weights = {parameter.untyped_storage().data_ptr() for parameter in detector.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    autocast = torch.autocast(device.type, precision, enabled=precision != torch.float32)
    with statistics_untouched(detector), saved_tensors_hooks(keep, lambda tensor: tensor), autocast:
        outputs = detector(images)
    per_image = BACKWARD * sum(kept.values()) / len(images)
    del outputs
    copies = COPIES * sum(each.numel() * each.element_size() for each in detector.parameters())
    return max(1, int((USED_SHARE * _free_bytes(device) - copies) / per_image))


def sensible_batch(fitting: int, images: int, processes: int = 1) -> int:
    """The batch size, of all processes, for a data set of so many images: a power of two.

    At most `fitting` and `MOST_IMAGES` for each process.
    """
    most = min(processes * min(fitting, MOST_IMAGES), max(SMALL_BATCH, images // FEWEST_STEPS))
    return 1 << (max(1, most).bit_length() - 1)


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    together = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # processes that share the machine
    return int(min(_free_on_machine(), _free_in_container())) // together


def _free_on_machine() -> int:
    """Memory of the machine that nobody uses, or that only holds copies of files."""
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        return int(fields["MemAvailable"].split()[0]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def _free_in_container(folder: Path = Path("/sys/fs/cgroup")) -> float:
    """What a container (cgroup v2) is still allowed; infinite outside of one."""
    try:
        limit, used = ((folder / name).read_text().strip() for name in ("memory.max", "memory.current"))
        return float(limit.replace("max", "inf")) - int(used)
    except (OSError, ValueError):
        return float("inf")
