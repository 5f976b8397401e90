"""LoRA files in the key grammars of the trainers, and outputs of diffusers' and transformers' networks with the same
LoRAs in PEFT, in float32. diffusers and PEFT write and read `everything` and `peft` themselves. The other files have
the matrices of `attention` or `encoders` under the names that the trainers give them.

for v in tiny-medium tiny-large; do npx node infra/checkpoints/tiny/checkpoint.ts --variant $v --out TINY/$v; done
python test/golden/scripts/lora.py TINY test/golden/lora
"""
import json
import re
import sys
import tempfile
from pathlib import Path

import diffusers
import peft
import torch
import transformers
from diffusers import StableDiffusion3Pipeline
from peft import LoraConfig, get_peft_model, inject_adapter_in_model
from peft.utils import get_peft_model_state_dict
from safetensors import safe_open
from safetensors.torch import save_file

from tiny_inputs import clip_ids, pseudo_random, t5_ids

ATTENTION = ["attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0", "attn.add_q_proj", "attn.add_k_proj",
             "attn.add_v_proj", "attn.to_add_out", "attn2.to_q", "attn2.to_k", "attn2.to_v", "attn2.to_out.0",
             "ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2"]
# The halves of the last text stream's modulation, and of the last norm's, are exchanged in Stability's names.
EVERYTHING = ["transformer_blocks.1.attn.to_q", "transformer_blocks.1.attn.add_v_proj", "transformer_blocks.1.norm1.linear",
              "transformer_blocks.1.norm1_context.linear", "transformer_blocks.2.norm1_context.linear", "norm_out.linear",
              "proj_out", "context_embedder", "timestep_embedder.linear_1", "timestep_embedder.linear_2",
              "text_embedder.linear_1", "text_embedder.linear_2", "pos_embed.proj"]
CLIP = ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"]
T5 = ["SelfAttention.q", "SelfAttention.k", "SelfAttention.v", "SelfAttention.o", "wi_0", "wi_1", "wo"]
STRENGTH = 0.05


def fill(model, adapter: str, seed: int):
    """Reproducible values for the matrices of an adapter, so that B is not zero."""
    for i, (name, value) in enumerate(sorted(model.named_parameters())):
        if f".{adapter}." in name and "lora_" in name:
            value.data = (pseudo_random(list(value.shape), seed + i) * STRENGTH).to(torch.bfloat16).to(value.dtype)


def open_pipeline(root: Path, variant: str):
    return StableDiffusion3Pipeline.from_pretrained(str(root / variant), dtype=torch.float32)


@torch.inference_mode()
def outputs(pipeline) -> dict[str, torch.Tensor]:
    c = pipeline.transformer.config
    latent = pseudo_random([1, c.in_channels, 8, 12], 1)
    prompt = pseudo_random([1, 90, c.joint_attention_dim], 2)
    pooled = pseudo_random([1, c.pooled_projection_dim], 3)
    time = torch.full([1], 602.25)
    out = {"velocity": pipeline.transformer(latent, prompt, pooled, time, return_dict=False)[0]}
    for name, encoder, pad in [("clip_l", pipeline.text_encoder, 999), ("clip_g", pipeline.text_encoder_2, 0)]:
        result = encoder(clip_ids([9], 4, pad, None), output_hidden_states=True)
        out |= {f"{name}.hidden": result.hidden_states[-2][:, ::11], f"{name}.pooled": result[0]}
    out["t5.hidden"] = pipeline.text_encoder_3(t5_ids(1, 77, 5))[0][:, ::11]
    return {name: value.float().contiguous() for name, value in out.items()}


def matrices(model, adapter: str) -> dict[str, torch.Tensor]:
    """PEFT's own state: `module.lora_A.weight` and `module.lora_B.weight`."""
    state = get_peft_model_state_dict(model, adapter_name=adapter)
    return {name: value.detach().to(torch.bfloat16).contiguous() for name, value in state.items()}


def modules(state: dict) -> list[str]:
    return sorted({name.rsplit(".lora_", 1)[0] for name in state})


def with_alpha(state: dict, name, a: str, b: str, alpha: float) -> dict:
    out = {}
    for module in modules(state):
        out[name(module) + a] = state[f"{module}.lora_A.weight"]
        out[name(module) + b] = state[f"{module}.lora_B.weight"]
        out[name(module) + ".alpha"] = torch.tensor(alpha, dtype=torch.float32)
    return out


NATIVE = {
    "attn.to_out.0": "x_block.attn.proj", "attn.to_add_out": "context_block.attn.proj",
    "attn2.to_out.0": "x_block.attn2.proj", "ff.net.0.proj": "x_block.mlp.fc1", "ff.net.2": "x_block.mlp.fc2",
    "ff_context.net.0.proj": "context_block.mlp.fc1", "ff_context.net.2": "context_block.mlp.fc2",
}
STACKS = {
    "x_block.attn.qkv": ["attn.to_q", "attn.to_k", "attn.to_v"],
    "context_block.attn.qkv": ["attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"],
    "x_block.attn2.qkv": ["attn2.to_q", "attn2.to_k", "attn2.to_v"],
}


