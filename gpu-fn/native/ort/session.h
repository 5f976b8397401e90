// Sessions of onnxruntime, their runs, and memory of their arenas.
#pragma once
#include "cuda/gpu.h"
#include "js/js.h"
#include "ort/binding.h"
#include "ort/captured-runs.h"
#include "ort/ort.h"
#include "ort/tensor.h"
#include "threads.h"

namespace octet {

/** Session options. `entries`: configuration entries by onnxruntime's keys. */
struct Settings {
  js::Record<std::string> entries;
  bool memoryPattern;
  /** Threads per run on the CPU; one per core by default. */
  std::optional<int64_t> threads;
  /** Device index. Sessions with different indices run concurrently, on the CPU as well. */
  int64_t device;
  /** Options of the CUDA execution provider. The session runs on the CPU if they are empty. */
  std::optional<js::Record<std::string>> cuda;
  /** Stream for the session's runs; by default, the provider creates one. */
  std::optional<std::shared_ptr<Stream>> stream;
  /** Repeats runs as CUDA graphs (captured-runs.h). The session then has a memory arena of its own. */
  bool capture;
  /** Libraries of custom operators. */
  std::vector<std::string> libraries;
  /** Replacements for initializers of the graph. Their memory must outlive the session. */
  js::Record<std::shared_ptr<Tensor>> initializers;
};

/** Device memory from the arena of a session. */
class Allocation {
 public:
  static constexpr uint64_t ID = 6;

  Allocation(ort::Allocator allocator, void* start, std::optional<int64_t> gpu)
      : allocator(std::move(allocator)), start(start), gpu(gpu) {}

  uint64_t address() { return reinterpret_cast<uint64_t>(start); }
  void release();

 private:
  ort::Allocator allocator;
  void* start;
  std::optional<int64_t> gpu;
};

/** One run of a session. */
class Run {
 public:
  static constexpr uint64_t ID = 7;

  struct Parts;

  explicit Run(std::shared_ptr<Parts> parts);

  /** Runs after all earlier runs of the device. Can be called once. */
  Work<Results> start();
  /** Stops the run between two operators; it then ends with onnxruntime's error. Has no effect on the launch of a CUDA graph. */
  void cancel();

 private:
  std::shared_ptr<Parts> parts;
  std::shared_ptr<OrtRunOptions> options;
};

class Session {
 public:
  static constexpr uint64_t ID = 8;

  static Work<std::shared_ptr<Session>> open(std::string file, Settings settings);

  Session(std::shared_ptr<OrtSession> session, int64_t device, bool onGpu, std::shared_ptr<CapturedRuns> captured)
      : held(std::move(session)), captured(std::move(captured)), device(device), onGpu(onGpu) {}

  std::vector<std::string> outputs();
  std::shared_ptr<Run> prepare(js::Record<std::shared_ptr<Tensor>> inputs, js::Record<Output> outputs);
  std::shared_ptr<Allocation> allocate(int64_t bytes);
  /** States of captured runs; empty for other sessions. */
  Work<std::vector<std::string>> describeCaptures();
  /** All runs must have ended. */
  void release() { captured = nullptr, held = nullptr; }

 private:
  OrtSession* session() const;
  std::optional<int64_t> gpu() const { return onGpu ? std::optional(device) : std::nullopt; }

  std::shared_ptr<OrtSession> held;
  /** Null without captures. */
  std::shared_ptr<CapturedRuns> captured;
  const int64_t device;
  const bool onGpu;
};

namespace js {
template <>
struct Type<Settings> {
  static Settings read(napi_env env, napi_value value);
};
}  // namespace js

}  // namespace octet
