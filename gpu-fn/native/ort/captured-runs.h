// Runs of a session as CUDA graphs, which one call launches instead of one per kernel.
#pragma once
#include <list>

#include "cuda/graph.h"
#include "ort/binding.h"

namespace octet {

/**
 * The runs of one session, on a stream of its own. Inputs of the same types and shapes have a signature. Its first two runs are ordinary
 * ones, in which onnxruntime and its libraries allocate memory and choose algorithms. After the second one the session runs once more during
 * a capture, and every later run launches the captured graph. What cannot be captured keeps its ordinary runs.
 *
 * A graph contains addresses. Inputs and outputs have fixed buffers, and a run copies to and from them. Intermediate results are in the
 * session's memory arena, which must therefore be its own: nothing in it may outlive a run.
 */
class CapturedRuns {
 public:
  CapturedRuns(int64_t device, bool onGpu, cuda::StreamHandle stream);
  CapturedRuns(const CapturedRuns&) = delete;
  /** Runs must have ended. */
  ~CapturedRuns();

  /** Called on the device's thread only, as is `describe`. The cancellation by `options` has no effect on the launch of a graph. */
  Results run(OrtSession* session, const OrtRunOptions* options, const js::Record<ort::Value>& inputs, const js::Record<Output>& outputs);
  /** The signatures, the last used one first, and whether they are captured or why not. */
  std::vector<std::string> describe() const;

 private:
  struct Signature {
    std::string name;
    js::Record<ort::Value> inputs;
    /** Known after the first run, because onnxruntime computes the shapes. */
    js::Record<Output> outputs;
    int runs = 0;
    std::unique_ptr<cuda::Graph> graph;
    /** Why it cannot be captured. */
    std::string refusal;
  };

  Signature& find(const js::Record<ort::Value>& inputs, const js::Record<Output>& outputs);
  bool launch(Signature& signature);
  void compute(Signature& signature, OrtSession* session, const OrtRunOptions* options, const js::Record<Output>& outputs);
  void capture(Signature& signature, OrtSession* session);
  ort::Value allocateLike(const ort::Value& value) const;
  void copy(const ort::Value& to, const ort::Value& from) const;
  void synchronize() const;

  const int64_t device;
  const std::optional<int64_t> gpu;
  const cuda::StreamHandle stream;
  const std::shared_ptr<OrtRunOptions> unsynchronized;
  std::list<Signature> signatures;
};

}  // namespace octet
