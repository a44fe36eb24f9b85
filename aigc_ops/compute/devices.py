"""Which device computes, and in which precision."""

import ctypes
import os
import platform
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Literal

import torch

from aigc_ops.core.errors import ConfigError
from aigc_ops.core.workarounds import is_used

DeviceName = Literal["auto", "cuda", "mps", "cpu"]
PrecisionName = Literal["auto", "fp32", "bf16", "fp16"]
Precision = Literal["fp32", "bf16", "fp16"]
_HAS_GLIBC = platform.libc_ver()[0] == "glibc"
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt, from glibc's malloc.h


def choose_device(name: DeviceName) -> torch.device:
    """The device of that name; `auto` takes CUDA, then MPS, then the CPU."""
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        return torch.device(next(kind for kind, here in available.items() if here))
    if not available[name]:
        raise ConfigError(f"device {name!r} is not available here; use auto or cpu")
    return torch.device(name)


def describe_machine() -> dict[str, str | int]:
    """The processor, its cores and the GPUs of this machine, as people name them."""
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "processor": str(torch.cpu.get_capabilities().get("cpu_name", platform.machine())),
        "cores": os.cpu_count() or 1,
        "gpus": ", ".join(names) or "none",
    }


def choose_precision(name: PrecisionName, device: torch.device) -> Precision:
    """`auto` takes bf16 where the processor multiplies it natively.

    Else fp16 on CUDA, whose losses are then scaled, and fp32 elsewhere.
    """
    if name != "auto":
        return name
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if device.type == "cpu":
        return "bf16" if cpu_multiplies_bf16() else "fp32"
    return "fp32"


def cpu_multiplies_bf16() -> bool:
    """Whether the CPU has bf16 matrix instructions (AVX512-BF16 or AMX)."""
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[object]:
    """Mixed precision for one forward pass; nothing for fp32."""
    if precision == "fp32":
        return nullcontext()
    dtype = torch.bfloat16 if precision == "bf16" else torch.float16
    return torch.autocast(device.type, dtype=dtype, cache_enabled=True)


@contextmanager
def tuned(device: torch.device, *, deterministic: bool) -> Iterator[None]:
    """Torch's switches for training on this device, until the block ends.

    Scores that the same process computes afterwards are those of any other.
    """
    cudnn, was_strict = torch.backends.cudnn, torch.are_deterministic_algorithms_enabled()
    were = torch.get_float32_matmul_precision(), cudnn.allow_tf32, cudnn.benchmark
    torch.use_deterministic_algorithms(deterministic)
    if device.type == "cpu":
        keep_freed_memory()
    if device.type == "cuda":
        if deterministic:  # else torch refuses cuBLAS, which reads this at its first call
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.set_float32_matmul_precision("high")  # TF32 where autocast leaves fp32
        cudnn.allow_tf32, cudnn.benchmark = True, not deterministic
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(was_strict)
        torch.set_float32_matmul_precision(were[0])
        cudnn.allow_tf32, cudnn.benchmark = were[1:]


def keep_freed_memory() -> None:
    """Have glibc keep what a step frees for the next, which would map it anew page by page.

    That took a fourteenth of a step of SmolLM2's LoRA (`benchmarks/gpt.py lora`).
    """
    if _HAS_GLIBC and is_used("malloc"):
        libc = ctypes.CDLL(None)
        libc.mallopt(_TRIM_THRESHOLD, 2**31 - 1)
        libc.mallopt(_MMAP_THRESHOLD, 2**25)  # the most it takes


def give_back_freed_memory() -> None:
    """Have glibc give back what it holds of copies that are freed, such as weights just read."""
    if _HAS_GLIBC and is_used("malloc"):
        ctypes.CDLL(None).malloc_trim(0)


def seed_torch(seed: int, device: torch.device) -> None:
    """Seed torch's own noise on the CPU and on this device.

    Unlike `torch.manual_seed` not on all that there could be, which takes as long as a small
    network's layer.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)
