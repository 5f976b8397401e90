// A GPU's memory for weights, its streams and its events.
#pragma once
#include <string>

#include "cuda/cuda.h"
#include "js/js.h"
#include "threads.h"

namespace octet {

/** A range of host memory, and the address of the device for its copy. */
struct Copy {
  uint64_t to, from;
  int64_t bytes;
};

class Event;

/**
 * A queue of work on a GPU. Its copies are begun on a thread of its own: one from unregistered memory blocks its thread. CUDA's stream is
 * never destroyed, because sessions may use it.
 */
class Stream {
 public:
  static constexpr uint64_t ID = 2;

  explicit Stream(int64_t gpu);
  Stream(const Stream&) = delete;

  /** Copies from host memory; complete, also after an error, when the work ends. */
  Work<js::Nothing> copyFromHost(std::vector<Copy> copies);
  Work<js::Nothing> upload(uint64_t to, js::TypedArray from);
  /** Copies between two addresses of the device. */
  Work<js::Nothing> copyOnDevice(uint64_t to, uint64_t from, int64_t bytes);
  /** Later work of this stream begins after all work that the event recorded. */
  void wait(std::shared_ptr<Event> event);

  cuda::StreamHandle handle() const { return stream; }

 private:
  Work<js::Nothing> copy(std::vector<Copy> copies, cuda::CopyKind kind);

  const int64_t gpu;
  cuda::StreamHandle stream = nullptr;
  Thread thread;
};

/** A point in the work of a stream. */
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

/** Reserved addresses with memory mapped on demand. CUDA C Programming Guide 13, "Virtual Memory Management". */
class Gpu {
 public:
  static constexpr uint64_t ID = 4;

  /** Throws without CUDA's libraries or this GPU. */
  static std::shared_ptr<Gpu> open(int64_t index);

  explicit Gpu(int64_t index) : index(index) {}

  uint64_t reserve(int64_t bytes);
  void unreserve(uint64_t address, int64_t bytes);
  /** Allocates memory without an address; returns its handle. `bytes` must be a multiple of 2 MiB. */
  uint64_t create(int64_t bytes);
  void free(uint64_t handle);
  void map(uint64_t address, uint64_t handle, int64_t bytes);
  void unmap(uint64_t address, int64_t bytes);
  /** Allows GPUs to read host memory directly; false if unsupported. */
  Work<bool> registerMemory(uint64_t address, int64_t bytes);
  Work<js::Nothing> unregisterMemory(uint64_t address);
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
