// CUDA's runtime and driver APIs 13. The libraries are loaded on first use of a GPU, so that the addon can be loaded without them.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>

namespace octet::cuda {

using StreamHandle = struct CUstream_st*;
using EventHandle = struct CUevent_st*;
using GraphHandle = struct CUgraph_st*;
using NodeHandle = struct CUgraphNode_st*;
using ExecutableHandle = struct CUgraphExec_st*;

/** cudaMemcpyKind. BY_ADDRESS: CUDA finds out which of the two addresses are on the host. */
enum CopyKind { HOST_TO_DEVICE = 1, DEVICE_TO_DEVICE = 3, BY_ADDRESS = 4 };

/** cudaMemcpy3DParms */
struct NodeCopy {
  struct Side {
    void* array;
    size_t position[3];
    void* address;
    size_t pitch, width, height;
  };
  Side from, to;
  size_t extent[3];
  int kind;
};
/** cudaPointerAttributes */
struct AddressAttributes {
  int memory, device;
  void *onDevice, *onHost;
  long reserved[8];
};

/** CUmemLocation, CUmemAllocationProp and CUmemAccessDesc of the driver */
struct Location {
  int type, id;
};
struct AllocationProperties {
  int type, handleTypes;
  Location location;
  void* windowsMetadata;
  unsigned char flags[8];
};
struct AccessDescriptor {
  Location location;
  int flags;
};

/** CUDA functions by name. They return 0 on success. */
struct Runtime {
  const char* (*cudaGetErrorString)(int error);
  int (*cudaGetLastError)();
  int (*cudaSetDevice)(int device);
  int (*cudaStreamCreateWithFlags)(StreamHandle* stream, unsigned flags);
  int (*cudaStreamSynchronize)(StreamHandle stream);
  int (*cudaStreamWaitEvent)(StreamHandle stream, EventHandle event, unsigned flags);
  int (*cudaEventCreate)(EventHandle* event);
  int (*cudaEventRecord)(EventHandle event, StreamHandle stream);
  int (*cudaMemcpyAsync)(void* to, const void* from, size_t bytes, int kind, StreamHandle stream);
  int (*cudaMalloc)(void** address, size_t bytes);
  int (*cudaFree)(void* address);
  int (*cudaPointerGetAttributes)(AddressAttributes* attributes, const void* address);
  int (*cudaStreamBeginCapture)(StreamHandle stream, int mode);
  int (*cudaStreamEndCapture)(StreamHandle stream, GraphHandle* graph);
  int (*cudaGraphGetNodes)(GraphHandle graph, NodeHandle* nodes, size_t* count);
  int (*cudaGraphNodeGetType)(NodeHandle node, int* type);
  int (*cudaGraphMemcpyNodeGetParams)(NodeHandle node, NodeCopy* copy);
  int (*cudaGraphInstantiate)(ExecutableHandle* executable, GraphHandle graph, unsigned long long flags);
  int (*cudaGraphLaunch)(ExecutableHandle executable, StreamHandle stream);
  int (*cudaGraphDestroy)(GraphHandle graph);
  int (*cudaGraphExecDestroy)(ExecutableHandle executable);
  int (*cudaHostAlloc)(void** address, size_t bytes, unsigned flags);
  int (*cudaHostRegister)(void* address, size_t bytes, unsigned flags);
  int (*cudaHostUnregister)(void* address);
};
struct Driver {
  int (*cuGetErrorString)(int error, const char** text);
  int (*cuMemAddressReserve)(uint64_t* address, size_t bytes, size_t alignment, uint64_t wish, unsigned long long flags);
  int (*cuMemAddressFree)(uint64_t address, size_t bytes);
  int (*cuMemCreate)(uint64_t* handle, size_t bytes, const AllocationProperties* properties, unsigned long long flags);
  int (*cuMemRelease)(uint64_t handle);
  int (*cuMemMap)(uint64_t address, size_t bytes, size_t offset, uint64_t handle, unsigned long long flags);
  int (*cuMemUnmap)(uint64_t address, size_t bytes);
  int (*cuMemSetAccess)(uint64_t address, size_t bytes, const AccessDescriptor* descriptors, size_t count);
};

/** Throws if CUDA 13 is not installed. */
const Runtime& runtime();
const Driver& driver();

/** Throws an exception with CUDA's message if a call of the runtime or driver failed. `what` describes the call. */
void check(int error, const std::string& what);
void checkDriver(int error, const std::string& what);

/** Name of a call on a GPU, for `check`. */
std::string named(const char* what, int64_t gpu);

/** Sets the current CUDA device of this thread. */
void select(int64_t gpu);

/** Selects a GPU and creates a stream without implicit synchronization with the default stream. */
StreamHandle createStream(int64_t gpu);

}  // namespace octet::cuda
