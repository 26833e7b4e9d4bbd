// What a container may, seen from inside it and from the host: user namespaces, volumes, credentials,
// devices.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <functional>

#include "runtime/base/text.h"
#include "test/e2e/node_fixture.h"

namespace sock::test {
namespace {

using testing::ContainsRegex;
using testing::HasSubstr;
using testing::Not;

constexpr uint32_t kBase = 1u << 20;  // where the pods' ids begin on the host

class SecurityTest : public NodeFixture {
 protected:
  void SetUp() override {
    NodeFixture::SetUp();
    volume_ = node_.dir() + "/volume";
    std::filesystem::create_directories(volume_ + "/below");
    std::ofstream(volume_ + "/file") << "data\n";
  }
  void TearDown() override {
    for (const char* below : {"/below", "/late", "/given"}) umount2((volume_ + below).c_str(), MNT_DETACH);
    umount2(volume_.c_str(), MNT_DETACH);
    NodeFixture::TearDown();
  }
  void Map(google::protobuf::RepeatedPtrField<api::IDMapping>* ids) {
    api::IDMapping* one = ids->Add();
    one->set_host_id(kBase);
    one->set_length(65536);
  }
  api::PodSandboxConfig PodInUserNamespace(const std::string& name) {
    api::PodSandboxConfig config = node_.PodConfig(name);
    auto* options = config.mutable_linux()->mutable_security_context()->mutable_namespace_options();
    options->set_pid(api::CONTAINER);
    options->mutable_userns_options()->set_mode(api::POD);
    Map(options->mutable_userns_options()->mutable_uids());
    Map(options->mutable_userns_options()->mutable_gids());
    return config;
  }
  api::Mount* AddVolume(api::ContainerConfig& config, const std::string& at) {
    api::Mount* mount = config.add_mounts();
    mount->set_container_path(at);
    mount->set_host_path(volume_);
    return mount;
  }
  // What the shell script says in a container of its own.
  std::string Run(
      const api::PodSandboxConfig& pod_config, const std::string& pod, const std::string& name,
      const std::string& script, const std::function<void(api::ContainerConfig&)>& change = [](auto&) {}) {
    api::ContainerConfig config = node_.ContainerConfig(name, {"sh", "-c", script + "\necho the end"});
    *config.mutable_linux()->mutable_security_context()->mutable_namespace_options() =
        pod_config.linux().security_context().namespace_options();
    change(config);
    container_ = node_.Create(pod, pod_config, config);
    if (container_.empty()) return "";
    grpc::Status started = node_.Start(container_);
    EXPECT_TRUE(started.ok()) << started.error_message();
    if (!started.ok()) return "";
    return node_.WaitLog(name, "F the end\n");
  }
  std::string RunAlone(const std::string& name, const std::string& script,
                       const std::function<void(api::ContainerConfig&)>& change) {
    api::PodSandboxConfig config = node_.PodConfig(name);
    return Run(config, node_.RunPod(config), name, script, change);
  }

