// The layout between QkNormQuantize and Attention. The tokens of a head are in tiles of 128, in the order of bytes that the tensor cores
// require in shared memory, so that loading a tile is one copy: rows of 64 bytes (a token's query or key) or of 128 bytes (one value of all
// tokens, because products in FP8 sum along rows), all in E4M3, whose chunks of 16 bytes are permuted by row (Hopper's 64-byte and 128-byte
// swizzle).
#pragma once
#include <cstdint>

namespace octet {

constexpr int DEPTH = 64;  // values of a head
constexpr int TILE = 128;  // tokens of a tile
constexpr int KEY_BYTES = TILE * DEPTH;
constexpr int VALUE_BYTES = DEPTH * TILE;
constexpr int CHUNK = 16;

/** Offset in its tile of the 16 bytes `chunk` of a token's query or key; chunk < 4. */
__host__ __device__ constexpr int keyChunk(int token, int chunk) { return token * DEPTH + (chunk ^ (token / 2 % 4)) * CHUNK; }

/** Byte offset within a tile of the 16-token chunk `chunk` (0 to 7) of `channel`. */
__host__ __device__ constexpr int valueChunk(int channel, int chunk) { return channel * TILE + (chunk ^ (channel % 8)) * CHUNK; }

/**
 * Token index (0 to 15) at each byte of a chunk: 0 1 8 9 2 3 10 11 4 5 12 13 6 7 14 15. A thread (t = lane % 4) holds logit columns 2t,
 * 2t + 1, 2t + 8 and 2t + 9 of 16, but supplies operand bytes 4t to 4t + 3 of the probabilities. With values in this order, the two match
 * without an exchange between threads.
 */
__host__ __device__ constexpr int tokenAt(int byte) { return byte / 4 * 2 + byte % 2 + byte % 4 / 2 * 8; }

/** The scales of the values, one float32 per tile, follow all `tiles` tiles of values. */
inline float* valueScales(uint8_t* values, int64_t tiles) { return reinterpret_cast<float*>(values + tiles * VALUE_BYTES); }
constexpr int SCALED_VALUE_BYTES = VALUE_BYTES + sizeof(float);

__host__ __device__ constexpr int64_t tilesOf(int64_t tokens) { return (tokens + TILE - 1) / TILE; }

}  // namespace octet
