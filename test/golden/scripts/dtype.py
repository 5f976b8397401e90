"""Writes test/golden/dtype.json: SHA-256 of numpy's and ml_dtypes' conversions of every 16-bit pattern and of float32 values near
every float16 tie.

Run: python test/golden/scripts/dtype.py   (needs numpy and ml_dtypes)
"""
import hashlib
import json
import pathlib

import ml_dtypes
import numpy as np


def sha256(array):
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def patterns(dtype):
    values = np.arange(65536, dtype=np.uint16).view(dtype)
    return values[~np.isnan(values.astype(np.float32))]


def around_halves():
    """Every finite float16, every midpoint of neighbors, and the float32 above and below each."""
    halves = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float32)
    midpoints = ((halves[1:].astype(np.float64) + halves[:-1]) / 2).astype(np.float32)
    exact = np.concatenate([halves, midpoints, np.float32([65519.996, 65520, 65536, 1e30])])
    everything = np.concatenate([exact, np.nextafter(exact, np.float32(np.inf)), np.nextafter(exact, np.float32(0))])
    return np.concatenate([everything, -everything])


def main():
    with np.errstate(over="ignore"):
        golden = {
            "versions": {"numpy": np.__version__, "ml_dtypes": ml_dtypes.__version__},
            "float16_as_float32": sha256(patterns(np.float16).astype(np.float32)),
            "bfloat16_as_float32": sha256(patterns(ml_dtypes.bfloat16).astype(np.float32)),
            "bfloat16_as_float16": sha256(patterns(ml_dtypes.bfloat16).astype(np.float32).astype(np.float16)),
            "near_halves": sha256(around_halves()),
            "near_halves_as_float16": sha256(around_halves().astype(np.float16)),
        }
    target = pathlib.Path(__file__).parent.parent / "dtype.json"
    target.write_text(json.dumps(golden, indent=2) + "\n")


main()
