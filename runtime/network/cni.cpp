#include "runtime/network/cni.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "absl/cleanup/cleanup.h"
#include "runtime/base/atomic_file.h"
#include "runtime/base/path.h"
#include "runtime/base/status.h"
#include "runtime/base/text.h"
#include "runtime/network/netlink.h"

namespace sock::runtime {
namespace {

using nlohmann::json;

constexpr size_t kOutputLimit = 4 << 20;  // bytes of a plugin's answer

std::string Dump(const json& value) { return value.dump(-1, ' ', false, json::error_handler_t::replace); }

absl::StatusOr<Fd> MemoryFile(const char* name, std::string_view content) {
  Fd fd(memfd_create(name, MFD_CLOEXEC));
  if (!fd.valid()) return ErrnoStatus(errno, "create a memory file");
  RETURN_IF_ERROR(WriteAll(fd.get(), content));
  if (lseek(fd.get(), 0, SEEK_SET) < 0) return ErrnoStatus(errno, "seek a memory file");
  return fd;
}

std::string Content(const Fd& fd) {
  std::string text(kOutputLimit, '\0');
  size_t size = 0;
  while (size < text.size()) {
    ssize_t got = pread(fd.get(), text.data() + size, text.size() - size, static_cast<off_t>(size));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) break;
    size += static_cast<size_t>(got);
  }
  text.resize(size);
  return text;
}

// The one line that says what went wrong: the plugin's error object, else its stderr's last line.
std::string Complaint(const std::string& out, const std::string& err) {
  json parsed = json::parse(out, nullptr, false);
  if (parsed.is_object() && parsed.contains("msg") && parsed["msg"].is_string()) {
    std::string text = parsed["msg"].get<std::string>();
    if (parsed.contains("details") && parsed["details"].is_string() &&
        !parsed["details"].get_ref<std::string&>().empty())
      text += Cat("; ", parsed["details"].get<std::string>());
    if (parsed.contains("code") && parsed["code"].is_number_integer())
      text += Cat(" (cni code ", parsed["code"].get<int64_t>(), ")");
    return text;
  }
  std::string text = err.substr(0, err.find_last_not_of(" \n\r\t") + 1);
  if (size_t line = text.rfind('\n'); line != std::string::npos) text.erase(0, line + 1);
  return text.substr(0, 1000);
}

bool AtLeast(const std::string& version, const char* other) {  // one digit each: see the known versions
  return version >= other;
}

// Bits per second of a bandwidth annotation ("10M"); 0 where there is none.
int64_t Bandwidth(const PodNetworkRequest& request, const char* annotation) {
  auto found = request.annotations.find(annotation);
  if (found == request.annotations.end()) return 0;
  char* end = nullptr;
  double value = strtod(found->second.c_str(), &end);
  const std::map<std::string, double> units = {
      {"", 1},     {"k", 1e3},     {"M", 1e6},        {"G", 1e9},           {"T", 1e12},
      {"P", 1e15}, {"Ki", 1024.0}, {"Mi", 1048576.0}, {"Gi", 1073741824.0}, {"Ti", 1099511627776.0}};
  auto unit = units.find(end);
  if (unit == units.end() || !(value > 0) || value * unit->second > 1e18) return 0;
  return static_cast<int64_t>(value * unit->second);
}

// What a plugin with these capabilities gets as runtimeConfig.
json RuntimeConfig(const json& capabilities, const PodNetworkRequest& request, const std::string& cidr) {
  json config = json::object();
  auto wants = [&](const char* name) {
    return capabilities.is_object() && capabilities.value(name, json()) == true;
  };
  if (wants("portMappings")) {
    json ports = json::array();
    for (const PortMapping& port : request.ports) {
      if (port.host_port <= 0) continue;
      std::string protocol = port.protocol.empty() ? "tcp" : port.protocol;
      for (char& c : protocol) c = static_cast<char>(tolower(static_cast<unsigned char>(c)));
      ports.push_back(
          {{"hostPort", port.host_port}, {"containerPort", port.container_port}, {"protocol", protocol}});
      if (!port.host_ip.empty()) ports.back()["hostIP"] = port.host_ip;
    }
    if (!ports.empty()) config["portMappings"] = std::move(ports);
  }
  if (wants("bandwidth")) {
    // A burst of one second: the plugin wants one where there is a rate.
    for (auto [annotation, rate, burst] :
         {std::array{"kubernetes.io/ingress-bandwidth", "ingressRate", "ingressBurst"},
          std::array{"kubernetes.io/egress-bandwidth", "egressRate", "egressBurst"}}) {
      if (int64_t value = Bandwidth(request, annotation); value > 0) {
        config["bandwidth"][rate] = value;
        config["bandwidth"][burst] = std::min<int64_t>(value, 2147483647);
      }
    }
  }
  if (wants("ipRanges") && !cidr.empty()) {
    json ranges = json::array();
    for (std::string_view rest = cidr; !rest.empty();) {
      std::string_view part = rest.substr(0, rest.find(','));
      rest.remove_prefix(std::min(rest.size(), part.size() + 1));
      ranges.push_back(json::array({{{"subnet", std::string(part)}}}));
    }
    config["ipRanges"] = std::move(ranges);
  }
  if (wants("io.kubernetes.cri.pod-annotations") && !request.annotations.empty())
    config["io.kubernetes.cri.pod-annotations"] = request.annotations;
  return config;
}

struct State {
  CniConfig config;
  std::string result, cidr;
};

std::string ToState(const CniConfig& config, const std::string& result, const std::string& cidr) {
  return Dump({{"kind", "cni"},
               {"name", config.name},
               {"version", config.version},
               {"file", config.file},
               {"disable_check", config.disable_check},
               {"plugins", config.plugins},
               {"result", result},
               {"cidr", cidr}});
}

absl::StatusOr<State> FromState(const std::string& text) {
  json parsed = json::parse(text, nullptr, false);
  auto damaged = [] { return absl::InvalidArgumentError("the record of a pod's network is damaged"); };
  if (!parsed.is_object()) return damaged();
  State state;
  for (auto [key, field] : {std::pair{"name", &state.config.name},
                            {"version", &state.config.version},
                            {"file", &state.config.file},
                            {"result", &state.result},
                            {"cidr", &state.cidr}}) {
    if (!parsed.contains(key) || !parsed[key].is_string()) return damaged();
    *field = parsed[key].get<std::string>();
  }
  state.config.disable_check = parsed.value("disable_check", json()) == true;
  const json plugins = parsed.value("plugins", json());
  if (!plugins.is_array()) return damaged();
  for (const json& plugin : plugins) {
    if (!plugin.is_string()) return damaged();
    state.config.plugins.push_back(plugin.get<std::string>());
  }
  return state;
}

}  // namespace

