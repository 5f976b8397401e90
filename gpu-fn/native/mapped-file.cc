#include "mapped-file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

namespace octet {

Work<std::shared_ptr<MappedFile>> MappedFile::open(std::string file, int64_t bytes) {
  return onNewThread([file = std::move(file), bytes] {
    const auto fail = [&] { return std::runtime_error(file + " cannot be mapped: " + std::strerror(errno)); };
    const int opened = ::open(file.c_str(), O_RDONLY | O_CLOEXEC);
    if (opened < 0) throw fail();
    void* start = mmap(nullptr, bytes, PROT_READ, MAP_SHARED | MAP_POPULATE, opened, 0);
    const auto error = fail();
    ::close(opened);
    if (start == MAP_FAILED) throw error;
    return std::make_shared<MappedFile>(start, bytes);
  });
}

Work<js::Nothing> MappedFile::close() {
  // Prevents a second call from unmapping a later mapping with the same addresses.
  return onNewThread([mapped = std::exchange(start, nullptr), bytes = bytes] {
    if (mapped) munmap(mapped, bytes);
    return js::Nothing();
  });
}

}  // namespace octet
