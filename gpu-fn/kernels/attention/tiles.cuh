// How QkNormQuantize lays out what Attention reads. Tokens of one head lie in tiles of 128, a tile's bytes in the very order that the tensor
// cores want in shared memory, so that a tile is one copy: rows of 64 bytes (queries and keys, E4M3) or 128 bytes (values, float16) whose
// chunks of 16 bytes change places with the row, Hopper's "64-byte" and "128-byte swizzle".
#pragma once
#include <cstdint>

namespace octet {

constexpr int DEPTH = 64;  // values of a head
constexpr int TILE = 128;  // tokens of a tile
constexpr int KEY_BYTES = TILE * DEPTH;
constexpr int VALUE_BYTES = TILE * DEPTH * 2;
constexpr int CHUNK = 16;

/** Where in its tile the 16 bytes `chunk` of a token's query or key begin; chunk < 4. */
__host__ __device__ constexpr int keyChunk(int token, int chunk) { return token * DEPTH + (chunk ^ (token / 2 % 4)) * CHUNK; }

/** Where in its tile the 16 bytes `chunk` of a token's value begin; chunk < 8. */
__host__ __device__ constexpr int valueChunk(int token, int chunk) { return token * DEPTH * 2 + (chunk ^ (token % 8)) * CHUNK; }

__host__ __device__ constexpr int64_t tilesOf(int64_t tokens) { return (tokens + TILE - 1) / TILE; }

}  // namespace octet
