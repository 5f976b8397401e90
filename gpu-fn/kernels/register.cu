// The exports of the library: onnxruntime's entry point, and a check of the GPU.
#include "operators.h"

namespace octet {
namespace {

constexpr int MIN_CAPABILITY = 89;  // Ada, the first with FP8 tensor cores

template <class Operator>
ort::Status* add(const ort::Api* api, ort::Domain* domain) {
  static CustomOp<Operator> op;
  return ort::call(api, ort::CustomOpDomain_Add, domain, static_cast<const ort::CustomOp*>(&op));
}

template <class... Operators>
ort::Status* addAll(const ort::Api* api, ort::Domain* domain) {
  ort::Status* status = nullptr;
  (void)(... || (status = add<Operators>(api, domain)));
  return status;
}

/** The domain, created once and kept for the process's lifetime, because sessions point to it. */
ort::Status* findDomain(const ort::Api* api, ort::Domain** domain) {
  static ort::Domain* shared = nullptr;
  if (!shared) {
    ort::Domain* created = nullptr;
    if (ort::Status* status = ort::call(api, ort::CreateCustomOpDomain, "octet", &created)) return status;
    ort::Status* status =
        addAll<ModulateQuantize, GeluQuantize, QuantizeParts, UnpackFp8, Linear, QkNormQuantize, Attention, GroupNorm, AddLowRank>(api, created);
    if (status) return status;
    shared = created;
  }
  *domain = shared;
  return nullptr;
}

}  // namespace
}  // namespace octet

extern "C" __attribute__((visibility("default"))) ort::Status* RegisterCustomOps(ort::SessionOptions* options,
                                                                                  const ort::ApiBase* base) {
  const ort::Api* api = base->getApi(ort::API_VERSION);
  ort::Domain* domain = nullptr;
  if (ort::Status* status = octet::findDomain(api, &domain)) return status;
  return ort::call(api, ort::AddCustomOpDomain, options, domain);
}

/** The reason that the operators cannot run on the first GPU; null if they can. */
extern "C" __attribute__((visibility("default"))) const char* octet_unsupported() {
  cudaDeviceProp properties;
  const cudaError_t error = cudaGetDeviceProperties(&properties, 0);
  if (error != cudaSuccess) return cudaGetErrorString(error);
  if (properties.major * 10 + properties.minor >= octet::MIN_CAPABILITY) return nullptr;
  return "the GPU has no FP8 tensor cores: compute capability 8.9 or later is needed";
}