  std::string volume_, container_;
};

TEST_F(SecurityTest, AUserNamespaceOfThePod) {
  api::PodSandboxConfig config = PodInUserNamespace("userns");
  config.mutable_linux()->mutable_sysctls()->insert({"kernel.shm_rmid_forced", "1"});
  std::string pod = node_.RunPod(config);
  ASSERT_FALSE(pod.empty());
  std::string log = Run(
      config, pod, "userns",
      "cat /proc/self/uid_map /proc/self/gid_map; hostname; cat /proc/sys/kernel/shm_rmid_forced "
      "/proc/sys/net/ipv4/ip_unprivileged_port_start\n"
      "stat -c '%n %u:%g' / /bin/busybox /mapped/file /plain/file /etc/hosts /etc/resolv.conf /dev /dev/shm "
      "/dev/mqueue "
      "/dev/null\n"
      "echo x > /dev/shm/x && echo 10.0.0.1 other >> /etc/hosts && echo written\n"
      "touch /made; chown 7:8 /made; touch /mapped/made; chown 7:8 /mapped/made\n"
      "touch /plain/made || echo not owned; touch /ro/made || echo read-only\n"
      "mount -o remount,rw,bind /ro; umount /ro; mount -t tmpfs none /proc/sys\n"
      "mkdir -p /m && mount -t tmpfs none /m && echo mounted; mknod /m/null c 1 3; umount /m\n"
      "echo hello > /index.html; httpd -p 80 -h /; ping -c 1 -W 5 " +
          node_.subnet() + "1 | grep -o '1 packets received'",
      [&](api::ContainerConfig& c) {
        for (const char* at : {"/mapped", "/ro"}) {
          api::Mount* mount = AddVolume(c, at);
          Map(mount->mutable_uidmappings());
          Map(mount->mutable_gidmappings());
          mount->set_readonly(at == std::string("/ro"));
        }
        AddVolume(c, "/plain");
        c.mutable_linux()->mutable_security_context()->mutable_capabilities()->add_add_capabilities(
            "SYS_ADMIN");
        c.add_command("unused");  // $0
        c.mutable_command(2)->append("\nexec sleep 1000");
      });
  EXPECT_THAT(log,
              ContainsRegex("F +0 +1048576 +65536\n.* F +0 +1048576 +65536\n.*F userns\n.*F 1\n.*F 0\n"));
  for (const char* owned :
       {"/ 0:0", "/bin/busybox 0:0", "/mapped/file 0:0", "/plain/file 65534:65534", "/etc/hosts 0:0",
        "/etc/resolv.conf 0:0", "/dev 0:0", "/dev/shm 0:0", "/dev/mqueue 0:0", "/dev/null 0:0"})
    EXPECT_THAT(log, HasSubstr(Cat("F ", owned, "\n")));
  EXPECT_THAT(log, HasSubstr("F written\n"));
  EXPECT_THAT(log, HasSubstr("F not owned\n"));
  EXPECT_THAT(log, HasSubstr("F read-only\n"));
  EXPECT_THAT(log, HasSubstr("F mount: permission denied"));  // remount
  EXPECT_THAT(log, HasSubstr("umount: can't unmount /ro: Invalid argument"));
  EXPECT_THAT(log, HasSubstr("F mounted\n"));
  EXPECT_THAT(log, HasSubstr("mknod: /m/null: Operation not permitted"));
  EXPECT_THAT(log, HasSubstr("1 packets received"));

  struct stat st;
  ASSERT_EQ(stat((volume_ + "/made").c_str(), &st), 0);
  EXPECT_EQ(st.st_uid, 7u);
  EXPECT_EQ(st.st_gid, 8u);
  std::string upper = node_.dir() + "/lib/images/snapshots/" + container_ + "/upper/made";
  ASSERT_EQ(stat(upper.c_str(), &st), 0) << upper;
  EXPECT_EQ(st.st_uid, kBase + 7);
  EXPECT_EQ(st.st_gid, kBase + 8);

  grpc::ClientContext context;
  api::PodSandboxStatusRequest ask;
  api::PodSandboxStatusResponse told;
  ask.set_pod_sandbox_id(pod);
  ASSERT_TRUE(node_.runtime().PodSandboxStatus(&context, ask, &told).ok());
  EXPECT_EQ(
      system(("busybox wget -qO- http://" + told.status().network().ip() + "/ | grep -q hello").c_str()), 0);

  constexpr char kLook[] =
      "id -u; cat /proc/self/uid_map; echo x > /dev/stdout; touch /by-exec; readlink /proc/self/ns/user";
  std::string inside = node_.Exec(container_, {"sh", "-c", kLook}, 10).stdout();
  EXPECT_THAT(inside, ContainsRegex("^0\n +0 +1048576 +65536\nx\nuser:"));
  node_.KillDaemon(SIGKILL);
  node_.StartDaemon();
  EXPECT_EQ(node_.Exec(container_, {"sh", "-c", kLook}, 10).stdout(), inside);
  log = Run(
      config, pod, "after", "cat /proc/self/uid_map; id; touch /dev/stdout && echo own output",
      [&](auto& c) { c.mutable_linux()->mutable_security_context()->mutable_run_as_user()->set_value(33); });
  EXPECT_THAT(log, ContainsRegex("F +0 +1048576 +65536\n"));
  EXPECT_THAT(log, HasSubstr("F uid=33(www-data) gid=33(www-data) groups=33(www-data),500(extra)\n"));
  EXPECT_THAT(log, HasSubstr("F own output\n"));
}

TEST_F(SecurityTest, AUserNamespaceWithOnePidNamespace) {
  api::PodSandboxConfig config = PodInUserNamespace("shared");
  config.mutable_linux()->mutable_security_context()->mutable_namespace_options()->set_pid(api::POD);
  std::string pod = node_.RunPod(config);
  std::string log = Run(config, pod, "shared",
                        "cat /proc/1/comm; stat -c '%u' /proc/self/.; kill -9 1; kill -0 1 && echo alive");
  EXPECT_THAT(log, HasSubstr("F sock-init\n"));
  EXPECT_THAT(log, HasSubstr("F 0\n"));
  EXPECT_THAT(log, HasSubstr("F alive\n"));
}

TEST_F(SecurityTest, AUserNamespaceOnACniNetwork) {
  constexpr char kBridge[] = "csocksec0";
  std::filesystem::create_directories(node_.dir() + "/cni");
  std::ofstream(node_.dir() + "/cni.new")
      << R"({"cniVersion": "1.0.0", "name": "security", "plugins": [{"type": "bridge", "bridge": ")"
      << kBridge << R"(", "isGateway": true, "ipam": {"type": "host-local", "dataDir": ")" << node_.dir()
      << R"(/ipam", "ranges": [[{"subnet": "10.202.0.0/24"}]]}}]})";
  std::filesystem::rename(node_.dir() + "/cni.new", node_.dir() + "/cni/10-security.conflist");
  api::PodSandboxConfig config = PodInUserNamespace("cni");
  std::string pod = node_.RunPod(config);
  std::string log =
      Run(config, pod, "cni", "ip -o -4 address; cat /proc/self/uid_map; ping -c 1 -W 5 10.202.0.1");
  EXPECT_THAT(log, ContainsRegex("lo +inet 127.0.0.1/8"));
  EXPECT_THAT(log, ContainsRegex("eth0 +inet 10.202.0.[0-9]+/24"));
  EXPECT_THAT(log, ContainsRegex("F +0 +1048576 +65536\n"));
  EXPECT_THAT(log, HasSubstr("1 packets received"));
  EXPECT_TRUE(node_.RemovePod(pod).ok());
  (void)system(Cat("ip link delete ", kBridge).c_str());
}

