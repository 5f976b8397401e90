// The exports of the library: onnxruntime's entry point, and a check of the GPU.
#include "operators.h"

namespace octet {
namespace {

constexpr int MIN_CAPABILITY = 89;  // Ada, the first with FP8 tensor cores

template <class Operator>
OrtStatus* add(const OrtApi* api, OrtCustomOpDomain* domain) {
  static CustomOp<Operator> op;
  return api->CustomOpDomain_Add(domain, &op);
}

template <class... Operators>
OrtStatus* addAll(const OrtApi* api, OrtCustomOpDomain* domain) {
  OrtStatus* status = nullptr;
  (void)(... || (status = add<Operators>(api, domain)));
  return status;
}

/** The domain, created once and kept for the process's lifetime, because sessions point to it. */
OrtStatus* findDomain(const OrtApi* api, OrtCustomOpDomain** domain) {
  static OrtCustomOpDomain* shared = nullptr;
  if (!shared) {
    OrtCustomOpDomain* created = nullptr;
    if (OrtStatus* status = api->CreateCustomOpDomain("octet", &created)) return status;
    OrtStatus* status =
        addAll<ModulateQuantize, GeluQuantize, QuantizeParts, UnpackFp8, Linear, QkNormQuantize, Attention, GroupNorm, AddLowRank>(api, created);
    if (status) return status;
    shared = created;
  }
  *domain = shared;
  return nullptr;
}

}  // namespace
}  // namespace octet

extern "C" __attribute__((visibility("default"))) OrtStatus* RegisterCustomOps(OrtSessionOptions* options,
                                                                                const OrtApiBase* base) {
  const OrtApi* api = base->GetApi(ORT_API_VERSION);
  OrtCustomOpDomain* domain = nullptr;
  if (OrtStatus* status = octet::findDomain(api, &domain)) return status;
  return api->AddCustomOpDomain(options, domain);
}

/** The reason that the operators cannot run on the first GPU; null if they can. */
extern "C" __attribute__((visibility("default"))) const char* octet_unsupported() {
  cudaDeviceProp properties;
  const cudaError_t error = cudaGetDeviceProperties(&properties, 0);
  if (error != cudaSuccess) return cudaGetErrorString(error);
  if (properties.major * 10 + properties.minor >= octet::MIN_CAPABILITY) return nullptr;
  return "the GPU has no FP8 tensor cores: compute capability 8.9 or later is needed";
}
