#include "cuda/gpu.h"

#include <cstdlib>

#include "cuda/upload.h"

namespace octet {
namespace {

using cuda::driver, cuda::named, cuda::runtime;

// CUmemAllocationType, CUmemLocationType, CUmemAccess_flags, cudaHostRegister's flags
constexpr int PINNED = 1, DEVICE = 1, READ_WRITE = 3;
/** Portable, for copies to all GPUs, and read-only. */
constexpr unsigned REGISTER = 1 | 8;

cuda::Location locationOf(int64_t gpu) { return {DEVICE, static_cast<int>(gpu)}; }

/** Limits cuBLAS's workspace per session to 8 MiB. The default on Hopper is at least 32 MiB and not faster. */
void limitWorkspaces() { setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:2", 0); }

}  // namespace

Stream::Stream(int64_t gpu) : gpu(gpu), stream(cuda::createStream(gpu)) {}

Work<js::Nothing> Stream::copy(std::vector<Copy> copies, cuda::CopyKind kind) {
  return onThread(thread, [stream = stream, gpu = gpu, copies = std::move(copies), kind] {
    cuda::select(gpu);
    int error = 0;
    for (const auto& [to, from, bytes] : copies) {
      if (error == 0)
        error = runtime().cudaMemcpyAsync(reinterpret_cast<void*>(to), reinterpret_cast<void*>(from), bytes, kind, stream);
    }
    // Required after an error too, because the caller then unmaps memory of copies in flight.
    const int unfinished = runtime().cudaStreamSynchronize(stream);
    cuda::check(error, named("copy", gpu));
    cuda::check(unfinished, named("synchronization of a stream", gpu));
    return js::Nothing();
  });
}

Work<js::Nothing> Stream::copyFromHost(std::vector<Copy> copies) { return copy(std::move(copies), cuda::HOST_TO_DEVICE); }

Work<js::Nothing> Stream::upload(uint64_t to, js::TypedArray from) {
  return copy({{to, reinterpret_cast<uint64_t>(from.data), static_cast<int64_t>(from.bytes)}}, cuda::HOST_TO_DEVICE);
}

Work<js::Nothing> Stream::copyOnDevice(uint64_t to, uint64_t from, int64_t bytes) {
  return copy({{to, from, bytes}}, cuda::DEVICE_TO_DEVICE);
}

void Stream::wait(std::shared_ptr<Event> event) {
  cuda::select(gpu);
  cuda::check(runtime().cudaStreamWaitEvent(stream, event->handle(), 0), named("wait for an event", gpu));
}

Event::Event(int64_t gpu) : gpu(gpu) {
  cuda::select(gpu);
  cuda::check(runtime().cudaEventCreate(&event), named("creation of an event", gpu));
}

void Event::record(std::shared_ptr<Stream> stream) {
  cuda::select(gpu);
  cuda::check(runtime().cudaEventRecord(event, stream->handle()), named("recording of an event", gpu));
}

std::shared_ptr<Gpu> Gpu::open(int64_t index) {
  limitWorkspaces();
  driver();
  cuda::select(index);
  return std::make_shared<Gpu>(index);
}

uint64_t Gpu::reserve(int64_t bytes) {
  uint64_t address = 0;
  cuda::select(index);
  cuda::checkDriver(driver().cuMemAddressReserve(&address, bytes, 0, 0, 0), named("reservation of addresses", index));
  return address;
}

void Gpu::unreserve(uint64_t address, int64_t bytes) {
  cuda::checkDriver(driver().cuMemAddressFree(address, bytes), named("release of addresses", index));
}

uint64_t Gpu::create(int64_t bytes) {
  uint64_t handle = 0;
  const cuda::AllocationProperties properties{PINNED, 0, locationOf(index), nullptr, {}};
  cuda::select(index);
  cuda::checkDriver(driver().cuMemCreate(&handle, bytes, &properties, 0), named("allocation", index));
  return handle;
}

void Gpu::free(uint64_t handle) { cuda::checkDriver(driver().cuMemRelease(handle), named("release", index)); }

void Gpu::map(uint64_t address, uint64_t handle, int64_t bytes) {
  const cuda::AccessDescriptor access{locationOf(index), READ_WRITE};
  cuda::select(index);
  cuda::checkDriver(driver().cuMemMap(address, bytes, 0, handle, 0), named("mapping", index));
  cuda::checkDriver(driver().cuMemSetAccess(address, bytes, &access, 1), named("access", index));
}

void Gpu::unmap(uint64_t address, int64_t bytes) {
  cuda::select(index);
  cuda::checkDriver(driver().cuMemUnmap(address, bytes), named("unmapping", index));
}

Work<bool> Gpu::registerMemory(uint64_t address, int64_t bytes) {
  return onNewThread([address, bytes, gpu = index] {
    cuda::select(gpu);
    const int error = runtime().cudaHostRegister(reinterpret_cast<void*>(address), bytes, REGISTER);
    // Clears the error, which a later call would otherwise report.
    if (error != 0) runtime().cudaGetLastError();
    return error == 0;
  });
}

Work<js::Nothing> Gpu::unregisterMemory(uint64_t address) {
  return onNewThread([address, gpu = index] {
    cuda::select(gpu);
    cuda::check(runtime().cudaHostUnregister(reinterpret_cast<void*>(address)), named("unregistration", gpu));
    return js::Nothing();
  });
}

Work<js::Nothing> Gpu::uploadFile(std::string file, uint64_t to, int64_t bytes) {
  return cuda::uploadFile(index, std::move(file), to, bytes);
}

std::shared_ptr<Stream> Gpu::createStream() { return std::make_shared<Stream>(index); }
std::shared_ptr<Event> Gpu::createEvent() { return std::make_shared<Event>(index); }

}  // namespace octet
