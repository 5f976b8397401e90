// Memory for weights, streams and events of a GPU.
#pragma once
#include <string>

#include "cuda/cuda.h"
#include "js/js.h"
#include "threads.h"

namespace octet {

/** Destination, source and size of a copy to device memory. */
struct Copy {
  uint64_t to, from;
  int64_t bytes;
};

class Event;

/**
 * A CUDA stream. Copies are started on a separate thread, because copies from unregistered memory block the calling thread. The stream is
 * never destroyed, because sessions may use it.
 */
class Stream {
 public:
  static constexpr uint64_t ID = 2;

  explicit Stream(int64_t gpu);
  Stream(const Stream&) = delete;

  /** Copies from host memory. All copies have ended when the work ends, even after an error. */
  Work<js::Nothing> copyFromHost(std::vector<Copy> copies);
  Work<js::Nothing> upload(uint64_t to, js::TypedArray from);
  /** Copies within device memory. */
  Work<js::Nothing> copyOnDevice(uint64_t to, uint64_t from, int64_t bytes);
  /** Makes later work of this stream wait for the work recorded by the event. */
  void wait(std::shared_ptr<Event> event);

  cuda::StreamHandle handle() const { return stream; }

 private:
  Work<js::Nothing> copy(std::vector<Copy> copies, cuda::CopyKind kind);

  const int64_t gpu;
  const cuda::StreamHandle stream;
  Thread thread;
};

/** A CUDA event. */
class Event {
 public:
  static constexpr uint64_t ID = 3;

  explicit Event(int64_t gpu);
  Event(const Event&) = delete;

  void record(std::shared_ptr<Stream> stream);

  cuda::EventHandle handle() const { return event; }

 private:
  const int64_t gpu;
  cuda::EventHandle event = nullptr;
};

/** A GPU with reserved address ranges and memory mapped on demand. CUDA C Programming Guide 13, "Virtual Memory Management". */
class Gpu {
 public:
  static constexpr uint64_t ID = 4;

  /** Throws if CUDA's libraries or the GPU is missing. */
  static std::shared_ptr<Gpu> open(int64_t index);

  explicit Gpu(int64_t index) : index(index) {}

  uint64_t reserve(int64_t bytes);
  void unreserve(uint64_t address, int64_t bytes);
  /** Allocates physical memory and returns its handle. `bytes` must be a multiple of 2 MiB. */
  uint64_t create(int64_t bytes);
  void free(uint64_t handle);
  void map(uint64_t address, uint64_t handle, int64_t bytes);
  void unmap(uint64_t address, int64_t bytes);
  /** Registers host memory for direct reads by GPUs. The result is false if unsupported. */
  Work<bool> registerMemory(uint64_t address, int64_t bytes);
  Work<js::Nothing> unregisterMemory(uint64_t address);
  /** Copies the first bytes of a file to device memory (upload.h). */
  Work<js::Nothing> uploadFile(std::string file, uint64_t to, int64_t bytes);
  std::shared_ptr<Stream> createStream();
  std::shared_ptr<Event> createEvent();

 private:
  const int64_t index;
};

namespace js {
template <>
struct Type<Copy> {
  static Copy read(napi_env env, napi_value value) {
    return {field<uint64_t>(env, value, "to"), field<uint64_t>(env, value, "from"), field<int64_t>(env, value, "bytes")};
  }
};
}  // namespace js

}  // namespace octet
