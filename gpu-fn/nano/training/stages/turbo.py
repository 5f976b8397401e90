"""Stage 3: nano-turbo, four steps without guidance, by trajectory distillation with guidance folded in.

    python -m training.stages.turbo --steps 1100 --budget 300

The student takes one Euler step for `SUBSTEPS` steps of the guided teacher: it learns the teacher's mean velocity between two adjacent
noise levels of the student's schedule. Half of the starting points are images with added noise. The other half are on the student's own
trajectory from pure noise, so that it learns to correct errors of its earlier steps.
"""

import random

import torch

from ..models.networks import GUIDANCE, T5_TOKENS, TURBO_TERMINAL, Tokenizers, scheduler
from ..settings import STATE
from .batches import CAPTION_TOKENS
from .base import REFILL, WITHOUT_T5_SHARE, Denoiser, Latents, Pools, compile_blocks, pad_t5
from .graphs import Gradients
from .stage import RANK, WORLD, Stage, arguments, autocast, device

STEPS = 4
SUBSTEPS = 4


def velocity(network, latent: torch.Tensor, sigma: float | torch.Tensor, prompt: torch.Tensor, pooled: torch.Tensor) -> torch.Tensor:
    """`sigma`: one noise level, or one per sample [B]."""
    timestep = torch.zeros(len(latent), device=latent.device) + sigma * 1000
    options = {"encoder_hidden_states": prompt, "pooled_projections": pooled, "timestep": timestep, "return_dict": False}
    return network(latent, **options)[0].float()


def guided(teacher, latent: torch.Tensor, sigma: float | torch.Tensor, positive: tuple, negative: tuple, guidance: float) -> torch.Tensor:
    """The teacher's velocity with classifier-free guidance."""
    both = tuple(torch.cat(pair) for pair in zip(positive, negative))
    twice = sigma.repeat(2) if isinstance(sigma, torch.Tensor) else sigma
    conditional, unconditional = velocity(teacher, latent.repeat(2, 1, 1, 1), twice, *both).chunk(2)
    return unconditional + guidance * (conditional - unconditional)


@torch.no_grad()
def teach(teacher, latent: torch.Tensor, start: float, end: float, positive: tuple, negative: tuple, guidance: float) -> torch.Tensor:
    """The guided teacher's latent at noise level `end`, from `latent` at `start`."""
    levels = torch.linspace(start, end, SUBSTEPS + 1).tolist()
    for sigma, following in zip(levels, levels[1:]):
        latent = latent + (following - sigma) * guided(teacher, latent, sigma, positive, negative, guidance)
    return latent


@torch.no_grad()
def start_point(student, clean: torch.Tensor, sigmas: list[float], index: int, own: bool, positive: tuple) -> torch.Tensor:
    noise = torch.randn_like(clean)
    if not own:
        return (1 - sigmas[index]) * clean + sigmas[index] * noise
    for sigma, following in zip(sigmas[:index], sigmas[1:]):
        noise = noise + (following - sigma) * velocity(student, noise, sigma, *positive)
    return noise


def main() -> None:
    options = arguments(steps=1100, batch=256, reuse=12, fill=20, compiled=1, rate=4e-4, guidance=GUIDANCE, decay=0.998, long_from=0.6, captured=1)
    torch.manual_seed(options.seed)
    random.seed(options.seed)  # all processes take equally long steps
    on = device()
    base = Denoiser().to(on).eval().requires_grad_(False)
    base.load_state_dict(torch.load(STATE / "base.pt", map_location=on, weights_only=True)["average"])
    student = Denoiser().to(on).transformer
    student.load_state_dict(base.transformer.state_dict())
    if on != "cpu" and options.compiled:
        compile_blocks(base.transformer)
        compile_blocks(student)
    stage = Stage("turbo", student, options, rate=options.rate, decay=options.decay, betas=(0.9, 0.95), muon=True)
    schedule = scheduler(TURBO_TERMINAL)
    schedule.set_timesteps(STEPS)
    sigmas = schedule.sigmas.tolist()
    latents = Latents(on)
    pools = Pools(options, options.seed + 4 + stage.step, latents, on)
    torch.manual_seed((options.seed + stage.step) * WORLD + RANK)
    count = options.batch // WORLD
    empty = {key: value.to(on) for key, value in Tokenizers()([""]).items()}

    def loss_of(shape: tuple[int, bool, int], clean: torch.Tensor, with_t5: torch.Tensor, **ids: torch.Tensor) -> torch.Tensor:
        index, own, length = shape
        start, end = sigmas[index], sigmas[index + 1]
        with autocast():
            with torch.no_grad():
                positive = base.encoders(ids, with_t5)
                negative = base.encoders({key: value[:, : ids[key].shape[1]].expand(count, -1) for key, value in empty.items()}, with_t5)
            latent = start_point(student, clean, sigmas, index, own, positive)
            target = teach(base.transformer, latent, start, end, positive, negative, options.guidance)
            arrived = latent + (end - start) * velocity(student, latent, start, *positive)
            # Weights the squared error of the mean velocity by the length of the step.
            return (arrived - target).square().mean() / abs(end - start)

    gradients = Gradients(loss_of, stage.gradients, bool(options.captured))
    while stage.running():
        if stage.step % REFILL == 0:
            pools.refill()
        clean, ids = pools.native.take(count)
        length = CAPTION_TOKENS if stage.progress() < options.long_from and stage.step % 4 else T5_TOKENS
        with_t5 = (torch.rand(count, device=on) >= WITHOUT_T5_SHARE).float()
        index = random.randrange(STEPS)
        own = random.random() < 0.5 or index == 0
        stage.update(gradients((index, own, length), clean=clean, with_t5=with_t5, **pad_t5(ids, length)))
    stage.save()


if __name__ == "__main__":
    main()
