#include "cri/metrics.h"

#include <sys/stat.h>
#include <unistd.h>

#include <boost/asio.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
#include <charconv>
#include <optional>
#include <thread>

#include "runtime/base/status.h"
#include "runtime/base/text.h"

namespace sock::cri {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = beast::http;

constexpr std::chrono::seconds kPatience{10};
constexpr uint32_t kMaxHeader = 8192;

// One connection.
template <typename Protocol>
class Session : public std::enable_shared_from_this<Session<Protocol>> {
 public:
  Session(typename Protocol::socket socket, const std::function<std::string()>& text)
      : stream_(std::move(socket)), text_(text) {}

  void Read() {
    parser_.emplace();
    parser_->header_limit(kMaxHeader);
    stream_.expires_after(kPatience);
    http::async_read(stream_, buffer_, *parser_,
                     [self = this->shared_from_this()](beast::error_code error, size_t) {
                       if (!error) self->Answer();
                     });
  }

 private:
  void Answer() {
    const auto& request = parser_->get();
    const auto target = request.target();
    const bool get = request.method() == http::verb::get, head = request.method() == http::verb::head;
    response_ = {};
    response_.version(request.version());
    response_.keep_alive(request.keep_alive());
    response_.set(http::field::content_type, "text/plain; version=0.0.4; charset=utf-8");
    if (!get && !head) {
      response_.result(http::status::method_not_allowed);
      response_.set(http::field::allow, "GET, HEAD");
    } else if (target.substr(0, target.find('?')) != "/metrics") {
      response_.result(http::status::not_found);
    } else {
      response_.body() = text_();
    }
    response_.prepare_payload();
    if (head) response_.body().clear();
    http::async_write(stream_, response_, [self = this->shared_from_this()](beast::error_code error, size_t) {
      if (!error && self->response_.keep_alive()) self->Read();
    });
  }

  beast::basic_stream<Protocol> stream_;
  const std::function<std::string()>& text_;
  beast::flat_buffer buffer_;
  std::optional<http::request_parser<http::empty_body>> parser_;
  http::response<http::string_body> response_;
};

template <typename Protocol>
class Server : public MetricsServer {
 public:
  Server(const typename Protocol::endpoint& endpoint, std::string path, std::function<std::string()> text)
      : text_(std::move(text)), acceptor_(io_, endpoint), path_(std::move(path)) {
    if (!path_.empty()) chmod(path_.c_str(), 0600);
    Accept();
    thread_ = std::thread([this] { io_.run(); });
  }
  ~Server() override {
    io_.stop();
    thread_.join();
    if (!path_.empty()) unlink(path_.c_str());
  }

 private:
  void Accept() {
    acceptor_.async_accept([this](beast::error_code error, typename Protocol::socket socket) {
      if (error == asio::error::operation_aborted) return;
      if (!error) std::make_shared<Session<Protocol>>(std::move(socket), text_)->Read();
      Accept();
    });
  }

  const std::function<std::string()> text_;
  asio::io_context io_{1};
  typename Protocol::acceptor acceptor_;
  const std::string path_;
  std::thread thread_;
};

absl::StatusOr<asio::ip::tcp::endpoint> ParseAddress(const std::string& listen) {
  const size_t colon = listen.rfind(':');
  std::string host = listen.substr(0, colon);
  if (host.starts_with('[') && host.ends_with(']')) host = host.substr(1, host.size() - 2);
  uint16_t port = 0;
  boost::system::error_code error;
  const auto address = asio::ip::make_address(host, error);
  if (colon == std::string::npos || error || !address.is_loopback())
    return absl::InvalidArgumentError(
        Cat("`", listen, "` is neither unix:/PATH nor a loopback address with a port"));
  const char *begin = listen.data() + colon + 1, *end = listen.data() + listen.size();
  if (auto [at, wrong] = std::from_chars(begin, end, port); wrong != std::errc() || at != end)
    return absl::InvalidArgumentError(Cat("`", listen, "` has no port"));
  return asio::ip::tcp::endpoint(address, port);
}

class Text {
 public:
  void Family(const char* name, const char* type, const char* help) {
    name_ = name;
    text_ += Cat("# HELP ", name, " ", help, "\n# TYPE ", name, " ", type, "\n");
  }
  using Labels = std::vector<std::pair<const char*, std::string>>;
  void Sample(const Labels& labels, double value) {
    text_ += name_;
    const char* before = "{";
    for (const auto& [name, content] : labels) {
      text_ += Cat(before, name, "=\"");
      for (const char c : content) {
        if (c == '\n') {
          text_ += "\\n";
          continue;
        }
        if (c == '"' || c == '\\') text_ += '\\';
        text_ += c;
      }
      text_ += '"';
      before = ",";
    }
    text_ += fmt::format("{} {}\n", labels.empty() ? "" : "}", value);
  }
  std::string Take() { return std::move(text_); }

