// The life of a pod as kubelet leads it: a real registry, the real kernel, the real daemon.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <filesystem>
#include <functional>
#include <thread>

#include "test/e2e/node_fixture.h"

namespace sock::test {
namespace {

using testing::ContainsRegex;
using testing::HasSubstr;
using testing::Not;

class PodTest : public NodeFixture {};

TEST_F(PodTest, RunsLogsExitsAndGoes) {
  std::string container = Run("life", {"sh", "-c", "echo out; echo err >&2; hostname; exit 7"});
  api::ContainerStatus status = node_.WaitExit(container);
  EXPECT_EQ(status.exit_code(), 7);
  EXPECT_EQ(status.reason(), "Error");
  EXPECT_GT(status.started_at(), status.created_at() - 1);
  EXPECT_GE(status.finished_at(), status.started_at());
  std::string log = node_.WaitLog("life", "stdout F life\n");
  EXPECT_THAT(log, HasSubstr(" stdout F out\n"));
  EXPECT_THAT(log, HasSubstr(" stderr F err\n"));
}

TEST_F(PodTest, AnswersUnderThePodsIp) {
  Run("web", {"sh", "-c", "echo hello > /tmp/index.html; exec httpd -f -p 8080 -h /tmp"});
  grpc::ClientContext context;
  api::PodSandboxStatusRequest request;
  api::PodSandboxStatusResponse response;
  request.set_pod_sandbox_id(pod_);
  ASSERT_TRUE(node_.runtime().PodSandboxStatus(&context, request, &response).ok());
  std::string ip = response.status().network().ip();
  EXPECT_THAT(ip, HasSubstr(node_.subnet()));
  std::string ask =
      "for i in $(seq 100); do busybox wget -qO- http://" + ip + ":8080/ 2>/dev/null && exit 0; done; exit 1";
  EXPECT_EQ(system((ask + " | grep -q hello").c_str()), 0);
}

TEST_F(PodTest, ExecSyncGivesOutputCodeAndTimeout) {
  std::string container = Run("exec", {"sleep", "1000"});
  api::ExecSyncResponse answer = node_.Exec(container, {"sh", "-c", "echo o; echo e >&2; exit 3"}, 10);
  EXPECT_EQ(answer.stdout(), "o\n");
  EXPECT_EQ(answer.stderr(), "e\n");
  EXPECT_EQ(answer.exit_code(), 3);
  grpc::Status status;
  constexpr char kFind[] =
      "for p in /proc/[0-9]*; do tr '\\0' ' ' < $p/cmdline; echo; done | grep 'slee[p] 77'";
  // The one that sleeps in a session of its own has lost its parent.
  node_.Exec(container, {"sh", "-c", "(setsid sleep 77 &); (exec setsid sleep 77) & sleep 77; sleep 77"}, 1,
             &status);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  EXPECT_NE(node_.Exec(container, {"sh", "-c", kFind}, 10).exit_code(), 0) << "the exec's process still runs";
}

TEST_F(PodTest, SecurityIsSeenFromInside) {
  config_ = node_.PodConfig("secure");
  pod_ = node_.RunPod(config_);
  api::ContainerConfig config =
      node_.ContainerConfig("secure", {"sh", "-c",
                                       "id; grep -E 'CapEff|NoNewPrivs|Seccomp:' /proc/self/status; touch /x "
                                       "|| echo read-only; cat /proc/kcore | wc -c"});
  auto* security = config.mutable_linux()->mutable_security_context();
  security->mutable_run_as_user()->set_value(33);
  security->set_no_new_privs(true);
  security->set_readonly_rootfs(true);
  security->mutable_capabilities()->add_drop_capabilities("ALL");
  security->mutable_seccomp()->set_profile_type(api::SecurityProfile::RuntimeDefault);
  for (const char* path : {"/proc/kcore", "/proc/keys"}) security->add_masked_paths(path);
  std::string container = node_.Create(pod_, config_, config);
  ASSERT_TRUE(node_.Start(container).ok());
  node_.WaitExit(container);
  std::string log = node_.WaitLog("secure", "F 0\n");
  EXPECT_THAT(log, HasSubstr("uid=33(www-data) gid=33(www-data) groups=33(www-data),500(extra)"));
  EXPECT_THAT(log, HasSubstr("CapEff:\t0000000000000000"));
  EXPECT_THAT(log, HasSubstr("NoNewPrivs:\t1"));
  EXPECT_THAT(log, HasSubstr("Seccomp:\t2"));
  EXPECT_THAT(log, HasSubstr("read-only"));
}

TEST_F(PodTest, MemoryLimitKillsAndSaysSo) {
  config_ = node_.PodConfig("oom");
  pod_ = node_.RunPod(config_);
  api::ContainerConfig config = node_.ContainerConfig("oom", {"sh", "-c", "exec tail /dev/zero"});
  config.mutable_linux()->mutable_resources()->set_memory_limit_in_bytes(20 << 20);
  std::string container = node_.Create(pod_, config_, config);
  ASSERT_TRUE(node_.Start(container).ok());
  api::ContainerStatus status = node_.WaitExit(container);
  EXPECT_EQ(status.exit_code(), 137);
  EXPECT_EQ(status.reason(), "OOMKilled");
}

TEST_F(PodTest, StopSendsTheSignalThenKills) {
  std::string polite =
      Run("polite", {"sh", "-c", "trap 'exit 5' TERM; echo up; while :; do sleep 0.05; done"});
  node_.WaitLog("polite", "F up");
  grpc::ClientContext context;
  api::StopContainerRequest request;
  api::StopContainerResponse response;
  request.set_container_id(polite);
  request.set_timeout(10);
  ASSERT_TRUE(node_.runtime().StopContainer(&context, request, &response).ok());
  EXPECT_EQ(node_.Status(polite).exit_code(), 5);
  std::string deaf = Run("deaf", {"sh", "-c", "trap '' TERM; echo up; while :; do sleep 0.05; done"});
  node_.WaitLog("deaf", "F up");
  grpc::ClientContext again;
  request.set_container_id(deaf);
  request.set_timeout(1);
  ASSERT_TRUE(node_.runtime().StopContainer(&again, request, &response).ok());
  EXPECT_EQ(node_.Status(deaf).exit_code(), 137);
}

TEST_F(PodTest, ADaemonKilledAndStartedAgainFindsEverything) {
  std::string lives =
      Run("lives", {"sh", "-c", "i=0; while :; do echo line $i; i=$((i+1)); sleep 0.02; done"});
  std::string pod = pod_;
  std::string ends = Run("ends", {"sh", "-c", "sleep 0.5; exit 9"});
  node_.WaitLog("lives", "line 5\n");
  node_.KillDaemon(SIGKILL);
  node_.WaitLog("lives", "line 60\n");
  node_.StartDaemon();
  EXPECT_EQ(node_.Status(lives).state(), api::CONTAINER_RUNNING);
  EXPECT_EQ(node_.WaitExit(ends).exit_code(), 9);
  EXPECT_EQ(node_.Exec(lives, {"echo", "there"}, 10).stdout(), "there\n");
  std::string log = node_.WaitLog("lives", "line 80\n");
  for (int i = 0; i < 80; ++i) {
    std::string line = " stdout F line " + std::to_string(i) + "\n";
    size_t first = log.find(line);
    EXPECT_NE(first, std::string::npos) << "lost: " << line;
    EXPECT_EQ(log.find(line, first + 1), std::string::npos) << "doubled: " << line;
  }
}

TEST_F(PodTest, ARetriedRunPodSandboxFindsItsFirstAttempt) {
  config_ = node_.PodConfig("twice");
  grpc::Status status;
  std::string first = node_.RunPod(config_);
  std::string second = node_.RunPod(config_, "sock", &status);
  EXPECT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(first, second);
}

TEST_F(PodTest, BadInputNamesTheFieldAndLeavesNothing) {
  grpc::Status status;
  config_ = node_.PodConfig("bad");
  node_.RunPod(config_, "nosuch", &status);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(status.error_message(), HasSubstr("nosuch"));

  pod_ = node_.RunPod(config_);
  api::ContainerConfig config = node_.ContainerConfig("bad", {"sleep", "1"});
  config.mutable_image()->set_image("127.0.0.1:1/none:latest");
  node_.Create(pod_, config_, config, &status);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::NOT_FOUND);

