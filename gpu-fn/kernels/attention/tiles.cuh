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

/** Offset in its tile of `channel` of the 16 tokens from 16 · `chunk`; chunk < 8. */
__host__ __device__ constexpr int valueChunk(int channel, int chunk) { return channel * TILE + (chunk ^ (channel % 8)) * CHUNK; }

/**
 * The token, of a chunk's 16, at a byte of the chunk: 0 1 8 9 2 3 10 11 4 5 12 13 6 7 14 15. Of 16 columns of logits, a thread has
 * 2t, 2t + 1, 2t + 8 and 2t + 9 (t = lane % 4), and of 16 bytes of an operand of probabilities 4t to 4t + 3. In this order of values they
 * are the same, so that probabilities are not exchanged between threads.
 */
__host__ __device__ constexpr int tokenAt(int byte) { return byte / 4 * 2 + byte % 2 + byte % 4 / 2 * 8; }

/** The scales of the values, one float32 per tile, follow all `tiles` tiles of values. */
inline float* valueScales(uint8_t* values, int64_t tiles) { return reinterpret_cast<float*>(values + tiles * VALUE_BYTES); }
constexpr int SCALED_VALUE_BYTES = VALUE_BYTES + sizeof(float);

__host__ __device__ constexpr int64_t tilesOf(int64_t tokens) { return (tokens + TILE - 1) / TILE; }

}  // namespace octet