TEST_F(SecurityTest, WhatAUserNamespaceRefuses) {
  const std::function<void(api::LinuxSandboxSecurityContext*)> spoil[] = {
      [](auto* s) { s->mutable_namespace_options()->set_network(api::NODE); },
      [](auto* s) { s->mutable_namespace_options()->set_pid(api::NODE); },
      [](auto* s) { s->mutable_namespace_options()->set_ipc(api::NODE); },
      [](auto* s) { s->set_privileged(true); },
      [](auto* s) { s->mutable_namespace_options()->mutable_userns_options()->clear_gids(); }};
  for (const auto& one : spoil) {
    api::PodSandboxConfig config = PodInUserNamespace("refused");
    one(config.mutable_linux()->mutable_security_context());
    grpc::Status status;
    node_.RunPod(config, "sock", &status);
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT) << status.error_message();
    EXPECT_THAT(status.error_message(), HasSubstr("userns_options"));
  }
  api::PodSandboxConfig config = PodInUserNamespace("refused");
  std::string pod = node_.RunPod(config);
  api::ContainerConfig container = node_.ContainerConfig("refused", {"true"});
  api::Mount* mount = AddVolume(container, "/v");
  mount->set_host_path("/proc/sys");
  Map(mount->mutable_uidmappings());
  Map(mount->mutable_gidmappings());
  grpc::Status status;
  node_.Create(pod, config, container, &status);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(status.error_message(),
              HasSubstr("mounts[].uidMappings: `/proc/sys` lies on a file system that can't be"));
}

TEST_F(SecurityTest, ReadOnlyVolumesAndPropagation) {
  ASSERT_EQ(mount(volume_.c_str(), volume_.c_str(), nullptr, MS_BIND, nullptr), 0);
  ASSERT_EQ(mount(nullptr, volume_.c_str(), nullptr, MS_SHARED, nullptr), 0);
  ASSERT_EQ(mount("tmpfs", (volume_ + "/below").c_str(), "tmpfs", 0, nullptr), 0);
  std::filesystem::create_directories(volume_ + "/late");
  std::filesystem::create_directories(volume_ + "/given");
  api::PodSandboxConfig config = node_.PodConfig("volumes");
  config.mutable_linux()->mutable_security_context()->set_privileged(true);
  std::string pod = node_.RunPod(config);
  std::string log = Run(
      config, pod, "volumes",
      "touch /ro/x || echo ro refused; touch /ro/below/x && echo ro below written\n"
      "touch /rro/x || echo rro refused; touch /rro/below/y || echo rro below refused\n"
      "mount -t tmpfs none /shared/given && touch /shared/given/inside; touch /noexec/x && echo rw written",
      [&](api::ContainerConfig& c) {
        c.mutable_linux()->mutable_security_context()->set_privileged(true);
        AddVolume(c, "/ro")->set_readonly(true);
        api::Mount* rro = AddVolume(c, "/rro");
        rro->set_readonly(true);
        rro->set_recursive_read_only(true);
        AddVolume(c, "/slave")->set_propagation(api::PROPAGATION_HOST_TO_CONTAINER);
        AddVolume(c, "/private");
        AddVolume(c, "/shared")->set_propagation(api::PROPAGATION_BIDIRECTIONAL);
        AddVolume(c, "/noexec")->add_mount_options("noexec");
        c.mutable_command(2)->append("\nexec sleep 1000");
      });
  for (const char* said :
       {"ro refused", "ro below written", "rro refused", "rro below refused", "rw written"})
    EXPECT_THAT(log, HasSubstr(Cat("F ", said, "\n")));
  EXPECT_EQ(access((volume_ + "/given/inside").c_str(), F_OK), 0)
      << "a mount in the container shows on the host";
  ASSERT_EQ(mount("tmpfs", (volume_ + "/late").c_str(), "tmpfs", 0, nullptr), 0);
  std::ofstream(volume_ + "/late/came") << "x";
  std::string seen =
      node_.Exec(container_, {"sh", "-c", "ls /slave/late /private/late; grep ' /noexec ' /proc/mounts"}, 10)
          .stdout();
  EXPECT_THAT(seen, HasSubstr("/slave/late:\ncame\n"));
  EXPECT_THAT(seen, HasSubstr("/private/late:\n"));
  EXPECT_EQ(seen.find("came"), seen.rfind("came")) << "a private volume does not see it: " << seen;
  EXPECT_THAT(seen, HasSubstr("noexec"));
}

