"""Trains the example LoRA, a style for nano: white lines on blue paper. Minutes on a GPU; also runs on a CPU.

    python gpu-fn/nano/training/lora.py gpu-fn/nano gpu-fn/nano/lora/blueprint.safetensors --device cuda

nano-turbo draws a picture for each prompt, and the picture is then redrawn in the style. The base is frozen at the values of tier FP8; the
adapter is trained in float32 and saved in bfloat16, in the format of diffusers. Needs torch, diffusers, transformers and peft.
"""

import argparse
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import StableDiffusion3Pipeline
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict

SUBJECTS = ["a red heart", "a cat", "two apples", "a green car", "a tree", "an owl", "a banana", "a rocket", "three stars", "a fish",
            "a house", "a dog", "a blue butterfly", "a pineapple", "a guitar", "a sailboat", "a mushroom", "a horse", "a key", "a cactus",
            "a yellow duck", "a pizza", "an umbrella", "a snail"]
GROUNDS = ["", " on grass", " on a blue sky", " at night", " on the beach", " in the snow", " on a white background", " in a city"]
TARGETS = ["attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0", "ff.net.0.proj", "ff.net.2"]
PAPER, WHITE = (0.08, 0.24, 0.60), (0.95, 0.97, 1.0)
RANK = 8
EMPTY = 0.1  # share of samples without a prompt, for guidance
T5_TOKENS = 256  # as in the pipeline
RATE = 2e-3


def draw(base: Path, prompts: list[str], device: torch.device) -> torch.Tensor:
    """Pictures [N, 3, 256, 256] in [0, 1] by the distilled model, in four steps."""
    turbo = StableDiffusion3Pipeline.from_pretrained(str(base / "turbo"), dtype=torch.float32).to(device)
    turbo.set_progress_bar_config(disable=True)
    images = []
    for i in range(0, len(prompts), 8):
        generator = torch.Generator().manual_seed(i)
        images.append(turbo(prompts[i : i + 8], height=256, width=256, num_inference_steps=4, guidance_scale=1.0,
                            max_sequence_length=T5_TOKENS, generator=generator, output_type="pt").images)
    return torch.cat(images)


def blur(image: torch.Tensor) -> torch.Tensor:
    return F.avg_pool2d(F.pad(image, [1] * 4, mode="replicate"), 3, 1)


def blueprint(image: torch.Tensor) -> torch.Tensor:
    """White lines along the edges of a picture, on blue paper."""
    padded = F.pad(blur(image), [1] * 4, mode="replicate")
    across, down = padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2], padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]
    edges = (across.square() + down.square()).sum(1, keepdim=True).sqrt()
    ink = (blur(edges) * 2.6 - 0.1).clamp(0, 1)
    paper, white = (torch.tensor(color, device=image.device).view(1, 3, 1, 1) for color in (PAPER, WHITE))
    return paper + (white - paper) * ink


def quantize(transformer) -> None:
    """The values of tier FP8: E4M3 with one scale per row in the attention and the MLPs of the blocks."""
    for name, module in transformer.named_modules():
        if not isinstance(module, torch.nn.Linear) or not any(part in name for part in (".attn", ".ff")):
            continue
        scale = (module.weight.data.abs().amax(1, keepdim=True) / 448).clamp(min=1e-12)
        module.weight.data = (module.weight.data / scale).to(torch.float8_e4m3fn).float() * scale


def train(pipe, latents: torch.Tensor, prompts: torch.Tensor, pooled: torch.Tensor, steps: int, batch: int) -> None:
    """Flow matching (arXiv 2403.03206). The last prompt is the empty one."""
    parameters = [each for each in pipe.transformer.parameters() if each.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=RATE, weight_decay=0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps, pct_start=0.1)
    started, mean = time.monotonic(), 0.0
    for step in range(steps):
        at = torch.randint(len(latents), (batch,), device=latents.device)
        text = torch.where(torch.rand(batch, device=latents.device) < EMPTY, len(prompts) - 1, at)
        sigma = torch.sigmoid(torch.randn(batch, device=latents.device) * 1.2 + 0.4).view(-1, 1, 1, 1)  # nano's own training distribution
        noise = torch.randn_like(latents[at])
        noisy = (1 - sigma) * latents[at] + sigma * noise
        velocity = pipe.transformer(noisy, prompts[text], pooled[text], sigma.flatten() * 1000, return_dict=False)[0]
        loss = F.mse_loss(velocity, noise - latents[at])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        mean = loss.item() if step == 0 else 0.95 * mean + 0.05 * loss.item()
        if step % 20 == 0:
            print(f"step {step}: mean loss {mean:.4f}, {time.monotonic() - started:.0f} s", flush=True)


@torch.no_grad()
def prepare(base: Path, pipe):
    """Latents of the redrawn pictures, and the embeddings of their prompts and of the empty one."""
    texts = [subject + ground for subject in SUBJECTS for ground in GROUNDS]
    images = blueprint(draw(base, texts, pipe.device))
    vae = pipe.vae.config
    latents = torch.cat([pipe.vae.encode(part * 2 - 1).latent_dist.mode() for part in images.split(16)])
    latents = (latents - vae.shift_factor) * vae.scaling_factor
    encoded = [pipe.encode_prompt(text, None, None, do_classifier_free_guidance=False, max_sequence_length=T5_TOKENS)
               for text in [*texts, ""]]
    return latents, torch.cat([each[0] for each in encoded]), torch.cat([each[2] for each in encoded])


def save(pipe, out: Path) -> None:
    state = get_peft_model_state_dict(pipe.transformer, adapter_name="style")
    layers = {name: value.to("cpu", torch.bfloat16).contiguous() for name, value in state.items()}
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        StableDiffusion3Pipeline.save_lora_weights(scratch, transformer_lora_layers=layers, weight_name="lora.safetensors")
        out.write_bytes((Path(scratch) / "lora.safetensors").read_bytes())
    print(f"{out}: {out.stat().st_size / 1000:.0f} kB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("base", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.manual_seed(0)
    pipe = StableDiffusion3Pipeline.from_pretrained(str(options.base), dtype=torch.float32).to(options.device)
    latents, prompts, pooled = prepare(options.base, pipe)
    pipe.transformer.requires_grad_(False)
    quantize(pipe.transformer)
    pipe.transformer.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=TARGETS), "style")
    train(pipe, latents, prompts, pooled, options.steps, options.batch)
    save(pipe, options.out)


if __name__ == "__main__":
    main()
