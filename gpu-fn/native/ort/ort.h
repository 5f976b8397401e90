// onnxruntime's C API, loaded from a given library: errors as exceptions, and owning pointers to its objects.
#pragma once
#include <onnxruntime/onnxruntime_c_api.h>

#include <memory>
#include <optional>
#include <string>

namespace octet::ort {

/** Loads the library, once per process. Throws if it cannot be loaded or is older than the headers. */
void load(std::string library);
/** The functions of the loaded library. Throws if none is loaded. */
const OrtApi& api();
/** Throws an exception with onnxruntime's message if a call failed. */
void check(OrtStatus* status);

template <auto Release>
struct Releaser {
  template <class T>
  void operator()(T* object) const {
    (api().*Release)(object);
  }
};
template <class T, auto Release>
using Owner = std::unique_ptr<T, Releaser<Release>>;

using SessionOptions = Owner<OrtSessionOptions, &OrtApi::ReleaseSessionOptions>;
using CudaOptions = Owner<OrtCUDAProviderOptionsV2, &OrtApi::ReleaseCUDAProviderOptions>;
using MemoryInfo = Owner<OrtMemoryInfo, &OrtApi::ReleaseMemoryInfo>;
using ArenaSettings = Owner<OrtArenaCfg, &OrtApi::ReleaseArenaCfg>;
using Binding = Owner<OrtIoBinding, &OrtApi::ReleaseIoBinding>;
using Allocator = Owner<OrtAllocator, &OrtApi::ReleaseAllocator>;
using ShapeInfo = Owner<OrtTensorTypeAndShapeInfo, &OrtApi::ReleaseTensorTypeAndShapeInfo>;
using Value = std::shared_ptr<OrtValue>;

inline Value own(OrtValue* value) { return Value(value, Releaser<&OrtApi::ReleaseValue>()); }

/** onnxruntime's environment, one per process, created on first use and never released. */
OrtEnv* environment();

std::shared_ptr<OrtRunOptions> createRunOptions();

/** The memory of a GPU, or of the host if `gpu` is empty. */
MemoryInfo memoryOf(std::optional<int64_t> gpu);

/**
 * Registers an arena shared by all sessions on a GPU. Their runs do not overlap. The CUDA provider must be loaded; otherwise onnxruntime
 * terminates the process.
 */
void shareArena(int64_t gpu);

}  // namespace octet::ort