  config = node_.ContainerConfig("bad", {"sleep", "1"});
  auto* mount = config.add_mounts();
  mount->set_container_path("/data");
  mount->set_host_path("/nonexistent/source");
  node_.Create(pod_, config_, config, &status);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_THAT(status.error_message(), HasSubstr("/nonexistent/source"));

  config = node_.ContainerConfig("bad", {"sleep", "1"});
  config.mutable_linux()->mutable_security_context()->set_run_as_username("nobodyhere");
  node_.Create(pod_, config_, config, &status);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(status.error_message(), HasSubstr("nobodyhere"));

  config = node_.ContainerConfig("bad", {"/no/such/program"});
  std::string made = node_.Create(pod_, config_, config, &status);
  if (status.ok()) status = node_.Start(made);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_THAT(status.error_message(), HasSubstr("/no/such/program"));

  status = node_.Pull("127.0.0.1:1/UPPER");
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);

  struct {
    std::function<void(api::ContainerConfig&)> change;
    grpc::StatusCode code;
    const char* text;
  } table[] = {
      {[&](auto& c) {  // a directory cannot lie on a file
         c.add_mounts()->set_container_path("/etc/passwd");
         c.mutable_mounts(0)->set_host_path(node_.dir());
       },
       grpc::StatusCode::INVALID_ARGUMENT, "/etc/passwd"},
      {[](auto& c) { c.set_working_dir("/etc/passwd"); }, grpc::StatusCode::INVALID_ARGUMENT, "cwd"},
      {[](auto& c) { c.mutable_linux()->mutable_resources()->set_memory_limit_in_bytes(1); },
       grpc::StatusCode::RESOURCE_EXHAUSTED, "memory_limit"},
      {[](auto& c) { c.set_log_path("no/such/dir.log"); }, grpc::StatusCode::NOT_FOUND, "log_path"},
  };
  for (const auto& bad : table) {
    config = node_.ContainerConfig("bad", {"sleep", "1"});
    bad.change(config);
    node_.Create(pod_, config_, config, &status);
    EXPECT_EQ(status.error_code(), bad.code) << status.error_message();
    EXPECT_THAT(status.error_message(), HasSubstr(bad.text));
  }
}

