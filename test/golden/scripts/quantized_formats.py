"""Quantized copies of the tiny-small checkpoint, written by the libraries that define the formats; the SHA-256 of every tensor
as the same library dequantizes it to float32; and the image of diffusers' pipeline with these values.

for l in diffusers single-file; do npx node infra/checkpoints/tiny/checkpoint.ts --variant tiny-small --layout $l --out TINY/$l; done
pip install torchao optimum-quanto nvidia-modelopt comfy-kitchen gguf
python test/golden/scripts/quantized_formats.py TINY test/golden/quantized
"""
import hashlib
import importlib.metadata
import json
import shutil
import sys
import tempfile
from pathlib import Path

import gguf
import numpy as np
import torch
from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline
from diffusers.loaders.single_file_utils import convert_sd3_transformer_checkpoint_to_diffusers
from gguf import GGMLQuantizationType as Type
from safetensors.torch import load_file, save_file

from pipeline_arguments import arguments_of

ROOT, OUT = Path(sys.argv[1]), Path(sys.argv[2])
PREFIX = "model.diffusion_model."
PACKAGES = ["torch", "diffusers", "transformers", "torchao", "optimum-quanto", "nvidia-modelopt", "comfy-kitchen", "gguf"]


def transformer():
    return SD3Transformer2DModel.from_pretrained(ROOT / "diffusers/transformer", torch_dtype=torch.float32).eval()


def run(model):
    """A forward pass, for the calibration of activations."""
    config = model.config
    latent, prompt = torch.randn(1, config.in_channels, 8, 8), torch.randn(1, 5, config.joint_attention_dim)
    return model(latent, prompt, torch.randn(1, config.pooled_projection_dim), torch.tensor([500.0]))


def stability():
    """The transformer under Stability's names."""
    tensors = load_file(ROOT / "single-file/tiny-small.safetensors")
    return {name.removeprefix(PREFIX): value for name, value in tensors.items() if name.startswith(PREFIX)}


def torchao(file):
    from torchao.prototype.safetensors.safetensors_support import flatten_tensor_state_dict
    from torchao.quantization import Float8WeightOnlyConfig, quantize_

    model = transformer()
    quantize_(model, Float8WeightOnlyConfig())
    state = model.state_dict()
    tensors, metadata = flatten_tensor_state_dict(state)
    save_file(tensors, file, metadata)
    return {name: value.dequantize() if hasattr(value, "qdata") else value for name, value in state.items()}


def quanto(file):
    from optimum.quanto import QTensor, freeze, qfloat8, quantize

    model = transformer()
    quantize(model, weights=qfloat8)
    freeze(model)
    state = model.state_dict()
    save_file({name: value.contiguous() for name, value in state.items()}, file)
    values = {name: value.dequantize() if isinstance(value, QTensor) else value for name, value in model.named_parameters()}
    return values | {"pos_embed.pos_embed": state["pos_embed.pos_embed"]}


def calibrated():
    import modelopt.torch.quantization as mtq

    torch.manual_seed(0)
    return mtq.quantize(transformer(), mtq.FP8_DEFAULT_CFG, run)


def compress(model):
    """Real FP8 weights in place of simulated ones, and the values that they stand for."""
    import modelopt.torch.quantization as mtq

    mtq.compress(model)
    values = {"pos_embed.pos_embed": model.pos_embed.pos_embed}
    for module_name, module in model.named_modules():
        for name, value in module.named_parameters(recurse=False):
            is_packed = hasattr(value, "get_qtensor")
            scale = module.weight_quantizer._scale if is_packed else None
            values[f"{module_name}.{name}"] = value.get_qtensor().dequantize(scale=scale) if is_packed else value
    return values


def modelopt_compressed(file):
    """The state dict of a compressed model, as diffusers saves it."""
    model = calibrated()
    values = compress(model)
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, file)
    return values


def modelopt_export(file):
    """ModelOpt's unified checkpoint, with weight_scale and input_scale."""
    from modelopt.torch.export import export_hf_checkpoint

    model = calibrated()
    with tempfile.TemporaryDirectory() as folder:
        export_hf_checkpoint(model, export_dir=folder)
        shutil.copyfile(Path(folder) / "diffusion_pytorch_model.safetensors", file)
    tensors, values = load_file(file), compress(calibrated())  # which also compresses a convolution
    return {name: values[name] if tensors[name].dtype == torch.float8_e4m3fn else tensors[name] for name in values}


