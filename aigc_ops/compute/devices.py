"""Choice of device and precision; torch settings for training."""

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
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # parameters of mallopt, from glibc's malloc.h


def choose_device(name: DeviceName) -> torch.device:
    """Return the named device; `auto` chooses CUDA, else MPS, else the CPU.

    Raises ConfigError for a device that this machine does not have.
    """
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        return torch.device(next(kind for kind, is_available in available.items() if is_available))
    if not available[name]:
        raise ConfigError(f"device {name!r} is not available on this machine; use auto or cpu")
    return torch.device(name)


def describe_machine() -> dict[str, str | int]:
    """Return the names of this machine's processor and GPUs, and its number of cores."""
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "processor": str(torch.cpu.get_capabilities().get("cpu_name", platform.machine())),
        "cores": os.cpu_count() or 1,
        "gpus": ", ".join(names) or "none",
    }


def choose_precision(name: PrecisionName, device: torch.device) -> Precision:
    """Return the precision; `auto` is bf16 if the processor multiplies it natively.

    Otherwise `auto` is fp16 on CUDA, which needs loss scaling, and fp32 elsewhere.
    """
    if name != "auto":
        return name
    # Without `including_emulation=False` torch answers yes for GPUs that only emulate bf16, slowly.
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if device.type == "cpu":
        return "bf16" if cpu_multiplies_bf16() else "fp32"
    return "fp32"


def cpu_multiplies_bf16() -> bool:
    """Return whether the CPU has bf16 matrix instructions (AVX512-BF16 or AMX)."""
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[object]:
    """Return the autocast context of one forward pass, which does nothing for fp32."""
    if precision == "fp32":
        return nullcontext()
    dtype = torch.bfloat16 if precision == "bf16" else torch.float16
    return torch.autocast(device.type, dtype=dtype, cache_enabled=True)


@contextmanager
def torch_settings(device: torch.device, *, deterministic: bool) -> Iterator[None]:
    """Set torch's global switches for training on this device until the block ends."""
    # They are restored afterwards, so that scores computed later in this process (`aigc-ops run`)
    # equal those of `aigc-ops evaluate`, a process of its own.
    cudnn, was_deterministic = torch.backends.cudnn, torch.are_deterministic_algorithms_enabled()
    before = torch.get_float32_matmul_precision(), cudnn.allow_tf32, cudnn.benchmark
    torch.use_deterministic_algorithms(deterministic)
    if device.type == "cpu":
        keep_freed_memory()
    if device.type == "cuda":
        # Without it torch refuses deterministic cuBLAS. cuBLAS reads it at its first call, so this
        # must come before any product on the GPU.
        if deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.set_float32_matmul_precision("high")  # TF32 where autocast leaves fp32
        cudnn.allow_tf32, cudnn.benchmark = True, not deterministic
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(was_deterministic)
        torch.set_float32_matmul_precision(before[0])
        cudnn.allow_tf32, cudnn.benchmark = before[1:]


def keep_freed_memory() -> None:
    """Make glibc keep freed memory for the next step instead of returning it to the system."""
    # Otherwise each step maps the same memory again and pays for its page faults: 7 % of a step of
    # SmolLM2's LoRA (`benchmarks/gpt.py lora`).
    if _HAS_GLIBC and is_used("malloc"):
        libc = ctypes.CDLL(None)
        libc.mallopt(_TRIM_THRESHOLD, 2**31 - 1)
        libc.mallopt(_MMAP_THRESHOLD, 2**25)  # the largest value that glibc accepts


def release_freed_memory() -> None:
    """Make glibc return freed memory to the system, such as that of weights just read."""
    if _HAS_GLIBC and is_used("malloc"):
        ctypes.CDLL(None).malloc_trim(0)


def seed_torch(seed: int, device: torch.device) -> None:
    """Seed torch's default generators of the CPU and of this device only.

    `torch.manual_seed` seeds every backend, which takes as long as a small network's layer.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)
