"""Evaluates the models in the state folder and the shipped models with the same judge: accuracy and contact sheets.

    python -m training.evaluation.evaluate --prompts 200
    python -m training.evaluation.evaluate --models shipped-turbo,turbo

Writes STATE/scores.json. `training.export` requires that the trained models score at least as high there as the shipped ones. Existing scores of
other models are kept if they were computed with the same judge and number of prompts.
"""

import argparse
import hashlib
import json

import torch

from ..models.networks import FLASH_TERMINAL, NANO, TURBO_TERMINAL
from ..settings import STATE
from ..stages.base import Denoiser, Latents
from ..stages.flash import STEPS as FLASH_STEPS
from ..stages.restore import read_base, read_transformer
from ..stages.stage import device
from ..stages.turbo import STEPS
from .sample import evaluate, judge_path

SCORES = STATE / "scores.json"
TURBO = {"turbo": {"steps": STEPS, "guidance": 1.0, "terminal": TURBO_TERMINAL}}
FLASH = {"flash": {"steps": FLASH_STEPS, "guidance": 1.0, "terminal": FLASH_TERMINAL}}
# The sampling settings of each model; None: 28 steps with and without T5.
MODELS = {"shipped": None, "base": None, "shipped-turbo": TURBO, "turbo": TURBO, "shipped-flash": FLASH, "flash-trajectory": FLASH, "flash": FLASH}


def exists(model: str) -> bool:
    """Whether the weights of a model exist. A working tree can lack the shipped weights of the distilled models."""
    if not model.startswith("shipped"):
        return (STATE / f"{model}.pt").exists()
    return any((NANO / model.removeprefix("shipped").removeprefix("-") / "transformer").glob("*.safetensors"))


def load(denoiser: Denoiser, model: str) -> None:
    """Loads the weights of a model. Distilled models use the text encoders of their base."""
    if model.startswith("shipped"):
        denoiser.load_state_dict(read_base())
        if model != "shipped":
            denoiser.transformer.load_state_dict(read_transformer(f"{model.removeprefix('shipped-')}/transformer"))
        return
    read = lambda name: torch.load(STATE / f"{name}.pt", map_location="cpu", weights_only=True)["average"]
    denoiser.load_state_dict(read("base"))
    if model != "base":
        denoiser.transformer.load_state_dict(read(model))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=200, help="number of prompts of each set")
    parser.add_argument("--models", default=",".join(MODELS), help="comma-separated; missing models are skipped")
    options = parser.parse_args()
    on = device()
    denoiser, latents = Denoiser().to(on), Latents(on)
    conditions = {"judge": hashlib.sha256(judge_path().read_bytes()).hexdigest(), "prompts": options.prompts}
    saved = json.loads(SCORES.read_text()) if SCORES.exists() else {}
    models = saved["models"] if {**saved, **conditions} == saved else {}
    for model in filter(exists, options.models.split(",")):
        load(denoiser, model)
        models[model] = evaluate(model, denoiser, latents, on, options.prompts, MODELS[model])
        SCORES.write_text(json.dumps({**conditions, "models": models}, indent=1) + "\n")


if __name__ == "__main__":
    main()