TEST_F(SecurityTest, ImageVolumes) {
  for (bool in_user_namespace : {false, true}) {
    const std::string name = in_user_namespace ? "image-userns" : "image";
    api::PodSandboxConfig config = in_user_namespace ? PodInUserNamespace(name) : node_.PodConfig(name);
    std::string pod = node_.RunPod(config);
    std::string log =
        Run(config, pod, name, "stat -c '%n %u' /image/bin/busybox; touch /image/x || echo refused; ls /part",
            [&](api::ContainerConfig& c) {
              for (const char* at : {"/image", "/part"}) {
                api::Mount* mount = c.add_mounts();
                mount->set_container_path(at);
                mount->mutable_image()->set_image(node_.image());
                mount->set_readonly(true);
                if (at == std::string("/part")) mount->set_image_sub_path("etc");
              }
              c.mutable_command(2)->append("\nexec sleep 1000");
            });
    EXPECT_THAT(log, HasSubstr("F /image/bin/busybox 0\n"));
    EXPECT_THAT(log, HasSubstr("F refused\n"));
    EXPECT_THAT(log, HasSubstr("F passwd\n"));

    api::ContainerConfig bad = node_.ContainerConfig("bad" + name, {"true"});
    api::Mount* mount = bad.add_mounts();
    mount->set_container_path("/image");
    mount->mutable_image()->set_image(node_.image());
    mount->set_readonly(true);
    mount->set_image_sub_path("no/such");
    grpc::Status status;
    node_.Create(pod, config, bad, &status);
    EXPECT_EQ(status.error_code(), grpc::StatusCode::NOT_FOUND);
    EXPECT_THAT(status.error_message(), HasSubstr("no/such"));
    mount->mutable_image()->set_image("127.0.0.1:1/none:latest");
    node_.Create(pod, config, bad, &status);
    EXPECT_EQ(status.error_code(), grpc::StatusCode::NOT_FOUND);
  }
  grpc::ClientContext context;
  api::RemoveImageRequest remove;
  api::RemoveImageResponse removed;
  remove.mutable_image()->set_image(node_.image());
  ASSERT_TRUE(node_.images().RemoveImage(&context, remove, &removed).ok());
  node_.KillDaemon(SIGKILL);
  node_.StartDaemon();
  EXPECT_EQ(node_.Exec(container_, {"cat", "/part/group"}, 10).exit_code(), 0)
      << "kept while a container has it";
}

TEST_F(SecurityTest, CapabilitySets) {
  std::string log = RunAlone("caps", "grep Cap /proc/self/status", [](api::ContainerConfig& c) {
    auto* security = c.mutable_linux()->mutable_security_context();
    security->mutable_run_as_user()->set_value(33);
    auto* caps = security->mutable_capabilities();
    caps->add_drop_capabilities("ALL");
    caps->add_add_capabilities("KILL");             // 5
    caps->add_add_ambient_capabilities("NET_RAW");  // 13
  });
  EXPECT_THAT(log, HasSubstr("CapInh:\t0000000000002000"));
  EXPECT_THAT(log, HasSubstr("CapPrm:\t0000000000002000"));
  EXPECT_THAT(log, HasSubstr("CapEff:\t0000000000002000"));
  EXPECT_THAT(log, HasSubstr("CapBnd:\t0000000000002020"));
  EXPECT_THAT(log, HasSubstr("CapAmb:\t0000000000002000"));
}

