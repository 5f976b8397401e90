#include "mapped-file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

namespace octet {
namespace {

/** A file that is open for reading until the end of the block; its number is negative after an error. */
struct Descriptor {
  const int number;

  explicit Descriptor(const std::string& file) : number(::open(file.c_str(), O_RDONLY | O_CLOEXEC)) {}
  Descriptor(const Descriptor&) = delete;
  ~Descriptor() {
    if (number >= 0) ::close(number);
  }
};

}  // namespace

Work<std::shared_ptr<MappedFile>> MappedFile::open(std::string file, int64_t bytes) {
  return onNewThread([file = std::move(file), bytes] {
    const auto fail = [&](const std::string& reason) -> std::runtime_error {
      return std::runtime_error(file + " cannot be mapped: " + reason);
    };
    const Descriptor opened(file);
    struct stat found;
    if (opened.number < 0 || fstat(opened.number, &found) != 0) throw fail(std::strerror(errno));
    // An access beyond the end of the file would end the process.
    if (found.st_size < bytes) throw fail("it has " + std::to_string(found.st_size) + " of " + std::to_string(bytes) + " bytes");
    void* start = mmap(nullptr, bytes, PROT_READ, MAP_SHARED | MAP_POPULATE, opened.number, 0);
    if (start == MAP_FAILED) throw fail(std::strerror(errno));
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
