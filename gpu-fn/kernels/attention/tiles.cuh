// The layout between QkNormQuantize and Attention. The tokens of a head are in tiles of 128, in the order of bytes that the tensor cores
// require in shared memory, so that loading a tile is one copy: rows of 64 bytes (queries and keys, E4M3) or 128 bytes (values, float16),
// whose chunks of 16 bytes are permuted by row (Hopper's 64-byte and 128-byte swizzle).
#pragma once
#include <cstdint>

namespace octet {

constexpr int DEPTH = 64;  // values of a head
constexpr int TILE = 128;  // tokens of a tile
constexpr int KEY_BYTES = TILE * DEPTH;
constexpr int VALUE_BYTES = TILE * DEPTH * 2;
constexpr int CHUNK = 16;

/** Offset in its tile of the 16 bytes `chunk` of a token's query or key; chunk < 4. */
__host__ __device__ constexpr int keyChunk(int token, int chunk) { return token * DEPTH + (chunk ^ (token / 2 % 4)) * CHUNK; }

/** Offset in its tile of the 16 bytes `chunk` of a token's value; chunk < 8. */
__host__ __device__ constexpr int valueChunk(int token, int chunk) { return token * DEPTH * 2 + (chunk ^ (token % 8)) * CHUNK; }

__host__ __device__ constexpr int64_t tilesOf(int64_t tokens) { return (tokens + TILE - 1) / TILE; }

}  // namespace octet
