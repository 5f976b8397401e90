"""Measures SD3.5 in PyTorch with diffusers' pipeline, as the baseline of `npm run bench -- gpu`.

    python infra/bench/gpu/gpu_torch.py PLAN

PLAN is a JSON file, see `TorchPlan` in plan.ts. Prints JSON lines as it goes: {"phase"} before each part, {"metric", "size", "value"}
for each figure and {"failed", "error"} for each failed part. With `way` "reference", it computes every network once in float32 and
writes the results with which all others are compared.
"""
import functools
import json
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import StableDiffusion3Pipeline

PLAN = json.loads(Path(sys.argv[1]).read_text())
DEVICE = torch.device(PLAN["device"])
REFERENCE = Path(PLAN["reference"])
CUDA = DEVICE.type == "cuda"


def say(**line):
    print(json.dumps(line), flush=True)


def part(name):
    """Runs a part of the measurement. Its failure does not affect the other parts."""

    def decorate(run):
        @functools.wraps(run)
        def guarded(*arguments):
            forget_memory()
            say(phase=name, size=size_of(arguments))
            try:
                run(*arguments)
            except Exception as error:  # any error is the result of this part
                say(failed=name, size=size_of(arguments), error=f"{type(error).__name__}: {error}"[:500])

        return guarded

    return decorate


def forget_memory():
    """Empties the allocator's cache, so that the peak of a part does not include earlier parts."""
    if CUDA:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def size_of(arguments):
    return next((argument for argument in arguments if isinstance(argument, str)), None)


def sides(size):
    return [int(side) for side in size.split("x")]


def synchronize():
    if CUDA:
        torch.cuda.synchronize()


def seconds_of(run):
    synchronize()
    start = time.perf_counter()
    run()
    synchronize()
    return time.perf_counter() - start


def median_seconds(run, warmups=2):
    for _ in range(warmups):
        run()
    return statistics.median(seconds_of(run) for _ in range(PLAN["runs"]))


def write(name, tensor):
    tensor.detach().float().cpu().numpy().tofile(REFERENCE / f"{name}.f32")


def read(name, shape):
    return torch.from_numpy(np.fromfile(REFERENCE / f"{name}.f32", dtype=np.float32).reshape(shape))


def relative_error(given, name):
    given = given.detach().float().cpu().flatten()
    expected = read(name, [-1])
    return (torch.linalg.vector_norm(given - expected) / torch.linalg.vector_norm(expected)).item()


