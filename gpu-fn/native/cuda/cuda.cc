#include "cuda/cuda.h"

#include <dlfcn.h>

#include <stdexcept>

namespace octet::cuda {
namespace {

/** cudaStreamCreateWithFlags' flag */
constexpr unsigned NON_BLOCKING = 1;

/** A shared library, never unloaded. */
class Library {
  void* handle;

 public:
  explicit Library(const char* file) : handle(dlopen(file, RTLD_NOW | RTLD_LOCAL)) {
    if (!handle) throw std::runtime_error(dlerror());
  }

  template <class Function>
  void find(const char* name, Function*& function) const {
    function = reinterpret_cast<Function*>(dlsym(handle, name));
    if (!function) throw std::runtime_error(std::string("CUDA has no ") + name);
  }
};

#define FIND(name) library.find(#name, found.name)

Runtime findRuntime() {
  const Library library("libcudart.so.13");
  Runtime found;
  FIND(cudaGetErrorString);
  FIND(cudaGetLastError);
  FIND(cudaSetDevice);
  FIND(cudaStreamCreateWithFlags);
  FIND(cudaStreamSynchronize);
  FIND(cudaStreamWaitEvent);
  FIND(cudaEventCreate);
  FIND(cudaEventRecord);
  FIND(cudaMemcpyAsync);
  FIND(cudaMalloc);
  FIND(cudaFree);
  FIND(cudaPointerGetAttributes);
  FIND(cudaStreamBeginCapture);
  FIND(cudaStreamEndCapture);
  FIND(cudaGraphGetNodes);
  FIND(cudaGraphNodeGetType);
  FIND(cudaGraphMemcpyNodeGetParams);
  FIND(cudaGraphInstantiate);
  FIND(cudaGraphLaunch);
  FIND(cudaGraphDestroy);
  FIND(cudaGraphExecDestroy);
  FIND(cudaHostAlloc);
  FIND(cudaHostRegister);
  FIND(cudaHostUnregister);
  return found;
}

Driver findDriver() {
  const Library library("libcuda.so.1");
  Driver found;
  FIND(cuGetErrorString);
  FIND(cuMemAddressReserve);
  FIND(cuMemAddressFree);
  FIND(cuMemCreate);
  FIND(cuMemRelease);
  FIND(cuMemMap);
  FIND(cuMemUnmap);
  FIND(cuMemSetAccess);
  return found;
}

[[noreturn]] void fail(const std::string& what, const char* message) {
  throw std::runtime_error("CUDA: " + what + ": " + message);
}

}  // namespace

const Runtime& runtime() {
  static const Runtime found = findRuntime();
  return found;
}

const Driver& driver() {
  static const Driver found = findDriver();
  return found;
}

void check(int error, const std::string& what) {
  if (error != 0) fail(what, runtime().cudaGetErrorString(error));
}

void checkDriver(int error, const std::string& what) {
  if (error == 0) return;
  const char* text = nullptr;
  driver().cuGetErrorString(error, &text);
  fail(what, text ? text : ("error " + std::to_string(error)).c_str());
}

std::string named(const char* what, int64_t gpu) { return std::string(what) + ", GPU " + std::to_string(gpu); }

void select(int64_t gpu) { check(runtime().cudaSetDevice(static_cast<int>(gpu)), named("selection", gpu)); }

StreamHandle createStream(int64_t gpu) {
  StreamHandle stream = nullptr;
  select(gpu);
  check(runtime().cudaStreamCreateWithFlags(&stream, NON_BLOCKING), named("creation of a stream", gpu));
  return stream;
}

}  // namespace octet::cuda
