#include "oci/registry.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <fstream>
#include <mutex>
#include <thread>

#include "oci/digest.h"
#include "runtime/base/fd.h"
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

// Debian's docker-registry on loopback, with a certificate of our own, holding a/b:t.
class RealRegistryTest : public Fixture {
 protected:
  void SetUp() override {
    char name[] = "/tmp/registry_test.XXXXXX";
    ASSERT_NE(mkdtemp(name), nullptr);
    dir_ = name;
    ASSERT_EQ(
        Shell("openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout key.pem "
              "-out ca.crt -subj /CN=test -addext subjectAltName=IP:127.0.0.1 -days 2"),
        0);
    for (const std::string& blob : {layer_, config_, manifest_}) {
      ASSERT_TRUE(MakeDirs(dir_ + "/layout/blobs/sha256").ok());
      std::ofstream(dir_ + "/layout/blobs/sha256/" + DigestOf(blob).substr(7)) << blob;
    }
    std::ofstream(dir_ + "/layout/oci-layout") << R"({"imageLayoutVersion":"1.0.0"})";
    std::ofstream(dir_ + "/layout/index.json")
        << R"({"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json",)"
        << R"("digest":")" << DigestOf(manifest_) << R"(","size":)" << manifest_.size() << "}]}";
  }
  void TearDown() override {
    if (pid_ > 0) {
      kill(pid_, SIGKILL);
      waitpid(pid_, nullptr, 0);
    }
    EXPECT_TRUE(RemoveTree(dir_).ok());
  }
  int Shell(const std::string& command) {
    return system(Cat("cd ", dir_, " && ", command, " >>log 2>&1 || { cat log; false; }").c_str());
  }
  // Starts it, with `auth` in its configuration, and pushes the image.
  void Start(const std::string& auth, const std::string& credentials) {
    std::ofstream(dir_ + "/config.yml")
        << "version: 0.1\nlog: {level: info}\nstorage: {filesystem: {rootdirectory: " << dir_ << "/data}}\n"
        << "http: {addr: \"127.0.0.1:0\", secret: x, tls: {certificate: " << dir_ << "/ca.crt, key: " << dir_
        << "/key.pem}}\n"
        << auth;
    auto pipe = MakePipe();
    ASSERT_TRUE(pipe.ok());
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, pipe->write.get(), 2);
    posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", O_WRONLY, 0);
    std::string config = dir_ + "/config.yml";
    char program[] = "docker-registry", serve[] = "serve";
    char* arguments[] = {program, serve, config.data(), nullptr};
    ASSERT_EQ(posix_spawnp(&pid_, program, &actions, nullptr, arguments, environ), 0);
    posix_spawn_file_actions_destroy(&actions);
    pipe->write.Reset();
    // It says which port the kernel gave it; what it says later goes to a closed pipe, which Go ignores.
    std::string log;
    const std::string words = "listening on 127.0.0.1:";
    char buffer[4096];
    while (log.find(", tls", std::min(log.find(words), log.size())) == std::string::npos) {
      ssize_t got = read(pipe->read.get(), buffer, sizeof buffer);
      ASSERT_GT(got, 0) << log;
      log.append(buffer, static_cast<size_t>(got));
    }
    log.erase(0, log.find(words) + words.size());
    host_ = "127.0.0.1:" + log.substr(0, log.find(','));
    log_ = std::move(pipe->read);
    ASSERT_EQ(Shell(Cat("mkdir -p certs && cp ca.crt certs && skopeo copy --preserve-digests "
                        "--insecure-policy --dest-cert-dir certs ",
                        credentials, " oci:layout docker://", host_, "/a/b:t")),
              0);
  }
  // A client whose hosts.toml for `host` says `text`.
  std::unique_ptr<RegistryClient> Client(const std::string& host, const std::string& text) {
    EXPECT_TRUE(MakeDirs(Cat(dir_, "/", host)).ok());
    std::ofstream(Cat(dir_, "/", host, "/hosts.toml")) << text;
    return std::make_unique<RegistryClient>(dir_, times);
  }
  absl::Status Fetch(RegistryClient& from, const std::string& host, const Credentials& who = {}) {
    const Reference reference{host, "a/b", "t", ""};
    auto manifest = from.FetchManifest(reference, "t", who, {});
    if (!manifest.ok()) return manifest.status();
    EXPECT_EQ(manifest->digest, DigestOf(manifest_));
    taken.clear();
    absl::Status blob = from.FetchBlob(reference, DigestOf(layer_), layer_.size(), who, Taking(), {});
    EXPECT_EQ(taken, blob.ok() ? layer_ : "");
    return blob;
  }
  const std::string layer_ = std::string(1 << 20, 'l');
  const std::string config_ =
      R"({"os":"linux","architecture":"amd64","rootfs":{"type":"layers","diff_ids":[]}})";
  const std::string manifest_ = Cat(
      R"({"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":)",
      R"("application/vnd.oci.image.config.v1+json","digest":")", DigestOf(config_), R"(","size":)",
      config_.size(), R"(},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":")",
      DigestOf(layer_), R"(","size":)", layer_.size(), "}]}");
  std::string dir_, host_;
  pid_t pid_ = 0;
  Fd log_;
};

TEST_F(RealRegistryTest, PasswordsOverTlsOfAnOwnAuthority) {
  std::ofstream(dir_ + "/htpasswd") << "u:$2y$04$2tyhZ4PlqlqV2eV4NIuhFutUH6/SgCLsw0sjJm9SWkpqCDFe0O/FG\n";
  Start(Cat("auth: {htpasswd: {realm: r, path: ", dir_, "/htpasswd}}\n"), "--dest-creds u:p");
  if (HasFatalFailure()) return;
  Credentials who;
  who.username = "u";
  who.password = "p";
  const std::string server = Cat("server = \"https://", host_, "\"\n");
  absl::Status status = Fetch(*Client(host_, server), host_, who);
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
  EXPECT_TRUE(Has(std::string(status.message()), "certificate")) << status;
  auto trusting = Client(host_, server + "ca = \"../ca.crt\"\n");
  EXPECT_EQ(Fetch(*trusting, host_, who), absl::OkStatus());
  EXPECT_EQ(Fetch(*trusting, host_).code(), absl::StatusCode::kUnauthenticated);
  who.password = "q";
  EXPECT_EQ(Fetch(*trusting, host_, who).code(), absl::StatusCode::kUnauthenticated);
  who.password = "p";
  EXPECT_EQ(trusting->FetchManifest({host_, "a/b", "", ""}, "none", who, {}).status().code(),
            absl::StatusCode::kNotFound);
}

TEST_F(RealRegistryTest, AnOwnAuthorityHoldsWhereARedirectLeads) {
  Start("", "");
  if (HasFatalFailure()) return;
  Server front([&](const std::string& request, int) {
    std::string path = request.substr(4, request.find(' ', 4) - 4);
    return Answer("307 There", Cat("Location: https://", host_, path.substr(0, path.find('?')), "\r\n"), "");
  });
  const std::string server = Cat("server = \"http://", front.host(), "\"\n");
  EXPECT_EQ(Fetch(*Client("registry.test", server), "registry.test").code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(Fetch(*Client("registry.test", server + "ca = \"../ca.crt\"\n"), "registry.test"),
            absl::OkStatus());
}

}  // namespace
}  // namespace sock::oci