def native(state: dict) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Stability's modules: (down, up). A stacked projection has the three ranks beside each other."""
    out = {}
    for block in sorted({re.match(r"transformer_blocks\.(\d+)\.", name)[1] for name in state}, key=int):
        get = lambda module, part: state.get(f"transformer_blocks.{block}.{module}.lora_{part}.weight")
        for module, target in NATIVE.items():
            if get(module, "A") is not None:
                out[f"joint_blocks.{block}.{target}"] = (get(module, "A"), get(module, "B"))
        for target, parts in STACKS.items():
            if get(parts[0], "A") is not None:
                down = torch.cat([get(part, "A") for part in parts])
                out[f"joint_blocks.{block}.{target}"] = (down, torch.block_diag(*[get(part, "B") for part in parts]))
    return out


def with_native(state: dict, name, a: str, b: str, alpha) -> dict:
    out = {}
    for module, (down, up) in native(state).items():
        out |= {name(module) + a: down.contiguous(), name(module) + b: up.contiguous()}
        out[name(module) + ".alpha"] = torch.tensor(float(alpha(down.shape[0])))
    return out


def old_diffusers(state: dict) -> dict:
    """diffusers 0.18: matrices in the attention processors."""
    out = {}
    for module in modules(state):
        if re.search(r"attn\.to_(q|k|v|out\.0)$", module):
            block, projection = re.match(r"(.*\.attn)\.(to_\w+)", module).groups()
            key = f"transformer.{block}.processor.{projection}_lora"
        else:
            key = f"transformer.{module}.lora"
        out[f"{key}.down.weight"] = state[f"{module}.lora_A.weight"]
        out[f"{key}.up.weight"] = state[f"{module}.lora_B.weight"]
    return out


def dots(prefix: str):
    return lambda module: prefix + module


def underscores(prefix: str):
    return lambda module: prefix + module.replace(".", "_")


def attention(root: Path, out: Path, goldens: dict):
    """Attention and MLPs of the transformer at strength 1 in the spellings of eight trainers."""
    pipeline = open_pipeline(root, "tiny-medium")
    names = "|".join(re.escape(name) for name in ATTENTION)
    # The second of two streams of attention is in block 0, and block 2 is the last one, whose text stream ends.
    config = LoraConfig(r=2, lora_alpha=2, target_modules=rf"transformer_blocks\.(0|2)\.({names})")
    pipeline.transformer.add_adapter(config, "a")
    fill(pipeline.transformer, "a", 100)
    goldens["attention"] = {"velocity": outputs(pipeline)["velocity"]}
    state = matrices(pipeline.transformer, "a")
    files = {
        "ai-toolkit": {f"transformer.{name}": value for name, value in state.items()},
        "simpletuner-comfyui": with_alpha(state, dots("transformer."), ".lora_A.weight", ".lora_B.weight", 2),
        "onetrainer": with_alpha(state, underscores("lora_transformer_"), ".lora_down.weight", ".lora_up.weight", 2),
        "lycoris": with_alpha(state, underscores("lycoris_"), ".lora_down.weight", ".lora_up.weight", 2),
        "comfyui": with_native(state, dots("diffusion_model."), ".lora_A.weight", ".lora_B.weight", lambda rank: rank),
        "original": with_native(state, dots(""), ".lora_A.weight", ".lora_B.weight", lambda rank: rank),
        "kohya": with_native(state, underscores("lora_unet_"), ".lora_down.weight", ".lora_up.weight", lambda rank: rank),
        "diffusers-0.18": old_diffusers(state),
    }
    for name, tensors in files.items():
        save_file(tensors, out / f"{name}.safetensors")
    # kohya's `split_qkv` keeps the alpha of one of the three ranks.
    split = with_native(state, underscores("lora_unet_"), ".lora_down.weight", ".lora_up.weight", lambda rank: 2)
    metadata = {"ss_network_module": "networks.lora_sd3", "ss_network_args": json.dumps({"split_qkv": "True"})}
    save_file(split, out / "kohya-split-qkv.safetensors", metadata)