 private:
  std::string name_, text_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<MetricsServer>> MetricsServer::Start(const std::string& listen,
                                                                    std::function<std::string()> text) {
  try {
    if (listen.starts_with("unix:/")) {
      const std::string path = listen.substr(5);
      struct stat old;
      if (lstat(path.c_str(), &old) == 0 && S_ISSOCK(old.st_mode)) unlink(path.c_str());
      return std::make_unique<Server<asio::local::stream_protocol>>(
          asio::local::stream_protocol::endpoint(path), path, std::move(text));
    }
    ASSIGN_OR_RETURN(asio::ip::tcp::endpoint endpoint, ParseAddress(listen));
    return std::make_unique<Server<asio::ip::tcp>>(endpoint, "", std::move(text));
  } catch (const std::exception& error) {
    return absl::UnavailableError(Cat("listen on `", listen, "`: ", error.what()));
  }
}

std::string CountMetrics(const std::map<std::string, uint64_t>& pods,
                         const std::map<std::string, uint64_t>& containers,
                         const runtime::NetworkCheckCounts& checks) {
  Text text;
  text.Family("cri_sock_pods", "gauge", "Pods by state.");
  for (const auto& [state, count] : pods) text.Sample({{"state", state}}, static_cast<double>(count));
  text.Family("cri_sock_containers", "gauge", "Containers by state.");
  for (const auto& [state, count] : containers) text.Sample({{"state", state}}, static_cast<double>(count));
  text.Family("cri_sock_cni_check_pods", "gauge",
              "Pods by the result of the last CNI CHECK; those never checked count as neither.");
  text.Sample({{"result", "ok"}}, static_cast<double>(checks.ok));
  text.Sample({{"result", "failed"}}, static_cast<double>(checks.failed));
  return text.Take();
}

std::string ZygoteMetrics(const zygote::ZygotesStatus& all, std::chrono::system_clock::time_point now) {
  using Status = zygote::ZygoteStatus;
  struct Metric {
    const char *name, *type, *help;
    std::vector<std::pair<Text::Labels, std::function<double(const Status&)>>> samples;
  };
  auto of = [](auto member) { return [member](const Status& s) { return static_cast<double>(s.*member); }; };
  auto memory = [](runtime::MemoryUse Status::*which) {
    return std::vector<std::pair<Text::Labels, std::function<double(const Status&)>>>{
        {{{"kind", "private"}}, [which](const Status& s) { return double((s.*which).private_bytes); }},
        {{{"kind", "shared"}}, [which](const Status& s) { return double((s.*which).shared_bytes); }},
        {{{"kind", "proportional"}},
         [which](const Status& s) { return double((s.*which).proportional_bytes); }}};
  };
  const Metric metrics[] = {
      {"cri_sock_zygote_hits_total",
       "counter",
       "Containers that were forked from it.",
       {{{}, of(&Status::hits)}}},
      {"cri_sock_zygote_misses_total",
       "counter",
       "Containers that asked for it and were started plainly.",
       {{{}, of(&Status::misses)}}},
      {"cri_sock_zygote_predictions_total",
       "counter",
       "Sandboxes that were made for it: all; those in which it was asked for; those that ended without.",
       {{{{"outcome", "made"}}, of(&Status::predicted)},
        {{{"outcome", "hit"}}, of(&Status::predicted_hits)},
        {{{"outcome", "miss"}}, of(&Status::predicted_misses)}}},
      {"cri_sock_zygote_saved_seconds_total",
       "counter",
       "Start and import time that its containers did not need.",
       {{{}, [](const Status& s) { return static_cast<double>(s.saved_ms) / 1000; }}}},
      {"cri_sock_zygote_forks",
       "gauge",
       "Containers that were forked from it since it was made.",
       {{{}, of(&Status::forks)}}},
      {"cri_sock_zygote_ready",
       "gauge",
       "Whether it is there.",
       {{{}, [](const Status& s) { return s.state == "ready" ? 1.0 : 0.0; }}}},
      {"cri_sock_zygote_frozen", "gauge", "Whether it is frozen, being idle.", {{{}, of(&Status::frozen)}}},
      {"cri_sock_zygote_age_seconds",
       "gauge",
       "Since it was made; 0 where it is not there.",
       {{{},
         [now](const Status& s) {
           return s.state == "ready" ? std::chrono::duration<double>(now - s.made_at).count() : 0.0;
         }}}},
      {"cri_sock_zygote_parked", "gauge", "Its processes that wait for a pod.", {{{}, of(&Status::parked)}}},
      {"cri_sock_zygote_cgroup_memory_bytes",
       "gauge",
       "What its cgroup is charged for, files as well.",
       {{{}, of(&Status::memory_bytes)}}},
      {"cri_sock_zygote_memory_bytes", "gauge", "Resident memory of it and of what is parked.",
       memory(&Status::memory)},
      {"cri_sock_zygote_containers",
       "gauge",
       "Living containers of it, or of one before it.",
       {{{}, of(&Status::containers)}}},
      {"cri_sock_zygote_containers_memory_bytes", "gauge",
       "Resident memory of these, looked at once a minute.", memory(&Status::containers_memory)},
  };
  Text text;
  for (const Metric& metric : metrics) {
    text.Family(metric.name, metric.type, metric.help);
    for (const Status& status : all.zygotes)
      for (const auto& [more, value] : metric.samples) {
        Text::Labels labels{
            {"zygote", status.key}, {"image", status.image}, {"namespace", status.trust_domain}};
        labels.insert(labels.end(), more.begin(), more.end());
        text.Sample(labels, value(status));
      }
  }
  text.Family("cri_sock_plain_starts_total", "counter",
              "Containers of handler `sock` that were not forked, by reason.");
  for (const auto& [reason, count] : all.misses)
    text.Sample({{"reason", reason}}, static_cast<double>(count));
  text.Family("cri_sock_zygotes_retained_memory_bytes", "gauge",
              "What containers hold of Zygotes that have ended.");
  text.Sample({}, static_cast<double>(all.retained_bytes));
  text.Family("cri_sock_zygotes_memory_budget_bytes", "gauge", "What all Zygotes may hold together.");
  text.Sample({}, static_cast<double>(all.memory_budget));
  return text.Take();
}

}  // namespace sock::cri
