"""Writes the diffusers directories: gpu-fn/nano (28 steps) and gpu-fn/nano/turbo (4 steps), which shares all but the transformer.

    python -m training.export STATE.pt      the weights that the stages left (vae, encoders, transformer, turbo, latent statistics)
"""

import json
import sys
from pathlib import Path

import torch

from .models import NANO, TextEncoders, save, scheduler, transformer, vae

SHARED = ("text_encoder", "text_encoder_2", "text_encoder_3", "tokenizer", "tokenizer_2", "tokenizer_3", "vae")
# Four steps end at this noise level, so that none of them is spent between two levels that are nearly zero.
TURBO_TERMINAL = 0.3


def model_index(name: str) -> dict:
    return {
        "_class_name": "StableDiffusion3Pipeline", "_diffusers_version": "0.36.0", "_name_or_path": name,
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "text_encoder": ["transformers", "CLIPTextModelWithProjection"], "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
        "text_encoder_3": ["transformers", "T5EncoderModel"], "tokenizer": ["transformers", "CLIPTokenizer"],
        "tokenizer_2": ["transformers", "CLIPTokenizer"], "tokenizer_3": ["transformers", "T5TokenizerFast"],
        "transformer": ["diffusers", "SD3Transformer2DModel"], "vae": ["diffusers", "AutoencoderKL"],
    }


def write_index(directory: Path, name: str) -> None:
    directory.mkdir(exist_ok=True)
    (directory / "model_index.json").write_text(json.dumps(model_index(name), indent=2) + "\n")


def load(network: torch.nn.Module, weights: dict[str, torch.Tensor]) -> torch.nn.Module:
    network.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
    return network


def export(state: dict) -> None:
    write_index(NANO, "octet/nano")
    autoencoder = load(vae(), state["vae"])
    autoencoder.register_to_config(scaling_factor=state["scaling_factor"], shift_factor=state["shift_factor"])
    save(autoencoder, "vae")
    encoders = load(TextEncoders(), state["encoders"])
    for name in ("text_encoder", "text_encoder_2", "text_encoder_3"):
        save(getattr(encoders, name), name)
    scheduler().save_pretrained(NANO / "scheduler")
    save(load(transformer(), state["transformer"]), "transformer")

    turbo = NANO / "turbo"
    write_index(turbo, "octet/nano-turbo")
    for name in SHARED:
        if not (turbo / name).is_symlink():
            (turbo / name).symlink_to(f"../{name}")
    scheduler(TURBO_TERMINAL).save_pretrained(turbo / "scheduler")
    save(load(transformer(), state["turbo"]), "turbo/transformer")


def random_state() -> dict:
    torch.manual_seed(0)
    network = transformer().state_dict()
    return {"vae": vae().state_dict(), "encoders": TextEncoders().state_dict(), "transformer": network, "turbo": network,
            "scaling_factor": 1.0, "shift_factor": 0.0}


if __name__ == "__main__":
    export(torch.load(sys.argv[1], map_location="cpu") if len(sys.argv) > 1 else random_state())
