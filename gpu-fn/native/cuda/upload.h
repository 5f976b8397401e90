// Copies of files to device memory.
#pragma once
#include <string>

#include "js/js.h"
#include "threads.h"

namespace octet::cuda {

/**
 * Copies the first bytes of a file to a GPU, after all earlier uploads to it. Several threads read chunks into pinned memory, from which the
 * GPU copies them, without page faults as in a mapped file. All copies are complete when the work ends, even after an error. Throws if the
 * file cannot be read or is shorter.
 */
Work<js::Nothing> uploadFile(int64_t gpu, std::string file, uint64_t to, int64_t bytes);

}  // namespace octet::cuda