def comfy(file):
    """ComfyUI's QUANTIZATION.md: layers in the metadata, with codes in a U8 container, and layers with a comfy_quant tensor."""
    from comfy_kitchen.tensor import QuantizedTensor

    tensors, values, layers = {}, {}, {}
    for name, value in stability().items():
        values[name] = value
        tensors[PREFIX + name] = value.half() if value.ndim > 1 else value
        if not (name.startswith("joint_blocks.") and value.ndim == 2):
            values[name] = tensors[PREFIX + name].float()
            continue
        quantized = QuantizedTensor.from_float(value, "TensorCoreFP8Layout")
        values[name] = quantized.dequantize()
        tensors |= quantized.state_dict(PREFIX + name)
        layer, format = (PREFIX + name).removesuffix(".weight"), {"format": "float8_e4m3fn"}
        tensors[f"{layer}.input_scale"] = torch.tensor(0.5)
        if ".x_block." in name:
            layers[layer] = format
            tensors[PREFIX + name] = tensors[PREFIX + name].view(torch.uint8)
        else:
            tensors[f"{layer}.comfy_quant"] = torch.tensor(list(json.dumps(format).encode()), dtype=torch.uint8)
    save_file(tensors, file, {"_quantization_metadata": json.dumps({"format_version": "1.0", "layers": layers})})
    return convert_sd3_transformer_checkpoint_to_diffusers(values)


def random_blocks(rows, columns, type, seed):
    """Blocks of random codes; gguf-py cannot quantize to K-quants. The float16 scales are small and finite."""
    size, count = gguf.GGML_QUANT_SIZES[type][1], columns // gguf.GGML_QUANT_SIZES[type][0]
    random = np.random.default_rng(seed)
    blocks = random.integers(0, 256, (rows, count, size), dtype=np.uint8)
    places = {Type.Q6_K: [208], Type.Q3_K: [108], Type.Q2_K: [80, 82], Type.Q4_K: [0, 2], Type.Q5_K: [0, 2], Type.Q4_1: [0, 2], Type.Q5_1: [0, 2]}
    for place in places.get(type, [0]):
        scales = random.uniform(-1, 1, (rows, count)).astype(np.float16) * np.float16(0.01 if size < 64 else 0.0005)
        blocks[:, :, place : place + 2] = scales.view(np.uint8).reshape(rows, count, 2)
    return blocks.reshape(rows, count * size)


class GgufFile:
    def __init__(self, file, architecture):
        self.writer, self.values = gguf.GGUFWriter(file, architecture or "none"), {}
        if architecture is None:  # as stable-diffusion.cpp writes
            del self.writer.kv_data[0]["general.architecture"]

    def add(self, name, value, type, seed=None):
        value = value.numpy()
        data = gguf.quantize(value, type) if seed is None else random_blocks(*value.shape, type, seed)
        self.values[name] = torch.from_numpy(gguf.dequantize(data, type).reshape(value.shape).copy())
        self.writer.add_tensor(name, data, raw_dtype=type)

    def close(self):
        self.writer.write_header_to_file()
        self.writer.write_kv_data_to_file()
        self.writer.write_tensors_to_file()
        self.writer.close()
        return self.values


def city96(file):
    """ComfyUI-GGUF's tools/convert.py: architecture sd3, bare names of Stability, embedders in F16, vectors in F32."""
    out = GgufFile(file, "sd3")
    out.writer.add_quantization_version(2)
    types = [Type.Q8_0, Type.Q5_1, Type.Q5_0, Type.Q4_1, Type.Q4_0, Type.BF16]
    for i, (name, value) in enumerate(stability().items()):
        block = name.startswith("joint_blocks.") and value.ndim == 2
        out.add(name, value, types[i % len(types)] if block else Type.F16 if value.ndim > 1 else Type.F32)
    return convert_sd3_transformer_checkpoint_to_diffusers(out.close())


def sdcpp_name(name):
    """stable-diffusion.cpp src/name_conversion.cpp, convert_diffusers_dit_to_original_sd3."""
    for old, new in [
        ("time_text_embed.timestep_embedder.linear_1", "t_embedder.mlp.0"), ("time_text_embed.timestep_embedder.linear_2", "t_embedder.mlp.2"),
        ("time_text_embed.text_embedder.linear_1", "y_embedder.mlp.0"), ("time_text_embed.text_embedder.linear_2", "y_embedder.mlp.2"),
        ("pos_embed.pos_embed", "pos_embed"), ("pos_embed.proj", "x_embedder.proj"),
        ("norm1_context.linear", "context_block.adaLN_modulation.1"), ("norm1.linear", "x_block.adaLN_modulation.1"),
        ("attn.norm_added_q", "context_block.attn.ln_q"), ("attn.norm_added_k", "context_block.attn.ln_k"),
        ("attn.norm_q", "x_block.attn.ln_q"), ("attn.norm_k", "x_block.attn.ln_k"),
        ("attn2.norm_q", "x_block.attn2.ln_q"), ("attn2.norm_k", "x_block.attn2.ln_k"),
        ("ff_context.net.0.proj", "context_block.mlp.fc1"), ("ff_context.net.2", "context_block.mlp.fc2"),
        ("ff.net.0.proj", "x_block.mlp.fc1"), ("ff.net.2", "x_block.mlp.fc2"),
        ("attn.to_add_out", "context_block.attn.proj"), ("attn.to_out.0", "x_block.attn.proj"), ("attn2.to_out.0", "x_block.attn2.proj"),
        ("proj_out", "final_layer.linear"), ("norm_out.linear", "final_layer.adaLN_modulation.1"),
    ]:
        if old in name:
            name = name.replace(old, new)
            break
    for i, part in enumerate("qkv"):
        suffix = f".{i}" if i else ""
        for old, new in [(f"attn.to_{part}.", "x_block.attn.qkv."), (f"attn2.to_{part}.", "x_block.attn2.qkv."), (f"attn.add_{part}_proj.", "context_block.attn.qkv.")]:
            if old in name:
                name = name.replace(old, new) + suffix
                break
    return PREFIX + name.replace("transformer_blocks.", "joint_blocks.")


