"""Stage 4: nano-flash, two steps without guidance: trajectory distillation, then distribution matching.

    python -m training.stages.flash --steps 2000 --budget 300

The student is initialized from turbo. Phase 1 distills two Euler steps of turbo into one step of the student, as in progressive distillation
(arXiv 2202.00512), from the starting points of turbo.py. This regression averages over plausible images, and two steps are too few to remove
the resulting blur. Phase 2 is therefore distribution matching distillation, as in SD3.5-Flash (arXiv 2509.21318) and DMD2 (arXiv 2405.14867): a
critic is trained by flow matching on the student's images, and the student's gradient is the difference between the predictions of the critic
and of the guided base on noised images. Unlike in those papers, gradients are backpropagated through both steps, which is affordable for a
network of this size: both steps are trained on their actual inputs, and the first step needs no separate loss.

The state after phase 1 is saved as flash-trajectory.pt, for comparison.
"""

import argparse
import random

import torch

from ..models.networks import CHANNELS, FLASH_TERMINAL, GUIDANCE, SIDE, T5_TOKENS, TURBO_TERMINAL, Tokenizers, scheduler
from ..settings import STATE
from .base import REFILL, WITHOUT_T5_SHARE, Denoiser, Latents, Pools, compile_blocks, noise_levels, pad_t5
from .batches import CAPTION_TOKENS
from .graphs import Gradients
from .stage import RANK, WORLD, Stage, arguments, autocast, device
from .turbo import STEPS as TURBO_STEPS
from .turbo import guided, start_point, velocity

STEPS = 2
LEVELS = (0.02, 0.98)  # range of noise levels for distribution matching
Prompt = tuple[torch.Tensor, torch.Tensor]


def levels_of(steps: int, terminal: float) -> list[float]:
    schedule = scheduler(terminal)
    schedule.set_timesteps(steps)
    return schedule.sigmas.tolist()


def integrate(network, latent: torch.Tensor, sigmas: list[float], prompt: Prompt) -> torch.Tensor:
    """The latent after Euler steps through the noise levels `sigmas`."""
    for sigma, following in zip(sigmas, sigmas[1:]):
        latent = latent + (following - sigma) * velocity(network, latent, sigma, *prompt)
    return latent


def trajectory_loss(student, turbo, clean: torch.Tensor, sigmas: list[float], fine: list[float], index: int, own: bool, prompt: Prompt) -> torch.Tensor:
    """Mean squared error, relative to the step size, between the student's latent after step `index` and turbo's after two steps of `fine`."""
    latent = start_point(student, clean, sigmas, index, own, prompt)
    with torch.no_grad():
        target = integrate(turbo, latent, fine[2 * index : 2 * index + 3], prompt)
    arrived = integrate(student, latent, sigmas[index : index + 2], prompt)
    return (arrived - target).square().mean() / (sigmas[index] - sigmas[index + 1])


def matching_loss(student, critic, teacher, noise: torch.Tensor, sigmas: list[float], positive: Prompt, negative: Prompt, guidance: float) -> torch.Tensor:
    """Distribution matching loss (DMD, arXiv 2311.18828). Its gradient is the normalized difference of the images denoised by critic and teacher."""
    image = integrate(student, noise, sigmas, positive)
    with torch.no_grad():
        sigma = LEVELS[0] + (LEVELS[1] - LEVELS[0]) * torch.rand(len(image), device=image.device)
        level = sigma.view(-1, 1, 1, 1)
        noisy = (1 - level) * image + level * torch.randn_like(image)
        real = noisy - level * guided(teacher, noisy, sigma, positive, negative, guidance)
        fake = noisy - level * velocity(critic, noisy, sigma, *positive)
        gradient = (fake - real) / (image - real).abs().mean((1, 2, 3), keepdim=True).clamp(min=1e-3)
    return 0.5 * (image - (image - gradient).detach()).square().mean()


def critic_loss(critic, student, noise: torch.Tensor, sigmas: list[float], prompt: Prompt) -> torch.Tensor:
    """Flow matching loss on the student's images."""
    with torch.no_grad():
        image = integrate(student, noise, sigmas, prompt)
    sigma, fresh = noise_levels(len(image), image.device), torch.randn_like(image)
    level = sigma.view(-1, 1, 1, 1)
    return (velocity(critic, (1 - level) * image + level * fresh, sigma, *prompt) - (fresh - image)).square().mean()


