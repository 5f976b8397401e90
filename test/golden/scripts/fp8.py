"""Writes test/golden/fp8.json: ml_dtypes' conversions of the float32 values that decide every rounding of float8_e4m3fn.

Run: python test/golden/scripts/fp8.py   (needs numpy and ml_dtypes)
"""
import base64
import json
import pathlib

import ml_dtypes
import numpy as np

E4M3 = ml_dtypes.float8_e4m3fn


def b64(array):
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()


def cast(values):
    """Saturating cast; ml_dtypes itself turns values that round above 448 into NaN."""
    clipped = np.where(np.isnan(values), values, np.clip(values, np.float32(-448), np.float32(448)))
    return clipped.astype(E4M3).view(np.uint8)


def deciding_values():
    """All codes, all midpoints of neighbors, the float32 above and below each, signed zeros, float32 subnormals, large values, NaN."""
    codes = np.arange(256, dtype=np.uint8).view(E4M3).astype(np.float32)
    positive = codes[:127]
    midpoints = (positive[1:].astype(np.float64) + positive[:-1]) / 2
    assert (midpoints.astype(np.float32) == midpoints).all()
    midpoints = midpoints.astype(np.float32)
    exact = np.concatenate([positive, midpoints, -positive, -midpoints])
    around = np.concatenate([np.nextafter(exact, np.float32(np.inf)), np.nextafter(exact, np.float32(-np.inf))])
    tiny = np.float32([1e-45, -1e-45, 1e-40, -1e-40, 1.1754944e-38, -1.1754944e-38])
    large = np.float32([448, 449, 463.99997, 464, 464.00003, 480, 1e4, 3.4028235e38, np.inf])
    return codes, np.concatenate([codes, exact, around, tiny, large, -large, np.float32([0.0, -0.0, np.nan])])


def quantize(weights, block):
    rows, columns = weights.shape
    codes = np.empty((rows, columns), np.uint8)
    scales = []
    for row in range(rows):
        for start in range(0, columns, block):
            values = weights[row, start : start + block]
            scale = np.float32(np.abs(values).max()) / np.float32(448)
            scale = scale if scale > 0 else np.float32(1)
            codes[row, start : start + block] = cast(values / scale)
            scales.append(scale)
    return codes, np.float32(scales)


def rows_case(weights, block):
    codes, scales = quantize(weights, block)
    return {"rows": weights.shape[0], "columns": weights.shape[1], "block": block, "weights": b64(weights), "codes": b64(codes), "scales": b64(scales)}


def main():
    rng = np.random.default_rng(20260822)
    weights = rng.standard_normal((12, 300)).astype(np.float32) * np.float32(0.02)
    weights[1] = 0
    weights[2] *= np.float32(1e-37)  # its scale is a subnormal
    weights[3] = np.float32(1e-45)  # its scale is zero in float32
    weights[4] *= np.float32(1e38)
    weights[5, 7] = 100  # an outlier
    weights[6] = np.round(weights[6] * 2000) / 2000  # many ties
    values = deciding_values()
    golden = {
        "versions": {"numpy": np.__version__, "ml_dtypes": ml_dtypes.__version__},
        "decoded": b64(values[0]),
        "values": b64(values[1]),
        "codes": b64(cast(values[1])),
        "quantized": [rows_case(weights, 300), rows_case(weights, 128)],
    }
    target = pathlib.Path(__file__).parent.parent / "fp8.json"
    target.write_text(json.dumps(golden) + "\n")


main()
