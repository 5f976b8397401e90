"""Stage 2: the text encoders and the transformer together, by flow matching (arXiv 2403.03206) on the VAE's latents.

    python -m training.stages.base --steps 20000 --budget 3000
    torchrun --nproc-per-node 2 -m training.stages.base …     # --batch is the total of all GPUs

A tenth of the captions are empty, for guidance; a quarter have zeros in place of T5's output, so that T5 can be dropped. Scenes are encoded
once and used `reuse` times from a pool. Most early steps use 48 T5 tokens, because the rest of the 256 that diffusers pads to is padding
and costs time; later steps use all. Every `wide`-th step uses images of another shape. Scenes are rendered on a second CUDA stream while
steps run on the first.
"""

import random

import torch
import torch.nn.functional as F
from torch import nn

from ..models.networks import CHANNELS, SIDE, T5_TOKENS, TextEncoders, Tokenizers, transformer, vae
from ..scenes.render import Renderer
from ..settings import STATE
from .batches import CAPTION_TOKENS, batches
from .graphs import Gradients
from .stage import RANK, WORLD, Stage, arguments, autocast, device

EMPTY_SHARE = 0.10
WITHOUT_T5_SHARE = 0.25
POOL, WIDE_POOL = 131072, 4096
WIDE_BATCH = 128  # scenes of one shape rendered per batch
REFILL = 8  # steps between additions to the pool; rendering synchronizes with the GPU often, so batches are large


def compile_blocks(network: nn.Module) -> None:
    torch._dynamo.config.recompile_limit = 64  # all blocks share one forward: three kinds, two lengths, with and without gradients
    for block in network.transformer_blocks:
        block.compile(dynamic=False)


class Denoiser(nn.Module):
    """The trained networks: from token ids and noisy latents to the velocity."""

    def __init__(self):
        super().__init__()
        self.encoders, self.transformer = TextEncoders(), transformer()

    def compile_parts(self) -> None:
        """Compiles per block, since blocks of one shape share their code. The small text encoders stay eager: compiling them takes as long as it saves."""
        compile_blocks(self.transformer)

    def forward(self, latent: torch.Tensor, sigma: torch.Tensor, ids: dict[str, torch.Tensor], with_t5: torch.Tensor) -> torch.Tensor:
        prompt, pooled = self.encoders(ids, with_t5)
        return self.transformer(latent, encoder_hidden_states=prompt, pooled_projections=pooled, timestep=sigma * 1000, return_dict=False)[0]


class Latents:
    """The frozen VAE, with latents standardized for the denoiser."""

    def __init__(self, on: str):
        saved = torch.load(STATE / "vae.pt", map_location=on, weights_only=True)
        self.vae = vae().to(on, memory_format=torch.channels_last).eval().requires_grad_(False)
        self.vae.load_state_dict(saved["average"])
        self.scale, self.shift = saved["scaling_factor"], saved["shift_factor"]

    @torch.no_grad()
    def encode(self, image: torch.Tensor) -> torch.Tensor:
        with autocast():
            latent = self.vae.encode(image.contiguous(memory_format=torch.channels_last)).latent_dist.mode()
        return ((latent.float() - self.shift) * self.scale).contiguous()

    @torch.no_grad()
    def decode(self, latent: torch.Tensor) -> torch.Tensor:
        """Pixels in 0..1."""
        with autocast():
            image = self.vae.decode(latent / self.scale + self.shift, return_dict=False)[0]
        return (image.float() / 2 + 0.5).clamp(0, 1)


