#include "cuda/graph.h"

#include <stdexcept>
#include <vector>

namespace octet::cuda {
namespace {

/** cudaStreamCaptureMode: calls of other threads, such as allocations for uploads, are allowed during the capture. */
constexpr int THREAD_LOCAL = 1;
/** cudaMemoryType */
constexpr int ON_DEVICE = 2;
/** cudaGraphNodeType */
enum NodeType { KERNEL = 0, COPY = 1, FILL = 2, EMPTY = 5, ALLOCATION = 10, DEALLOCATION = 11 };

struct Destroyer {
  void operator()(GraphHandle graph) const { runtime().cudaGraphDestroy(graph); }
};
using CapturedGraph = std::unique_ptr<CUgraph_st, Destroyer>;

bool isOnDevice(const void* address) {
  AddressAttributes attributes{};
  return address && runtime().cudaPointerGetAttributes(&attributes, address) == 0 && attributes.memory == ON_DEVICE;
}

bool copiesOnDevice(NodeHandle node) {
  NodeCopy copy{};
  check(runtime().cudaGraphMemcpyNodeGetParams(node, &copy), "parameters of a graph's copy");
  return isOnDevice(copy.from.address) && isOnDevice(copy.to.address);
}

std::vector<NodeHandle> nodesOf(GraphHandle graph) {
  size_t count = 0;
  check(runtime().cudaGraphGetNodes(graph, nullptr, &count), "nodes of a graph");
  std::vector<NodeHandle> nodes(count);
  if (count > 0) check(runtime().cudaGraphGetNodes(graph, nodes.data(), &count), "nodes of a graph");
  return nodes;
}

/** Throws if a launch of the graph would depend on the host, or would leave memory allocated. */
void requireRepeatable(GraphHandle graph) {
  int allocations = 0;
  for (NodeHandle node : nodesOf(graph)) {
    int type = 0;
    check(runtime().cudaGraphNodeGetType(node, &type), "type of a graph's node");
    if (type == KERNEL || type == FILL || type == EMPTY) continue;
    if (type == COPY) {
      if (!copiesOnDevice(node)) throw std::runtime_error("the graph copies from or to host memory");
    } else if (type == ALLOCATION) {
      allocations++;  // cuBLAS allocates its workspace during a capture
    } else if (type == DEALLOCATION) {
      allocations--;
    } else {
      throw std::runtime_error("the graph has a node of type " + std::to_string(type));
    }
  }
  if (allocations != 0) throw std::runtime_error("the graph leaves memory allocated");
}

}  // namespace

std::shared_mutex& deviceSynchronization() {
  // Never destroyed: threads use it until the process ends.
  static auto& mutex = *new std::shared_mutex;
  return mutex;
}

std::unique_ptr<Graph> Graph::capture(StreamHandle stream, const std::function<void()>& action) {
  check(runtime().cudaStreamBeginCapture(stream, THREAD_LOCAL), "beginning of a capture");
  std::exception_ptr failure;
  try {
    action();
  } catch (...) {
    failure = std::current_exception();
  }
  GraphHandle graph = nullptr;
  // Required after a failure too, because the stream accepts no other work before.
  const int error = runtime().cudaStreamEndCapture(stream, &graph);
  const CapturedGraph captured(graph);
  if (failure) std::rethrow_exception(failure);
  check(error, "end of a capture");
  requireRepeatable(graph);
  ExecutableHandle executable = nullptr;
  check(runtime().cudaGraphInstantiate(&executable, graph, 0), "instantiation of a graph");
  return std::make_unique<Graph>(executable);
}

}  // namespace octet::cuda
