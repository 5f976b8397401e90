"""Outputs of diffusers' and transformers' networks on the tiny checkpoints, in float32 and with quantized weights.

for v in tiny-medium tiny-large tiny-sd3 tiny-odd; do npx node infra/checkpoints/tiny/checkpoint.ts --variant $v --out TINY/$v; done
python test/golden/scripts/networks.py TINY test/golden/networks
npx node infra/checkpoints/tiny/checkpoint.ts --variant tiny-medium --out TINY/tiny-medium/single --layout single-file
python test/golden/scripts/networks.py TINY test/golden/networks --single-file
"""
import hashlib
import json
import sys
from pathlib import Path

import diffusers
import ml_dtypes
import torch
import transformers
from diffusers import AutoencoderKL, SD3Transformer2DModel, StableDiffusion3Pipeline
from safetensors.torch import save_file
from transformers import CLIPTextModelWithProjection, T5EncoderModel

from quantized import quantize
from tiny_inputs import clip_ids, pseudo_random, t5_ids

FOLDERS = {
    "transformer": ("transformer", SD3Transformer2DModel),
    "clip_l": ("text_encoder", CLIPTextModelWithProjection),
    "clip_g": ("text_encoder_2", CLIPTextModelWithProjection),
    "t5": ("text_encoder_3", T5EncoderModel),
    "vae_decoder": ("vae", AutoencoderKL),
}


def run_transformer(model, case):
    """Velocity [T, B, C, h, w] for every timestep T."""
    c, batch = model.config, case["batch"]
    latent = pseudo_random([batch, c.in_channels, case["height"], case["width"]], 1)
    prompt = pseudo_random([batch, case["tokens"], c.joint_attention_dim], 2)
    pooled = pseudo_random([batch, c.pooled_projection_dim], 3)
    steps = [
        model(latent, prompt, pooled, torch.full([batch], t, dtype=torch.float32), return_dict=False)[0]
        for t in case["timesteps"]
    ]
    return {"velocity": torch.stack(steps)}


def run_clip(model, case, pad):
    above_eos = None if model.config.eos_token_id == 2 else model.config.vocab_size - 3
    ids = clip_ids(case["lengths"], 4, pad, above_eos)
    out = model(ids, output_hidden_states=True)
    return {"hidden": out.hidden_states[-2][:, :: case["every"]], "pooled": out.text_embeds}


def run_t5(model, case):
    hidden = model(t5_ids(case["batch"], case["tokens"], 5))[0]
    return {"hidden": hidden[:, :: case["every"]]}


def run_vae(model, case):
    c = model.config
    latent = pseudo_random([case["batch"], c.latent_channels, case["height"], case["width"]], 6)
    return {"image": model.decode(latent / c.scaling_factor + c.shift_factor, return_dict=False)[0]}


RUN = {
    "transformer": run_transformer,
    "clip_l": lambda model, case: run_clip(model, case, 999),
    "clip_g": lambda model, case: run_clip(model, case, 0),
    "t5": run_t5,
    "vae_decoder": run_vae,
}


def golden(directory: Path, network: str, tier: str, cases: list) -> dict[str, torch.Tensor]:
    folder, cls = FOLDERS[network]
    model = cls.from_pretrained(directory / folder, dtype=torch.float32).eval()
    if tier == "fp8":
        quantize(model)
    return {
        f"{network}.{case['name']}.{output}": value.float().contiguous()
        for case in cases
        for output, value in RUN[network](model, case).items()
    }


def write_note(file: Path, **more):
    versions = {m.__name__: m.__version__ for m in (torch, diffusers, transformers, ml_dtypes)}
    file.write_text(json.dumps({"script": "test/golden/scripts/networks.py", "versions": versions, **more}, indent=2) + "\n")


@torch.inference_mode()
def pooled_of_single_file(root: Path, out: Path, variant: str):
    """CLIP-L's pooled states by from_single_file, which replaces its projection by the identity."""
    cases = json.loads((out / "cases.json").read_text())["clip_l"]
    for tier in ["fp32", "fp8"]:
        model = StableDiffusion3Pipeline.from_single_file(
            str(root / variant / "single" / f"{variant}.safetensors"),
            config=str(root / variant),
            text_encoder_3=None,
            dtype=torch.float32,
            local_files_only=True,
        ).text_encoder
        if tier == "fp8":
            quantize(model)
        pooled = {f"clip_l.{case['name']}.pooled": RUN["clip_l"](model, case)["pooled"].contiguous() for case in cases}
        save_file(pooled, out / f"{variant}.{tier}.single-file.safetensors")
    write_note(out / "made-with.single-file.json")


@torch.inference_mode()
def main(root: Path, out: Path):
    cases = json.loads((out / "cases.json").read_text())
    for variant, networks in cases["networks"].items():
        for tier in ["fp32", "fp8"]:
            tensors = {}
            for network in networks:
                tensors |= golden(root / variant, network, tier, cases[network])
            save_file(tensors, out / f"{variant}.{tier}.safetensors")
    weights = {
        str(file.relative_to(root)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(root.glob("tiny-*/*/*.safetensors"))
    }
    write_note(out / "made-with.json", weights=weights)


if "--single-file" in sys.argv:
    pooled_of_single_file(Path(sys.argv[1]), Path(sys.argv[2]), "tiny-medium")
else:
    main(Path(sys.argv[1]), Path(sys.argv[2]))
