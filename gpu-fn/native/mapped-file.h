// Memory-mapped files.
#pragma once
#include <string>

#include "js/js.h"
#include "threads.h"

namespace octet {

class MappedFile {
 public:
  static constexpr uint64_t ID = 5;

  /** Maps the first bytes of a file for reading, and reads them into the page cache. Throws if the file is shorter. */
  static Work<std::shared_ptr<MappedFile>> open(std::string file, int64_t bytes);

  MappedFile(void* start, int64_t bytes) : start(start), bytes(bytes) {}

  uint64_t address() { return reinterpret_cast<uint64_t>(start); }
  Work<js::Nothing> close();

 private:
  void* start;
  int64_t bytes;
};

}  // namespace octet
