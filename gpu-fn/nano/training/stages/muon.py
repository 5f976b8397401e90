"""Muon (Jordan 2024, https://kellerjordan.github.io/posts/muon): momentum orthogonalized by a Newton-Schulz iteration.

torch.optim.Muon processes one matrix at a time, which leaves the GPU idle with hundreds of small ones. Here matrices of one shape form a batch.
"""

import torch

COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def orthogonal(batch: torch.Tensor, iterations: int = 5) -> torch.Tensor:
    """Approximates the nearest matrices [B, rows, columns] with orthonormal rows or columns, in bfloat16."""
    x = batch.bfloat16()
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    a, b, c = COEFFICIENTS
    for _ in range(iterations):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Steps have the size of AdamW's (0.2 root mean square, arXiv 2502.16982), so that both share a learning rate."""

    def __init__(self, matrices: list[torch.Tensor], lr: float, weight_decay: float, momentum: float = 0.95):
        shapes = sorted({matrix.shape for matrix in matrices})
        groups = [{"params": [matrix for matrix in matrices if matrix.shape == shape]} for shape in shapes]
        super().__init__(groups, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            matrices = group["params"]
            state = self.state[matrices[0]]
            gradient = torch.stack([matrix.grad for matrix in matrices])
            if "momentum" not in state:
                state["momentum"] = torch.zeros_like(gradient)
            state["momentum"].lerp_(gradient, 1 - group["momentum"])
            update = orthogonal(gradient.lerp(state["momentum"], group["momentum"]))
            size = group["lr"] * 0.2 * max(gradient.shape[1:]) ** 0.5
            torch._foreach_mul_(matrices, 1 - group["lr"] * group["weight_decay"])
            torch._foreach_add_(matrices, list(update.to(gradient.dtype).unbind()), alpha=-size)
