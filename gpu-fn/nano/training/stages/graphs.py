"""Loss and gradients as a CUDA graph for each shape of batch: small networks otherwise wait for Python to launch their thousands of kernels."""

from collections.abc import Callable, Hashable

import torch

WARM_UP = 2  # calls before the capture, for compilation and the choice of algorithms


class Gradients:
    """Adds the gradients of `loss_of(key, **inputs)` to the parameters and returns the loss.

    Inputs are tensors whose shapes depend on the key alone. `total` is the buffer of all gradients (stage.py), zero before each call. Without CUDA
    or with `captured` false, nothing is captured.
    """

    def __init__(self, loss_of: Callable[..., torch.Tensor], total: torch.Tensor, captured: bool = True):
        self.loss_of, self.total = loss_of, total
        self.captured = captured and total.is_cuda
        self.graphs: dict[Hashable, tuple[torch.cuda.CUDAGraph, dict[str, torch.Tensor], torch.Tensor]] = {}
        if self.captured:
            self.memory, self.stream = torch.cuda.graph_pool_handle(), torch.cuda.Stream()

    def __call__(self, key: Hashable, **inputs: torch.Tensor) -> torch.Tensor:
        if not self.captured:
            return self.run(key, inputs)
        if key not in self.graphs:
            self.capture(key, inputs)
        graph, static, loss = self.graphs[key]
        for name, value in inputs.items():
            static[name].copy_(value)
        graph.replay()
        return loss

    def run(self, key: Hashable, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        loss = self.loss_of(key, **inputs)
        loss.backward()
        return loss.detach()

    def capture(self, key: Hashable, inputs: dict[str, torch.Tensor]) -> None:
        static = {name: value.clone() for name, value in inputs.items()}
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            for _ in range(WARM_UP):
                self.run(key, static)
        torch.cuda.current_stream().wait_stream(self.stream)
        graph = torch.cuda.CUDAGraph()
        # Other threads use CUDA at the same time: the data loader's and NCCL's.
        with torch.cuda.graph(graph, pool=self.memory, stream=self.stream, capture_error_mode="thread_local"):
            loss = self.run(key, static)
        self.graphs[key] = (graph, static, loss)
        self.total.zero_()
