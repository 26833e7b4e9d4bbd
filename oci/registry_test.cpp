#include "oci/registry.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <fstream>
#include <mutex>
#include <thread>

#include "oci/digest.h"
#include "runtime/base/path.h"
#include "runtime/base/text.h"

namespace sock::oci {
namespace {

// Answers each request with raw bytes and closes; runs until destroyed.
class Server {
 public:
  using Handler = std::function<std::string(const std::string& request, int number)>;
  explicit Server(Handler handler) : handler_(std::move(handler)) {
    listen_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    EXPECT_EQ(bind(listen_, reinterpret_cast<sockaddr*>(&address), size), 0);
    EXPECT_EQ(listen(listen_, 16), 0);
    getsockname(listen_, reinterpret_cast<sockaddr*>(&address), &size);
    port_ = ntohs(address.sin_port);
    EXPECT_EQ(pipe(stop_), 0);
    thread_ = std::thread([this] { Run(); });
  }
  ~Server() {
    close(stop_[1]);
    thread_.join();
    close(stop_[0]);
    close(listen_);
  }
  int port() const { return port_; }
  std::string host() const { return Cat("127.0.0.1:", port_); }
  std::vector<std::string> requests() {
    std::lock_guard lock(mutex_);
    return requests_;
  }

 private:
  void Run() {
    while (true) {
      pollfd fds[2] = {{listen_, POLLIN, 0}, {stop_[0], POLLIN, 0}};
      poll(fds, 2, -1);
      if (fds[1].revents) return;
      int fd = accept(listen_, nullptr, nullptr);
      timeval limit{5, 0};
      setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
      std::string request;
      char buffer[4096];
      while (request.find("\r\n\r\n") == std::string::npos) {
        ssize_t got = recv(fd, buffer, sizeof buffer, 0);
        if (got <= 0) break;
        request.append(buffer, got);
      }
      int number;
      {
        std::lock_guard lock(mutex_);
        number = static_cast<int>(requests_.size());
        requests_.push_back(request);
      }
      std::string answer = handler_(request, number);
      send(fd, answer.data(), answer.size(), MSG_NOSIGNAL);
      close(fd);
    }
  }
  Handler handler_;
  int listen_ = -1, stop_[2] = {-1, -1}, port_ = 0;
  std::mutex mutex_;
  std::vector<std::string> requests_;
  std::thread thread_;
};

std::string Answer(std::string_view status, std::string_view headers, std::string_view body, size_t length) {
  return Cat("HTTP/1.1 ", status, "\r\nConnection: close\r\nContent-Length: ", length, "\r\n", headers,
             "\r\n", body);
}
std::string Answer(std::string_view status, std::string_view headers, std::string_view body) {
  return Answer(status, headers, body, body.size());
}
std::string DigestOf(const std::string& text) {
  Sha256Hash hash;
  hash.Update(text.data(), text.size());
  return hash.Digest();
}
bool Has(const std::string& text, std::string_view part) { return text.find(part) != std::string::npos; }

struct Fixture : testing::Test {
  RegistryTimes times{std::chrono::seconds(2), std::chrono::seconds(2), std::chrono::milliseconds(1),
                      std::chrono::milliseconds(5)};
  RegistryClient client{"", times};
  std::string taken;
  absl::Status Blob(Server& server, const std::string& digest, uint64_t size, const Credentials& who = {},
                    const std::function<bool()>& cancelled = {}) {
    taken.clear();
    return client.FetchBlob({server.host(), "a/b", "t", ""}, digest, size, who, Taking(), cancelled);
  }
  BlobSink Taking() {
    return {[&](std::string_view bytes) {
              taken += bytes;
              return absl::OkStatus();
            },
            [&] {
              taken.clear();
              ++restarts;
              return absl::OkStatus();
            }};
  }
  int restarts = 0;
};
using RegistryTest = Fixture;
const std::string kBlob = "0123456789abcdefghij";
const std::string kManifest =
    Cat(R"({"schemaVersion":2,"config":{"size":2,"digest":")", DigestOf("{}"), R"("},"layers":[]})");

TEST_F(RegistryTest, ResumesWithRange) {
  Server server([](const std::string& request, int number) {
    if (number == 0) return Answer("200 OK", "", kBlob.substr(0, 8), kBlob.size());
    EXPECT_TRUE(Has(request, "Range: bytes=8-\r\n")) << request;
    return Answer("206 Partial Content", "Content-Range: bytes 8-19/20\r\n", kBlob.substr(8));
  });
  EXPECT_EQ(Blob(server, DigestOf(kBlob), kBlob.size()), absl::OkStatus());
  EXPECT_EQ(taken, kBlob);
  EXPECT_EQ(server.requests().size(), 2u);
}

TEST_F(RegistryTest, SkipsWhatItHasWhereRangeIsIgnored) {
  Server server([](const std::string&, int number) {
    return Answer("200 OK", "", number < 2 ? kBlob.substr(0, 5 + 5 * number) : kBlob, kBlob.size());
  });
  EXPECT_EQ(Blob(server, DigestOf(kBlob), kBlob.size()), absl::OkStatus());
  EXPECT_EQ(taken, kBlob);
}

TEST_F(RegistryTest, CutAfterTheLastByte) {
  Server server([](const std::string&, int number) {
    if (number == 0) return Answer("200 OK", "", kBlob, kBlob.size() + 1);
    return Answer("416 Range Not Satisfiable", "", "");
  });
  EXPECT_EQ(Blob(server, DigestOf(kBlob), kBlob.size()), absl::OkStatus());
}

TEST_F(RegistryTest, WrongContentIsDataLoss) {
  Server server([](const std::string&, int) { return Answer("200 OK", "", kBlob); });
  EXPECT_EQ(Blob(server, DigestOf("other"), kBlob.size()).code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(Blob(server, DigestOf(kBlob), kBlob.size() - 1).code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(taken, "");  // what was wrong is taken back
  EXPECT_EQ(Blob(server, DigestOf(kBlob), kBlob.size() + 1).code(), absl::StatusCode::kDataLoss);
  auto manifest = client.FetchManifest({server.host(), "a/b", "", ""}, DigestOf("other"), {}, {});
  EXPECT_EQ(manifest.status().code(), absl::StatusCode::kDataLoss);
}

TEST_F(RegistryTest, RetriesServerErrorsOnly) {
  Server server([](const std::string&, int number) {
    if (number == 0) return Answer("500 Oops", "", "");
    if (number == 1) return Answer("429 Slow", "Retry-After: 60\r\n", "");
    return Answer("200 OK", "", kManifest);
  });
  auto got = client.FetchManifest({server.host(), "a/b", "t", ""}, "t", {}, {});
  ASSERT_EQ(got.status(), absl::OkStatus());
  EXPECT_EQ(got->bytes, kManifest);
  EXPECT_EQ(got->digest, DigestOf(kManifest));
  EXPECT_EQ(server.requests().size(), 3u);
  for (auto [text, code] : {std::pair("404 No", absl::StatusCode::kNotFound),
                            std::pair("401 No", absl::StatusCode::kUnauthenticated),
                            std::pair("403 No", absl::StatusCode::kPermissionDenied)}) {
    Server refusing([text = text](const std::string&, int) { return Answer(text, "", ""); });
    EXPECT_EQ(client.FetchManifest({refusing.host(), "a/b", "t", ""}, "t", {}, {}).status().code(), code);
    EXPECT_EQ(refusing.requests().size(), 1u);
  }
}

TEST_F(RegistryTest, BearerTokenIsKept) {
  Server* self = nullptr;
  std::atomic<int> token_requests = 0;
  Server server([&](const std::string& request, int) {
    if (Has(request, "GET /token")) {
      if (token_requests++ == 0) return Answer("503 Busy", "", "");
      EXPECT_TRUE(Has(request, "service=reg&scope=repository%3Aa%2Fb%3Apull")) << request;
      EXPECT_TRUE(Has(request, "Authorization: Basic dTpw\r\n")) << request;  // u:p
      return Answer("200 OK", "", R"({"token":"T1"})");
    }
    if (Has(request, "Authorization: Bearer T1\r\n")) return Answer("200 OK", "", kBlob);
    return Answer("401 No",
                  Cat("WWW-Authenticate: Bearer realm=\"http://", self->host(),
                      "/token\",service=\"reg\",scope=\"repository:a/b:pull\"\r\n"),
                  "");
  });
  self = &server;
  Credentials who;
  who.auth = "dTpw";
  EXPECT_EQ(Blob(server, DigestOf(kBlob), kBlob.size(), who), absl::OkStatus());
  size_t before = server.requests().size();
  EXPECT_EQ(Blob(server, DigestOf(kBlob), kBlob.size(), who), absl::OkStatus());
  EXPECT_EQ(server.requests().size(), before + 1);
}

TEST_F(RegistryTest, RedirectLosesCredentials) {
  Server storage([](const std::string& request, int) {
    EXPECT_FALSE(Has(request, "Authorization")) << request;
    return Answer("200 OK", "", kBlob);
  });
  Server server([&](const std::string& request, int) {
    if (!Has(request, "Authorization: Basic dTpw\r\n"))
      return Answer("401 No", "WWW-Authenticate: Basic realm=x\r\n", "");
    return Answer("307 There", Cat("Location: http://", storage.host(), "/x\r\n"), "");
  });
  Credentials who;
  who.username = "u";
  who.password = "p";
  EXPECT_EQ(Blob(server, DigestOf(kBlob), kBlob.size(), who), absl::OkStatus());
  EXPECT_EQ(storage.requests().size(), 1u);
  // Meant for another server: not given.
  Server asking([](const std::string& request, int) {
    EXPECT_FALSE(Has(request, "Authorization")) << request;
    return Answer("401 No", "WWW-Authenticate: Basic realm=x\r\n", "");
  });
  who.server_address = "https://elsewhere.test/v1/";
  EXPECT_EQ(Blob(asking, DigestOf(kBlob), kBlob.size(), who).code(), absl::StatusCode::kUnauthenticated);
}

TEST_F(RegistryTest, Cancelled) {
  Server server([](const std::string&, int) { return Answer("500 Oops", "", ""); });
  std::atomic<int> asked = 0;
  EXPECT_EQ(Blob(server, DigestOf(kBlob), kBlob.size(), {}, [&] { return ++asked > 3; }).code(),
            absl::StatusCode::kCancelled);
}

// A registry behind a mirror, as hosts.toml says it.
struct MirrorTest : Fixture {
  void SetUp() override {
    char name[] = "/tmp/registry_test.XXXXXX";
    ASSERT_NE(mkdtemp(name), nullptr);
    dir = name;
  }
  void TearDown() override { EXPECT_TRUE(RemoveTree(dir).ok()); }
  // The client for images of "registry.test".
  std::unique_ptr<RegistryClient> Client(Server& mirror, Server& registry) {
    EXPECT_TRUE(MakeDirs(dir + "/registry.test").ok());
    std::ofstream(dir + "/registry.test/hosts.toml")
        << "server = \"http://" << registry.host() << "\"\n[host.\"http://" << mirror.host() << "\"]\n";
    return std::make_unique<RegistryClient>(dir, times);
  }
  const Reference reference{"registry.test", "a/b", "t", ""};
  std::string dir;
};

TEST_F(MirrorTest, WhatAMirrorSendsBrokenComesFromTheRegistry) {
  Server registry([](const std::string& request, int) {
    EXPECT_FALSE(Has(request, "Range:")) << request;
    return Answer("200 OK", "", Has(request, "/blobs/") ? kBlob : kManifest);
  });
  const std::string liar(kBlob.size(), 'x');
  for (const std::string& answer :
       {Answer("200 OK", "", "<html>log in</html>"), Answer("200 OK", "", kManifest + " "),
        Answer("200 OK", "", liar), Answer("200 OK", "", liar + "y"), Answer("404 No", "", ""),
        Answer("403 No", "", ""), Answer("302 There", "Location: http://127.0.0.1:1/\r\n", "")}) {
    Server mirror([&](const std::string& request, int) {
      EXPECT_TRUE(Has(request, "?ns=registry.test ")) << request;
      return answer;
    });
    auto client = Client(mirror, registry);
    auto got = client->FetchManifest(reference, DigestOf(kManifest), {}, {});
    ASSERT_EQ(got.status(), absl::OkStatus()) << answer;
    EXPECT_EQ(got->bytes, kManifest);
    taken.clear();
    EXPECT_EQ(client->FetchBlob(reference, DigestOf(kBlob), kBlob.size(), {}, Taking(), {}),
              absl::OkStatus());
    EXPECT_EQ(taken, kBlob);
    EXPECT_GE(mirror.requests().size(), 2u);
  }
  EXPECT_EQ(restarts, 2);  // of two the sink had taken bytes
}

TEST_F(MirrorTest, TheRegistryGoesOnWhereTheMirrorWasCutAndStartsAnewIfThatWasWrong) {
  for (const std::string& start : {kBlob.substr(0, 8), std::string(8, 'x')}) {
    Server mirror([&](const std::string&, int number) {
      return number == 0 ? Answer("200 OK", "", start, kBlob.size()) : Answer("404 No", "", "");
    });
    Server registry([](const std::string& request, int) {
      if (!Has(request, "Range: bytes=8-\r\n")) return Answer("200 OK", "", kBlob);
      return Answer("206 Partial Content", "Content-Range: bytes 8-19/20\r\n", kBlob.substr(8));
    });
    auto client = Client(mirror, registry);
    taken.clear();
    EXPECT_EQ(client->FetchBlob(reference, DigestOf(kBlob), kBlob.size(), {}, Taking(), {}),
              absl::OkStatus());
    EXPECT_EQ(taken, kBlob);
    EXPECT_EQ(registry.requests().size(), start[0] == 'x' ? 2u : 1u);
  }
}

TEST_F(RegistryTest, ADeadPortIsGivenUpSoon) {
  std::string host;
  {
    Server gone([](const std::string&, int) { return ""; });
    host = gone.host();
  }
  RegistryClient patient("");  // with the times of a daemon
  auto start = std::chrono::steady_clock::now();
  absl::Status status = patient.FetchManifest({host, "a/b", "t", ""}, "t", {}, {}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(3));
}

TEST_F(RegistryTest, ASlowServerIsGivenUp) {
  // The connection is accepted by the kernel and never answered.
  int silent = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  ASSERT_EQ(bind(silent, reinterpret_cast<sockaddr*>(&address), size), 0);
  ASSERT_EQ(listen(silent, 16), 0);
  getsockname(silent, reinterpret_cast<sockaddr*>(&address), &size);
  times.stall = std::chrono::seconds(1);
  RegistryClient impatient("", times);
  Reference reference{Cat("127.0.0.1:", ntohs(address.sin_port)), "a/b", "t", ""};
  absl::Status status = impatient.FetchManifest(reference, "t", {}, {}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
  close(silent);
}

}  // namespace
}  // namespace sock::oci
