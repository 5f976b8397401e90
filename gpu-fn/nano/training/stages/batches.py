"""An endless stream of batches: scenes sampled and tokenized by worker processes, in an order that the seed fixes for each worker."""

from collections.abc import Iterator

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from ..models.networks import Tokenizers
from ..scenes.render import pack
from ..scenes.sampler import Sampler
from ..scenes.scene import CANVASES

# Maximum length of a caption; the tokens up to T5_TOKENS are padding (id 0).
CAPTION_TOKENS = 48


class Batches(IterableDataset):
    def __init__(self, seed: int, size: int, tokenized: bool, dense: float, wide: bool):
        self.seed, self.size, self.tokenized, self.dense, self.wide = seed, size, tokenized, dense, wide

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        torch.set_num_threads(1)
        worker = get_worker_info()
        sampler = Sampler(self.seed * 1009 + (worker.id if worker else 0))
        tokenizers = Tokenizers() if self.tokenized else None
        while True:
            if self.wide:
                sampler.canvas = sampler.random.choice(CANVASES)
            crowded = round(self.size * self.dense)
            scenes = [sampler.scene("dense" if i < crowded else None) for i in range(self.size)]
            batch = pack(scenes)
            if tokenizers:
                batch |= tokenizers([scene.caption for scene in scenes], CAPTION_TOKENS)
            yield batch


def batches(seed: int, size: int, workers: int, tokenized=False, dense=0.0, wide=False) -> Iterator[dict[str, torch.Tensor]]:
    """`dense` is the share of crowded scenes, which have no captions; `wide` batches use non-native canvases."""
    options = {"num_workers": workers, "prefetch_factor": 4, "pin_memory": torch.cuda.is_available()} if workers else {}
    return iter(DataLoader(Batches(seed, size, tokenized, dense, wide), batch_size=None, **options))
