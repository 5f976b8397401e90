#include "ort/binding.h"

namespace octet {
namespace ort {

Binding bind(OrtSession* session, std::optional<int64_t> gpu, const js::Record<Value>& inputs, const js::Record<Output>& outputs) {
  OrtIoBinding* made = nullptr;
  check(api().CreateIoBinding(session, &made));
  Binding binding(made);
  for (const auto& [name, value] : inputs) check(api().BindInput(made, name.c_str(), value.get()));
  for (const auto& [name, output] : outputs) {
    if (output.tensor)
      check(api().BindOutput(made, name.c_str(), output.tensor.get()));
    else
      check(api().BindOutputToDevice(made, name.c_str(), memoryOf(output.onHost ? std::nullopt : gpu).get()));
  }
  return binding;
}

std::vector<Value> boundValues(OrtIoBinding* binding) {
  OrtAllocator* allocator = nullptr;
  OrtValue** list = nullptr;
  size_t count = 0;
  check(api().GetAllocatorWithDefaultOptions(&allocator));
  check(api().GetBoundOutputValues(binding, allocator, &list, &count));
  std::vector<Value> values;
  for (size_t i = 0; i < count; i++) values.push_back(own(list[i]));
  if (list) check(api().AllocatorFree(allocator, list));
  return values;
}

}  // namespace ort

Output js::Type<Output>::read(napi_env env, napi_value value) {
  napi_valuetype type;
  js::check(env, napi_typeof(env, value, &type));
  if (type != napi_string) return {Type<std::shared_ptr<Tensor>>::read(env, value)->value(), false};
  const std::string memory = Type<std::string>::read(env, value);
  if (memory != "host" && memory != "device") throw std::runtime_error("an output is on the host or the device, not on " + memory);
  return {nullptr, memory == "host"};
}

}  // namespace octet
