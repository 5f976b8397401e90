"""Compiles random small SD3.5-like checkpoints, saved by diffusers, and compares every graph with torch.

python test/golden/scripts/random_configurations.py --count 40 --seed 0 [--tier fp32|fp8]
Prints one line per configuration and exits with 1 if any network differs by more than the tier's tolerance.
"""
import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, T5Config, T5EncoderModel

from quantized import quantize

ROOT = Path(__file__).parents[3]
TOLERANCE = {"fp32": 1e-4, "fp8": 1e-3}
onnxruntime.set_default_logger_severity(3)


def draw_configuration(r: random.Random) -> dict:
    clip = lambda: dict(
        hidden_size=(heads := r.choice([1, 2, 3, 5])) * r.choice([8, 12, 20, 32, 64]),
        num_attention_heads=heads,
        intermediate_size=r.choice([24, 64, 100]),
        num_hidden_layers=r.randint(1, 4),
        projection_dim=r.choice([16, 40, 64]),
        hidden_act=r.choice(["quick_gelu", "gelu", "gelu_new"]),
        eos_token_id=r.choice([2, 999, 500]),
        vocab_size=r.choice([1000, 1050]),
        layer_norm_eps=r.choice([1e-5, 1e-5, 1e-3]),
        bos_token_id=998,
        pad_token_id=1,
    )
    clips = [clip(), clip()]
    heads, depth = r.choice([1, 2, 3, 5]), r.randint(1, 4)
    joint = max(sum(c["hidden_size"] for c in clips), 32) + r.choice([0, 8, 20])
    transformer = dict(
        num_attention_heads=heads,
        attention_head_dim=(head_dim := r.choice([8, 12, 20, 32, 64])),
        caption_projection_dim=heads * head_dim,
        joint_attention_dim=joint,
        pooled_projection_dim=sum(c["projection_dim"] for c in clips),
        num_layers=depth,
        dual_attention_layers=tuple(i for i in range(depth) if r.random() < 0.4),
        qk_norm=r.choice([None, "rms_norm", "rms_norm"]),
        patch_size=(patch := r.choice([1, 2, 2, 2, 4])),
        in_channels=(channels := r.choice([1, 3, 4, 8, 16])),
        out_channels=channels,
        pos_embed_max_size=r.choice([9, 12, 16, 25]),
        sample_size=patch * r.choice([4, 8, 16]),
    )
    t5 = dict(
        d_model=joint,
        d_kv=r.choice([8, 20, 33]),
        d_ff=r.choice([24, 70, 128]),
        num_layers=r.randint(1, 3),
        num_heads=r.choice([1, 2, 5]),
        relative_attention_num_buckets=r.choice([8, 16, 32, 48]),
        relative_attention_max_distance=r.choice([20, 64, 128, 200]),
        feed_forward_proj="gated-gelu",
        vocab_size=1000,
        layer_norm_epsilon=r.choice([1e-6, 1e-3]),
        tie_word_embeddings=False,
    )
    levels, groups = r.randint(1, 4), r.choice([1, 2, 4, 8, 32])
    vae = dict(
        latent_channels=channels,
        block_out_channels=tuple(groups * r.choice([1, 2, 3]) for _ in range(levels)),
        layers_per_block=r.randint(1, 3),
        norm_num_groups=groups,
        mid_block_add_attention=r.random() < 0.6,
        use_quant_conv=r.random() < 0.5,
        use_post_quant_conv=r.random() < 0.5,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        scaling_factor=r.choice([1.5305, 0.18215, 0.9]),
        shift_factor=r.choice([0.0609, 0.0, -0.4]),
        sample_size=transformer["sample_size"] * 2 ** (levels - 1),
    )
    random_table = r.random() < 0.4
    networks = dict(transformer=transformer, clip_l=clips[0], clip_g=clips[1], t5=t5, vae=vae)
    dtype, shard = r.choice(["float32", "float16", "bfloat16"]), r.choice(["40KB", "200KB", "1GB"])
    return dict(networks, random_table=random_table, dtype=dtype, shard=shard)


