#include "cuda/upload.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <exception>
#include <future>
#include <map>
#include <mutex>
#include <new>
#include <stdexcept>
#include <utility>
#include <vector>

#include "cuda/cuda.h"

namespace octet::cuda {
namespace {

constexpr int64_t CHUNK_BYTES = 8 << 20;
/** Concurrent reads of a file: the queue depth of a disk, independent of the number of cores. */
constexpr int64_t MAX_READERS = 8;
/** cudaHostAlloc's flag */
constexpr unsigned PORTABLE = 1;

/** A file that is open for reading until the end of the block. */
class File {
 public:
  explicit File(std::string path) : path(std::move(path)), descriptor(open(this->path.c_str(), O_RDONLY | O_CLOEXEC)) {
    if (descriptor < 0) fail(std::strerror(errno));
  }
  File(const File&) = delete;
  ~File() { close(descriptor); }

  void read(char* to, int64_t start, int64_t bytes) const {
    for (int64_t done = 0; done < bytes;) {
      const ssize_t count = pread(descriptor, to + done, bytes - done, start + done);
      if (count == 0) fail("unexpected end of file");
      if (count < 0 && errno != EINTR) fail(std::strerror(errno));
      done += std::max<ssize_t>(count, 0);
    }
  }

 private:
  [[noreturn]] void fail(const char* reason) const { throw std::runtime_error(path + " cannot be read: " + reason); }

  const std::string path;
  const int descriptor;
};

/** Pinned memory for a chunk, or pageable memory if none can be pinned, from which copies are slower. */
void* allocateChunk() {
  void* pinned = nullptr;
  if (runtime().cudaHostAlloc(&pinned, CHUNK_BYTES, PORTABLE) == 0) return pinned;
  // Clears the error, which a later call would otherwise report.
  runtime().cudaGetLastError();
  return ::operator new(CHUNK_BYTES);
}

/**
 * Pinned memory for a chunk, and the stream of its copies. Both are allocated on first use and never freed: cudaFreeHost would block on all
 * work of the GPU.
 */
class StagingBuffer {
 public:
  /** Reads a chunk into the memory once the copy of the preceding chunk is complete. */
  void fill(const File& file, int64_t start, int64_t bytes, int64_t gpu) {
    if (!stream) stream = createStream(gpu);
    if (!memory) memory = allocateChunk();
    check(synchronize(), named("synchronization of a stream", gpu));
    file.read(static_cast<char*>(memory), start, bytes);
  }
  void copy(uint64_t to, int64_t bytes, int64_t gpu) {
    const int error = runtime().cudaMemcpyAsync(reinterpret_cast<void*>(to), memory, bytes, HOST_TO_DEVICE, stream);
    check(error, named("copy", gpu));
  }
  /** Blocks until the copy is complete. Returns CUDA's error. */
  int synchronize() const { return stream ? runtime().cudaStreamSynchronize(stream) : 0; }

 private:
  void* memory = nullptr;
  StreamHandle stream = nullptr;
};

/** The buffers of a thread: one is filled during the copy from the other. */
using BufferPair = std::array<StagingBuffer, 2>;

/** An upload in progress. `next`: offset of the next chunk. */
struct Upload {
  const int64_t gpu;
  const File& file;
  const uint64_t to;
  const int64_t bytes;
  std::atomic<int64_t> next = 0;
};

/** Copies chunks until none is left. All copies of its buffers are complete when it ends, even after an error. */
void copyChunks(Upload& upload, BufferPair& buffers) {
  const auto& [gpu, file, to, bytes, _] = upload;
  std::exception_ptr failure;
  try {
    select(gpu);
    for (int turn = 0;; turn ^= 1) {
      const int64_t start = upload.next.fetch_add(CHUNK_BYTES);
      if (start >= bytes) break;
      const int64_t count = std::min(CHUNK_BYTES, bytes - start);
      buffers[turn].fill(file, start, count, gpu);
      buffers[turn].copy(to + start, count, gpu);
    }
  } catch (...) {
    failure = std::current_exception();
    upload.next = bytes;
  }
  const std::array<int, 2> errors{buffers[0].synchronize(), buffers[1].synchronize()};
  if (failure) std::rethrow_exception(failure);
  for (const int error : errors) check(error, named("synchronization of a stream", gpu));
}

/** The buffers of a GPU, at most 128 MiB, and the thread of its uploads. */
struct Uploader {
  std::array<BufferPair, MAX_READERS> buffers;
  Thread thread;

  void copy(const File& file, int64_t gpu, uint64_t to, int64_t bytes) {
    const int64_t chunks = (bytes + CHUNK_BYTES - 1) / CHUNK_BYTES;
    Upload upload{gpu, file, to, bytes};
    std::vector<std::future<void>> readers;
    // The destructor of a future of std::async blocks, so all readers end before an exception leaves this function.
    for (int64_t i = 0; i < std::min(MAX_READERS, chunks); i++)
      readers.push_back(std::async(std::launch::async, copyChunks, std::ref(upload), std::ref(buffers[i])));
    for (auto& reader : readers) reader.get();
  }
};

Uploader& uploaderOf(int64_t gpu) {
  // Never destroyed: threads use them until the process ends.
  static auto& mutex = *new std::mutex;
  static auto& uploaders = *new std::map<int64_t, Uploader>;
  const std::lock_guard lock(mutex);
  return uploaders[gpu];
}

}  // namespace

Work<js::Nothing> uploadFile(int64_t gpu, std::string file, uint64_t to, int64_t bytes) {
  Uploader& uploader = uploaderOf(gpu);
  return onThread(uploader.thread, [&uploader, gpu, file = std::move(file), to, bytes] {
    uploader.copy(File(file), gpu, to, bytes);
    return js::Nothing();
  });
}

}  // namespace octet::cuda
