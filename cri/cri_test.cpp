#include "cri/cri.h"

#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <csignal>
#include <functional>
#include <nlohmann/json.hpp>
#include <set>
#include <thread>

#include "api.grpc.pb.h"
#include "cri/fakes.h"
#include "cri/service.h"
#include "runtime/base/path.h"

namespace sock::cri {
namespace {

class CriTest : public testing::Test {
 protected:
  CriTest() {
    char name[] = "/tmp/cri_test.XXXXXX";
    dir = mkdtemp(name);
    Restart();
  }
  ~CriTest() override {
    for (const std::string& id : Pods()) {
      api::RemovePodSandboxRequest q;
      q.set_pod_sandbox_id(id);
      EXPECT_TRUE(cri->RemovePodSandbox(q, nullptr).ok());
    }
    EXPECT_TRUE(RemoveTree(dir).ok());
  }
  // A new daemon over the same state and the same processes.
  void Restart() {
    cri = std::make_unique<Cri>(Config(), dir);
    cri->Use(&runtime, &images);
    warnings.clear();
    ASSERT_TRUE(cri->Recover(warnings).ok());
  }
  std::vector<std::string> Pods() {
    api::ListPodSandboxResponse r;
    EXPECT_TRUE(cri->ListPodSandbox({}, &r).ok());
    std::vector<std::string> ids;
    for (const auto& item : r.items()) ids.push_back(item.id());
    return ids;
  }
  absl::StatusOr<std::string> Run(const std::string& name, const std::string& handler = "") {
    api::RunPodSandboxRequest q;
    q.set_runtime_handler(handler);
    auto* c = q.mutable_config();
    c->mutable_metadata()->set_name(name);
    c->mutable_metadata()->set_namespace_("default");
    c->mutable_metadata()->set_uid("u");
    (*c->mutable_labels())["app"] = name;
    (*c->mutable_annotations())["note"] = "\xc3\xa9";
    c->mutable_dns_config()->add_servers("10.96.0.10");
    c->set_log_directory("/var/log/pods/x");
    // No /dev/shm to mount, so that the test needs no root.
    c->mutable_linux()->mutable_security_context()->mutable_namespace_options()->set_ipc(api::NODE);
    api::RunPodSandboxResponse r;
    RETURN_IF_ERROR(cri->RunPodSandbox(q, &r));
    return r.pod_sandbox_id();
  }
  absl::StatusOr<std::string> Create(const std::string& pod, const std::string& name,
                                     const std::string& image = "busybox") {
    api::CreateContainerRequest q;
    q.set_pod_sandbox_id(pod);
    q.mutable_config()->mutable_metadata()->set_name(name);
    q.mutable_config()->mutable_image()->set_image(image);
    (*q.mutable_config()->mutable_labels())["c"] = name;
    api::CreateContainerResponse r;
    RETURN_IF_ERROR(cri->CreateContainer(q, &r));
    return r.container_id();
  }
  absl::Status Start(const std::string& id) {
    api::StartContainerRequest q;
    q.set_container_id(id);
    return cri->StartContainer(q, nullptr);
  }
  api::ContainerStatus StatusOf(const std::string& id) {
    api::ContainerStatusRequest q;
    q.set_container_id(id);
    api::ContainerStatusResponse r;
    EXPECT_TRUE(cri->ContainerStatus(q, &r).ok());
    return r.status();
  }