def build(config: dict, directory: Path, seed: int) -> dict[str, torch.nn.Module]:
    generator = torch.Generator().manual_seed(seed)
    models = {
        "transformer": SD3Transformer2DModel(**config["transformer"]),
        "clip_l": CLIPTextModelWithProjection(CLIPTextConfig(**config["clip_l"])),
        "clip_g": CLIPTextModelWithProjection(CLIPTextConfig(**config["clip_g"])),
        "t5": T5EncoderModel(T5Config(**config["t5"])),
        "vae": AutoencoderKL(**config["vae"]),
    }
    folders = ["transformer", "text_encoder", "text_encoder_2", "text_encoder_3", "vae"]
    for (name, model), folder in zip(models.items(), folders):
        model.eval()
        randomise(model, generator, config["random_table"], scale_t5_queries=name == "t5")
        model.to(getattr(torch, config["dtype"]))
        model.save_pretrained(directory / folder, max_shard_size=config["shard"])
        model.float()
    FlowMatchEulerDiscreteScheduler(shift=3.0).save_pretrained(directory / "scheduler")
    for tokenizer in ["tokenizer", "tokenizer_2", "tokenizer_3"]:
        shutil.copytree(ROOT / "infra/checkpoints/tiny/tokenizers" / tokenizer, directory / tokenizer)
    return models


def randomise(model, generator, random_table: bool, scale_t5_queries: bool):
    for name, p in list(model.named_parameters()) + [(n, b) for n, b in model.named_buffers() if n == "pos_embed.pos_embed"]:
        if name == "pos_embed.pos_embed" and not random_table:
            continue
        noise = torch.randn(p.shape, generator=generator)
        if p.ndim == 1:
            value = 0.2 * noise + (1 if name.endswith("weight") else 0)
        elif "embed" in name and "proj" not in name and "linear" not in name and "context" not in name or name == "shared.weight":
            value = 0.7 * noise
        else:
            value = noise / p[0].numel() ** 0.5
        if scale_t5_queries and name.endswith("SelfAttention.q.weight"):
            value = value / 4
        p.data.copy_(value)


def compile_package(directory: Path, out: Path, tier: str):
    command = ["npx", "node", "gpu-fn/compile/main.ts", "--checkpoint", directory, "--out", out, "--tier", tier, "--target", "cpu"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"compile: {done.stderr.strip()[-600:]}")


class Package:
    def __init__(self, directory: Path):
        self.directory = directory
        self.manifest = json.loads((directory / "manifest.json").read_text())

    def run(self, network: str, **inputs):
        entry = self.manifest["networks"][network]
        session = onnxruntime.InferenceSession(self.directory / entry["file"], providers=["CPUExecutionProvider"])
        outputs = session.run(None, {name: np.asarray(value) for name, value in inputs.items()})
        return dict(zip((o.name for o in session.get_outputs()), outputs))

    def position(self, h: int, w: int) -> dict:
        position = self.manifest["position"]
        if position["source"] == "graph":
            return {}
        side = position["max"]
        table = np.fromfile(self.directory / position["file"], np.float32).reshape(side, side, -1)
        top, left = (side - h) // 2, (side - w) // 2
        return {"position": table[top : top + h, left : left + w].reshape(h * w, -1)}