def noise(size):
    width, height = sides(size)
    shape = [1, PLAN["channels"], height // PLAN["downsample"], width // PLAN["downsample"]]
    return torch.randn(shape, generator=torch.Generator("cpu").manual_seed(PLAN["seed"]))


class Fp8Linear(torch.nn.Module):
    """A Linear with float8 weights and one scale per row, dequantized on each use, as in quanto's `qfloat8`."""

    def __init__(self, linear):
        super().__init__()
        weight = linear.weight.detach()
        scale = weight.float().abs().amax(1, keepdim=True).clamp(min=1e-12) / torch.finfo(torch.float8_e4m3fn).max
        self.register_buffer("codes", (weight.float() / scale).to(torch.float8_e4m3fn))
        self.register_buffer("scale", scale.to(weight.dtype))
        self.bias = linear.bias

    @property
    def weight(self):
        # T5 takes the type of its activations from here.
        return self.scale

    def forward(self, x):
        return F.linear(x, self.codes.to(x.dtype) * self.scale.to(x.dtype), self.bias)


def quantize_weights(module, passed_over=("proj_out",)):
    for name, child in list(module.named_children()):
        if isinstance(child, torch.nn.Linear) and name not in passed_over:
            setattr(module, name, Fp8Linear(child))
            del child
        else:
            quantize_weights(child, passed_over)


QUANTIZED = {
    "fp8-backbone": ["transformer"],
    "fp8-weights": ["transformer", "text_encoder_3"],
    "fp8-lite": ["transformer", "text_encoder", "text_encoder_2"],
}


def use_torchao(transformer):
    from torchao.quantization import Float8DynamicActivationFloat8WeightConfig, PerRow, quantize_

    def fits(module, name):
        # The products of the blocks, which Octet computes in FP8 as well.
        return isinstance(module, torch.nn.Linear) and ".norm" not in name and "transformer_blocks" in name

    quantize_(transformer, Float8DynamicActivationFloat8WeightConfig(granularity=PerRow()), filter_fn=fits)


def use_compile(transformer):
    torch._dynamo.config.recompile_limit = 64
    if PLAN["whole"]:
        transformer.compile(dynamic=False)
    else:
        # As diffusers' `compile_repeated_blocks` does for models that list theirs.
        for block in transformer.transformer_blocks:
            block.compile(dynamic=False)


def open_pipeline():
    way = PLAN["way"]
    start = time.perf_counter()
    dtype = torch.float32 if way == "reference" else torch.bfloat16
    device = {"device_map": "cuda"} if CUDA else {}
    without_t5 = {"text_encoder_3": None, "tokenizer_3": None} if way == "fp8-lite" else {}
    pipeline = StableDiffusion3Pipeline.from_pretrained(PLAN["checkpoint"], dtype=dtype, **device, **without_t5)
    pipeline.set_progress_bar_config(disable=True)
    synchronize()
    loaded = time.perf_counter() - start
    if way != "reference":
        say(metric="load_s", value=loaded)
        say(metric="load_gb_per_s", value=PLAN["bytes"] / 1e9 / loaded)
    for network in QUANTIZED.get(way, ()):
        quantize_weights(getattr(pipeline, network))
    if way == "torchao":
        use_torchao(pipeline.transformer)
    if way != "reference":
        say(metric="weights_gb", value=weight_bytes(pipeline) / 1e9)
    if way in ("compile", "torchao"):
        use_compile(pipeline.transformer)
    return pipeline


def weight_bytes(pipeline):
    networks = [component for component in pipeline.components.values() if isinstance(component, torch.nn.Module)]
    tensors = {id(t): t for network in networks for t in (*network.parameters(), *network.buffers())}
    return sum(t.numel() * t.element_size() for t in tensors.values())


def encode(pipeline):
    embeds, _, pooled, _ = pipeline.encode_prompt(
        PLAN["prompt"], None, None, do_classifier_free_guidance=False, device=DEVICE, max_sequence_length=256
    )
    return embeds, pooled


def denoise(pipeline, size):
    dtype = pipeline.transformer.dtype
    embeds = read("prompt_embeds", [1, -1, PLAN["jointWidth"]]).to(DEVICE, dtype)
    inputs = {
        "hidden_states": noise(size).to(DEVICE, dtype),
        "encoder_hidden_states": embeds,
        "pooled_projections": read("pooled", [1, -1]).to(DEVICE, dtype),
        "timestep": torch.tensor([PLAN["timestep"]], device=DEVICE),
    }
    return lambda: pipeline.transformer(**inputs, return_dict=False)[0]


def decode(pipeline, size):
    vae = pipeline.vae
    latent = noise(size).to(DEVICE, vae.dtype) / vae.config.scaling_factor + vae.config.shift_factor
    return lambda: vae.decode(latent, return_dict=False)[0]


def image(pipeline, size, steps, guidance):
    width, height = sides(size)
    # A generator draws different noise in bfloat16 and in float32.
    latents = noise(size).to(DEVICE, pipeline.transformer.dtype)
    return pipeline(
        PLAN["prompt"],
        negative_prompt="",
        width=width,
        height=height,
        num_inference_steps=steps,
        guidance_scale=guidance,
        latents=latents,
        max_sequence_length=256,
    ).images[0]


@part("reference")
def write_reference(pipeline, size):
    write(f"velocity-{size}", denoise(pipeline, size)())
    write(f"image-{size}", decode(pipeline, size)())
    image(pipeline, size, 4, 1.0).save(REFERENCE / f"turbo-{size}.png")


@part("first image")
def first_image(pipeline, size):
    image(pipeline, size, 4, 1.0)
    say(metric="first_image_s", value=time.time() - PLAN["started"] / 1000)


@part("encode")
def measure_encode(pipeline):
    embeds, pooled = encode(pipeline)
    say(metric="prompt_error", value=relative_error(embeds, "prompt_embeds"))
    say(metric="pooled_error", value=relative_error(pooled, "pooled"))
    say(metric="encode_ms", value=1000 * median_seconds(lambda: encode(pipeline)))


@part("forward")
def measure_forward(pipeline, size):
    forward = denoise(pipeline, size)
    say(metric="velocity_error", size=size, value=relative_error(forward(), f"velocity-{size}"))
    say(metric="forward_ms", size=size, value=1000 * median_seconds(forward))


@part("decode")
def measure_decode(pipeline, size):
    run = decode(pipeline, size)
    say(metric="image_error", size=size, value=relative_error(run(), f"image-{size}"))
    say(metric="decode_ms", size=size, value=1000 * median_seconds(run))


@part("turbo")
def measure_turbo(pipeline, size):
    made = []
    seconds = median_seconds(lambda: made.append(image(pipeline, size, 4, 1.0)), warmups=1)
    say(metric="turbo_s", size=size, value=seconds)
    made[-1].save(REFERENCE / f"{PLAN['system']}-{size}.png")
    say(image=str(REFERENCE / f"{PLAN['system']}-{size}.png"), size=size)
    if CUDA:
        say(metric="allocated_mib", size=size, value=torch.cuda.max_memory_allocated() / 2**20)


@part("full")
def measure_full(pipeline, size):
    image(pipeline, size, 2, 3.5)
    say(metric="full_s", size=size, value=seconds_of(lambda: image(pipeline, size, PLAN["steps"], 3.5)))


@torch.inference_mode()
def main():
    say(phase="load")
    pipeline = open_pipeline()
    if PLAN["way"] == "reference":
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
        embeds, pooled = encode(pipeline)
        write("prompt_embeds", embeds)
        write("pooled", pooled)
        for size in PLAN["sizes"]:
            write_reference(pipeline, size)
        return
    first_image(pipeline, PLAN["sizes"][0])
    for size in PLAN["sizes"]:
        if not PLAN.get("imagesOnly"):
            measure_forward(pipeline, size)
        measure_turbo(pipeline, size)
    if PLAN.get("imagesOnly"):
        return
    measure_encode(pipeline)
    for size in PLAN["fullSizes"]:
        measure_full(pipeline, size)
    for size in PLAN["sizes"]:
        measure_decode(pipeline, size)


main()
