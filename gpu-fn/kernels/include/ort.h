// The parts of onnxruntime's C ABI for custom operators that the kernels use (onnxruntime_c_api.h of onnxruntime 1.29). OrtApi is a table
// of functions in a fixed order, so an index identifies a function. The members of OrtCustomOp from versions after 17 are null; they are
// declared because onnxruntime reads them anyway.
#pragma once
#include <cstddef>
#include <cstdint>

namespace ort {

struct Status;
struct Value;
struct Shape;
struct KernelInfo;
struct KernelContext;
struct SessionOptions;
struct Domain;

struct Api {
  void* functions[278];
};
struct ApiBase {
  const Api* (*getApi)(uint32_t version);
  const char* (*getVersion)();
};
constexpr uint32_t API_VERSION = 17;

enum Function {
  CreateStatus = 0,
  CreateCustomOpDomain = 26,
  CustomOpDomain_Add = 27,
  AddCustomOpDomain = 28,
  GetTensorMutableData = 51,
  GetDimensionsCount = 61,
  GetDimensions = 62,
  GetTensorTypeAndShape = 65,
  KernelInfoGetAttribute_float = 85,
  KernelInfoGetAttribute_int64 = 86,
  KernelContext_GetInput = 90,
  KernelContext_GetOutput = 91,
  ReleaseStatus = 93,
  ReleaseTensorTypeAndShapeInfo = 99,
  KernelInfoGetAttributeArray_int64 = 163,
  KernelContext_GetGPUComputeStream = 193,
};

/** Calls a function of the table that returns a status; null is success. */
template <class... Arguments>
Status* call(const Api* api, Function function, Arguments... arguments) {
  return reinterpret_cast<Status* (*)(Arguments...)>(api->functions[function])(arguments...);
}

// ONNX TensorProto.DataType
enum Type { FLOAT = 1, UINT8 = 2, FLOAT16 = 10, FLOAT8E4M3FN = 17 };
enum Presence { REQUIRED = 0, OPTIONAL = 1 };

struct CustomOp {
  uint32_t version;
  void* (*createKernel)(const CustomOp*, const Api*, const KernelInfo*);
  const char* (*getName)(const CustomOp*);
  const char* (*getExecutionProvider)(const CustomOp*);
  Type (*getInputType)(const CustomOp*, size_t);
  size_t (*getInputCount)(const CustomOp*);
  Type (*getOutputType)(const CustomOp*, size_t);
  size_t (*getOutputCount)(const CustomOp*);
  void (*compute)(void*, KernelContext*);
  void (*destroyKernel)(void*);
  Presence (*getInputPresence)(const CustomOp*, size_t);
  Presence (*getOutputPresence)(const CustomOp*, size_t);
  int (*getInputMemoryType)(const CustomOp*, size_t);
  int (*getVariadicInputMinimum)(const CustomOp*);
  int (*getVariadicInputHomogeneity)(const CustomOp*);
  int (*getVariadicOutputMinimum)(const CustomOp*);
  int (*getVariadicOutputHomogeneity)(const CustomOp*);
  Status* (*createKernelV2)(const CustomOp*, const Api*, const KernelInfo*, void**);
  Status* (*computeV2)(void*, KernelContext*);
  Status* (*inferOutputShape)(const CustomOp*, void*);
  int (*getStartVersion)(const CustomOp*);
  int (*getEndVersion)(const CustomOp*);
  size_t (*getMayInplace)(int**, int**);
  void (*releaseMayInplace)(int*, int*);
  size_t (*getAliasMap)(int**, int**);
  void (*releaseAliasMap)(int*, int*);
};

}  // namespace ort
