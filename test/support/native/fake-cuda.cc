// Fake of the CUDA functions used by the addon, with host memory as device memory. Unmapped ranges are inaccessible, as on a GPU. Memory is
// limited to FAKE_CUDA_BYTES, and pinned memory to FAKE_CUDA_PINNED_BYTES. Copies from pinned memory are deferred to the synchronization of
// their stream. After FAKE_CUDA_COPIES copies, the GPU has failed.
//
// A captured graph has the nodes that FAKE_CUDA_NODES lists by type (memcpy from host memory: 101), and launching it computes nothing. The
// function that FAKE_CUDA_FAILURE names fails. Calls of graphs are printed to the error output.
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <map>
#include <mutex>
#include <sstream>
#include <string>
#include <vector>

namespace {

constexpr int INVALID = 1, OUT_OF_MEMORY = 2, BAD_DEVICE = 101, LAUNCH_FAILURE = 719;
std::mutex mutex;
size_t used = 0, usedPinned = 0;
std::atomic<size_t> copies = 0;
std::map<uint64_t, size_t> created, registered, pinned;
thread_local int current = -1;

struct Access {
  int type, id, flags;
};

struct Copy {
  void* to;
  const void* from;
  size_t bytes;
};
struct Stream {
  std::vector<Copy> deferred;
  bool capturing = false;
};
struct Node {
  int type;
};
struct Graph {
  std::vector<Node> nodes;
};
constexpr int COPY = 1, COPY_FROM_HOST = 101;
std::atomic<int> memories = 0;

/** Prints a call of a graph's function, and returns its result. */
int trace(const char* function) {
  std::fprintf(stderr, "%s\n", function);
  const char* failing = std::getenv("FAKE_CUDA_FAILURE");
  return failing && std::strcmp(failing, function) == 0 ? 900 : 0;
}

bool isPinned(const void* memory) {
  const std::lock_guard lock(mutex);
  const auto after = pinned.upper_bound(reinterpret_cast<uint64_t>(memory));
  if (after == pinned.begin()) return false;
  const auto [start, bytes] = *std::prev(after);
  return reinterpret_cast<uint64_t>(memory) < start + bytes;
}

size_t readLimit(const char* variable) {
  const char* value = std::getenv(variable);
  return value ? std::strtoull(value, nullptr, 10) : SIZE_MAX;
}
bool hasFailed() { return copies > readLimit("FAKE_CUDA_COPIES"); }

int answer(bool succeeded) { return succeeded ? 0 : INVALID; }
int failed(void* mapped) { return answer(mapped != MAP_FAILED); }

}  // namespace