def sdcpp(file):
    """stable-diffusion.cpp's convert mode with a diffusers transformer: no metadata, and no leading axis of length 1."""
    out, state = GgufFile(file, None), transformer().state_dict()
    for name, value in state.items():
        block = name.startswith("transformer_blocks.") and value.ndim == 2
        value_type = Type.Q8_0 if "to_v" in name else Type.Q4_0
        shaped = value[0] if name == "pos_embed.pos_embed" else value
        out.add(sdcpp_name(name), shaped, value_type if block else Type.F16 if value.ndim > 1 else Type.F32)
    values = out.close()
    return {name: values[sdcpp_name(name)].reshape(value.shape) for name, value in state.items()}


T5_NAMES = {
    "shared.": "token_embd.", "encoder.block.": "enc.blk.", "encoder.final_layer_norm.": "enc.output_norm.",
    "layer.0.SelfAttention.q.": "attn_q.", "layer.0.SelfAttention.k.": "attn_k.", "layer.0.SelfAttention.v.": "attn_v.",
    "layer.0.SelfAttention.o.": "attn_o.", "layer.0.SelfAttention.relative_attention_bias.": "attn_rel_b.",
    "layer.0.layer_norm.": "attn_norm.", "layer.1.layer_norm.": "ffn_norm.",
    "layer.1.DenseReluDense.wi_0.": "ffn_gate.", "layer.1.DenseReluDense.wi_1.": "ffn_up.", "layer.1.DenseReluDense.wo.": "ffn_down.",
}


def t5(file):
    """llama.cpp's convert_hf_to_gguf.py: architecture t5encoder, the tokenizer in the metadata."""
    out, names = GgufFile(file, "t5encoder"), {}
    out.writer.add_tokenizer_model("t5")
    out.writer.add_token_list([f"token {i}" for i in range(1024)])
    out.writer.add_token_scores([-float(i) for i in range(1024)])
    kquants = [Type.Q4_K, Type.Q5_K, Type.Q6_K]
    for name, value in load_file(ROOT / "diffusers/text_encoder_3/model.safetensors").items():
        names[name] = name
        for old, new in T5_NAMES.items():
            names[name] = names[name].replace(old, new)
        if "ffn_down" in names[name]:
            block = int(names[name].split(".")[2])
            out.add(names[name], value, kquants[block], seed=block)
        else:
            out.add(names[name], value, Type.F32 if value.ndim < 2 or "attn_rel_b" in names[name] else Type.Q5_0)
    values = out.close()
    return {name: values[names[name]] for name in names}


def blocks(file):
    """Random blocks of every type."""
    out = GgufFile(file, "sd3")
    types = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS"]
    for seed, name in enumerate(types):
        out.add(f"joint_blocks.0.{name}.weight", torch.empty(3, 512), Type[name], seed)
    return out.close()


FORMATS = {
    "torchao.safetensors": torchao, "quanto.safetensors": quanto, "modelopt-compressed.safetensors": modelopt_compressed,
    "modelopt-export.safetensors": modelopt_export, "comfy.safetensors": comfy,
    "city96.gguf": city96, "sdcpp.gguf": sdcpp, "t5.gguf": t5, "blocks.gguf": blocks,
}


def image(values, case):
    pipeline = StableDiffusion3Pipeline.from_pretrained(ROOT / "diffusers", torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    network = pipeline.text_encoder_3 if "shared.weight" in values else pipeline.transformer
    network.load_state_dict(values, strict="shared.weight" not in values)
    return pipeline(**arguments_of(case), max_sequence_length=256).images[0]


@torch.no_grad()
def main():
    request = json.loads((OUT / "request.json").read_text())
    digests = {}
    for name, write in FORMATS.items():
        values = {key: value.detach().float().contiguous() for key, value in write(OUT / name).items()}
        digests[name] = {key: hashlib.sha256(value.numpy().tobytes()).hexdigest() for key, value in sorted(values.items())}
        if name != "blocks.gguf":
            image(values, request).save(OUT / f"{Path(name).stem}.png")
    (OUT / "digests.json").write_text(json.dumps(digests, indent=1) + "\n")
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    weights = {
        f"tiny-small/{file.relative_to(ROOT / 'diffusers')}": hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted((ROOT / "diffusers").glob("*/*.safetensors"))
    }
    note = {"script": "test/golden/scripts/quantized_formats.py", "versions": versions, "weights": weights}
    (OUT / "made-with.json").write_text(json.dumps(note, indent=2) + "\n")


main()
