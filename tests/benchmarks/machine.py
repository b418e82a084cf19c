"""The commit, the versions and the machine, on which the figures of a benchmark depend."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any, Final

import torch

from tests.benchmarks.flops import matrix_rate

ROOT: Final = Path(__file__).parents[2]


def about_this_machine() -> dict[str, Any]:
    """Describe the commit, the versions and the machine, on which the figures depend."""
    commit = subprocess.run(
        ["git", "-C", str(ROOT), "describe", "--always", "--dirty"],
        capture_output=True,
        text=True,
        check=False,
    )
    return {
        "commit": commit.stdout.strip() or None,
        "versions": {name: importlib.metadata.version(name) for name in ("msmtfn", "ray", "torch", "transformers")},
        "machine": {
            "cpus": os.cpu_count(),
            "architecture": platform.machine(),
            "processor": _processor(),
            "instructions": sorted(name for name, has in torch.cpu.get_capabilities().items() if has is True),
            "torch_threads": torch.get_num_threads(),
            "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
        },
        "matrix_product_tflops": {
            device: {
                name: round(matrix_rate(dtype, torch.device(device)), 4)
                for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16))
            }
            for device in ("cpu", *(["cuda"] if torch.cuda.is_available() else []))
        },
    }


def _processor() -> str:
    """Return the name of the processor."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
