#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>
#include <fstream>

#include "api.grpc.pb.h"
#include "cri/fakes.h"
#include "cri/service.h"
#include "runtime/base/path.h"

namespace sock::cri {
namespace {

class EventsTest : public ::testing::Test {
 protected:
  EventsTest() {
    char name[] = "/tmp/cri-sock-events-XXXXXX";
    dir = mkdtemp(name);
    cri = std::make_unique<Cri>(Config(), dir);
    cri->Use(&runtime, &images);
    std::vector<std::string> warnings;
    EXPECT_TRUE(cri->Recover(warnings).ok());
    auto started = Server::Start(dir + "/cri.sock", cri.get());
    EXPECT_TRUE(started.ok()) << started.status();
    server = *std::move(started);
    stub = api::RuntimeService::NewStub(
        grpc::CreateChannel("unix:" + dir + "/cri.sock", grpc::InsecureChannelCredentials()));
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(60));
    stream = stub->GetContainerEvents(&context, {});
    stream->WaitForInitialMetadata();
  }
  ~EventsTest() override {
    server->Stop(0);
    EXPECT_TRUE(RemoveTree(dir).ok());
  }
  // "TYPE of ID, the sandbox's state, each container's state".
  std::string Next(const std::string& id) {
    api::ContainerEventResponse event;
    if (!stream->Read(&event)) return "end";
    EXPECT_EQ(event.container_id(), id);
    EXPECT_GT(event.created_at(), 0);
    std::string text = api::ContainerEventType_Name(event.container_event_type());
    if (event.has_pod_sandbox_status())
      text += " " + api::PodSandboxState_Name(event.pod_sandbox_status().state());
    for (const auto& status : event.containers_statuses())
      text += " " + api::ContainerState_Name(status.state());
    return text;
  }

  std::string dir;
  FakeRuntime runtime;
  FakeImages images;
  std::unique_ptr<Cri> cri;
  std::unique_ptr<Server> server;
  std::unique_ptr<api::RuntimeService::Stub> stub;
  grpc::ClientContext context;
  std::unique_ptr<grpc::ClientReader<api::ContainerEventResponse>> stream;
};

TEST_F(EventsTest, TellTheLifeOfAPod) {
  api::RunPodSandboxRequest run;
  run.mutable_config()->mutable_metadata()->set_name("p");
  run.mutable_config()->mutable_metadata()->set_namespace_("default");
  // No /dev/shm to mount, so that the test needs no root.
  run.mutable_config()->mutable_linux()->mutable_security_context()->mutable_namespace_options()->set_ipc(
      api::NODE);
  api::RunPodSandboxResponse pod;
  ASSERT_TRUE(cri->RunPodSandbox(run, &pod).ok());
  EXPECT_EQ(Next(pod.pod_sandbox_id()), "CONTAINER_CREATED_EVENT SANDBOX_READY");
  EXPECT_EQ(Next(pod.pod_sandbox_id()), "CONTAINER_STARTED_EVENT SANDBOX_READY");

  api::CreateContainerRequest create;
  create.set_pod_sandbox_id(pod.pod_sandbox_id());
  create.mutable_config()->mutable_metadata()->set_name("c");
  create.mutable_config()->mutable_image()->set_image("busybox");
  api::CreateContainerResponse container;
  ASSERT_TRUE(cri->CreateContainer(create, &container).ok());
  const std::string id = container.container_id();
  EXPECT_EQ(Next(id), "CONTAINER_CREATED_EVENT SANDBOX_READY CONTAINER_CREATED");
  api::StartContainerRequest start;
  start.set_container_id(id);
  ASSERT_TRUE(cri->StartContainer(start, nullptr).ok());
  EXPECT_EQ(Next(id), "CONTAINER_STARTED_EVENT SANDBOX_READY CONTAINER_RUNNING");

  sock::runtime::ExitInfo exit;
  exit.finished_at = std::chrono::system_clock::now();
  cri->OnExit(id, exit);
  cri->OnExit(id, exit);  // told once
  EXPECT_EQ(Next(id), "CONTAINER_STOPPED_EVENT SANDBOX_READY CONTAINER_EXITED");

  api::StopPodSandboxRequest stop;
  stop.set_pod_sandbox_id(pod.pod_sandbox_id());
  ASSERT_TRUE(cri->StopPodSandbox(stop, nullptr).ok());
  EXPECT_EQ(Next(pod.pod_sandbox_id()), "CONTAINER_STOPPED_EVENT SANDBOX_NOTREADY CONTAINER_EXITED");
  api::RemovePodSandboxRequest remove;
  remove.set_pod_sandbox_id(pod.pod_sandbox_id());
  ASSERT_TRUE(cri->RemovePodSandbox(remove, nullptr).ok());
  EXPECT_EQ(Next(id), "CONTAINER_DELETED_EVENT SANDBOX_NOTREADY");
  EXPECT_EQ(Next(pod.pod_sandbox_id()), "CONTAINER_DELETED_EVENT SANDBOX_NOTREADY");
  context.TryCancel();
  EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::CANCELLED);
}

TEST_F(EventsTest, AClientThatTakesNoneIsCutOff) {
  api::ContainerEventResponse event;
  event.set_container_id(std::string(1000, 'x'));
  for (size_t i = 0; i < 50'000 && cri->events().HasListeners(); ++i) cri->events().Publish(event);
  size_t taken = 0;
  while (stream->Read(&event)) ++taken;
  EXPECT_LT(taken, 50'000u);
  EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
}

TEST_F(EventsTest, TheServersEndEndsTheStream) {
  server->Stop(0);
  EXPECT_EQ(Next(""), "end");
  EXPECT_FALSE(stream->Finish().ok());
  EXPECT_FALSE(cri->events().HasListeners());
}

// Its threads for callbacks hold up all calls for 100 ms in each second (cri/event_stream.h).
TEST_F(EventsTest, GrpcHasNoThreadsForCallbacks) {
  for (const auto& task : std::filesystem::directory_iterator("/proc/self/task")) {
    std::string name;
    std::ifstream(task.path() / "comm") >> name;
    EXPECT_NE(name, "nexting_thread");
  }
}

}  // namespace
}  // namespace sock::cri
