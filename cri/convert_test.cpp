#include "cri/convert.h"

#include <gmock/gmock.h>
#include <stdlib.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <functional>

#include "cri/cdi.h"

namespace sock::cri {
namespace {

using absl::StatusCode;
using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;
using Names = std::vector<std::string>;

struct Input {
  api::ContainerConfig config;
  api::PodSandboxConfig pod;
  oci::Image image;
  ConvertContext context{"/r/resolv", "/r/hosts", "/r/hostname", "/r/shm", "/pod/c1", ""};

  Input() {
    image.config.entrypoint = {"/init"};
    image.config.cmd = {"serve"};
    pod.set_log_directory("/var/log/pods/a");
  }
  api::LinuxContainerSecurityContext* security() {
    return config.mutable_linux()->mutable_security_context();
  }
  absl::StatusOr<sock::runtime::ContainerSpec> Convert() const {
    return ToContainerSpec("c1", "s1", config, pod, image, {}, context);
  }
};

const oci::Mount* MountAt(const oci::Spec& spec, const std::string& path) {
  for (const oci::Mount& mount : spec.mounts)
    if (mount.destination == path) return &mount;
  return nullptr;
}

TEST(Convert, CommandAndArgs) {
  struct {
    Names command, args, want;
  } table[] = {{{}, {}, {"/init", "serve"}},
               {{"/c"}, {}, {"/c"}},
               {{}, {"x"}, {"/init", "x"}},
               {{"/c"}, {"x", "y"}, {"/c", "x", "y"}}};
  for (const auto& row : table) {
    Input in;
    for (const auto& word : row.command) in.config.add_command(word);
    for (const auto& word : row.args) in.config.add_args(word);
    EXPECT_EQ(in.Convert()->spec.process.args, row.want);
  }
}

TEST(Convert, EnvironmentDirectoryAndLog) {
  Input in;
  in.image.config.env = {"A=image", "B=image", "PATH=/bin"};
  in.image.config.working_dir = "/srv";
  auto* env = in.config.add_envs();
  env->set_key("A");
  env->set_value("x=y");
  in.config.set_log_path("c/0.log");
  in.config.mutable_linux()->mutable_resources()->set_oom_score_adj(500);
  auto out = in.Convert();
  ASSERT_TRUE(out.ok()) << out.status();
  EXPECT_THAT(out->spec.process.env, ElementsAre("PATH=/bin", "A=x=y", "B=image"));
  EXPECT_EQ(out->spec.process.cwd, "/srv");
  EXPECT_EQ(out->log_path, "/var/log/pods/a/c/0.log");
  EXPECT_EQ(out->spec.process.oom_score_adj, 500);
  EXPECT_EQ(out->spec.cgroups_path, "/pod/c1");
  EXPECT_EQ(out->spec.seccomp, nullptr);
  EXPECT_TRUE(out->shared_pid);
}

TEST(Convert, Refusals) {
  struct {
    const char* name;
    std::function<void(Input&)> change;
    StatusCode code;
    const char* text;
  } table[] = {
      {"no program", [](Input& i) { i.image.config = {}; }, StatusCode::kInvalidArgument, "command"},
      {"group alone", [](Input& i) { i.security()->mutable_run_as_group()->set_value(1); },
       StatusCode::kInvalidArgument, "run_as_group"},
      {"two users",
       [](Input& i) {
         i.security()->mutable_run_as_user()->set_value(1);
         i.security()->set_run_as_username("a");
       },
       StatusCode::kInvalidArgument, "run_as_username"},
      {"negative user", [](Input& i) { i.security()->mutable_run_as_user()->set_value(-1); },
       StatusCode::kInvalidArgument, "run_as_user"},
      {"relative masked path", [](Input& i) { i.security()->add_masked_paths("a"); },
       StatusCode::kInvalidArgument, "masked_paths"},
      {"relative read-only path", [](Input& i) { i.security()->add_readonly_paths("a"); },
       StatusCode::kInvalidArgument, "readonly_paths"},
      {"relative directory", [](Input& i) { i.config.set_working_dir("a"); }, StatusCode::kInvalidArgument,
       "working_dir"},
      {"capability", [](Input& i) { i.security()->mutable_capabilities()->add_add_capabilities("FLY"); },
       StatusCode::kInvalidArgument, "CAP_FLY"},
      {"privileged", [](Input& i) { i.security()->set_privileged(true); }, StatusCode::kInvalidArgument,
       "privileged"},
      {"CDI", [](Input& i) { i.config.add_cdi_devices()->set_name("a/b=c"); }, StatusCode::kNotFound,
       "CDI_devices"},
      {"image and host path",
       [](Input& i) {
         auto* mount = i.config.add_mounts();
         mount->set_container_path("/m");
         mount->set_host_path("/h");
         mount->mutable_image()->set_image("busybox");
       },
       StatusCode::kInvalidArgument, "mounts[0].host_path and image are both set"},
      {"writable image",
       [](Input& i) {
         auto* mount = i.config.add_mounts();
         mount->set_container_path("/m");
         mount->mutable_image()->set_image("busybox");
       },
       StatusCode::kInvalidArgument, "mounts[0].readonly"},
      {"below /proc",
       [](Input& i) {
         auto* mount = i.config.add_mounts();
         mount->set_container_path("/x/../proc//self/attr");
         mount->set_host_path("/h");
       },
       StatusCode::kInvalidArgument, "mounts[0].container_path `/x/../proc//self/attr` lies below /proc"},
      {"on /proc",
       [](Input& i) {
         auto* mount = i.config.add_mounts();
         mount->set_container_path("/proc/");
         mount->set_host_path("/sys");
       },
       StatusCode::kInvalidArgument, "mounts[0].container_path is /proc"},
      {"an image on /proc",
       [](Input& i) {
         auto* mount = i.config.add_mounts();
         mount->set_container_path("/proc");
         mount->mutable_image()->set_image("busybox");
         mount->set_readonly(true);
       },
       StatusCode::kInvalidArgument, "mounts[0].container_path is /proc"},
      {"nothing on /proc",
       [](Input& i) {
         auto* mount = i.config.add_mounts();
         mount->set_container_path("/proc");
         mount->set_host_path("/no/such");
       },
       StatusCode::kNotFound, "mounts[0].host_path"},
      {"relative mount", [](Input& i) { i.config.add_mounts()->set_container_path("m"); },
       StatusCode::kInvalidArgument, "container_path"},
      {"no source", [](Input& i) { i.config.add_mounts()->set_container_path("/m"); },
       StatusCode::kInvalidArgument, "host_path"},
      {"rro without ro",
       [](Input& i) {
         auto* mount = i.config.add_mounts();
         mount->set_container_path("/m");
         mount->set_host_path("/h");
         mount->set_recursive_read_only(true);
       },
       StatusCode::kInvalidArgument, "recursive_read_only"},
      {"mount option",
       [](Input& i) {
         auto* mount = i.config.add_mounts();
         mount->set_container_path("/m");
         mount->set_host_path("/h");
         mount->add_mount_options("suid");
       },
       StatusCode::kInvalidArgument, "mount_options"},
      {"missing device", [](Input& i) { i.config.add_devices()->set_host_path("/dev/no-such"); },
       StatusCode::kNotFound, "/dev/no-such"},
      {"not a device", [](Input& i) { i.config.add_devices()->set_host_path("/etc"); },
       StatusCode::kInvalidArgument, "/etc"},
      {"device permissions",
       [](Input& i) {
         i.config.add_devices()->set_host_path("/dev/null");
         i.config.mutable_devices(0)->set_permissions("rx");
       },
       StatusCode::kInvalidArgument, "permissions"},
      {"AppArmor without a name",
       [](Input& i) { i.security()->mutable_apparmor()->set_profile_type(api::SecurityProfile::Localhost); },
       StatusCode::kInvalidArgument, "apparmor.localhost_ref"},
      {"seccomp file",
       [](Input& i) {
         i.security()->mutable_seccomp()->set_profile_type(api::SecurityProfile::Localhost);
         i.security()->mutable_seccomp()->set_localhost_ref("/no/such.json");
       },
       StatusCode::kNotFound, "/no/such.json"},
      {"user namespace without mappings",
       [](Input& i) {
         i.security()->mutable_namespace_options()->mutable_userns_options()->set_mode(api::POD);
       },
       StatusCode::kInvalidArgument, "linux.security_context.namespace_options.userns_options.uids is empty"},
      {"no target", [](Input& i) { i.security()->mutable_namespace_options()->set_pid(api::TARGET); },
       StatusCode::kInvalidArgument, "target_id"},
      {"log escapes", [](Input& i) { i.config.set_log_path("../b/0.log"); }, StatusCode::kInvalidArgument,
       "log_path"},
      {"variable's name", [](Input& i) { i.config.add_envs()->set_key("a=b"); }, StatusCode::kInvalidArgument,
       "envs"},
  };
  for (const auto& row : table) {
    Input in;
    row.change(in);
    const absl::Status status = in.Convert().status();
    EXPECT_EQ(status.code(), row.code) << row.name << ": " << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(row.text)) << row.name;
  }
}

TEST(Convert, User) {
  Input in;
  in.image.config.user = "www:data";
  EXPECT_EQ(in.Convert()->user.username, "www:data");
  in.security()->mutable_run_as_user()->set_value(1000);
  in.security()->mutable_run_as_group()->set_value(7);
  in.security()->add_supplemental_groups(9);
  in.security()->set_supplemental_groups_policy(api::Strict);
  auto user = in.Convert()->user;
  EXPECT_EQ(user.uid, 1000u);
  EXPECT_EQ(user.gid, 7u);
  EXPECT_EQ(user.username, "");
  EXPECT_THAT(user.supplemental_groups, ElementsAre(9));
  EXPECT_TRUE(user.strict_groups);
}

TEST(Convert, Capabilities) {
  struct {
    Names add, drop, ambient;
    std::function<void(const oci::Capabilities&)> check;
  } table[] = {
      {{},
       {},
       {},
       [](auto& c) {
         EXPECT_EQ(c.bounding.size(), 14u);
         EXPECT_THAT(c.bounding, Not(Contains("CAP_SYS_ADMIN")));
         EXPECT_THAT(c.ambient, IsEmpty());
       }},
      {{}, {"ALL"}, {}, [](auto& c) { EXPECT_THAT(c.effective, IsEmpty()); }},
      {{"net_admin"}, {"ALL"}, {}, [](auto& c) { EXPECT_THAT(c.permitted, ElementsAre("CAP_NET_ADMIN")); }},
      {{"ALL"},
       {"CAP_SYS_ADMIN"},
       {},
       [](auto& c) {
         EXPECT_EQ(c.bounding.size(), 40u);
         EXPECT_THAT(c.bounding, Not(Contains("CAP_SYS_ADMIN")));
       }},
      {{"SYS_TIME"},
       {"KILL"},
       {},
       [](auto& c) {
         EXPECT_THAT(c.bounding, Contains("CAP_SYS_TIME"));
         EXPECT_THAT(c.bounding, Not(Contains("CAP_KILL")));
       }},
      {{},
       {"ALL"},
       {"NET_RAW"},
       [](auto& c) {
         EXPECT_THAT(c.ambient, ElementsAre("CAP_NET_RAW"));
         EXPECT_EQ(c.inheritable, c.ambient);
         EXPECT_EQ(c.permitted, c.ambient);
       }},
  };
  for (const auto& row : table) {
    Input in;
    auto* caps = in.security()->mutable_capabilities();
    for (const auto& name : row.add) caps->add_add_capabilities(name);
    for (const auto& name : row.drop) caps->add_drop_capabilities(name);
    for (const auto& name : row.ambient) caps->add_add_ambient_capabilities(name);
    auto out = in.Convert();
    ASSERT_TRUE(out.ok()) << out.status();
    row.check(out->spec.process.capabilities);
  }
}

TEST(Convert, Mounts) {
  Input in;
  auto* hosts = in.config.add_mounts();
  hosts->set_container_path("/etc//hosts/");
  hosts->set_host_path("/k/hosts");
  auto* deep = in.config.add_mounts();
  deep->set_container_path("/a/b/c");
  deep->set_host_path("/h/deep");
  deep->set_propagation(api::PROPAGATION_BIDIRECTIONAL);
  deep->add_mount_options("noexec");
  auto* outer = in.config.add_mounts();
  outer->set_container_path("/a");
  outer->set_host_path("/h/outer");
  outer->set_readonly(true);
  outer->set_recursive_read_only(true);
  auto out = in.Convert();
  ASSERT_TRUE(out.ok()) << out.status();
  EXPECT_EQ(MountAt(out->spec, "/etc/hosts")->source, "/k/hosts");
  EXPECT_EQ(MountAt(out->spec, "/etc/resolv.conf")->source, "/r/resolv");
  EXPECT_EQ(MountAt(out->spec, "/dev/shm")->source, "/r/shm");
  EXPECT_THAT(MountAt(out->spec, "/sys")->options, Contains("ro"));
  EXPECT_THAT(MountAt(out->spec, "/a/b/c")->options, ElementsAre("rbind", "rshared", "noexec"));
  EXPECT_THAT(MountAt(out->spec, "/a")->options, ElementsAre("rbind", "rprivate", "rro"));
  EXPECT_LT(MountAt(out->spec, "/a"), MountAt(out->spec, "/a/b/c"));
  EXPECT_EQ(std::count_if(out->spec.mounts.begin(), out->spec.mounts.end(),
                          [](const oci::Mount& m) { return m.destination == "/etc/hosts"; }),
            1);
  EXPECT_THAT(MountAt(out->spec, "/etc/resolv.conf")->options, Not(Contains("ro")));
  in.security()->set_readonly_rootfs(true);
  EXPECT_THAT(MountAt(in.Convert()->spec, "/etc/resolv.conf")->options, Contains("ro"));
  in.context.shm_dir = "";
  EXPECT_EQ(MountAt(in.Convert()->spec, "/dev/shm")->type, "tmpfs");
}

TEST(Convert, MountsThatProcTakes) {
  Input in;
  for (const char* path : {"/proc", "/proc/meminfo", "/process"}) {
    auto* mount = in.config.add_mounts();
    mount->set_container_path(path);
    mount->set_host_path("/proc");
  }
  auto out = in.Convert();
  ASSERT_TRUE(out.ok()) << out.status();
  EXPECT_EQ(MountAt(out->spec, "/proc")->type, "bind");
  EXPECT_NE(MountAt(out->spec, "/proc/meminfo"), nullptr);
}

TEST(Convert, Privileged) {
  Input in;
  in.pod.mutable_linux()->mutable_security_context()->set_privileged(true);
  in.security()->set_privileged(true);
  in.security()->mutable_seccomp()->set_profile_type(api::SecurityProfile::RuntimeDefault);
  in.security()->add_masked_paths("/proc/kcore");
  auto out = in.Convert();
  ASSERT_TRUE(out.ok()) << out.status();
  EXPECT_EQ(out->spec.process.capabilities.bounding.size(), 41u);
  EXPECT_EQ(out->spec.seccomp, nullptr);
  EXPECT_THAT(out->spec.masked_paths, IsEmpty());
  EXPECT_THAT(out->spec.readonly_paths, IsEmpty());
  EXPECT_THAT(MountAt(out->spec, "/sys")->options, Contains("rw"));
  ASSERT_EQ(out->spec.resources.devices.size(), 1u);
  EXPECT_TRUE(out->spec.resources.devices[0].allow);
  EXPECT_EQ(out->spec.resources.devices[0].type, 'a');
}

TEST(Convert, DevicesAndPaths) {
  Input in;
  in.config.add_devices()->set_host_path("/dev/full");
  in.config.mutable_devices(0)->set_container_path("/dev/mine");
  in.config.mutable_devices(0)->set_permissions("r");
  auto out = in.Convert();
  ASSERT_TRUE(out.ok()) << out.status();
  ASSERT_EQ(out->spec.devices.size(), 1u);
  EXPECT_EQ(out->spec.devices[0].path, "/dev/mine");
  EXPECT_EQ(out->spec.devices[0].major, 1);
  EXPECT_EQ(out->spec.devices[0].minor, 7);
  EXPECT_FALSE(out->spec.resources.devices.front().allow);
  EXPECT_EQ(out->spec.resources.devices.back().access, "r");
  EXPECT_THAT(out->spec.masked_paths, Contains("/proc/kcore"));
  in.security()->add_masked_paths("/only");
  EXPECT_THAT(in.Convert()->spec.masked_paths, ElementsAre("/only"));
}

TEST(Convert, Seccomp) {
  Input in;
  auto* profile = in.security()->mutable_seccomp();
  profile->set_profile_type(api::SecurityProfile::RuntimeDefault);
  EXPECT_EQ(in.Convert()->spec.seccomp->default_action, "SCMP_ACT_ERRNO");
  profile->set_profile_type(api::SecurityProfile::Unconfined);
  EXPECT_EQ(in.Convert()->spec.seccomp, nullptr);
  char path[] = "/tmp/convert_test_XXXXXX";
  close(mkstemp(path));
  std::ofstream(path) << R"({"defaultAction":"SCMP_ACT_LOG"})";
  profile->set_profile_type(api::SecurityProfile::Localhost);
  profile->set_localhost_ref(path);
  auto out = in.Convert();
  unlink(path);
  ASSERT_TRUE(out.ok()) << out.status();
  EXPECT_EQ(out->spec.seccomp->default_action, "SCMP_ACT_LOG");
}

TEST(Convert, Sandbox) {
  api::PodSandboxConfig config;
  config.mutable_metadata()->set_name("web");
  config.mutable_metadata()->set_namespace_("prod");
  auto* port = config.add_port_mappings();
  port->set_container_port(80);
  port->set_host_port(8080);
  port->set_protocol(api::UDP);
  config.add_port_mappings()->set_container_port(81);
  auto& sysctls = *config.mutable_linux()->mutable_sysctls();
  sysctls["net.ipv4.ip_forward"] = "1";
  sysctls["kernel/shmmax"] = "1";
  auto spec = ToSandboxSpec("s1", config);
  ASSERT_TRUE(spec.ok()) << spec.status();
  ASSERT_TRUE(spec->network.has_value());
  EXPECT_EQ(spec->network->name, "web");
  ASSERT_EQ(spec->network->ports.size(), 1u);
  EXPECT_EQ(spec->network->ports[0].protocol, "udp");
  EXPECT_EQ(spec->sysctls.size(), 2u);
  auto* options = config.mutable_linux()->mutable_security_context()->mutable_namespace_options();
  options->set_network(api::NODE);
  EXPECT_EQ(ToSandboxSpec("s1", config).status().code(), StatusCode::kInvalidArgument);
  sysctls.erase("net.ipv4.ip_forward");
  EXPECT_FALSE(ToSandboxSpec("s1", config)->network.has_value());
  for (const char* name : {"vm.swappiness", "kernel.panic", "net/../kernel.panic", "kernel.shmmax.x"}) {
    auto bad = config;
    (*bad.mutable_linux()->mutable_sysctls())[name] = "1";
    EXPECT_EQ(ToSandboxSpec("s1", bad).status().code(), StatusCode::kInvalidArgument) << name;
  }
  options->set_pid(api::TARGET);
  EXPECT_EQ(ToSandboxSpec("s1", config).status().code(), StatusCode::kInvalidArgument);
}

TEST(Convert, UserNamespace) {
  Input in;
  auto* options = in.pod.mutable_linux()->mutable_security_context()->mutable_namespace_options();
  auto* userns = options->mutable_userns_options();
  options->set_pid(api::CONTAINER);
  userns->set_mode(api::POD);
  for (auto* ids : {userns->mutable_uids(), userns->mutable_gids()}) {
    api::IDMapping* one = ids->Add();
    one->set_host_id(65536);
    one->set_length(65536);
  }
  const std::vector<oci::IdMapping> want = {{0, 65536, 65536}};
  auto sandbox = ToSandboxSpec("s1", in.pod);
  ASSERT_TRUE(sandbox.ok()) << sandbox.status();
  EXPECT_EQ(sandbox->uid_mappings, want);
  EXPECT_EQ(sandbox->gid_mappings, want);
  auto* mount = in.config.add_mounts();
  mount->set_host_path("/h");
  mount->set_container_path("/c");
  *mount->mutable_uidmappings() = userns->uids();
  *mount->mutable_gidmappings() = userns->gids();
  auto container = in.Convert();
  ASSERT_TRUE(container.ok()) << container.status();
  EXPECT_EQ(container->spec.uid_mappings, want);
  EXPECT_EQ(MountAt(container->spec, "/c")->uid_mappings, want);
  EXPECT_EQ(RootId(userns->gids()), 65536u);

  struct {
    const char* message;
    std::function<void(Input&, api::NamespaceOption*)> spoil;
  } const bad[] = {
      {"network is NODE", [](Input&, auto* o) { o->set_network(api::NODE); }},
      {"ipc is NODE", [](Input&, auto* o) { o->set_ipc(api::NODE); }},
      {"pid is NODE", [](Input&, auto* o) { o->set_pid(api::NODE); }},
      {"mode is NODE", [](Input&, auto* o) { o->mutable_userns_options()->set_mode(api::NODE); }},
      {"is neither POD nor NODE",
       [](Input&, auto* o) { o->mutable_userns_options()->set_mode(api::CONTAINER); }},
      {"gids is empty", [](Input&, auto* o) { o->mutable_userns_options()->clear_gids(); }},
      {"length is 0", [](Input&, auto* o) { o->mutable_userns_options()->mutable_uids(0)->set_length(0); }},
      {"does not map the id 0",
       [](Input&, auto* o) { o->mutable_userns_options()->mutable_uids(0)->set_container_id(1); }},
      {"beyond the largest id",
       [](Input&, auto* o) { o->mutable_userns_options()->mutable_uids(0)->set_host_id(UINT32_MAX - 5); }},
      {"overlap",
       [](Input&, auto* o) { *o->mutable_userns_options()->add_uids() = o->userns_options().uids(0); }},
      {"privileged is set",
       [](Input& i, auto*) { i.pod.mutable_linux()->mutable_security_context()->set_privileged(true); }},
  };
  for (const auto& row : bad) {
    Input spoilt = in;
    row.spoil(spoilt, spoilt.pod.mutable_linux()->mutable_security_context()->mutable_namespace_options());
    absl::Status status = ToSandboxSpec("s1", spoilt.pod).status();
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument) << row.message;
    EXPECT_THAT(std::string(status.message()), HasSubstr(row.message));
  }
  mount->set_propagation(api::PROPAGATION_BIDIRECTIONAL);
  EXPECT_THAT(std::string(in.Convert().status().message()),
              HasSubstr("mounts[0].propagation is BIDIRECTIONAL"));
  mount->set_propagation(api::PROPAGATION_HOST_TO_CONTAINER);
  EXPECT_TRUE(in.Convert().ok());
  *in.security()->mutable_namespace_options() = *options;
  in.security()->mutable_namespace_options()->clear_userns_options();
  EXPECT_THAT(std::string(in.Convert().status().message()), HasSubstr("is not that of the sandbox"));
}

