"""Writes test/golden/sampler.json: schedules and one guided Euler step of diffusers' FlowMatchEulerDiscreteScheduler.

    python test/golden/scripts/sampler.py test/golden/sampler.json
"""

import json
import sys
from pathlib import Path

import diffusers
import numpy
import torch
from diffusers import FlowMatchEulerDiscreteScheduler


def schedule(steps: int, shift: float, num_train_timesteps: int, **terminal: float) -> dict:
    config = {"shift": shift, "num_train_timesteps": num_train_timesteps, **terminal}
    scheduler = FlowMatchEulerDiscreteScheduler(**config)
    scheduler.set_timesteps(steps)
    return {
        "steps": steps, **config,
        "sigmas": scheduler.sigmas.tolist(), "timesteps": scheduler.timesteps.tolist(),
    }


def walk(steps: int, guidance_scale: float) -> dict:
    """Guided steps of a network that returns `cos` and `sin` of its input."""
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(steps)
    latent = start = torch.linspace(-3, 3, 32)
    velocities = []
    for t in scheduler.timesteps:
        negative, positive = torch.cos(latent), torch.sin(latent)
        velocities.append({"negative": negative.tolist(), "positive": positive.tolist()})
        latent = scheduler.step(negative + guidance_scale * (positive - negative), t, latent).prev_sample
    return {"steps": steps, "guidance_scale": guidance_scale, "start": start.tolist(), "velocities": velocities, "end": latent.tolist()}


def main(out: Path) -> None:
    cases = [schedule(n, shift, 1000) for n in (1, 2, 4, 28, 50) for shift in (1.0, 3.0)]
    cases += [schedule(28, 6.0, 1000), schedule(28, 1.15, 1000), schedule(5, 3.0, 250)]
    cases += [schedule(n, 3.0, 1000, shift_terminal=0.3) for n in (2, 4, 8, 28)] + [schedule(6, 1.5, 1000, shift_terminal=0.02)]
    golden = {
        "script": "test/golden/scripts/sampler.py",
        "versions": {"diffusers": diffusers.__version__, "torch": torch.__version__, "numpy": numpy.__version__},
        "schedules": cases, "walk": walk(4, 3.5),
    }
    out.write_text(json.dumps(golden) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
