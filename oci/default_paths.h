// What of /proc and /sys tells of the machine or changes it: what a container is given where nobody says
// otherwise.
#pragma once

#include <string>
#include <vector>

namespace sock::oci {

inline const std::vector<std::string> kMaskedPaths = {"/proc/acpi",
                                                      "/proc/asound",
                                                      "/proc/interrupts",
                                                      "/proc/kcore",
                                                      "/proc/keys",
                                                      "/proc/latency_stats",
                                                      "/proc/sched_debug",
                                                      "/proc/scsi",
                                                      "/proc/timer_list",
                                                      "/proc/timer_stats",
                                                      "/sys/devices/virtual/powercap",
                                                      "/sys/firmware"};
inline const std::vector<std::string> kReadonlyPaths = {"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys",
                                                        "/proc/sysrq-trigger"};

}  // namespace sock::oci
