"""Computes the accuracy and contact sheets of the base and turbo models in the state folder.

    python -m training.evaluation.evaluate --prompts 200
"""

import argparse

import torch

from ..models.networks import TURBO_TERMINAL
from ..settings import STATE
from ..stages.base import Denoiser, Latents
from ..stages.stage import device
from ..stages.turbo import STEPS
from .sample import evaluate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=200)
    options = parser.parse_args()
    on = device()
    denoiser, latents = Denoiser().to(on).eval(), Latents(on)
    denoiser.load_state_dict(torch.load(STATE / "base.pt", map_location=on, weights_only=True)["average"])
    turbo = {"steps": STEPS, "guidance": 1.0, "terminal": TURBO_TERMINAL}
    if (STATE / "turbo.pt").exists():
        base = {key: value.clone() for key, value in denoiser.transformer.state_dict().items()}
        denoiser.transformer.load_state_dict(torch.load(STATE / "turbo.pt", map_location=on, weights_only=True)["average"])
        evaluate("turbo", denoiser, latents, on, options.prompts, {"turbo": turbo})
        denoiser.transformer.load_state_dict(base)
    evaluate("base", denoiser, latents, on, options.prompts)


if __name__ == "__main__":
    main()
