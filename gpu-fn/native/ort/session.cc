#include "ort/session.h"

namespace octet {
namespace {

using ort::api, ort::check;

/** Keys and values as C strings, valid for the lifetime of the record. */
struct Pairs {
  std::vector<const char*> keys, values;

  explicit Pairs(const js::Record<std::string>& record) {
    for (const auto& [key, value] : record) {
      keys.push_back(key.c_str());
      values.push_back(value.c_str());
    }
  }
};

void addCudaProvider(OrtSessionOptions* options, const Settings& settings) {
  OrtCUDAProviderOptionsV2* made = nullptr;
  check(api().CreateCUDAProviderOptions(&made));
  const ort::CudaOptions provider(made);
  js::Record<std::string> entries = *settings.cuda;
  entries.emplace_back("device_id", std::to_string(settings.device));
  const Pairs pairs(entries);
  check(api().UpdateCUDAProviderOptions(made, pairs.keys.data(), pairs.values.data(), entries.size()));
  if (settings.stream)
    check(api().UpdateCUDAProviderOptionsWithValue(made, "user_compute_stream", (*settings.stream)->handle()));
  check(api().SessionOptionsAppendExecutionProvider_CUDA_V2(options, made));
  ort::shareArena(settings.device);
}

ort::SessionOptions optionsOf(const Settings& settings) {
  OrtSessionOptions* made = nullptr;
  check(api().CreateSessionOptions(&made));
  ort::SessionOptions options(made);
  check(api().SetSessionLogSeverityLevel(made, ORT_LOGGING_LEVEL_FATAL));
  for (const auto& [key, value] : settings.entries) check(api().AddSessionConfigEntry(made, key.c_str(), value.c_str()));
  check(settings.memoryPattern ? api().EnableMemPattern(made) : api().DisableMemPattern(made));
  if (settings.threads) check(api().SetIntraOpNumThreads(made, static_cast<int>(*settings.threads)));
  for (const std::string& library : settings.libraries) check(api().RegisterCustomOpsLibrary_V2(made, library.c_str()));
  if (settings.cuda) addCudaProvider(made, settings);
  for (const auto& [name, tensor] : settings.initializers)
    check(api().AddInitializer(made, name.c_str(), tensor->value().get()));
  return options;
}

/** Releases on the session's GPU, because CUDA frees memory on the current device. Never throws, even if the GPU has failed. */
std::shared_ptr<OrtSession> own(OrtSession* session, std::optional<int64_t> gpu) {
  return {session, [gpu](OrtSession* session) {
            if (gpu) cuda::runtime().cudaSetDevice(static_cast<int>(*gpu));
            api().ReleaseSession(session);
          }};
}

std::shared_ptr<OrtRunOptions> createRunOptions() {
  OrtRunOptions* made = nullptr;
  check(api().CreateRunOptions(&made));
  return {made, ort::Releaser<&OrtApi::ReleaseRunOptions>()};
}

/** The outputs of a run, in the order of their binding. */
std::vector<ort::Value> boundValues(OrtIoBinding* binding) {
  OrtAllocator* allocator = nullptr;
  OrtValue** list = nullptr;
  size_t count = 0;
  check(api().GetAllocatorWithDefaultOptions(&allocator));
  check(api().GetBoundOutputValues(binding, allocator, &list, &count));
  std::vector<ort::Value> values;
  for (size_t i = 0; i < count; i++) values.push_back(ort::own(list[i]));
  if (list) check(api().AllocatorFree(allocator, list));
  return values;
}

}  // namespace

Work<std::shared_ptr<Session>> Session::open(std::string file, Settings settings) {
  return onNewThread([file = std::move(file), settings = std::move(settings)] {
    // Created first, because the CUDA provider logs to it while it is loaded.
    OrtEnv* environment = ort::environment();
    const ort::SessionOptions options = optionsOf(settings);
    const bool onGpu = settings.cuda.has_value();
    OrtSession* made = nullptr;
    check(api().CreateSession(environment, file.c_str(), options.get(), &made));
    const auto gpu = onGpu ? std::optional(settings.device) : std::nullopt;
    return std::make_shared<Session>(own(made, gpu), settings.device, onGpu);
  });
}

OrtSession* Session::session() const {
  if (!held) throw std::logic_error("the session was released");
  return held.get();
}

std::vector<std::string> Session::outputs() {
  OrtAllocator* allocator = nullptr;
  size_t count = 0;
  check(api().GetAllocatorWithDefaultOptions(&allocator));
  check(api().SessionGetOutputCount(session(), &count));
  std::vector<std::string> names;
  for (size_t i = 0; i < count; i++) {
    char* name = nullptr;
    check(api().SessionGetOutputName(session(), i, allocator, &name));
    names.emplace_back(name);
    check(api().AllocatorFree(allocator, name));
  }
  return names;
}

std::shared_ptr<Allocation> Session::allocate(int64_t bytes) {
  if (onGpu) cuda::select(device);
  OrtAllocator* made = nullptr;
  check(api().CreateAllocator(session(), ort::memoryOf(gpu()).get(), &made));
  ort::Allocator allocator(made);
  void* start = nullptr;
  check(api().AllocatorAlloc(made, bytes, &start));
  return std::make_shared<Allocation>(std::move(allocator), start, gpu());
}

void Allocation::release() {
  if (!start) return;
  if (gpu) cuda::select(*gpu);
  check(api().AllocatorFree(allocator.get(), start));
  start = nullptr;
  allocator = nullptr;
}

/** The resources of a run, held until its end. */
struct Run::Parts {
  std::shared_ptr<OrtSession> session;
  int64_t device;
  std::optional<int64_t> gpu;
  std::shared_ptr<OrtRunOptions> options;
  js::Record<ort::Value> inputs;
  js::Record<Output> outputs;