TEST(Convert, DevicesOfTheContainerDeviceInterface) {
  char dir[] = "/tmp/convert_test.XXXXXX";
  ASSERT_NE(mkdtemp(dir), nullptr);
  const std::string base = dir;
  for (const char* sub : {"/a", "/b"}) std::filesystem::create_directory(base + sub);
  auto file = [&](const char* name, const char* edits, const char* more = "null") {
    std::ofstream(base + name) << R"({"cdiVersion": "0.6.0", "kind": "v.com/gpu", "containerEdits": )" << more
                               << R"(, "devices": [{"name": "one", "containerEdits": )" << edits << "}]}";
  };
  oci::Spec spec;
  auto add = [&](const char* name) {
    spec = {};
    spec.process.env = {"A=old", "PATH=/bin"};
    return AddCdiDevices({name}, {base + "/a", base + "/b"}, &spec);
  };
  file(
      "/a/v.json",
      R"({"env": ["A=new"], "deviceNodes": [{"path": "/dev/gpu", "hostPath": "/dev/zero", "permissions": "rw"}]})",
      R"({"mounts": [{"hostPath": "/lib", "containerPath": "/gpu", "options": ["ro", "nosuid"]}], "hooks": []})");
  ASSERT_TRUE(add("v.com/gpu=one").ok()) << add("v.com/gpu=one");
  EXPECT_THAT(spec.process.env, ElementsAre("PATH=/bin", "A=new"));
  ASSERT_EQ(spec.devices.size(), 1u);
  EXPECT_EQ(spec.devices[0].path, "/dev/gpu");
  EXPECT_EQ(spec.devices[0].minor, 5);
  ASSERT_EQ(spec.resources.devices.size(), 1u);
  EXPECT_EQ(spec.resources.devices[0].access, "rw");
  ASSERT_NE(MountAt(spec, "/gpu"), nullptr);
  EXPECT_THAT(MountAt(spec, "/gpu")->options, ElementsAre("rbind", "rprivate", "ro", "nosuid"));
  EXPECT_EQ(add("v.com/gpu").code(), StatusCode::kInvalidArgument);
  std::ofstream(base + "/a/x.yaml") << "kind: v.com/gpu";
  EXPECT_EQ(add("v.com/gpu=two").code(), StatusCode::kNotFound);
  EXPECT_THAT(std::string(add("v.com/gpu=two").message()), HasSubstr("x.yaml"));

  file("/b/w.json", R"({"hooks": [{"hookName": "createContainer", "path": "/x"}]})");
  EXPECT_EQ(add("v.com/gpu=one").code(), StatusCode::kUnimplemented) << "the later directory wins";
  EXPECT_THAT(std::string(add("v.com/gpu=one").message()), HasSubstr("containerEdits.hooks"));
  file("/b/w.json", R"({"deviceNodes": [{"path": "/dev/no-such"}]})");
  EXPECT_EQ(add("v.com/gpu=one").code(), StatusCode::kNotFound);
  file("/b/w2.json", "{}");
  EXPECT_EQ(add("v.com/gpu=one").code(), StatusCode::kFailedPrecondition) << "described twice";
  std::filesystem::remove_all(base);
}

TEST(Convert, Resources) {
  api::LinuxContainerResources in;
  EXPECT_FALSE(ToResources(in)->memory_limit.has_value());
  in.set_cpu_quota(-1);
  in.set_memory_limit_in_bytes(1 << 20);
  auto* huge = in.add_hugepage_limits();
  huge->set_page_size("2MB");
  huge->set_limit(5);
  auto out = ToResources(in);
  ASSERT_TRUE(out.ok()) << out.status();
  EXPECT_EQ(out->cpu_quota, -1);
  EXPECT_EQ(out->memory_limit, 1 << 20);
  EXPECT_EQ(out->hugepage_limits.at("2MB"), 5u);
  in.set_memory_swap_limit_in_bytes(1);
  EXPECT_EQ(ToResources(in).status().code(), StatusCode::kInvalidArgument);
  in.clear_memory_swap_limit_in_bytes();
  huge->set_page_size("../2MB");
  EXPECT_EQ(ToResources(in).status().code(), StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace sock::cri
