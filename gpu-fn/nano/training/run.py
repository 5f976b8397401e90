"""Runs all stages within a time limit, for a machine billed by the minute.

    python -m training.run --seconds 900

The judge trains in parallel with the base, whose compilation leaves the GPU idle. Restore, turbo, export and evaluation get the times
measured on one H200; the base gets the rest. Requires the state written by `training.world.vocabulary` and `training.models.tokenizers`. A rerun resumes
from the state folder.
"""

import argparse
import os
import subprocess
import sys
import time

from .settings import STATE

RESTORE, START, EVALUATE = 40, 25, 60  # seconds; START is a stage's startup time, before its own timer starts
JUDGE = 330


def command(module: str, *options: str | int, gpus: int = 1) -> list[str]:
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", gpus] if gpus > 1 else []
    return [*map(str, [sys.executable, *launcher, "-m", f"training.{module}", *options])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=900, help="of everything")
    parser.add_argument("--gpus", type=int, default=1, help="GPUs of the base and of turbo; the judge uses the last one")
    parser.add_argument("--turbo", type=int, default=300, help="seconds of distillation")
    options = parser.parse_args()
    base = options.seconds - RESTORE - 2 * START - options.turbo - EVALUATE
    if base < 120:
        parser.error(f"--seconds {options.seconds} leaves {base} s for the base, which takes 120 to start: give at least {options.seconds + 120 - base}")
    started = time.monotonic()
    if not (STATE / "base.pt").exists():
        subprocess.run(command("stages.restore"), check=True)
    last = {**os.environ, "CUDA_VISIBLE_DEVICES": str(options.gpus - 1)} if options.gpus > 1 else None
    judge = subprocess.Popen(command("stages.judge", "--steps", 20_000, "--minutes", 60, "--budget", JUDGE, "--workers", 3, "--checked", 8), env=last)
    common = ("--minutes", 60, "--fill", 6)
    try:
        subprocess.run(command("stages.base", *common, "--steps", 20_000, "--budget", base, "--rate", 8e-4, "--decay", 0.998, "--wide", 16, gpus=options.gpus), check=True)
        subprocess.run(command("stages.turbo", *common, "--steps", 5_000, "--budget", options.turbo, "--compiled", 0, gpus=options.gpus), check=True)
        if judge.wait() != 0:
            raise SystemExit(f"the judge exited with code {judge.returncode}, so nothing was evaluated; base.pt and turbo.pt are in {STATE}")
        subprocess.run(command("evaluation.evaluate"), check=True)
    finally:
        judge.terminate()
    print(f"done in {time.monotonic() - started:.0f} s; `python -m training.export` writes the model")


if __name__ == "__main__":
    main()
