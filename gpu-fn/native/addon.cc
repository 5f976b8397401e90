// The exports of the addon. gpu-fn/runtime/native.ts declares them for TypeScript.
#include <dlfcn.h>

#include <cstring>

#include "js/bind.h"
#include "cuda/gpu.h"
#include "mapped-file.h"
#include "ort/ort.h"
#include "ort/session.h"
#include "ort/tensor.h"

namespace octet {
namespace {

using js::function, js::getter, js::method;

/** The reason if the operator library does not support the first GPU. Throws if the library cannot be loaded. */
std::optional<std::string> findUnsupported(std::string library) {
  // Never unloaded: unloading a library with kernels shuts CUDA down.
  void* handle = dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!handle) throw std::runtime_error(dlerror());
  const auto unsupported = reinterpret_cast<const char* (*)()>(dlsym(handle, "octet_unsupported"));
  if (!unsupported) throw std::runtime_error(library + " has no octet_unsupported");
  const char* reason = unsupported();
  return reason ? std::optional<std::string>(reason) : std::nullopt;
}

uint64_t addressOf(js::TypedArray array) { return reinterpret_cast<uint64_t>(array.data); }

/** Copies within host memory. */
void copyMemory(uint64_t to, uint64_t from, int64_t bytes) {
  std::memcpy(reinterpret_cast<void*>(to), reinterpret_cast<const void*>(from), bytes);
}

void define(napi_env env, napi_value exports, const char* name, uint64_t id, std::vector<napi_property_descriptor> members) {
  js::check(env, napi_set_named_property(env, exports, name, js::defineClass(env, name, id, members)));
}

void defineAll(napi_env env, napi_value exports) {
  const napi_property_descriptor functions[] = {
      function<ort::load>("load"), function<findUnsupported>("findUnsupported"), function<addressOf>("addressOf"),
      function<copyMemory>("copyMemory")};
  js::check(env, napi_define_properties(env, exports, std::size(functions), functions));
  define(env, exports, "Tensor", Tensor::ID,
         {function<Tensor::copyOf>("copyOf", true), function<Tensor::view>("view", true), getter<&Tensor::dims>("dims"),
          getter<&Tensor::address>("address"), method<&Tensor::read>("read"), method<&Tensor::release>("release")});
  define(env, exports, "Session", Session::ID,
         {function<Session::open>("open", true), getter<&Session::outputs>("outputs"), method<&Session::prepare>("prepare"),
          method<&Session::allocate>("allocate"), method<&Session::describeCaptures>("describeCaptures"),
          method<&Session::release>("release")});
  define(env, exports, "Run", Run::ID, {method<&Run::start>("start"), method<&Run::cancel>("cancel")});
  define(env, exports, "Allocation", Allocation::ID,
         {getter<&Allocation::address>("address"), method<&Allocation::release>("release")});
  define(env, exports, "Gpu", Gpu::ID,
         {function<Gpu::open>("open", true), method<&Gpu::reserve>("reserve"), method<&Gpu::unreserve>("unreserve"),
          method<&Gpu::create>("create"), method<&Gpu::free>("free"), method<&Gpu::map>("map"), method<&Gpu::unmap>("unmap"),
          method<&Gpu::registerMemory>("registerMemory"), method<&Gpu::unregisterMemory>("unregisterMemory"),
          method<&Gpu::uploadFile>("uploadFile"), method<&Gpu::createStream>("createStream"),
          method<&Gpu::createEvent>("createEvent")});
  define(env, exports, "Stream", Stream::ID,
         {method<&Stream::copyFromHost>("copyFromHost"), method<&Stream::upload>("upload"),
          method<&Stream::copyOnDevice>("copyOnDevice"), method<&Stream::wait>("wait")});
  define(env, exports, "Event", Event::ID, {method<&Event::record>("record")});
  define(env, exports, "MappedFile", MappedFile::ID,
         {function<MappedFile::open>("open", true), getter<&MappedFile::address>("address"), method<&MappedFile::close>("close")});
}

}  // namespace
}  // namespace octet

NAPI_MODULE_INIT() {
  return octet::js::guarded(env, [&] {
    octet::defineAll(env, exports);
    return exports;
  });
}