// The image has none of /dev, /proc, /sys, /etc/hostname, /etc/hosts and /etc/resolv.conf.
TEST_F(PodTest, AStartWritesNothingToTheContainersLayer) {
  const std::string container =
      Run("clean", {"sh", "-c", "ls -d /etc/h* /etc/resolv.conf /sys/kernel; echo up; exec sleep 1000"});
  EXPECT_THAT(node_.WaitLog("clean", "F up"),
              ContainsRegex("F /etc/hostname\n.*F /etc/hosts\n.*F /etc/resolv.conf\n.*F /sys/kernel\n"));
  EXPECT_TRUE(std::filesystem::is_empty(node_.dir() + "/lib/images/snapshots/" + container + "/upper"));
}

TEST_F(PodTest, VolumesAreReadOnlyWhenAsked) {
  config_ = node_.PodConfig("volume");
  pod_ = node_.RunPod(config_);
  ASSERT_EQ(
      system(("mkdir -p " + node_.dir() + "/volume && echo data > " + node_.dir() + "/volume/file").c_str()),
      0);
  api::ContainerConfig config = node_.ContainerConfig(
      "volume",
      {"sh", "-c", "cat /ro/file; touch /ro/x || echo refused; echo written > /deep/down/rw/new; echo end"});
  for (bool readonly : {true, false}) {
    auto* mount = config.add_mounts();
    mount->set_container_path(readonly ? "/ro" : "/deep/down/rw");
    mount->set_host_path(node_.dir() + "/volume");
    mount->set_readonly(readonly);
  }
  std::string container = node_.Create(pod_, config_, config);
  ASSERT_TRUE(node_.Start(container).ok());
  std::string log = node_.WaitLog("volume", "F end");
  EXPECT_THAT(log, HasSubstr("F data\n"));
  EXPECT_THAT(log, HasSubstr("refused"));
  EXPECT_EQ(system(("grep -q written " + node_.dir() + "/volume/new").c_str()), 0);
}