  std::string dir;
  FakeRuntime runtime;
  FakeImages images;
  std::unique_ptr<Cri> cri;
  std::vector<std::string> warnings;
};

TEST_F(CriTest, LifeOfAPodAcrossARestart) {
  auto pod = Run("a");
  ASSERT_TRUE(pod.ok()) << pod.status();
  EXPECT_EQ(*ReadFile(dir + "/sandbox-files/" + *pod + "/resolv.conf"), "nameserver 10.96.0.10\n");
  auto id = Create(*pod, "c");
  ASSERT_TRUE(id.ok()) << id.status();
  EXPECT_EQ(StatusOf(*id).state(), api::CONTAINER_CREATED);
  ASSERT_TRUE(Start(*id).ok());
  EXPECT_EQ(Start(*id).code(), absl::StatusCode::kFailedPrecondition);
  images.snapshots.insert("orphan");

  Restart();
  EXPECT_THAT(warnings, testing::IsEmpty());
  EXPECT_EQ(runtime.recovered, 1u);
  EXPECT_THAT(images.snapshots, testing::ElementsAre(*id));
  EXPECT_EQ(StatusOf(id->substr(0, 13)).state(), api::CONTAINER_RUNNING);
  api::PodSandboxStatusRequest pq;
  pq.set_pod_sandbox_id(*pod);
  api::PodSandboxStatusResponse pr;
  ASSERT_TRUE(cri->PodSandboxStatus(pq, &pr).ok());
  EXPECT_EQ(pr.status().network().ip(), "10.88.0.2");
  EXPECT_EQ(pr.status().annotations().at("note"), "\xc3\xa9");

  // It ended while no daemon ran.
  runtime.Exit(*id, 4);
  Restart();
  EXPECT_EQ(StatusOf(*id).state(), api::CONTAINER_EXITED);
  EXPECT_EQ(StatusOf(*id).exit_code(), 4);
  EXPECT_EQ(StatusOf(*id).reason(), "Error");

  api::RemovePodSandboxRequest rq;
  rq.set_pod_sandbox_id(*pod);
  EXPECT_TRUE(cri->RemovePodSandbox(rq, nullptr).ok());
  EXPECT_TRUE(cri->RemovePodSandbox(rq, nullptr).ok());
  EXPECT_THAT(runtime.sandboxes, testing::IsEmpty());
  EXPECT_THAT(images.snapshots, testing::IsEmpty());
  EXPECT_NE(access((dir + "/sandbox-files/" + *pod).c_str(), F_OK), 0);
  EXPECT_NE(access((dir + "/containers/" + *id + ".json").c_str(), F_OK), 0);
}

TEST_F(CriTest, RetriesFindTheFirstAttempt) {
  std::vector<std::string> ids(8);
  std::vector<std::thread> threads;
  for (auto& id : ids) threads.emplace_back([&] { id = Run("same").value_or("failed"); });
  for (auto& thread : threads) thread.join();
  EXPECT_THAT(ids, testing::Each(ids[0]));
  EXPECT_EQ(runtime.sandboxes.size(), 1u);
  auto first = Create(ids[0], "c");
  ASSERT_TRUE(first.ok());
  EXPECT_EQ(*Create(ids[0], "c"), *first);
  ASSERT_TRUE(Start(*first).ok());
  EXPECT_EQ(Create(ids[0], "c").status().code(), absl::StatusCode::kAlreadyExists);
}

TEST_F(CriTest, FailuresLeaveNothingAndNameTheirReason) {
  EXPECT_EQ(Run("a", "kata").status().code(), absl::StatusCode::kInvalidArgument);
  auto pod = Run("a", "sock");
  ASSERT_TRUE(pod.ok()) << pod.status();
  EXPECT_EQ(Create(*pod, "c", "nosuch").status().code(), absl::StatusCode::kNotFound);
  absl::Status malformed = Create(*pod, "c", "host:1/UPPER").status();
  EXPECT_EQ(malformed.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(malformed.message()), testing::StartsWith("config.image.image: "));
  runtime.create_error = absl::NotFoundError("mount source");
  EXPECT_EQ(Create(*pod, "c").status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(images.snapshots, testing::IsEmpty());
  runtime.create_error = absl::OkStatus();
  auto id = Create(*pod, "c");  // the name is free again
  ASSERT_TRUE(id.ok()) << id.status();
  runtime.start_error = absl::NotFoundError("program `x`");
  EXPECT_EQ(Start(*id).code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(StatusOf(*id).reason(), "StartError");
  api::PodSandboxStatusRequest q;
  q.set_pod_sandbox_id("nobody");
  api::PodSandboxStatusResponse r;
  EXPECT_EQ(cri->PodSandboxStatus(q, &r).code(), absl::StatusCode::kNotFound);
}

TEST_F(CriTest, StopSendsTheImagesSignalAndFiltersSelect) {
  auto pod = Run("a");
  ASSERT_TRUE(pod.ok());
  auto one = Create(*pod, "one"), two = Create(*pod, "two");
  ASSERT_TRUE(one.ok() && two.ok());
  ASSERT_TRUE(Start(*one).ok());
  api::StopContainerRequest q;
  q.set_container_id(*one);
  q.set_timeout(1);
  ASSERT_TRUE(cri->StopContainer(q, nullptr).ok());
  EXPECT_EQ(runtime.last_signal, SIGUSR1);
  EXPECT_EQ(StatusOf(*one).exit_code(), 128 + SIGUSR1);
  q.set_container_id("nobody");
  EXPECT_TRUE(cri->StopContainer(q, nullptr).ok());

  api::ListContainersRequest lq;
  lq.mutable_filter()->mutable_state()->set_state(api::CONTAINER_CREATED);
  lq.mutable_filter()->set_pod_sandbox_id(pod->substr(0, 12));
  (*lq.mutable_filter()->mutable_label_selector())["c"] = "two";
  api::ListContainersResponse lr;
  ASSERT_TRUE(cri->ListContainers(lq, &lr).ok());
  ASSERT_EQ(lr.containers_size(), 1);
  EXPECT_EQ(lr.containers(0).id(), *two);
}

TEST(Usage, RateIsOfTheTimeBetween) {
  UsageSample sample;
  EXPECT_FALSE(sample.Rate(5, 5));  // nothing to compare with
  sample.at = 1'000'000'000, sample.cpu_ns = 100'000'000;
  EXPECT_FALSE(sample.Rate(1'500'000'000, 200'000'000));  // too soon to say
  EXPECT_EQ(sample.Rate(3'000'000'000, 200'000'000), 50'000'000u);
  sample.nano_cores = 7;
  EXPECT_EQ(sample.Rate(1'500'000'000, 200'000'000), 7u);
  EXPECT_EQ(sample.Rate(500'000'000, 200'000'000), 7u);  // the clock went back
  EXPECT_EQ(sample.Rate(3'000'000'000, 1), 7u);
}

TEST_F(CriTest, StatsComeFromCgroupsAndSamples) {
  auto pod = Run("s");
  auto id = Create(*pod, "c");
  ASSERT_TRUE(id.ok() && Start(*id).ok());
  runtime.stats.memory_limit = 100, runtime.stats.memory_working_set = 120;  // a limit that was just lowered
  runtime.stats.swap_limit = 10, runtime.stats.swap_usage = 4, runtime.stats.pids = 3;
  runtime.stats.io_pressure = sock::runtime::Pressure{{5000, 1.5, 0, 0}, {}};
  api::PodSandboxStatsRequest q;
  q.set_pod_sandbox_id(*pod);
  api::PodSandboxStatsResponse r;
  ASSERT_TRUE(cri->PodSandboxStats(q, &r).ok());
  ASSERT_EQ(r.stats().linux().containers_size(), 1);
  EXPECT_FALSE(r.stats().linux().containers(0).has_writable_layer());  // not looked at yet
  EXPECT_FALSE(r.stats().linux().containers(0).cpu().has_usage_nano_cores());

  cri->SampleUsage();
  r.Clear();
  ASSERT_TRUE(cri->PodSandboxStats(q, &r).ok());
  const api::ContainerStats& c = r.stats().linux().containers(0);
  EXPECT_EQ(c.cpu().usage_core_nano_seconds().value(), 7u);
  EXPECT_TRUE(c.memory().has_available_bytes());
  EXPECT_EQ(c.memory().available_bytes().value(), 0u);
  EXPECT_EQ(c.swap().swap_available_bytes().value(), 6u);
  EXPECT_EQ(c.writable_layer().used_bytes().value(), 4096u);
  EXPECT_EQ(c.io().psi().some().total(), 5000u);
  EXPECT_FALSE(c.cpu().has_psi());
  EXPECT_EQ(r.stats().linux().process().process_count().value(), 3u);
  EXPECT_EQ(r.stats().linux().network().default_interface().name(), "eth0");
  api::ImageFsInfoResponse fs;
  ASSERT_TRUE(cri->ImageFsInfo({}, &fs).ok());
  EXPECT_EQ(fs.container_filesystems(0).used_bytes().value(), 4096u);

  api::RemovePodSandboxRequest rq;
  rq.set_pod_sandbox_id(*pod);
  ASSERT_TRUE(cri->RemovePodSandbox(rq, nullptr).ok());
  cri->SampleUsage();
  fs.Clear();
  ASSERT_TRUE(cri->ImageFsInfo({}, &fs).ok());
  EXPECT_EQ(fs.container_filesystems(0).used_bytes().value(), 0u);
}

TEST_F(CriTest, TellsWhatTheNetworksPluginsFind) {
  const std::string pod = *Run("web");
  auto verbose = [&] {
    api::PodSandboxStatusRequest q;
    q.set_pod_sandbox_id(pod);
    q.set_verbose(true);
    api::PodSandboxStatusResponse r;
    EXPECT_TRUE(cri->PodSandboxStatus(q, &r).ok());
    EXPECT_EQ(r.status().state(), api::SANDBOX_READY);
    return nlohmann::json::parse(r.info().at("info"));
  };
  EXPECT_FALSE(verbose().contains("networkCheck"));
  auto& check = runtime.fake_network.check.emplace();
  check.pending = true;
  EXPECT_EQ(verbose()["networkCheck"], nlohmann::json({{"pending", true}}));
  check.pending = false;
  check.at = std::chrono::system_clock::from_time_t(1);
  check.status = absl::OkStatus();
  nlohmann::json want{{"pending", false}, {"result", "ok"}, {"at", "1970-01-01T00:00:01Z"}};
  EXPECT_EQ(verbose()["networkCheck"], want);
  check.status = absl::UnavailableError("no route");
  want["result"] = "failed";
  want["message"] = "no route";
  EXPECT_EQ(verbose()["networkCheck"], want);
  const std::string metrics = cri->Metrics();
  EXPECT_THAT(metrics, testing::HasSubstr("cri_sock_cni_check_pods{result=\"ok\"} 1\n"));
  EXPECT_THAT(metrics, testing::HasSubstr("cri_sock_cni_check_pods{result=\"failed\"} 2\n"));
  api::StopPodSandboxRequest stop;
  stop.set_pod_sandbox_id(pod);
  ASSERT_TRUE(cri->StopPodSandbox(stop, nullptr).ok());
  api::PodSandboxStatusRequest q;
  q.set_pod_sandbox_id(pod);
  q.set_verbose(true);
  api::PodSandboxStatusResponse r;
  ASSERT_TRUE(cri->PodSandboxStatus(q, &r).ok());
  EXPECT_THAT(r.info().at("info"), testing::Not(testing::HasSubstr("networkCheck")));
}

TEST_F(CriTest, RefusesWhatWouldSpoilThePodsFiles) {
  auto run = [&](const std::function<void(api::PodSandboxConfig&)>& change) {
    api::RunPodSandboxRequest q;
    auto* c = q.mutable_config();
    c->mutable_metadata()->set_name("p");
    c->mutable_metadata()->set_namespace_("default");
    c->mutable_linux()->mutable_security_context()->mutable_namespace_options()->set_ipc(api::NODE);
    change(*c);
    api::RunPodSandboxResponse r;
    return cri->RunPodSandbox(q, &r);
  };
  for (const char* hostname : {"a b", "a\nb", "a/b"}) {
    EXPECT_TRUE(absl::IsInvalidArgument(run([&](auto& c) { c.set_hostname(hostname); }))) << hostname;
  }
  EXPECT_TRUE(absl::IsInvalidArgument(run([](auto& c) { c.set_log_directory("a"); })));
  EXPECT_TRUE(Pods().empty());
  EXPECT_TRUE(run([](auto& c) { c.set_hostname("Web-1.example_x"); }).ok());
}

TEST(PodKinds, AreOfARevisionAndOfAllItsLike) {
  auto kinds = [](const std::map<std::string, std::string>& labels,
                  const std::map<std::string, std::string>& annotations = {}) {
    api::PodSandboxConfig config;
    config.mutable_metadata()->set_namespace_("shop");
    for (const auto& [key, value] : labels) (*config.mutable_labels())[key] = value;
    for (const auto& [key, value] : annotations) (*config.mutable_annotations())[key] = value;
    return PodKinds(config);
  };
  // Pods of one revision differ in what kubelet and controllers say of each.
  const auto first = kinds({{"app", "web"}, {"pod-template-hash", "1"}, {"io.kubernetes.pod.uid", "a"}});
  EXPECT_EQ(first, kinds({{"app", "web"}, {"pod-template-hash", "1"}, {"io.kubernetes.pod.uid", "b"}}));
  ASSERT_EQ(first.size(), 2u);
  const auto second = kinds({{"app", "web"}, {"pod-template-hash", "2"}});
  EXPECT_NE(second[0], first[0]);
  EXPECT_EQ(second[1], first[1]);
  EXPECT_EQ(second[1],
            kinds({{"app", "web"}}, {{"kubectl.kubernetes.io/restartedAt", "2026-11-26T12:00:00Z"}})[1]);
  EXPECT_NE(kinds({{"app", "db"}, {"pod-template-hash", "1"}})[1], first[1]);
  EXPECT_NE(kinds({{"app", "web"}, {"pod-template-hash", "1"}}, {{"imports.cri-sock.io", "numpy"}})[1],
            first[1]);
  // Knative calls the app after the revision.
  auto revision = [&](const std::string& name) {
    return kinds({{"app", name},
                  {"serving.knative.dev/revision", name},
                  {"serving.knative.dev/revisionUID", name + "-uid"},
                  {"serving.knative.dev/service", "resize"}});
  };
  EXPECT_NE(revision("resize-00001")[0], revision("resize-00002")[0]);
  EXPECT_EQ(revision("resize-00001")[1], revision("resize-00002")[1]);
  // Nothing is of a revision alone: one kind.
  EXPECT_EQ(kinds({{"app", "web"}}).size(), 1u);
}

TEST_F(CriTest, PullsForAKnownHandlerOnly) {
  api::PullImageRequest q;
  api::PullImageResponse r;
  q.mutable_image()->set_image("busybox");
  for (const char* handler : {"", "sock"}) {
    q.mutable_image()->set_runtime_handler(handler);
    EXPECT_TRUE(cri->PullImage(q, {}, &r).ok()) << handler;
  }
  q.mutable_image()->set_runtime_handler("nosuch");
  absl::Status refused = cri->PullImage(q, {}, &r);
  EXPECT_TRUE(absl::IsInvalidArgument(refused));
  EXPECT_THAT(std::string(refused.message()), testing::HasSubstr("nosuch"));
}

TEST_F(CriTest, KeepsAPodsNewResources) {
  auto pod = Run("r");
  api::UpdatePodSandboxResourcesRequest q;
  q.set_pod_sandbox_id(*pod);
  q.mutable_resources()->set_cpu_shares(-1);
  EXPECT_TRUE(absl::IsInvalidArgument(cri->UpdatePodSandboxResources(q, nullptr)));
  q.mutable_resources()->set_cpu_shares(512);
  EXPECT_TRUE(cri->UpdatePodSandboxResources(q, nullptr).ok());
  q.set_pod_sandbox_id("nosuch");
  EXPECT_TRUE(absl::IsNotFound(cri->UpdatePodSandboxResources(q, nullptr)));
}

TEST_F(CriTest, StreamsListsAndNamesWhatIsMissing) {
  for (int i = 0; i < 3; ++i) {
    auto pod = Run("p" + std::to_string(i));
    ASSERT_TRUE(pod.ok() && Create(*pod, "c").ok());
  }
  auto server = Server::Start(dir + "/cri.sock", cri.get());
  ASSERT_TRUE(server.ok()) << server.status();
  auto stub = api::RuntimeService::NewStub(
      grpc::CreateChannel("unix:" + dir + "/cri.sock", grpc::InsecureChannelCredentials()));
  {
    grpc::ClientContext context;
    api::StreamContainersResponse part;
    std::set<std::string> ids;
    auto reader = stub->StreamContainers(&context, {});
    while (reader->Read(&part))
      for (const auto& container : part.containers()) ids.insert(container.id());
    EXPECT_TRUE(reader->Finish().ok());
    EXPECT_EQ(ids.size(), 3u);
  }
  {
    grpc::ClientContext context;
    api::StreamPodSandboxesRequest q;
    (*q.mutable_filter()->mutable_label_selector())["app"] = "p1";
    api::StreamPodSandboxesResponse part;
    auto reader = stub->StreamPodSandboxes(&context, q);
    ASSERT_TRUE(reader->Read(&part));
    ASSERT_EQ(part.pod_sandboxes_size(), 1);
    EXPECT_EQ(part.pod_sandboxes(0).metadata().name(), "p1");
    EXPECT_FALSE(reader->Read(&part));
    EXPECT_TRUE(reader->Finish().ok());
  }
  grpc::ClientContext context;
  api::AttachResponse r;
  grpc::Status attach = stub->Attach(&context, {}, &r);
  EXPECT_EQ(attach.error_code(), grpc::StatusCode::UNIMPLEMENTED);
  EXPECT_EQ(attach.error_message(), "Attach is not supported");
}

TEST_F(CriTest, ABrokenRecordIsSetAside) {
  FILE* file = fopen((dir + "/sandboxes/x.json").c_str(), "w");
  fputs("{\"version\": 1, \"id\": 3", file);
  fclose(file);
  Restart();
  EXPECT_EQ(warnings.size(), 1u);
  EXPECT_EQ(access((dir + "/sandboxes/x.json.broken").c_str(), F_OK), 0);
}

TEST(Signals, ParseAndBack) {
  EXPECT_EQ(*ParseSignal(""), SIGTERM);
  EXPECT_EQ(*ParseSignal("INT"), SIGINT);
  EXPECT_EQ(*ParseSignal("9"), SIGKILL);
  EXPECT_EQ(*ParseSignal("SIGRTMIN+3"), SIGRTMIN + 3);
  EXPECT_EQ(*FromApiSignal(api::SIGNAL_SIGRTMAXMINUS2), SIGRTMAX - 2);
  EXPECT_EQ(ToApiSignal(SIGTERM), api::SIGNAL_SIGTERM);
  for (const char* bad : {"SIGFOO", "0", "65", "RTMIN-1", "TERM+1"})
    EXPECT_FALSE(ParseSignal(bad).ok()) << bad;
}

TEST(ConfigFile, TheOneThatIsInstalledShowsTheDefaults) {
  auto text = ReadFile(SOURCE_DIR "/deploy/config.toml");
  ASSERT_TRUE(text.ok()) << text.status();
  auto config = ParseConfig(*text);
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(*config, Config());
}

TEST(ConfigFile, UnknownKeysAndWrongTypesAreErrors) {
  EXPECT_EQ(ParseConfig("")->handlers.size(), 2u);
  EXPECT_EQ(ParseConfig("[bridge]\nsubnet = \"10.1.0.0/16\"\n")->subnet, "10.1.0.0/16");
  for (const char* bad :
       {"x = 1", "[bridge]\nnam = \"x\"", "spare_sandboxes = \"8\"", "cgroup_driver = \"x\"", "=",
        "[zygotes]\ntrust_domains = [\"a\"]", "[zygotes]\ntrust_domains = { a = \"ns\" }",
        "[zygotes.trust_domains]\n\"A/b\" = [\"ns\"]"})
    EXPECT_FALSE(ParseConfig(bad).ok()) << bad;
}

TEST(ConfigFile, ATrustDomainIsForTheNamespacesThatItNames) {
  auto config = ParseConfig("[zygotes]\ntrust_domains = { shared = [\"a\", \"b\"], b = [\"a\"] }\n");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(*TrustDomain(*config, "a", std::nullopt, ""), "a");
  EXPECT_EQ(*TrustDomain(*config, "a", "shared", ""), *TrustDomain(*config, "b", "shared", ""));
  // A domain that is called like a namespace is not that namespace.
  EXPECT_NE(*TrustDomain(*config, "a", "b", ""), *TrustDomain(*config, "b", std::nullopt, ""));
  for (const char* domain : {"shared", "unknown"}) {
    absl::Status refused = TrustDomain(*config, "c", domain, "annotation").status();
    EXPECT_EQ(refused.code(), absl::StatusCode::kPermissionDenied);
    EXPECT_THAT(std::string(refused.message()), testing::StartsWith("annotation: "));
  }
}

}  // namespace
}  // namespace sock::cri
