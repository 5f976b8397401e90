"""Inputs that the tests make again by the same integer formula (test/support/checkpoints/tensors.ts)."""
import numpy as np
import torch

BOS, EOS, TOKENS = 998, 999, 77


def pseudo_random(shape: list[int], seed: int) -> torch.Tensor:
    """Float32 values in [-1.73, 1.73), of deviation 1, from a 32-bit hash of the index."""
    count = int(np.prod(shape))
    return torch.from_numpy((hashes(count, seed) / 2.0**31 - 1) * 3**0.5).to(torch.float32).reshape(shape)


def hashes(count: int, seed: int) -> np.ndarray:
    x = np.arange(count, dtype=np.uint64) * 2654435761 + seed * 40503
    x &= 0xFFFFFFFF
    x ^= x >> 16
    x = (x * 2246822519) & 0xFFFFFFFF
    x ^= x >> 13
    x = (x * 3266489917) & 0xFFFFFFFF
    return (x ^ (x >> 16)).astype(np.float64)


def clip_ids(lengths: list[int], seed: int, pad: int, above_eos: int | None) -> torch.Tensor:
    """One row per length: BOS, `length` words, EOS, padding. `above_eos` is a word whose id is higher than that of EOS."""
    ids = torch.full((len(lengths), TOKENS), pad)
    for row, length in enumerate(lengths):
        words = 1 + hashes(length, seed + row).astype(np.int64) % 997
        ids[row, 0] = BOS
        ids[row, 1 : length + 1] = torch.from_numpy(words)
        ids[row, length + 1] = EOS
        if above_eos is not None and length > 3:
            ids[row, 3] = above_eos
    return ids


def t5_ids(batch: int, tokens: int, seed: int) -> torch.Tensor:
    return torch.from_numpy(hashes(batch * tokens, seed).astype(np.int64) % 1000).reshape(batch, tokens)