TEST_F(SecurityTest, SupplementalGroupsPolicies) {
  for (auto [policy, want] : {std::pair{api::Merge, "groups=33(www-data),500(extra),700"},
                              {api::Strict, "groups=33(www-data),700"}}) {
    std::string log = RunAlone(Cat("groups", static_cast<int>(policy)), "id",
                               [&, policy = policy](api::ContainerConfig& c) {
                                 auto* security = c.mutable_linux()->mutable_security_context();
                                 security->mutable_run_as_user()->set_value(33);
                                 security->add_supplemental_groups(700);
                                 security->set_supplemental_groups_policy(policy);
                               });
    EXPECT_THAT(log, HasSubstr(Cat("gid=33(www-data) ", want, "\n")));
  }
}

TEST_F(SecurityTest, DevicesAndHiddenPaths) {
  std::string log = RunAlone("devices",
                             "head -c 3 /dev/mine | wc -c; echo x > /dev/mine || echo not writable\n"
                             "mknod /raw b 7 0 && head -c 1 /raw || echo other devices refused\n"
                             "cat /proc/uptime | wc -c; echo 1 > /proc/sys/net/ipv4/ip_forward || echo "
                             "sysctl refused; ls -A /home/hidden | wc -l",
                             [&](api::ContainerConfig& c) {
                               api::Device* device = c.add_devices();
                               device->set_host_path("/dev/zero");
                               device->set_container_path("/dev/mine");
                               device->set_permissions("r");
                               AddVolume(c, "/home/hidden");
                               auto* security = c.mutable_linux()->mutable_security_context();
                               for (const char* path : {"/proc/uptime", "/home/hidden"})
                                 security->add_masked_paths(path);
                               security->add_readonly_paths("/proc/sys");
                             });
  EXPECT_THAT(log, ContainsRegex("F 3\n"));
  EXPECT_THAT(log, HasSubstr("F other devices refused\n"));
  EXPECT_THAT(log, HasSubstr("F sysctl refused\n"));
  EXPECT_THAT(log, ContainsRegex("F 0\n.*F 0\n"));
}

TEST_F(SecurityTest, Privileged) {
  api::PodSandboxConfig config = node_.PodConfig("privileged");
  config.mutable_linux()->mutable_security_context()->set_privileged(true);
  std::string log = Run(
      config, node_.RunPod(config), "privileged",
      "mknod /raw c 1 5 && head -c 2 /raw | wc -c; mount -t tmpfs none /home && echo mounted\n"
      "echo 1 > /proc/sys/net/ipv4/ip_forward && echo sysctl; grep Seccomp: /proc/self/status; wc -c < "
      "/proc/keys",
      [](api::ContainerConfig& c) { c.mutable_linux()->mutable_security_context()->set_privileged(true); });
  for (const char* said : {"2", "mounted", "sysctl", "Seccomp:\t0"})
    EXPECT_THAT(log, HasSubstr(Cat("F ", said, "\n")));
}

TEST_F(SecurityTest, ALocalSeccompProfile) {
  std::ofstream(node_.dir() + "/profile.json")
      << R"({"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO"}]})";
  std::string log = RunAlone("seccomp", "mkdir /x; touch /y && echo touched", [&](api::ContainerConfig& c) {
    auto* seccomp = c.mutable_linux()->mutable_security_context()->mutable_seccomp();
    seccomp->set_profile_type(api::SecurityProfile::Localhost);
    seccomp->set_localhost_ref(node_.dir() + "/profile.json");
  });
  EXPECT_THAT(log, HasSubstr("mkdir: can't create directory '/x': Operation not permitted"));
  EXPECT_THAT(log, HasSubstr("F touched\n"));
}

TEST_F(SecurityTest, AppArmorIsAppliedOrRefused) {
  api::PodSandboxConfig config = node_.PodConfig("apparmor");
  std::string pod = node_.RunPod(config);
  api::ContainerConfig container = node_.ContainerConfig("apparmor", {"true"});
  auto* apparmor = container.mutable_linux()->mutable_security_context()->mutable_apparmor();
  apparmor->set_profile_type(api::SecurityProfile::Localhost);
  apparmor->set_localhost_ref("localhost/no-such-profile");
  grpc::Status status;
  node_.Create(pod, config, container, &status);
  EXPECT_FALSE(status.ok());
  EXPECT_THAT(status.error_message(), HasSubstr("no-such-profile"));
}

}  // namespace
}  // namespace sock::test