class Pool:
    """The most recently encoded scenes of one shape, sampled at random in each step."""

    def __init__(self, renderer: Renderer, latents: Latents, size: int, on: str, rows: int = SIDE, columns: int = SIDE):
        self.renderer, self.latents, self.size, self.filled, self.at = renderer, latents, size, 0, 0
        self.latent = torch.empty(size, CHANNELS, rows, columns, dtype=torch.float16, device=on)
        self.ids: dict[str, torch.Tensor] = {}

    def encode(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        latent = torch.cat([self.latents.encode(part) for part in self.renderer(batch).split(128)]).half()
        return {"latent": latent, **{key: batch[key].to(latent.device, torch.int16) for key in ("clip_l", "clip_g", "t5")}}

    def add(self, encoded: dict[str, torch.Tensor]) -> None:
        latent = encoded.pop("latent")
        rows = (torch.arange(len(latent), device=latent.device) + self.at) % self.size
        self.latent[rows] = latent
        for key, ids in encoded.items():
            if key not in self.ids:
                self.ids[key] = torch.zeros(self.size, ids.shape[1], dtype=torch.int16, device=latent.device)
            self.ids[key][rows] = ids
        self.at = (self.at + len(latent)) % self.size
        self.filled = min(self.size, self.filled + len(latent))

    def take(self, count: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        rows = torch.randint(self.filled, (count,), device=self.latent.device)
        return self.latent[rows].float(), {key: value[rows].long() for key, value in self.ids.items()}


class Pools:
    """A pool of native images and one per other shape. Call `refill` every REFILL steps; each scene is used about `options.reuse` times."""

    def __init__(self, options, seed: int, latents: Latents, on: str, wide: bool = False):
        self.renderer, self.latents, self.on = Renderer(on), latents, on
        fresh = max(1, options.batch // WORLD // options.reuse) * REFILL
        seed = seed * WORLD + RANK
        self.stream = batches(seed, fresh, options.workers, tokenized=True)
        self.native, self.others = Pool(self.renderer, latents, POOL, on), {}
        self.wide = batches(seed + 500, min(fresh, WIDE_BATCH), min(2, options.workers), tokenized=True, wide=True) if wide else None
        self.side = torch.cuda.Stream() if on != "cpu" else None
        self.encoded: list[tuple[Pool, dict[str, torch.Tensor]]] = []
        self.previous = torch.cuda.Event() if self.side else None
        for _ in range(options.fill + 1):
            self.refill()

    def refill(self) -> None:
        """Adds the scenes encoded since the last call and starts on the next ones, at most two calls ahead of the GPU."""
        if self.side is None:
            self.prepare()
            self.store()
            return
        main = torch.cuda.current_stream()
        main.wait_stream(self.side)
        self.store()
        self.previous.synchronize()
        self.previous.record(main)
        with torch.cuda.stream(self.side):
            self.prepare()

    def prepare(self) -> None:
        self.encoded.append((self.native, self.native.encode(next(self.stream))))
        if self.wide is not None:
            batch = next(self.wide)
            width, height = batch["canvas"].tolist()
            if (width, height) not in self.others:
                self.others[width, height] = Pool(self.renderer, self.latents, WIDE_POOL, self.on, height // 8, width // 8)
            self.encoded.append((self.others[width, height], self.others[width, height].encode(batch)))

    def store(self) -> None:
        for pool, encoded in self.encoded:
            if self.side:
                for tensor in encoded.values():
                    tensor.record_stream(torch.cuda.current_stream())
            pool.add(encoded)
        self.encoded = []

    def other(self) -> Pool:
        """One of the other shapes with scenes."""
        return random.choice([pool for pool in self.others.values() if pool.filled])


def pad_t5(ids: dict[str, torch.Tensor], length: int) -> dict[str, torch.Tensor]:
    return {**ids, "t5": F.pad(ids["t5"], (0, length - ids["t5"].shape[1]))}


def noise_levels(count: int, on: str) -> torch.Tensor:
    """Noise levels: logit-normal with a bias toward noise, and one twentieth uniform so that every level occurs."""
    sigma = torch.sigmoid(torch.randn(count, device=on) * 1.2 + 0.4)
    return torch.where(torch.rand(count, device=on) < 0.05, torch.rand(count, device=on), sigma)


def flow_loss(denoiser: Denoiser, clean: torch.Tensor, ids: dict[str, torch.Tensor], sigma: torch.Tensor, with_t5: torch.Tensor) -> torch.Tensor:
    noise = torch.randn_like(clean)
    level = sigma.view(-1, 1, 1, 1)
    velocity = denoiser((1 - level) * clean + level * noise, sigma, ids, with_t5)
    return (velocity.float() - (noise - clean)).square().mean()


def main() -> None:
    options = arguments(steps=7000, batch=768, reuse=12, rate=1e-3, decay=0.9995, long_from=0.88, wide=12, fill=20, captured=1)
    torch.manual_seed(options.seed)
    on = device()
    denoiser = Denoiser().to(on)
    if on != "cpu":
        denoiser.compile_parts()
    stage = Stage("base", denoiser, options, rate=options.rate, decay=options.decay, betas=(0.9, 0.95), muon=True)
    torch.manual_seed((options.seed + stage.step) * WORLD + RANK)
    latents = Latents(on)
    pools = Pools(options, options.seed + 3 + stage.step, latents, on, wide=options.wide > 0)
    empty = {key: value.to(on) for key, value in Tokenizers()([""]).items()}

    def loss_of(shape: tuple[int, int, int], clean: torch.Tensor, with_t5: torch.Tensor, **ids: torch.Tensor) -> torch.Tensor:
        # Other shapes run eagerly: compiling six more would take minutes.
        torch.compiler.set_stance("default" if shape[:2] == (SIDE, SIDE) else "force_eager")
        with autocast():
            return flow_loss(denoiser, clean, ids, noise_levels(len(clean), on), with_t5)

    gradients = Gradients(loss_of, stage.gradients, bool(options.captured))

    def step(pool: Pool, count: int, length: int) -> torch.Tensor:
        clean, ids = pool.take(count)
        ids = pad_t5(ids, length)
        dropped = torch.rand(count, 1, device=on) < EMPTY_SHARE
        ids = {key: torch.where(dropped, empty[key][:, : value.shape[1]], value) for key, value in ids.items()}
        with_t5 = (torch.rand(count, device=on) >= WITHOUT_T5_SHARE).float()
        return gradients((*clean.shape[2:], length), clean=clean, with_t5=with_t5, **ids)

    count = options.batch // WORLD
    for length in (CAPTION_TOKENS, T5_TOKENS) if RANK % 2 else (T5_TOKENS, CAPTION_TOKENS):  # processes share a cache of compiled code
        step(pools.native, count, length)
        stage.gradients.zero_()
    while stage.running():
        if stage.step % REFILL == 0:
            pools.refill()
        if options.wide > 0 and stage.step % options.wide == options.wide - 1:
            stage.update(step(pools.other(), count // 2, CAPTION_TOKENS))
        else:
            early = stage.progress() < options.long_from
            stage.update(step(pools.native, count, CAPTION_TOKENS if early and stage.step % 16 else T5_TOKENS))
    stage.save()


if __name__ == "__main__":
    main()