extern "C" {

const char* cudaGetErrorString(int error) {
  if (error == 900) return "operation not permitted when stream is capturing";
  if (error == LAUNCH_FAILURE) return "unspecified launch failure";
  return error == BAD_DEVICE ? "invalid device ordinal" : "invalid argument";
}
int cudaGetLastError() { return 0; }
int cudaSetDevice(int device) {
  if (device > 0) return BAD_DEVICE;
  current = device;
  return 0;
}
int cudaStreamCreateWithFlags(Stream** stream, unsigned flags) {
  *stream = new Stream;
  return answer(flags == 1);
}
int cudaStreamSynchronize(Stream* stream) {
  if (!stream || stream->capturing) return INVALID;
  if (hasFailed()) return LAUNCH_FAILURE;
  for (const auto& [to, from, bytes] : stream->deferred) std::memcpy(to, from, bytes);
  stream->deferred.clear();
  return 0;
}
int cudaStreamWaitEvent(void* stream, void* event, unsigned) { return answer(stream && event); }
int cudaEventCreate(void** event) {
  *event = new int;
  return 0;
}
int cudaEventRecord(void* event, void* stream) { return answer(event && stream); }
int cudaMemcpyAsync(void* to, const void* from, size_t bytes, int kind, Stream* stream) {
  if (current != 0 || !to || !stream || stream->capturing || (kind != 1 && kind != 3 && kind != 4)) return INVALID;
  copies++;
  if (hasFailed()) return LAUNCH_FAILURE;
  if (isPinned(from))
    stream->deferred.push_back({to, from, bytes});
  else
    std::memmove(to, from, bytes);
  return 0;
}
int cudaMalloc(void** address, size_t bytes) {
  *address = std::malloc(bytes);
  std::fprintf(stderr, "memories %d\n", ++memories);
  return answer(current == 0);
}
int cudaFree(void* address) {
  std::free(address);
  std::fprintf(stderr, "memories %d\n", --memories);
  return answer(current == 0);
}
int cudaPointerGetAttributes(int* attributes, const void* address) {
  attributes[0] = isPinned(address) || address == &memories ? 1 : 2;
  return 0;
}
int cudaStreamBeginCapture(Stream* stream, int mode) {
  if (mode != 1 || stream->capturing) return INVALID;
  const int error = trace("cudaStreamBeginCapture");
  stream->capturing = error == 0;
  return error;
}
int cudaStreamEndCapture(Stream* stream, Graph** graph) {
  if (!stream->capturing) return INVALID;
  stream->capturing = false;
  if (const int error = trace("cudaStreamEndCapture")) return error;
  *graph = new Graph;
  std::istringstream types(std::getenv("FAKE_CUDA_NODES"));
  for (int type; types >> type;) (*graph)->nodes.push_back({type});
  return 0;
}
int cudaGraphGetNodes(Graph* graph, Node** nodes, size_t* count) {
  for (size_t i = 0; nodes && i < *count; i++) nodes[i] = &graph->nodes[i];
  *count = graph->nodes.size();
  return 0;
}
int cudaGraphNodeGetType(const Node* node, int* type) {
  *type = node->type == COPY_FROM_HOST ? COPY : node->type;
  return 0;
}
/** The addresses are the fifth and the thirteenth word of cudaMemcpy3DParms. */
int cudaGraphMemcpyNodeGetParams(const Node* node, void** words) {
  words[4] = node->type == COPY_FROM_HOST ? &memories : reinterpret_cast<void*>(4096);
  words[12] = reinterpret_cast<void*>(8192);
  return 0;
}
int cudaGraphInstantiate(int** executable, Graph*, unsigned long long flags) {
  *executable = new int;
  return flags == 0 ? trace("cudaGraphInstantiate") : INVALID;
}
int cudaGraphLaunch(int* executable, Stream* stream) {
  return executable && !stream->capturing ? trace("cudaGraphLaunch") : INVALID;
}
int cudaGraphDestroy(Graph* graph) {
  delete graph;
  return 0;
}
int cudaGraphExecDestroy(int* executable) {
  delete executable;
  return trace("cudaGraphExecDestroy");
}
int cudaHostAlloc(void** address, size_t bytes, unsigned flags) {
  const std::lock_guard lock(mutex);
  if (usedPinned + bytes > readLimit("FAKE_CUDA_PINNED_BYTES")) return OUT_OF_MEMORY;
  usedPinned += bytes;
  *address = std::malloc(bytes);
  pinned[reinterpret_cast<uint64_t>(*address)] = bytes;
  return answer(flags == 1);
}
int cudaHostRegister(void* address, size_t bytes, unsigned flags) {
  const std::lock_guard lock(mutex);
  registered[reinterpret_cast<uint64_t>(address)] = bytes;
  return answer(flags == 9);
}
int cudaHostUnregister(void* address) {
  const std::lock_guard lock(mutex);
  return answer(registered.erase(reinterpret_cast<uint64_t>(address)) == 1);
}

int cuGetErrorString(int error, const char** text) {
  *text = error == OUT_OF_MEMORY ? "out of memory" : "invalid argument";
  return 0;
}
int cuMemAddressReserve(uint64_t* address, size_t bytes, size_t, uint64_t, unsigned long long) {
  void* start = mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  *address = reinterpret_cast<uint64_t>(start);
  return failed(start);
}
int cuMemAddressFree(uint64_t address, size_t bytes) { return answer(munmap(reinterpret_cast<void*>(address), bytes) == 0); }
int cuMemCreate(uint64_t* handle, size_t bytes, const int* properties, unsigned long long) {
  const std::lock_guard lock(mutex);
  // Pinned memory of device 0.
  if (properties[0] != 1 || properties[2] != 1 || properties[3] != 0) return INVALID;
  if (used + bytes > readLimit("FAKE_CUDA_BYTES")) return OUT_OF_MEMORY;
  const int file = memfd_create("gpu", 0);
  if (ftruncate(file, bytes) != 0) return INVALID;
  used += bytes;
  created[*handle = file] = bytes;
  return 0;
}
int cuMemRelease(uint64_t handle) {
  const std::lock_guard lock(mutex);
  used -= created[handle];
  return answer(created.erase(handle) == 1 && close(static_cast<int>(handle)) == 0);
}
int cuMemMap(uint64_t address, size_t bytes, size_t offset, uint64_t handle, unsigned long long) {
  return failed(mmap(reinterpret_cast<void*>(address), bytes, PROT_NONE, MAP_SHARED | MAP_FIXED, static_cast<int>(handle), offset));
}
int cuMemSetAccess(uint64_t address, size_t bytes, const Access* access, size_t count) {
  if (count != 1 || access->type != 1 || access->id != 0 || access->flags != 3) return INVALID;
  return answer(mprotect(reinterpret_cast<void*>(address), bytes, PROT_READ | PROT_WRITE) == 0);
}
int cuMemUnmap(uint64_t address, size_t bytes) {
  return failed(mmap(reinterpret_cast<void*>(address), bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0));
}
}
