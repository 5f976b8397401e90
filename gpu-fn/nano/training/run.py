"""Runs stages within a time limit, for a machine billed by the minute.

    python -m training.run --seconds 900 --gpus 4
    python -m training.run --seconds 520 --gpus 2 --stages base       one stage; then turbo, then flash,evaluate

Base and flash are trained on all GPUs. Turbo is trained on all but the last GPU, and concurrently the judge on the last one. The first stage of
the call gets the remaining time; the other stages have fixed budgets, and those of restore and evaluation were measured on H200s. Requires the
files written by `training.world.vocabulary` and `training.models.tokenizers` in the state folder. Every stage saves its averaged weights each
minute: after an interruption they are usable, and a rerun resumes from them.
"""

import argparse
import os
import subprocess
import sys
import time

from .settings import STATE

RESTORE, START, EVALUATE = 30, 25, 120  # seconds; START is a stage's startup time, before its own timer starts
COMPILE = 60  # compilation time of a stage, part of its budget
TRAINED = ("base", "turbo", "flash")
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


def plan(options: argparse.Namespace, restored: bool) -> dict[str, int]:
    """Training budget of each stage in seconds. The first stage gets the remaining time."""
    first, *others = [stage for stage in TRAINED if stage in options.stages] or [None]
    given = {stage: getattr(options, stage) for stage in others}
    overhead = (0 if restored else RESTORE) + START * (1 + len(others)) + (EVALUATE if "evaluate" in options.stages else 0)
    return {first: options.seconds - overhead - sum(given.values()), **given} if first else {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=900, help="of everything")
    parser.add_argument("--gpus", type=int, default=1)
    parser.add_argument("--turbo", type=int, default=250, help="seconds for distillation to four steps and concurrent training of the judge")
    parser.add_argument("--flash", type=int, default=200, help="seconds for distillation to two steps")
    parser.add_argument("--stages", type=lambda text: text.split(","), default=[*TRAINED, "evaluate"], help=f"of {', '.join(TRAINED)}, evaluate")
    options = parser.parse_args()
    if unknown := {*options.stages} - {*TRAINED, "evaluate"}:
        parser.error(f"unknown stages: {', '.join(sorted(unknown))}")
    restored = (STATE / "base.pt").exists()
    seconds = plan(options, restored)
    for stage, budget in seconds.items():
        if budget < 2 * COMPILE:
            parser.error(f"--seconds {options.seconds} leaves {budget} s for {stage}, which compiles for {COMPILE} s: specify at least {options.seconds + 2 * COMPILE - budget}")
    started = time.monotonic()
    gpus = range(options.gpus)
    students = gpus[:-1] or gpus
    if not restored:
        finish(start("stages.restore", range(1)))
    common = ("--minutes", 60, "--steps", 60_000, "--save-every", 60)
    pools = ("--reuse", 24, "--fill", 24)
    if "base" in seconds:
        sizes = ("--batch", 512 * len(gpus), "--wide", 8, "--long-from", 0.92)
        finish(start("stages.base", gpus, *common, *pools, *sizes, "--budget", seconds["base"], "--rate", 1.2e-3, "--decay", 0.999))
    if "turbo" in seconds:
        # The judge is trained concurrently; the failure of either stage stops the other.
        judge = start("stages.judge", gpus[-1:], *common, "--budget", seconds["turbo"], "--batch", 192, "--checked", 6)
        finish(judge + start("stages.turbo", students, *common, *pools, "--batch", 192 * len(students), "--budget", seconds["turbo"], "--rate", 4e-4))
    if "flash" in seconds:
        finish(start("stages.flash", gpus, *common, *pools, "--batch", 192 * len(gpus), "--budget", seconds["flash"]))
    if "evaluate" in options.stages:
        finish(start("evaluation.evaluate", range(1)))
    print(f"done in {time.monotonic() - started:.0f} s; `python -m training.export` writes the model")


if __name__ == "__main__":
    main()
