#include "ort/ort.h"

#include <dlfcn.h>

#include <mutex>
#include <set>
#include <stdexcept>

namespace octet::ort {
namespace {

std::mutex mutex;
const OrtApi* loaded = nullptr;
OrtEnv* created = nullptr;

}  // namespace

void load(std::string library) {
  const std::lock_guard lock(mutex);
  if (loaded) return;
  // Global, and never unloaded: onnxruntime's providers refer to it.
  void* handle = dlopen(library.c_str(), RTLD_NOW | RTLD_GLOBAL);
  if (!handle) throw std::runtime_error(dlerror());
  const auto getBase = reinterpret_cast<const OrtApiBase* (*)()>(dlsym(handle, "OrtGetApiBase"));
  if (!getBase) throw std::runtime_error(library + " is not onnxruntime's library");
  loaded = getBase()->GetApi(ORT_API_VERSION);
  if (!loaded) throw std::runtime_error(library + " is older than version " + std::to_string(ORT_API_VERSION) + " of the C API");
}

const OrtApi& api() {
  if (!loaded) throw std::logic_error("onnxruntime is not loaded");
  return *loaded;
}

void check(OrtStatus* status) {
  if (!status) return;
  const std::string message = api().GetErrorMessage(status);
  api().ReleaseStatus(status);
  throw std::runtime_error(message);
}

OrtEnv* environment() {
  const std::lock_guard lock(mutex);
  // Errors are thrown as exceptions, so onnxruntime need not log them.
  if (!created) check(api().CreateEnv(ORT_LOGGING_LEVEL_FATAL, "octet", &created));
  return created;
}

std::shared_ptr<OrtRunOptions> createRunOptions() {
  OrtRunOptions* made = nullptr;
  check(api().CreateRunOptions(&made));
  return {made, Releaser<&OrtApi::ReleaseRunOptions>()};
}

MemoryInfo memoryOf(std::optional<int64_t> gpu) {
  const char* name = gpu ? "Cuda" : "Cpu";
  OrtMemoryInfo* info = nullptr;
  check(api().CreateMemoryInfo(name, OrtDeviceAllocator, static_cast<int>(gpu.value_or(0)), OrtMemTypeDefault, &info));
  return MemoryInfo(info);
}

void shareArena(int64_t gpu) {
  static std::mutex sharing;
  static std::set<int64_t> shared;
  const std::lock_guard lock(sharing);
  if (shared.count(gpu)) return;
  constexpr size_t SAME_AS_REQUESTED = 1;  // onnxruntime's ArenaExtendStrategy
  const char* settings[] = {"arena_extend_strategy"};
  OrtArenaCfg* made = nullptr;
  check(api().CreateArenaCfgV2(settings, &SAME_AS_REQUESTED, 1, &made));
  const ArenaSettings arena(made);
  const std::string index = std::to_string(gpu);
  const char* keys[] = {"device_id"};
  const char* values[] = {index.c_str()};
  check(api().CreateAndRegisterAllocatorV2(environment(), "CUDAExecutionProvider", memoryOf(gpu).get(), arena.get(), keys, values, 1));
  shared.insert(gpu);
}

}  // namespace octet::ort
