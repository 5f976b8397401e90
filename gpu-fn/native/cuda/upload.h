// Copies of files to a GPU.
#pragma once
#include <string>

#include "js/js.h"
#include "threads.h"

namespace octet::cuda {

/**
 * Copies the first bytes of a file to a GPU, after all earlier uploads to it, at the rate of the disk or of the page cache: several threads
 * read chunks into pinned memory, from which the GPU copies them. Mapping a file for one copy takes longer. Complete, also after an error,
 * when the work ends. Throws if the file cannot be read or is shorter.
 */
Work<js::Nothing> uploadFile(int64_t gpu, std::string file, uint64_t to, int64_t bytes);

}  // namespace octet::cuda
