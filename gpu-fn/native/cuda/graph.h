// CUDA graphs captured from a stream.
#pragma once
#include <functional>
#include <memory>
#include <shared_mutex>

#include "cuda/cuda.h"

namespace octet::cuda {

/**
 * Held exclusively during a capture, and shared by everything that may synchronize a whole GPU: opening and closing sessions, and freeing
 * memory. In both threads CUDA refuses such calls while a stream is being captured, whatever the mode of the capture.
 */
std::shared_mutex& deviceSynchronization();

/** Work of a stream that one launch repeats, at the same addresses. */
class Graph {
 public:
  /**
   * Captures what `action` enqueues on a stream, which does not execute it. Throws if the capture fails, or if the work depends on the host:
   * copies from or to its memory, and its functions. The stream is usable afterward in any case. CUDA's last error may be set.
   */
  static std::unique_ptr<Graph> capture(StreamHandle stream, const std::function<void()>& action);

  explicit Graph(ExecutableHandle executable) : executable(executable) {}
  Graph(const Graph&) = delete;
  /** Launches must have ended. */
  ~Graph() { runtime().cudaGraphExecDestroy(executable); }

  void launch(StreamHandle stream) const { check(runtime().cudaGraphLaunch(executable, stream), "launch of a graph"); }

 private:
  const ExecutableHandle executable;
};

}  // namespace octet::cuda
