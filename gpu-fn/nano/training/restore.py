"""Puts the shipped checkpoint back into the state of the stages, so that training goes on from it.

    python -m training.restore

Writes vae.pt, base.pt and turbo.pt; `training.base` and `training.turbo` then start at step 0 with these weights and a schedule of their own.
"""

import torch
from diffusers import AutoencoderKL, SD3Transformer2DModel
from transformers import CLIPTextModelWithProjection, T5EncoderModel

from .models import NANO
from .stage import STATE

ENCODERS = {"text_encoder": CLIPTextModelWithProjection, "text_encoder_2": CLIPTextModelWithProjection, "text_encoder_3": T5EncoderModel}


def write(name: str, weights: dict[str, torch.Tensor], **extra: float) -> None:
    torch.save({"network": weights, "average": weights, "step": 0, "seconds": 0.0, **extra}, STATE / f"{name}.pt")


def main() -> None:
    STATE.mkdir(parents=True, exist_ok=True)
    vae = AutoencoderKL.from_pretrained(NANO / "vae", torch_dtype=torch.float32)
    write("vae", vae.state_dict(), scaling_factor=vae.config.scaling_factor, shift_factor=vae.config.shift_factor)
    parts = {"transformer": SD3Transformer2DModel.from_pretrained(NANO / "transformer", torch_dtype=torch.float32)}
    for name, kind in ENCODERS.items():
        parts[f"encoders.{name}"] = kind.from_pretrained(NANO / name, torch_dtype=torch.float32)
    write("base", {f"{part}.{key}": value for part, network in parts.items() for key, value in network.state_dict().items()})
    write("turbo", SD3Transformer2DModel.from_pretrained(NANO / "turbo/transformer", torch_dtype=torch.float32).state_dict())


if __name__ == "__main__":
    main()
