"""Writes test/golden/controlnet.safetensors: residuals of diffusers' SD3ControlNetModel in the shape of SD3.5 Large's, and velocities of the
tiny transformer with them. The ControlNet has pseudo-random weights, which the test makes again by the same formula. float32 on the CPU.

    npx node infra/checkpoints/tiny/checkpoint.ts --variant tiny-large --out TINY/tiny-large
    python test/golden/scripts/controlnet.py TINY/tiny-large test/golden/controlnet.safetensors
"""
import sys
from pathlib import Path

import diffusers
import torch
from diffusers import SD3ControlNetModel, SD3Transformer2DModel
from safetensors.torch import save_file

from tiny_inputs import pseudo_random

DEPTH, SCALE = 3, 0.7
BATCH, HEIGHT, WIDTH, TOKENS, TIMESTEP = 2, 8, 6, 11, 750.0


def parameters(width: int, pooled: int, channels: int) -> list[tuple[str, list[int]]]:
    """Names and shapes in the order of their seeds, as in test/gpu-fn/models/sd35/networks/controlnet.test.ts."""
    linears = {
        "time_text_embed.timestep_embedder.linear_1": (width, 256),
        "time_text_embed.timestep_embedder.linear_2": (width, width),
        "time_text_embed.text_embedder.linear_1": (width, pooled),
        "time_text_embed.text_embedder.linear_2": (width, width),
    }
    for i in range(DEPTH):
        at = f"transformer_blocks.{i}"
        linears[f"{at}.adaLN_modulation.1"] = (6 * width, width)
        linears[f"{at}.attn.qkv"] = (3 * width, width)
        linears[f"{at}.attn.proj"] = (width, width)
        linears[f"{at}.mlp.fc1"] = (4 * width, width)
        linears[f"{at}.mlp.fc2"] = (width, 4 * width)
        linears[f"controlnet_blocks.{i}"] = (width, width)
    listed = [("pos_embed_input.proj.weight", [width, channels, 2, 2]), ("pos_embed_input.proj.bias", [width])]
    for name, (rows, columns) in linears.items():
        listed += [(f"{name}.weight", [rows, columns]), (f"{name}.bias", [rows])]
    return listed


def weights(width: int, pooled: int, channels: int) -> dict[str, torch.Tensor]:
    made = {}
    for index, (name, shape) in enumerate(parameters(width, pooled, channels)):
        gain = 0.1 if len(shape) == 1 else torch.tensor(shape[1:]).prod().item() ** -0.5
        made[name] = pseudo_random(shape, 100 + index) * gain
    return made


def to_diffusers(own: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    renamed = {}
    for name, value in own.items():
        if ".attn.qkv." in name:
            for part, piece in zip("qkv", value.chunk(3)):
                renamed[name.replace("qkv", f"to_{part}")] = piece
            continue
        for old, new in {".attn.proj.": ".attn.to_out.0.", ".mlp.fc1.": ".ff.net.0.proj.", ".mlp.fc2.": ".ff.net.2.", ".adaLN_modulation.1.": ".norm1.linear."}.items():
            name = name.replace(old, new)
        renamed[name] = value
    return renamed


@torch.inference_mode()
def main(directory: Path, out: Path) -> None:
    transformer = SD3Transformer2DModel.from_pretrained(directory / "transformer", dtype=torch.float32).eval()
    c = transformer.config
    width = c.num_attention_heads * c.attention_head_dim
    net = SD3ControlNetModel(
        num_layers=DEPTH, attention_head_dim=c.attention_head_dim, num_attention_heads=c.num_attention_heads,
        in_channels=c.in_channels, patch_size=c.patch_size, joint_attention_dim=None, caption_projection_dim=width,
        pooled_projection_dim=c.pooled_projection_dim, pos_embed_max_size=None, pos_embed_type=None, use_pos_embed=False,
        force_zeros_for_pooled_projection=False,
    ).eval()
    net.load_state_dict(to_diffusers(weights(width, c.pooled_projection_dim, c.in_channels)), strict=True)
    latent = pseudo_random([BATCH, c.in_channels, HEIGHT, WIDTH], 1)
    prompt = pseudo_random([BATCH, TOKENS, c.joint_attention_dim], 2)
    pooled = pseudo_random([BATCH, c.pooled_projection_dim], 3)
    control = pseudo_random([BATCH, c.in_channels, HEIGHT, WIDTH], 4)
    timestep = torch.full([BATCH], TIMESTEP)
    # As pipeline_stable_diffusion_3_controlnet.py: the ControlNet reads the transformer's patches and positions.
    samples = net(transformer.pos_embed(latent), control, SCALE, None, pooled, timestep, return_dict=False)[0]
    velocity = transformer(latent, prompt, pooled, timestep, block_controlnet_hidden_states=samples, return_dict=False)[0]
    tensors = {f"residual_{k}": sample.contiguous() for k, sample in enumerate(samples)}
    note = {"script": "test/golden/scripts/controlnet.py", "diffusers": diffusers.__version__, "torch": torch.__version__}
    save_file({**tensors, "velocity": velocity.contiguous()}, out, metadata=note)


main(Path(sys.argv[1]), Path(sys.argv[2]))