Cni::Cni(PodNetworkOptions options)
    : options_(std::move(options)),
      running_(std::max(1, options_.cni_parallel)),
      signature_("unread"),
      loaded_(std::shared_ptr<const CniConfig>()) {}

void Cni::SetPodCidr(const std::string& cidr) {
  std::lock_guard lock(mutex_);
  cidr_ = cidr;
}

absl::StatusOr<std::shared_ptr<const CniConfig>> Cni::Load() {
  std::vector<std::string> files;
  std::error_code err;
  for (std::filesystem::directory_iterator it(options_.cni_conf_dir, err), end; !err && it != end;
       it.increment(err)) {
    std::string extension = it->path().extension();
    if (extension == ".conflist" || extension == ".conf" || extension == ".json") files.push_back(it->path());
  }
  std::sort(files.begin(), files.end());
  // A file may change in place, which its directory's time does not tell.
  std::string signature;
  for (const std::string& file : files) {
    struct stat info {};
    if (stat(file.c_str(), &info) != 0) continue;
    signature += Cat(file, ":", info.st_ino, ":", info.st_size, ":", info.st_mtim.tv_sec, ".",
                     info.st_mtim.tv_nsec, "\n");
  }
  std::lock_guard lock(mutex_);
  if (signature == signature_) return loaded_;
  signature_ = signature;
  loaded_ = std::shared_ptr<const CniConfig>();
  absl::Status first;
  for (const std::string& file : files) {
    auto text = ReadFile(file, 1 << 20);
    if (absl::IsNotFound(text.status())) continue;
    auto config = text.ok() ? ParseCniConfig(*text, file) : absl::StatusOr<CniConfig>(text.status());
    if (config.ok()) return loaded_ = std::make_shared<const CniConfig>(*std::move(config));
    first.Update(config.status());
  }
  if (!first.ok()) loaded_ = first;
  return loaded_;
}