def main() -> None:
    options = arguments(steps=2000, batch=192, reuse=12, fill=20, compiled=1, rate=3e-4, critic_rate=3e-4, critic=2, guidance=GUIDANCE, decay=0.995,
                        matching_from=0.35, long_from=0.8, captured=1)
    torch.manual_seed(options.seed)
    random.seed(options.seed)  # all processes take equally long steps
    on = device()
    base = Denoiser().to(on).eval().requires_grad_(False)
    base.load_state_dict(torch.load(STATE / "base.pt", map_location=on, weights_only=True)["average"])
    turbo, student, critic = (Denoiser().to(on).transformer for _ in range(3))
    distilled = torch.load(STATE / "turbo.pt", map_location=on, weights_only=True)["average"]
    turbo.eval().requires_grad_(False).load_state_dict(distilled)
    student.load_state_dict(distilled)
    critic.load_state_dict(base.transformer.state_dict())
    if on != "cpu" and options.compiled:
        for network in (base.transformer, turbo, student, critic):
            compile_blocks(network)
    stage = Stage("flash", student, options, rate=options.rate, decay=options.decay, betas=(0.9, 0.95), muon=True)
    critics = argparse.Namespace(**{**vars(options), "steps": options.steps * options.critic})
    critic_stage = Stage("flash-critic", critic, critics, rate=options.critic_rate, decay=options.decay, betas=(0.9, 0.95), muon=True)
    sigmas, fine = levels_of(STEPS, FLASH_TERMINAL), levels_of(TURBO_STEPS, TURBO_TERMINAL)
    latents = Latents(on)
    pools = Pools(options, options.seed + 5 + stage.step, latents, on)
    torch.manual_seed((options.seed + stage.step) * WORLD + RANK)
    count = options.batch // WORLD
    empty = {key: value.to(on) for key, value in Tokenizers()([""]).items()}

    def noise() -> torch.Tensor:
        return torch.randn(count, CHANNELS, SIDE, SIDE, device=on)

    def encode(ids: dict[str, torch.Tensor], with_t5: torch.Tensor) -> Prompt:
        with torch.no_grad():
            return base.encoders(ids, with_t5)

    def student_loss(shape: tuple[int, bool, int], clean: torch.Tensor, with_t5: torch.Tensor, **ids: torch.Tensor) -> torch.Tensor:
        index, own, _ = shape
        with autocast():
            positive = encode(ids, with_t5)
            if index < STEPS:
                return trajectory_loss(student, turbo, clean, sigmas, fine, index, own, positive)
            negative = encode({key: value[:, : ids[key].shape[1]].expand(count, -1) for key, value in empty.items()}, with_t5)
            return matching_loss(student, critic, base.transformer, noise(), sigmas, positive, negative, options.guidance)

    def loss_of_critic(length: int, with_t5: torch.Tensor, **ids: torch.Tensor) -> torch.Tensor:
        with autocast():
            return critic_loss(critic, student, noise(), sigmas, encode(ids, with_t5))

    gradients = Gradients(student_loss, stage.gradients, bool(options.captured))
    critic_gradients = Gradients(loss_of_critic, critic_stage.gradients, bool(options.captured))

    def inputs() -> tuple[int, dict[str, torch.Tensor]]:
        clean, ids = pools.native.take(count)
        length = CAPTION_TOKENS if stage.progress() < options.long_from and stage.step % 4 else T5_TOKENS
        with_t5 = (torch.rand(count, device=on) >= WITHOUT_T5_SHARE).float()
        return length, {"clean": clean, "with_t5": with_t5, **pad_t5(ids, length)}

    matching = stage.progress() >= options.matching_from
    while stage.running():
        if stage.step % REFILL == 0:
            pools.refill()
        if not matching and stage.progress() >= options.matching_from:
            matching = True
            stage.save_copy("flash-trajectory")
        critic_stage.now = stage.now
        for _ in range(options.critic if matching else 0):
            length, given = inputs()
            given.pop("clean")
            critic_stage.update(critic_gradients(length, **given))
        index = STEPS if matching else random.randrange(STEPS)
        own = index < STEPS and (index == 0 or random.random() < 0.5)
        length, given = inputs()
        stage.update(gradients((index, own, length), **given))
    stage.save()
    critic_stage.now = stage.now
    critic_stage.save()


if __name__ == "__main__":
    main()
