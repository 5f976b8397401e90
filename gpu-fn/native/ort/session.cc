#include "ort/session.h"

#include <map>
#include <mutex>

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

/** The stream for runs; null for one of the provider. Captured runs of a GPU share a stream, because they do not overlap. */
cuda::StreamHandle streamOf(const Settings& settings) {
  if (settings.stream) return (*settings.stream)->handle();
  if (!settings.capture) return nullptr;
  static std::mutex mutex;
  static std::map<int64_t, cuda::StreamHandle> streams;
  const std::lock_guard lock(mutex);
  cuda::StreamHandle& stream = streams[settings.device];
  if (!stream) stream = cuda::createStream(settings.device);
  return stream;
}

void addCudaProvider(OrtSessionOptions* options, const Settings& settings) {
  OrtCUDAProviderOptionsV2* made = nullptr;
  check(api().CreateCUDAProviderOptions(&made));
  const ort::CudaOptions provider(made);
  js::Record<std::string> entries = *settings.cuda;
  entries.emplace_back("device_id", std::to_string(settings.device));
  const Pairs pairs(entries);
  check(api().UpdateCUDAProviderOptions(made, pairs.keys.data(), pairs.values.data(), entries.size()));
  if (cuda::StreamHandle stream = streamOf(settings))
    check(api().UpdateCUDAProviderOptionsWithValue(made, "user_compute_stream", stream));
  check(api().SessionOptionsAppendExecutionProvider_CUDA_V2(options, made));
  if (settings.capture) return;
  check(api().AddSessionConfigEntry(options, "session.use_env_allocators", "1"));
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
            const std::shared_lock lock(cuda::deviceSynchronization());
            if (gpu) cuda::runtime().cudaSetDevice(static_cast<int>(*gpu));
            api().ReleaseSession(session);
          }};
}

}  // namespace

Work<std::shared_ptr<Session>> Session::open(std::string file, Settings settings) {
  return onNewThread([file = std::move(file), settings = std::move(settings)] {
    // Created first, because the CUDA provider logs to it while it is loaded.
    OrtEnv* environment = ort::environment();
    const ort::SessionOptions options = optionsOf(settings);
    const bool onGpu = settings.cuda.has_value();
    const auto gpu = onGpu ? std::optional(settings.device) : std::nullopt;
    OrtSession* made = nullptr;
    {
      const std::shared_lock lock(cuda::deviceSynchronization());
      check(api().CreateSession(environment, file.c_str(), options.get(), &made));
    }
    auto session = own(made, gpu);
    std::shared_ptr<CapturedRuns> captured;
    if (settings.capture) captured = std::make_shared<CapturedRuns>(settings.device, onGpu, streamOf(settings));
    return std::make_shared<Session>(std::move(session), settings.device, onGpu, std::move(captured));
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
  std::shared_ptr<CapturedRuns> captured;
  int64_t device;
  std::optional<int64_t> gpu;
  std::shared_ptr<OrtRunOptions> options;
  js::Record<ort::Value> inputs;
  js::Record<Output> outputs;

  Results run() const;
};

Results Run::Parts::run() const {
  if (captured) return captured->run(session.get(), options.get(), inputs, outputs);
  if (gpu) cuda::select(*gpu);
  const ort::Binding binding = ort::bind(session.get(), gpu, inputs, outputs);
  // BindInput only enqueues the copy of a host input, on a stream other than that of the run.
  check(api().SynchronizeBoundInputs(binding.get()));
  check(api().RunWithBinding(session.get(), options.get(), binding.get()));
  Results results;
  const std::vector<ort::Value> values = ort::boundValues(binding.get());
  for (size_t i = 0; i < outputs.size(); i++)
    if (const auto& [name, output] = outputs[i]; !output.tensor)
      results.emplace_back(name, std::make_shared<Tensor>(values.at(i)));
  return results;
}

std::shared_ptr<Run> Session::prepare(js::Record<std::shared_ptr<Tensor>> inputs, js::Record<Output> outputs) {
  session();
  auto parts = std::make_shared<Run::Parts>(Run::Parts{held, captured, device, gpu(), ort::createRunOptions(), {}, std::move(outputs)});
  for (const auto& [name, tensor] : inputs) parts->inputs.emplace_back(name, tensor->value());
  return std::make_shared<Run>(std::move(parts));
}

Work<std::vector<std::string>> Session::describeCaptures() {
  return onThread(deviceThread(device), [captured = captured] {
    return captured ? captured->describe() : std::vector<std::string>();
  });
}

Run::Run(std::shared_ptr<Parts> parts) : parts(std::move(parts)), options(this->parts->options) {}

Work<Results> Run::start() {
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
      field<std::optional<bool>>(env, value, "capture").value_or(false),
      field<std::optional<std::vector<std::string>>>(env, value, "libraries").value_or(std::vector<std::string>()),
      field<std::optional<Record<std::shared_ptr<Tensor>>>>(env, value, "initializers").value_or(Record<std::shared_ptr<Tensor>>()),
  };
}

}  // namespace octet