absl::StatusOr<std::string> Cni::FindPlugin(const std::string& type) {
  std::string where;
  for (const std::string& dir : options_.cni_bin_dirs) {
    std::string path = Cat(dir, "/", type);
    if (access(path.c_str(), X_OK) == 0) return path;
    where += Cat(where.empty() ? "" : ", ", "`", dir, "`");
  }
  return absl::UnavailableError(Cat("cni plugin `", type, "` is in none of ", where));
}

absl::Status Cni::CheckPlugins(const CniConfig& config) {
  for (const std::string& plugin : config.plugins)
    RETURN_IF_ERROR(FindPlugin(json::parse(plugin, nullptr, false).value("type", "")).status());
  return absl::OkStatus();
}

absl::StatusOr<std::string> Cni::Spawn(const std::string& path, const std::string& input,
                                       std::vector<std::string> environment, int stop) {
  // Memory files: a plugin that never reads, or leaves a child with its output open, blocks nobody.
  ASSIGN_OR_RETURN(Fd in, MemoryFile("cni-in", input));
  ASSIGN_OR_RETURN(Fd out, MemoryFile("cni-out", ""));
  ASSIGN_OR_RETURN(Fd err, MemoryFile("cni-err", ""));
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  absl::Cleanup destroy = [&] {
    posix_spawn_file_actions_destroy(&actions);
    posix_spawnattr_destroy(&attributes);
  };
  posix_spawn_file_actions_adddup2(&actions, in.get(), 0);
  posix_spawn_file_actions_adddup2(&actions, out.get(), 1);
  posix_spawn_file_actions_adddup2(&actions, err.get(), 2);
  sigset_t none, all;
  sigemptyset(&none);
  sigfillset(&all);
  posix_spawnattr_setsigmask(&attributes, &none);
  posix_spawnattr_setsigdefault(&attributes, &all);
  posix_spawnattr_setpgroup(&attributes, 0);
  posix_spawnattr_setflags(&attributes,
                           POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
  std::vector<char*> env;
  for (std::string& each : environment) env.push_back(each.data());
  env.push_back(nullptr);
  std::string program = path;
  char* argv[] = {program.data(), nullptr};

  const bool counts = stop < 0;
  if (counts) running_.acquire();
  absl::Cleanup release = [&] {
    if (counts) running_.release();
  };
  pid_t pid = 0;
  if (int failed = posix_spawn(&pid, path.c_str(), &actions, &attributes, argv, env.data()); failed != 0)
    return ErrnoStatus(failed, Cat("run `", path, "`"));
  Fd pidfd(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(options_.cni_timeout_s);
  bool ended = false;
  while (pidfd.valid() && !ended) {
    auto left =
        std::chrono::duration_cast<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
    if (left.count() <= 0) break;
    pollfd poll_for[] = {{pidfd.get(), POLLIN, 0}, {stop, POLLIN, 0}};
    if (poll(poll_for, 2, static_cast<int>(left.count()) + 1) <= 0) continue;
    ended = poll_for[0].revents != 0;
    if (poll_for[1].revents != 0) break;
  }
  if (!ended) kill(-pid, SIGKILL);
  int status = 0;
  while (waitpid(pid, &status, 0) < 0) {
    if (errno != EINTR) return ErrnoStatus(errno, Cat("wait for `", path, "`"));
  }
  if (!ended) return absl::DeadlineExceededError(Cat("not done after ", options_.cni_timeout_s, " s"));
  std::string text = Content(out);
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return text;
  std::string complaint = Complaint(text, Content(err));
  if (complaint.empty())
    complaint = WIFSIGNALED(status) ? Cat("killed by signal ", WTERMSIG(status))
                                    : Cat("exit code ", WEXITSTATUS(status), " and no message");
  return absl::UnavailableError(complaint);
}

absl::StatusOr<std::string> Cni::Run(const CniConfig& config, const std::string& plugin, const Call& call) {
  json input = json::parse(plugin, nullptr, false);
  if (!input.is_object() || !input.contains("type") || !input["type"].is_string())
    return absl::InvalidArgumentError("the record of a pod's network is damaged");
  const std::string type = input["type"].get<std::string>();
  ASSIGN_OR_RETURN(std::string path, FindPlugin(type));
  input["name"] = config.name;
  input["cniVersion"] = config.version;
  json runtime = RuntimeConfig(input.value("capabilities", json()), *call.request, call.cidr);
  input.erase("capabilities");
  if (!runtime.empty()) input["runtimeConfig"] = std::move(runtime);
  if (!call.previous.empty()) input["prevResult"] = json::parse(call.previous, nullptr, false);

  std::string dirs;
  for (const std::string& dir : options_.cni_bin_dirs) dirs += Cat(dirs.empty() ? "" : ":", dir);
  const PodNetworkRequest& pod = *call.request;
  const char* search = getenv("PATH");
  std::vector<std::string> environment = {
      Cat("PATH=",
          search == nullptr ? "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" : search),
      Cat("CNI_COMMAND=", call.command),
      Cat("CNI_CONTAINERID=", pod.sandbox_id),
      Cat("CNI_NETNS=", call.netns),
      "CNI_IFNAME=eth0",
      Cat("CNI_PATH=", dirs),
      Cat("CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=", pod.namespace_, ";K8S_POD_NAME=", pod.name,
          ";K8S_POD_INFRA_CONTAINER_ID=", pod.sandbox_id, ";K8S_POD_UID=", pod.uid)};
  auto result = Spawn(path, Dump(input), std::move(environment), call.stop);
  if (!result.ok()) return Annotate(result.status(), Cat("cni ", call.command, " by plugin `", type, "`"));
  return result;
}

absl::Status Cni::DelFrom(const CniConfig& config, size_t count, const Call& call) {
  while (count-- > 0) RETURN_IF_ERROR(Run(config, config.plugins[count], call).status());
  return absl::OkStatus();
}

absl::StatusOr<PodNetworkResult> Cni::Add(const CniConfig& config, const PodNetworkRequest& request,
                                          int netns) {
  {
    ASSIGN_OR_RETURN(Netlink inside, Netlink::OpenIn(netns));
    ASSIGN_OR_RETURN(int lo, inside.FindLink("lo"));
    RETURN_IF_ERROR(inside.SetUp(lo));
  }
  std::string place =
      request.netns_path.empty() ? Cat("/proc/", getpid(), "/fd/", netns) : request.netns_path;
  Call call{"ADD", std::move(place), &request, "", ""};
  {
    std::lock_guard lock(mutex_);
    call.cidr = cidr_;
  }
  RETURN_IF_ERROR(Note(request, ToState(config, "", call.cidr)));
  auto fail = [&](const absl::Status& status) {
    // Every plugin gets its DEL, also one that never ran or failed half-way: the specification asks plugins
    // to take that. One that can't must not keep the others from theirs.
    call.command = "DEL";
    bool undone = true;
    for (size_t i = config.plugins.size(); i-- > 0;) undone &= Run(config, config.plugins[i], call).ok();
    if (undone) Unnote(request.sandbox_id);
    return status;
  };
  for (const std::string& plugin : config.plugins) {
    auto result = Run(config, plugin, call);
    if (!result.ok()) return fail(result.status());
    json parsed = json::parse(*result, nullptr, false);
    if (!parsed.is_object())
      return fail(absl::InternalError(Cat("cni ADD by plugin `",
                                          json::parse(plugin, nullptr, false).value("type", ""),
                                          "`: its result is no JSON object")));
    call.previous = Dump(parsed);
  }
  auto result = ParseCniResult(call.previous);
  if (!result.ok()) return fail(result.status());
  if (result->ips.empty())
    return fail(absl::UnavailableError(Cat("cni network `", config.name, "` gave no address")));
  result->state = ToState(config, call.previous, call.cidr);
  if (absl::Status noted = Note(request, result->state); !noted.ok()) return fail(noted);
  return result;
}

absl::Status Cni::Del(const PodNetworkRequest& request, const std::string& text) {
  ASSIGN_OR_RETURN(State state, FromState(text));
  // A namespace that is gone: plugins free the rest (an empty CNI_NETNS).
  const bool there = !request.netns_path.empty() && access(request.netns_path.c_str(), F_OK) == 0;
  Call call{"DEL", there ? request.netns_path : "", &request, "", state.cidr};
  if (AtLeast(state.config.version, "0.4.0")) call.previous = state.result;
  RETURN_IF_ERROR(DelFrom(state.config, state.config.plugins.size(), call));
  Unnote(request.sandbox_id);
  return absl::OkStatus();
}

std::string Cni::NoteFile(const std::string& sandbox_id) const {
  return Cat(options_.cni_cache_dir, "/", sandbox_id, ".json");
}

absl::Status Cni::Note(const PodNetworkRequest& request, const std::string& state) {
  if (options_.cni_cache_dir.empty()) return absl::OkStatus();
  json ports = json::array();
  for (const PortMapping& port : request.ports)
    ports.push_back({port.protocol, port.container_port, port.host_port, port.host_ip});
  RETURN_IF_ERROR(MakeDirs(options_.cni_cache_dir, 0700));
  return WriteFileAtomic(NoteFile(request.sandbox_id),
                         Dump({{"id", request.sandbox_id},
                               {"name", request.name},
                               {"namespace", request.namespace_},
                               {"uid", request.uid},
                               {"netns", request.netns_path},
                               {"annotations", request.annotations},
                               {"ports", ports},
                               {"state", state}}),
                         Durability::kProcess);
}

void Cni::Unnote(const std::string& sandbox_id) {
  if (!options_.cni_cache_dir.empty()) unlink(NoteFile(sandbox_id).c_str());
}

void Cni::Adopt(const std::string& sandbox_id) {
  std::lock_guard lock(mutex_);
  adopted_.insert(sandbox_id);
}

absl::Status Cni::RemoveOrphans() {
  if (options_.cni_cache_dir.empty()) return absl::OkStatus();
  std::vector<std::filesystem::path> files;
  std::error_code err;
  for (std::filesystem::directory_iterator it(options_.cni_cache_dir, err), end; !err && it != end;
       it.increment(err))
    files.push_back(it->path());
  for (const std::filesystem::path& file : files) {
    {
      std::lock_guard lock(mutex_);
      if (adopted_.contains(file.stem())) continue;
    }
    PodNetworkRequest request;
    std::string state;
    auto text = ReadFile(file, 4 << 20);
    try {
      json note = json::parse(text.value_or(""));
      note.at("id").get_to(request.sandbox_id);
      note.at("name").get_to(request.name);
      note.at("namespace").get_to(request.namespace_);
      note.at("uid").get_to(request.uid);
      note.at("netns").get_to(request.netns_path);
      note.at("annotations").get_to(request.annotations);
      note.at("state").get_to(state);
      for (const json& port : note.at("ports"))
        request.ports.push_back({port.at(0), port.at(1), port.at(2), port.at(3)});
    } catch (const json::exception&) {
      request.sandbox_id.clear();
    }
    if (request.sandbox_id != file.stem()) {  // not a note of ours, or a damaged one: nothing can come of it
      std::filesystem::remove(file, err);
      continue;
    }
    Del(request, state).IgnoreError();
  }
  return absl::OkStatus();
}

bool Cni::CanCheck(const std::string& text) {
  absl::StatusOr<State> state = FromState(text);
  return state.ok() && !state->config.disable_check && AtLeast(state->config.version, "0.4.0");
}

absl::Status Cni::Check(const PodNetworkRequest& request, const std::string& text, int stop) {
  ASSIGN_OR_RETURN(State state, FromState(text));
  Call call{"CHECK", request.netns_path, &request, state.result, state.cidr, stop};
  for (const std::string& plugin : state.config.plugins)
    RETURN_IF_ERROR(Run(state.config, plugin, call).status());
  return absl::OkStatus();
}

}  // namespace sock::runtime
