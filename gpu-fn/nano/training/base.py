"""Stage 2: the text encoders and the transformer together, by flow matching (arXiv 2403.03206) on the VAE's latents.

    python -m training.base --steps 7000

A tenth of the captions are empty, for guidance; a quarter see zeros in T5's place, so that T5 can be dropped. Scenes are encoded once and used
`reuse` times from a pool. Early steps see 64 T5 tokens, later ones the 256 that diffusers pads to: the rest is padding and costs time.
"""

import torch
import torch.nn.functional as F
from torch import nn

from .data import batches
from .models import CHANNELS, SIDE, T5_TOKENS, TextEncoders, Tokenizers, transformer, vae
from .render import Renderer
from .sample import evaluate
from .stage import STATE, Stage, arguments, autocast, device

EMPTY_SHARE = 0.10
WITHOUT_T5_SHARE = 0.25
POOL = 131072
REFILL = 8  # steps between additions to the pool: drawing waits for the GPU many times, so it is done in large batches


def compile_blocks(network: nn.Module) -> None:
    torch._dynamo.config.recompile_limit = 64  # all blocks share one forward: three kinds, two lengths, with and without gradients
    for block in network.transformer_blocks:
        block.compile(dynamic=False)


class Denoiser(nn.Module):
    """Everything that is trained: ids and noisy latents in, velocity out."""

    def __init__(self):
        super().__init__()
        self.encoders, self.transformer = TextEncoders(), transformer()

    def compile_parts(self) -> None:
        """Block by block: blocks of one shape share their code, so that it takes seconds and not minutes."""
        compile_blocks(self.transformer)
        for encoder in self.encoders.children():
            encoder.compile(dynamic=False)

    def forward(self, latent: torch.Tensor, sigma: torch.Tensor, ids: dict[str, torch.Tensor], with_t5: torch.Tensor) -> torch.Tensor:
        prompt, pooled = self.encoders(ids, with_t5)
        return self.transformer(latent, encoder_hidden_states=prompt, pooled_projections=pooled, timestep=sigma * 1000, return_dict=False)[0]


class Latents:
    """The frozen VAE with standardised latents, as the denoiser sees them."""

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
    """The last scenes that were encoded; each step takes `batch` of them at random and adds a share of new ones."""

    def __init__(self, renderer: Renderer, latents: Latents, stream, size: int, on: str):
        self.renderer, self.latents, self.stream, self.size, self.filled, self.at = renderer, latents, stream, size, 0, 0
        self.latent = torch.empty(size, CHANNELS, SIDE, SIDE, dtype=torch.float16, device=on)
        self.ids: dict[str, torch.Tensor] = {}

    def add(self) -> None:
        batch = next(self.stream)
        latent = torch.cat([self.latents.encode(part) for part in self.renderer(batch).split(128)]).half()
        rows = (torch.arange(len(latent), device=latent.device) + self.at) % self.size
        self.latent[rows] = latent
        for key in ("clip_l", "clip_g", "t5"):
            if key not in self.ids:
                self.ids[key] = torch.zeros(self.size, batch[key].shape[1], dtype=torch.int16, device=latent.device)
            self.ids[key][rows] = batch[key].to(latent.device, torch.int16)
        self.at = (self.at + len(latent)) % self.size
        self.filled = min(self.size, self.filled + len(latent))

    def take(self, count: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        rows = torch.randint(self.filled, (count,), device=self.latent.device)
        return self.latent[rows].float(), {key: value[rows].long() for key, value in self.ids.items()}


def filled_pool(options, seed: int, latents: Latents, on: str) -> Pool:
    """A pool that has its first scenes; `add` it once in REFILL steps, and each scene serves `options.reuse` times."""
    fresh = options.batch // options.reuse * REFILL
    pool = Pool(Renderer(on), latents, batches(seed, fresh, options.workers, tokenized=True), POOL, on)
    for _ in range(20):
        pool.add()
    return pool


def pad_t5(ids: dict[str, torch.Tensor], length: int) -> dict[str, torch.Tensor]:
    return {**ids, "t5": F.pad(ids["t5"], (0, length - ids["t5"].shape[1]))}


def noise_levels(count: int, on: str) -> torch.Tensor:
    """Logit-normal, a little towards noise, with a twentieth spread evenly so that no level is forgotten."""
    sigma = torch.sigmoid(torch.randn(count, device=on) * 1.2 + 0.4)
    return torch.where(torch.rand(count, device=on) < 0.05, torch.rand(count, device=on), sigma)


def loss_of(denoiser: Denoiser, clean: torch.Tensor, ids: dict[str, torch.Tensor], sigma: torch.Tensor, with_t5: torch.Tensor) -> torch.Tensor:
    noise = torch.randn_like(clean)
    level = sigma.view(-1, 1, 1, 1)
    velocity = denoiser((1 - level) * clean + level * noise, sigma, ids, with_t5)
    return (velocity.float() - (noise - clean)).square().mean()


def main() -> None:
    options = arguments(steps=7000, batch=768, reuse=12, rate=1e-3, decay=0.9995, long_from=0.7)
    torch.manual_seed(options.seed)
    on = device()
    denoiser = Denoiser().to(on)
    if on == "cuda":
        denoiser.compile_parts()
    stage = Stage("base", denoiser, options, rate=options.rate, decay=options.decay, betas=(0.9, 0.95), muon=True)
    latents = Latents(on)
    pool = filled_pool(options, options.seed + 3 + stage.step, latents, on)
    empty = {key: value.to(on) for key, value in Tokenizers()([""]).items()}
    while stage.running():
        if stage.step % REFILL == 0:
            pool.add()
        clean, ids = pool.take(options.batch)
        early = stage.step < options.long_from * options.steps
        ids = pad_t5(ids, 64 if early and stage.step % 4 else T5_TOKENS)
        dropped = torch.rand(options.batch, 1, device=on) < EMPTY_SHARE
        ids = {key: torch.where(dropped, empty[key][:, : value.shape[1]], value) for key, value in ids.items()}
        with_t5 = (torch.rand(options.batch, device=on) >= WITHOUT_T5_SHARE).float()
        with autocast():
            loss = loss_of(denoiser, clean, ids, noise_levels(options.batch, on), with_t5)
        stage.update(loss)
    stage.save()
    if stage.finished:
        denoiser.load_state_dict(stage.average)
        evaluate("base", denoiser, latents, on)


if __name__ == "__main__":
    main()
