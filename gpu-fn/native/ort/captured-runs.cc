#include "ort/captured-runs.h"

#include <algorithm>
#include <mutex>

namespace octet {
namespace {

using ort::api, ort::check;

/** Maximum number of signatures. Each has buffers and, if captured, the memory of a graph. */
constexpr size_t MAX_SIGNATURES = 8;

std::shared_ptr<OrtRunOptions> createUnsynchronizedOptions() {
  const auto options = ort::createRunOptions();
  // A stream cannot be synchronized during its capture.
  check(api().AddRunConfigEntry(options.get(), "disable_synchronize_execution_providers", "1"));
  return options;
}

std::string nameOf(const js::Record<ort::Value>& inputs, const js::Record<Output>& outputs) {
  std::string name;
  for (const auto& [input, value] : inputs) name += input + " " + Tensor(value).describe() + ", ";
  name += "to";
  for (const auto& [output, _] : outputs) name += " " + output;
  return name;
}

}  // namespace

CapturedRuns::CapturedRuns(int64_t device, bool onGpu, cuda::StreamHandle stream)
    : device(device), gpu(onGpu ? std::optional(device) : std::nullopt), stream(stream), unsynchronized(createUnsynchronizedOptions()) {}

CapturedRuns::~CapturedRuns() {
  const std::shared_lock lock(cuda::deviceSynchronization());
  cuda::runtime().cudaSetDevice(static_cast<int>(device));
  for (Signature& each : signatures) each.graph = nullptr;
}

Results CapturedRuns::run(OrtSession* session, const OrtRunOptions* options, const js::Record<ort::Value>& inputs,
                          const js::Record<Output>& outputs) {
  cuda::select(device);
  Signature& signature = find(inputs, outputs);
  for (size_t i = 0; i < inputs.size(); i++) copy(signature.inputs[i].second, inputs[i].second);
  if (!launch(signature)) {
    compute(signature, session, options, outputs);
    if (++signature.runs > 1) capture(signature, session);
  }
  Results results;
  for (size_t i = 0; i < outputs.size(); i++) {
    const auto& [name, output] = outputs[i];
    const ort::Value& computed = signature.outputs[i].second.tensor;
    if (output.tensor) {
      copy(output.tensor, computed);
      continue;
    }
    const ort::Value made = output.onHost ? Tensor(computed).allocateLikeOnHost() : allocateLike(computed);
    copy(made, computed);
    results.emplace_back(name, std::make_shared<Tensor>(made));
  }
  synchronize();
  return results;
}

std::vector<std::string> CapturedRuns::describe() const {
  std::vector<std::string> texts;
  for (const Signature& each : signatures)
    texts.push_back(each.name + ": " + (each.graph ? "captured" : each.refusal.empty() ? "not yet captured" : each.refusal));
  return texts;
}

/** Finds or creates a signature, and makes it the last used one. */
CapturedRuns::Signature& CapturedRuns::find(const js::Record<ort::Value>& inputs, const js::Record<Output>& outputs) {
  const std::string name = nameOf(inputs, outputs);
  const auto found = std::find_if(signatures.begin(), signatures.end(), [&](const Signature& each) { return each.name == name; });
  if (found != signatures.end()) {
    signatures.splice(signatures.begin(), signatures, found);
    return signatures.front();
  }
  if (signatures.size() == MAX_SIGNATURES) {
    synchronize();
    signatures.pop_back();
  }
  Signature made;
  made.name = name;
  for (const auto& [input, value] : inputs) made.inputs.emplace_back(input, allocateLike(value));
  signatures.push_front(std::move(made));
  return signatures.front();
}

/** Launches the graph. The result is false if there is none, or if it cannot be launched; then it is never launched again. */
bool CapturedRuns::launch(Signature& signature) {
  if (!signature.graph) return false;
  try {
    signature.graph->launch(stream);
    return true;
  } catch (const std::exception& error) {
    cuda::runtime().cudaGetLastError();
    signature.graph = nullptr;
    signature.refusal = error.what();
    return false;
  }
}

/** An ordinary run with the signature's buffers. The first one creates the buffers of its outputs. */
void CapturedRuns::compute(Signature& signature, OrtSession* session, const OrtRunOptions* options, const js::Record<Output>& outputs) {
  const bool isFirst = signature.outputs.empty();
  js::Record<Output> onDevice;
  for (const auto& [name, _] : outputs) onDevice.emplace_back(name, Output{});
  const ort::Binding binding = ort::bind(session, gpu, signature.inputs, isFirst ? onDevice : signature.outputs);
  // The copies of inputs need no synchronization, because they are on the stream of the run.
  check(api().RunWithBinding(session, options, binding.get()));
  if (!isFirst) return;
  const std::vector<ort::Value> values = ort::boundValues(binding.get());
  for (size_t i = 0; i < outputs.size(); i++) {
    onDevice[i].second.tensor = allocateLike(values.at(i));
    copy(onDevice[i].second.tensor, values.at(i));
  }
  // The values are in the session's arena, whose memory the next run uses.
  synchronize();
  signature.outputs = std::move(onDevice);
}

/** Directly after a run of the same signature, so that all state of the operators is that of its shapes. */
void CapturedRuns::capture(Signature& signature, OrtSession* session) {
  if (!signature.refusal.empty()) return;
  const std::unique_lock lock(cuda::deviceSynchronization(), std::try_to_lock);
  // Opening a session can take seconds, so a later run tries again.
  if (!lock) return;
  try {
    signature.graph = cuda::Graph::capture(stream, [&] { compute(signature, session, unsynchronized.get(), {}); });
  } catch (const std::exception& error) {
    // Clears the error, which a later call would otherwise report.
    cuda::runtime().cudaGetLastError();
    signature.refusal = error.what();
  }
}

/** A tensor of the same type and shape in device memory of its own, outside of the arena. */
ort::Value CapturedRuns::allocateLike(const ort::Value& value) const {
  struct Memory {
    const int device;
    void* start = nullptr;
    std::shared_ptr<Tensor> tensor;

    explicit Memory(int device) : device(device) {}
    ~Memory() {
      if (!start) return;
      const std::shared_lock lock(cuda::deviceSynchronization());
      cuda::runtime().cudaSetDevice(device);
      cuda::runtime().cudaFree(start);
    }
  };
  Tensor like(value);
  const auto memory = std::make_shared<Memory>(static_cast<int>(device));
  cuda::check(cuda::runtime().cudaMalloc(&memory->start, std::max<size_t>(like.bytes(), 1)), cuda::named("allocation", device));
  memory->tensor = Tensor::view(gpu, reinterpret_cast<uint64_t>(memory->start), like.type(), like.dims());
  return ort::Value(memory, memory->tensor->value().get());
}

void CapturedRuns::copy(const ort::Value& to, const ort::Value& from) const {
  Tensor source(from), destination(to);
  if (source.bytes() != destination.bytes()) throw std::runtime_error("an output has another size than its tensor");
  const auto address = [](Tensor& tensor) { return reinterpret_cast<void*>(tensor.address()); };
  cuda::check(cuda::runtime().cudaMemcpyAsync(address(destination), address(source), source.bytes(), cuda::BY_ADDRESS, stream),
              cuda::named("copy", device));
}

void CapturedRuns::synchronize() const {
  cuda::check(cuda::runtime().cudaStreamSynchronize(stream), cuda::named("synchronization of a stream", device));
}

}  // namespace octet