  Results run() const;
};

Run::Results Run::Parts::run() const {
  if (gpu) cuda::select(*gpu);
  OrtIoBinding* made = nullptr;
  check(api().CreateIoBinding(session.get(), &made));
  const ort::Binding binding(made);
  for (const auto& [name, value] : inputs) check(api().BindInput(made, name.c_str(), value.get()));
  for (const auto& [name, output] : outputs) {
    if (output.tensor)
      check(api().BindOutput(made, name.c_str(), output.tensor.get()));
    else
      check(api().BindOutputToDevice(made, name.c_str(), ort::memoryOf(output.onHost ? std::nullopt : gpu).get()));
  }
  // BindInput only enqueues the copy of a host input, on a stream other than that of the run.
  check(api().SynchronizeBoundInputs(made));
  check(api().RunWithBinding(session.get(), options.get(), made));
  Results results;
  const std::vector<ort::Value> values = boundValues(made);
  for (size_t i = 0; i < outputs.size(); i++)
    if (const auto& [name, output] = outputs[i]; !output.tensor)
      results.emplace_back(name, std::make_shared<Tensor>(values.at(i)));
  return results;
}

std::shared_ptr<Run> Session::prepare(js::Record<std::shared_ptr<Tensor>> inputs, js::Record<Output> outputs) {
  session();
  auto parts = std::make_shared<Run::Parts>(Run::Parts{held, device, gpu(), createRunOptions(), {}, std::move(outputs)});
  for (const auto& [name, tensor] : inputs) parts->inputs.emplace_back(name, tensor->value());
  return std::make_shared<Run>(std::move(parts));
}

Run::Run(std::shared_ptr<Parts> parts) : parts(std::move(parts)), options(this->parts->options) {}

Work<Run::Results> Run::start() {
  if (!parts) throw std::logic_error("the run has already been started");
  Thread& thread = deviceThread(parts->device);
  // Moves the reference to the session into the work, so that the session can be released after the run.
  return onThread(thread, [parts = std::move(parts)] { return parts->run(); });
}

void Run::cancel() { check(api().RunOptionsSetTerminate(options.get())); }

Settings js::Type<Settings>::read(napi_env env, napi_value value) {
  return {
      field<Record<std::string>>(env, value, "entries"),
      field<bool>(env, value, "memoryPattern"),
      field<std::optional<int64_t>>(env, value, "threads"),
      field<std::optional<int64_t>>(env, value, "device").value_or(0),
      field<std::optional<Record<std::string>>>(env, value, "cuda"),
      field<std::optional<std::shared_ptr<Stream>>>(env, value, "stream"),
      field<std::optional<std::vector<std::string>>>(env, value, "libraries").value_or(std::vector<std::string>()),
      field<std::optional<Record<std::shared_ptr<Tensor>>>>(env, value, "initializers").value_or(Record<std::shared_ptr<Tensor>>()),
  };
}

Output js::Type<Output>::read(napi_env env, napi_value value) {
  napi_valuetype type;
  js::check(env, napi_typeof(env, value, &type));
  if (type != napi_string) return {Type<std::shared_ptr<Tensor>>::read(env, value)->value(), false};
  const std::string memory = Type<std::string>::read(env, value);
  if (memory != "host" && memory != "device") throw std::runtime_error("an output is on the host or the device, not on " + memory);
  return {nullptr, memory == "host"};
}

}  // namespace octet