def everything(root: Path, out: Path, goldens: dict):
    """All matrices of the transformer and of both CLIPs, saved and loaded by diffusers with alpha ≠ rank."""
    pipeline = open_pipeline(root, "tiny-medium")
    config = LoraConfig(r=2, lora_alpha=1, target_modules=EVERYTHING)
    clip = LoraConfig(r=2, lora_alpha=3, target_modules=CLIP)
    parts = [(pipeline.transformer, config, 300), (pipeline.text_encoder, clip, 600), (pipeline.text_encoder_2, clip, 800)]
    for model, settings, seed in parts:
        inject_adapter_in_model(settings, model, "e")
        fill(model, "e", seed)
    states = [matrices(model, "e") for model, *_ in parts]
    StableDiffusion3Pipeline.save_lora_weights(
        out,
        transformer_lora_layers=states[0],
        text_encoder_lora_layers=states[1],
        text_encoder_2_lora_layers=states[2],
        weight_name="everything.safetensors",
        transformer_lora_adapter_metadata=config.to_dict(),
        text_encoder_lora_adapter_metadata=clip.to_dict(),
        text_encoder_2_lora_adapter_metadata=clip.to_dict(),
    )
    goldens["everything"] = outputs(pipeline)
    # What diffusers itself reads. transformers 5.24 requires a PEFT that is not released, so the encoders are those above.
    loaded = open_pipeline(root, "tiny-medium")
    with tempfile.TemporaryDirectory() as scratch:
        write_transformer_part(out / "everything.safetensors", Path(scratch) / "part.safetensors")
        loaded.load_lora_weights(scratch, weight_name="part.safetensors", adapter_name="e")
    pipeline.transformer = loaded.transformer
    assert (outputs(pipeline)["velocity"] - goldens["everything"]["velocity"]).abs().max() < 1e-6
    loaded.load_lora_weights(str(out), weight_name="ai-toolkit.safetensors", adapter_name="a")
    loaded.set_adapters(["e", "a"], [0.7, -0.4])
    goldens["two"] = {"velocity": outputs(loaded)["velocity"]}


def write_transformer_part(file: Path, out: Path):
    with safe_open(file, "pt") as opened:
        names = [name for name in opened.keys() if name.startswith("transformer.")]
        settings = json.loads(opened.metadata()["lora_adapter_metadata"])
        kept = {key: value for key, value in settings.items() if key.startswith("transformer.")}
        save_file({name: opened.get_tensor(name) for name in names}, out, {"lora_adapter_metadata": json.dumps(kept)})


def peft_raw(root: Path, out: Path, goldens: dict):
    """PEFT's own directory, with a rank and an alpha for some modules and rank-stabilized scales."""
    pipeline = open_pipeline(root, "tiny-large")
    config = LoraConfig(
        r=2, lora_alpha=3, use_rslora=True, target_modules=ATTENTION[:8], rank_pattern={"attn.to_q": 4},
        alpha_pattern={"^transformer_blocks.0.attn.to_k": 5},
    )
    model = get_peft_model(pipeline.transformer, config)
    fill(model, "default", 500)
    model.save_pretrained(out / "peft")
    (out / "peft" / "README.md").unlink()
    goldens["peft"] = {"velocity": outputs(pipeline)["velocity"]}


def encoders(root: Path, out: Path, goldens: dict):
    """All three text encoders in kohya's spelling, with alpha 1 at rank 2."""
    pipeline = open_pipeline(root, "tiny-medium")
    file = {}
    targets = [(pipeline.text_encoder, CLIP, "lora_te1_"), (pipeline.text_encoder_2, CLIP, "lora_te2_"),
               (pipeline.text_encoder_3, T5, "lora_te3_")]
    for i, (model, names, prefix) in enumerate(targets):
        inject_adapter_in_model(LoraConfig(r=2, lora_alpha=1, target_modules=names), model, "t")
        fill(model, "t", 900 + 100 * i)
        state = matrices(model, "t")
        if i < 2:  # transformers 5 omits the module that kohya's names begin with
            state = {n if n.startswith("text_model.") else f"text_model.{n}": v for n, v in state.items()}
        file |= with_alpha(state, underscores(prefix), ".lora_down.weight", ".lora_up.weight", 1)
    save_file(file, out / "kohya-encoders.safetensors")
    goldens["encoders"] = {name: value for name, value in outputs(pipeline).items() if name != "velocity"}


def main(root: Path, out: Path):
    out.mkdir(parents=True, exist_ok=True)
    goldens: dict[str, dict] = {}
    attention(root, out, goldens)
    everything(root, out, goldens)
    peft_raw(root, out, goldens)
    encoders(root, out, goldens)
    tensors = {f"{case}.{name}": value for case, values in goldens.items() for name, value in values.items()}
    save_file(tensors, out / "outputs.golden.safetensors")
    versions = {m.__name__: m.__version__ for m in (torch, diffusers, transformers, peft)}
    note = {"script": "test/golden/scripts/lora.py", "versions": versions}
    (out / "made-with.json").write_text(json.dumps(note, indent=2) + "\n")


main(Path(sys.argv[1]), Path(sys.argv[2]))
