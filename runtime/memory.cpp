#include "runtime/memory.h"

#include <sys/stat.h>

#include <algorithm>
#include <cinttypes>
#include <cstdio>
#include <sstream>
#include <string>

#include "runtime/base/path.h"
#include "runtime/base/text.h"

namespace sock::runtime {

MemoryUse& MemoryUse::operator+=(const MemoryUse& other) {
  private_bytes += other.private_bytes;
  shared_bytes += other.shared_bytes;
  proportional_bytes += other.proportional_bytes;
  processes += other.processes;
  zygote_heap_bytes = std::max(zygote_heap_bytes, other.zygote_heap_bytes);
  return *this;
}

namespace {

// Of the file behind a mapping of /proc/PID/smaps, by proc(5)'s map_files; what can't be read counts as none.
uint64_t FileBytes(pid_t pid, const std::string& mapping) {
  unsigned long begin, end;
  char range[40];
  struct stat st;
  if (sscanf(mapping.c_str(), "%lx-%lx", &begin, &end) != 2) return 0;
  snprintf(range, sizeof range, "%lx-%lx", begin, end);
  if (stat(Cat("/proc/", pid, "/map_files/", range).c_str(), &st) < 0) return 0;
  return static_cast<uint64_t>(st.st_blocks) * 512;
}

}  // namespace

absl::StatusOr<MemoryUse> ReadMemoryUse(pid_t pid) {
  absl::StatusOr<std::string> text = ReadFile(Cat("/proc/", pid, "/smaps"));
  // ESRCH comes from the read where it ended after the open.
  if (!text.ok() || text->empty()) return absl::NotFoundError(Cat("process ", pid, " has no memory"));
  MemoryUse use;
  use.processes = 1;
  uint64_t private_bytes = 0, anonymous = 0;  // of the mapping that is read
  // A file's page that only this process has mapped stays when it ends: in the page cache, in a Zygote's
  // heap.
  auto end_mapping = [&] {
    use.shared_bytes += private_bytes - std::min(private_bytes, anonymous);
    use.private_bytes += std::min(private_bytes, anonymous);
    private_bytes = anonymous = 0;
  };
  std::istringstream lines(*text);
  for (std::string line; std::getline(lines, line);) {
    if (use.zygote_heap_bytes == 0 && line.ends_with(" /memfd:heap (deleted)"))
      use.zygote_heap_bytes = FileBytes(pid, line);
    char name[32];
    uint64_t kib;
    if (sscanf(line.c_str(), "%31[A-Za-z_]: %" SCNu64 " kB", name, &kib) != 2) continue;
    const std::string_view field = name;
    if (field == "Size") end_mapping();  // the first of each
    if (field.starts_with("Private_") && field != "Private_Hugetlb") private_bytes += kib << 10;
    if (field.starts_with("Shared_") && field != "Shared_Hugetlb") use.shared_bytes += kib << 10;
    if (field == "Pss") use.proportional_bytes += kib << 10;
    if (field == "Anonymous") anonymous += kib << 10;
  }
  end_mapping();
  return use;
}

}  // namespace sock::runtime