def compare_transformer(model, package, r):
    c, batch, tokens = model.config, r.choice([1, 2, 3]), r.choice([5, 77, 154])
    sizes = [r.randint(1, c.pos_embed_max_size) for _ in range(2)]
    h, w = (n * c.patch_size for n in r.choice([sizes, [c.pos_embed_max_size, sizes[0]]]))
    latent = torch.randn(batch, c.in_channels, h, w)
    prompt = torch.randn(batch, tokens, c.joint_attention_dim)
    pooled = torch.randn(batch, c.pooled_projection_dim)
    timesteps = torch.tensor([1000.0, 437.25, 8.93])
    once = package.run("conditioning", timesteps=timesteps, pooled=pooled, prompt_embeds=prompt)
    position = package.position(h // c.patch_size, w // c.patch_size)
    for i, t in enumerate(timesteps):
        ours = package.run("transformer", latent=latent, modulation=once["modulation"][i], context=once["context"], **position)
        yield ours["velocity"], model(latent, prompt, pooled, t.expand(batch), return_dict=False)[0]


def compare_clip(network):
    def compare(model, package, r):
        c = model.config
        ids = torch.randint(3, c.vocab_size, (3, 77))
        ids[ids == c.eos_token_id] = 1
        for row in range(3):
            if c.eos_token_id == 2 and r.random() < 0.5:
                ids[row, r.randint(1, 76) :] = c.vocab_size - 1
            elif c.eos_token_id != 2:
                ids[row, r.randint(1, 76)] = c.eos_token_id
        ours = package.run(network, input_ids=ids)
        theirs = model(ids, output_hidden_states=True)
        yield ours["hidden"], theirs.hidden_states[-2]
        yield ours["pooled"], theirs.text_embeds

    return compare


def compare_t5(model, package, r):
    for batch, tokens in [(2, 77), (1, 256), (1, 512), (3, r.randint(1, 60))]:
        ids = torch.randint(0, model.config.vocab_size, (batch, tokens))
        yield package.run("t5", input_ids=ids)["hidden"], model(ids)[0]


def compare_vae(model, package, r):
    c = model.config
    for batch in [1, 2]:
        latent = torch.randn(batch, c.latent_channels, r.randint(2, 12), r.randint(2, 12))
        ours = package.run("vae_decoder", latent=latent)["image"]
        yield ours, model.decode(latent / c.scaling_factor + c.shift_factor, return_dict=False)[0]


COMPARE = {
    "transformer": compare_transformer,
    "clip_l": compare_clip("clip_l"),
    "clip_g": compare_clip("clip_g"),
    "t5": compare_t5,
    "vae": compare_vae,
}


def relative_error(ours, theirs) -> float:
    theirs = theirs.numpy()
    if ours.shape != theirs.shape:
        raise RuntimeError(f"shape {list(ours.shape)}, expected {list(theirs.shape)}")
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))


@torch.inference_mode()
def check(index: int, tier: str) -> bool:
    r = random.Random(index)
    torch.manual_seed(index)
    config = draw_configuration(r)
    good = True
    with tempfile.TemporaryDirectory() as temporary:
        directory, out = Path(temporary, "checkpoint"), Path(temporary, "package")
        models = build(config, directory, index)
        try:
            compile_package(directory, out, tier)
        except RuntimeError as error:
            print(f"{index:4d} FAILED {error}\n     {json.dumps(config)}", flush=True)
            return False
        figures = []
        for network, model in models.items():
            if tier == "fp8":
                quantize(model)
            try:
                worst = max(relative_error(*pair) for pair in COMPARE[network](model, Package(out), r))
            except Exception as error:  # every mismatch of a run is reported, not the first alone
                worst = float("inf")
                print(f"{index:4d} {network}: {str(error)[:400]}")
            figures.append(f"{network} {worst:.1e}")
            if not worst <= TOLERANCE[tier]:
                good = False
                print(f"{index:4d} MISMATCH {network} {worst:.2e} {json.dumps(config)}")
    print(f"{index:4d} {'ok' if good else 'BAD'} {' '.join(figures)}", flush=True)
    return good


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tier", choices=TOLERANCE, default="fp32")
    arguments = parser.parse_args()
    results = [check(arguments.seed + i, arguments.tier) for i in range(arguments.count)]
    print(f"{sum(results)} of {len(results)} configurations agree")
    sys.exit(0 if all(results) else 1)


if __name__ == "__main__":
    main()
