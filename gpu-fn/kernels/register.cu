// What the library exports: onnxruntime's entry point, and whether this machine's GPU can run the operators.
#include "operators.h"

namespace octet {
namespace {

constexpr int LEAST_CAPABILITY = 89;  // Ada, the first with FP8 tensor cores

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

/** The domain lives as long as the process: sessions point to it. */
ort::Status* domainOf(const ort::Api* api, ort::Domain** domain) {
  static ort::Domain* shared = nullptr;
  if (!shared) {
    ort::Domain* fresh = nullptr;
    if (ort::Status* status = ort::call(api, ort::CreateCustomOpDomain, "octet", &fresh)) return status;
    if (ort::Status* status = addAll<ModulateQuantize, GeluQuantize, QuantizeParts, Linear, QkNormQuantize, Attention, GroupNorm>(api, fresh))
      return status;
    shared = fresh;
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
  if (ort::Status* status = octet::domainOf(api, &domain)) return status;
  return ort::call(api, ort::AddCustomOpDomain, options, domain);
}

/** Why the operators cannot run on the first GPU, or null. */
extern "C" __attribute__((visibility("default"))) const char* octet_unsupported() {
  cudaDeviceProp properties;
  const cudaError_t error = cudaGetDeviceProperties(&properties, 0);
  if (error != cudaSuccess) return cudaGetErrorString(error);
  if (properties.major * 10 + properties.minor >= octet::LEAST_CAPABILITY) return nullptr;
  return "the GPU has no FP8 tensor cores: compute capability 8.9 or later is needed";
}