// As snap pins them below /run/snapd/ns, which a volume of the host's `/` or `/run` holds.
TEST_F(PodTest, AVolumeMayHoldAPinnedMountNamespace) {
  const std::string volume = node_.dir() + "/pins";
  auto shell = [](const std::string& script) { return system(script.c_str()); };
  ASSERT_EQ(shell("mkdir " + volume + " && mount -t tmpfs --make-private pins " + volume + " && mkdir " +
                  volume + "/below && mount -t tmpfs below " + volume + "/below && touch " + volume +
                  "/pin " + volume + "/below/file && unshare --mount=" + volume + "/pin true"),
            0);
  config_ = node_.PodConfig("pins");
  pod_ = node_.RunPod(config_);
  api::ContainerConfig config =
      // Whether the pin itself comes along is the kernel's matter; the rest of the volume must.
      node_.ContainerConfig("pins", {"sh", "-c", "test -e /v/pin && ls /v/below && echo end"});
  auto* mount = config.add_mounts();
  mount->set_container_path("/v");
  mount->set_host_path(volume);
  grpc::Status status;
  std::string container = node_.Create(pod_, config_, config, &status);
  EXPECT_TRUE(status.ok()) << status.error_message();
  EXPECT_TRUE(node_.Start(container).ok());
  EXPECT_THAT(node_.WaitLog("pins", "F end"), HasSubstr("F file\n"));
  EXPECT_TRUE(node_.RemovePod(pod_).ok());
  EXPECT_EQ(shell("umount -R " + volume + "/pin " + volume + "/below " + volume), 0);
}

TEST_F(PodTest, SockctlIsEnoughByHand) {
  const std::string container = Run("hand", {"sh", "-c", "echo out; echo err >&2; exec sleep 1000"});
  node_.WaitLog("hand", "stdout F out\n");
  node_.WaitLog("hand", "stderr F err\n");
  EXPECT_THAT(node_.Sockctl("version"), testing::StartsWith("cri-sock "));
  EXPECT_THAT(node_.Sockctl("images"), HasSubstr(node_.image()));
  EXPECT_THAT(node_.Sockctl("pods"),
              testing::ContainsRegex("\n" + pod_.substr(0, 13) + " [0-9]+s +ready +default +hand\n"));
  EXPECT_THAT(node_.Sockctl("ps"), testing::ContainsRegex("\n" + container.substr(0, 13) + " " +
                                                          pod_.substr(0, 13) + " [0-9]+s +running +hand "));
  EXPECT_EQ(node_.Sockctl("logs " + container + " 2>&1 >/dev/null | cat"), "err\n");
  EXPECT_EQ(node_.Sockctl("logs " + container + " 2>/dev/null | cat"), "out\n");
  EXPECT_EQ(node_.Sockctl("why " + container), "started plainly: `/bin/sh`: it is `sh`, not python3\n");
  int exit = 0;
  EXPECT_EQ(node_.Sockctl("exec " + container + " sh -c 'hostname; exit 4'", &exit), "hand\n");
  EXPECT_EQ(exit, 4);
  EXPECT_THAT(node_.Sockctl("logs none", &exit),
              testing::AllOf(testing::StartsWith("sockctl: "), HasSubstr("`none`")));
  EXPECT_EQ(exit, 1);
  EXPECT_THAT(node_.Sockctl("why none", &exit), HasSubstr("`none`"));
  EXPECT_EQ(exit, 1);
  for (const char* wrong : {"", "ps -x", "zygotes all", "why", "nothing", "--color pods"}) {
    EXPECT_THAT(node_.Sockctl(wrong, &exit), HasSubstr("usage: sockctl")) << wrong;
    EXPECT_EQ(exit, 2) << wrong;
  }
  EXPECT_EQ(node_.Sockctl("zygotes --json"), "[]\n");
  node_.Sockctl("stop-pod " + pod_);
  EXPECT_THAT(node_.Sockctl("pods"), HasSubstr(" not ready "));
  EXPECT_EQ(std::string::npos, node_.Sockctl("ps").find("hand"));
  EXPECT_THAT(node_.Sockctl("ps -a"), HasSubstr(" exited "));
  node_.Sockctl("rm-pod " + pod_);
  EXPECT_EQ(node_.Sockctl("pods").find("hand"), std::string::npos);
}

}  // namespace
}  // namespace sock::test
