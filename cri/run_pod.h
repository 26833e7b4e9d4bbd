// `sockctl run`: a pod of one container, by hand, in the calls that kubelet makes.
#pragma once

#include "api.grpc.pb.h"

namespace sock::cri {

// Runs what `arguments` ask for (see kRunUsage) and prints "POD CONTAINER IP". On failure the pod is removed
// again. Returns the program's exit status; errors go to stderr.
int RunPod(::runtime::v1::RuntimeService::Stub& runtime, int argc, char** argv);

inline constexpr char kRunUsage[] =
    "run --image REF [--handler NAME] [--name NAME] [--namespace NAME] [--log-dir DIR] [--env K=V]...\n"
    "      [--mount HOST:CONTAINER[:ro]]... [--annotation K=V]... [-- CMD...]";

}  // namespace sock::cri
