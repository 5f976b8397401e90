"""Writes test/golden/noise.json: `torch.randn` of the CPU generator, as base64 of little-endian float32.

    python test/golden/scripts/noise.py test/golden/noise.json
"""

import base64
import json
import sys
from pathlib import Path

import torch

SEEDS = [0, 1, 42, 2**31, 2**32 - 1, 2**32 + 42, 2**53 + 1, 2**63, 2**64 - 1]
SHAPES = [[1], [2], [15], [16], [17], [31], [3, 5, 7], [1, 16, 8, 6]]
LONG = [1, 16, 128, 128]


def randn(seed: int, shape: list[int]) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator("cpu").manual_seed(seed), dtype=torch.float32).flatten()


def encode(values: torch.Tensor) -> str:
    return base64.b64encode(values.numpy().astype("<f4").tobytes()).decode()


def main(out: Path) -> None:
    cases = [{"seed": seed if seed < 2**53 else str(seed), "shape": shape, "values": encode(randn(seed, shape))} for seed in SEEDS for shape in SHAPES]
    tails = [{"seed": seed if seed < 2**53 else str(seed), "shape": LONG, "last": encode(randn(seed, LONG)[-64:])} for seed in SEEDS]
    golden = {
        "script": "test/golden/scripts/noise.py",
        "versions": {"torch": torch.__version__, "cpu": torch.backends.cpu.get_cpu_capability()},
        "cases": cases, "tails": tails,
    }
    out.write_text(json.dumps(golden) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
