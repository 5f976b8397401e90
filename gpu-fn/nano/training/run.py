"""Runs all stages within a time limit, for a machine billed by the minute.

    python -m training.run --seconds 900 --gpus 4

The base uses all GPUs; then turbo uses all but the last one, where the judge trains. Restore, turbo and evaluation get the times measured on
H200s; the base gets the rest. Requires the state written by `training.world.vocabulary` and `training.models.tokenizers`. A rerun resumes from
the state folder.
"""

import argparse
import os
import subprocess
import sys
import time

from .settings import STATE

RESTORE, START, EVALUATE = 25, 25, 40  # seconds; START is a stage's startup time, before its own timer starts
COMPILE = 60  # of the base, within its own time
PORT = 29501  # of the first process of a stage


def start(module: str, gpus: range, *options: str | int | float) -> list[subprocess.Popen]:
    """One process per GPU. Each sees its own GPU as the first, so that all share one cache of compiled code."""
    command = [*map(str, [sys.executable, "-m", f"training.{module}", *options])]
    group = {"WORLD_SIZE": str(len(gpus)), "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(PORT)}
    each = ({**group, "RANK": str(rank), "CUDA_VISIBLE_DEVICES": str(gpu)} for rank, gpu in enumerate(gpus))
    return [subprocess.Popen(command, env={**os.environ, **names}) for names in each]


def finish(processes: list[subprocess.Popen]) -> None:
    """Waits for all; stops the others when one fails."""
    try:
        while True:
            codes = [process.poll() for process in processes]
            if failed := [process for process, code in zip(processes, codes) if code]:
                raise SystemExit(f"{' '.join(failed[0].args)} exited with code {failed[0].returncode}")
            if None not in codes:
                return
            time.sleep(0.2)
    finally:
        for process in processes:
            process.terminate()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=900, help="of everything")
    parser.add_argument("--gpus", type=int, default=1)
    parser.add_argument("--turbo", type=int, default=250, help="seconds of distillation")
    options = parser.parse_args()
    base = options.seconds - RESTORE - 2 * START - options.turbo - EVALUATE
    if base < 2 * COMPILE:
        short = 2 * COMPILE - base
        parser.error(f"--seconds {options.seconds} leaves {base} s for the base, which takes {COMPILE} to start: give at least {options.seconds + short}")
    started = time.monotonic()
    gpus = range(options.gpus)
    students = gpus[:-1] or gpus
    if not (STATE / "base.pt").exists():
        finish(start("stages.restore", range(1)))
    common = ("--minutes", 60, "--steps", 60_000, "--reuse", 24, "--fill", 24)
    finish(start("stages.base", gpus, *common, "--batch", 512 * len(gpus), "--budget", base, "--rate", 1.2e-3, "--decay", 0.999, "--wide", 16, "--long-from", 0.92))
    # The judge comes first: its failure stops turbo.
    judge = start("stages.judge", gpus[-1:], "--minutes", 60, "--steps", 60_000, "--budget", options.turbo, "--batch", 192, "--checked", 6)
    finish(judge + start("stages.turbo", students, *common, "--batch", 192 * len(students), "--budget", options.turbo, "--rate", 4e-4))
    finish(start("evaluation.evaluate", range(1)))
    print(f"done in {time.monotonic() - started:.0f} s; `python -m training.export` writes the model")


if __name__ == "__main__":
    main()
