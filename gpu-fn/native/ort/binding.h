// Inputs and outputs of a run.
#pragma once
#include "js/js.h"
#include "ort/ort.h"
#include "ort/tensor.h"

namespace octet {

/** Destination of an output: a given tensor, or newly allocated host or device memory. */
struct Output {
  ort::Value tensor;
  bool onHost = false;
};

/** New tensors by output name, for outputs without a given tensor. */
using Results = js::Record<std::shared_ptr<Tensor>>;

namespace ort {

/** Binds inputs and outputs. `gpu`: place of device memory; empty for sessions on the CPU. */
Binding bind(OrtSession* session, std::optional<int64_t> gpu, const js::Record<Value>& inputs, const js::Record<Output>& outputs);

/** The outputs of a run, in the order of their binding. */
std::vector<Value> boundValues(OrtIoBinding* binding);

}  // namespace ort

namespace js {
/** A tensor, or the memory to allocate: `host` or `device`. */
template <>
struct Type<Output> {
  static Output read(napi_env env, napi_value value);
};
}  // namespace js

}  // namespace octet
