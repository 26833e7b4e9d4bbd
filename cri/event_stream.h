// A client's stream of GetContainerEvents.
#pragma once

#include <grpcpp/grpcpp.h>

#include <deque>
#include <memory>
#include <mutex>

#include "cri/events.h"

namespace sock::cri {

// Queues what the client has not taken yet; one that lags too far behind is cut off with RESOURCE_EXHAUSTED,
// as events must not be lost in silence. It owns itself until gRPC is done with it.
class EventStream final : public grpc::ServerWriteReactor<::runtime::v1::ContainerEventResponse>,
                          public std::enable_shared_from_this<EventStream> {
 public:
  static constexpr size_t kMaxQueue = 4096;

  // `events` outlives the server.
  static EventStream* Start(Events* events) {
    auto stream = std::shared_ptr<EventStream>(new EventStream(events));
    stream->self_ = stream;
    stream->StartSendInitialMetadata();  // the client knows from here on that it misses nothing
    stream->listener_ = events->Add([stream](const Event& event) { stream->Push(event); });
    return stream.get();
  }

 private:
  using Event = ::runtime::v1::ContainerEventResponse;
  explicit EventStream(Events* events) : events_(events) {}

  void Push(const Event& event) {
    {
      std::lock_guard lock(mutex_);
      if (ended_) return;
      if (queue_.size() == kMaxQueue) {
        end_ = grpc::Status(grpc::StatusCode::RESOURCE_EXHAUSTED,
                            "events: the client does not take them fast enough");
        queue_.resize(1);  // the one that is being written
      } else if (end_.ok()) {
        queue_.push_back(event);
      }
    }
    Next(false);
  }

  // No call into gRPC is made with the lock held: its reaction may run inside it.
  void Next(bool written) {
    const Event* event = nullptr;
    {
      std::lock_guard lock(mutex_);
      if (written) {
        writing_ = false;
        if (!queue_.empty()) queue_.pop_front();
      }
      if (writing_ || ended_) return;
      if (!end_.ok()) {
        ended_ = true;
      } else if (!queue_.empty()) {
        writing_ = true;
        event = &queue_.front();
      } else {
        return;
      }
    }
    if (event) {
      StartWrite(event);
    } else {
      Finish(end_);
    }
  }

  void End() {
    {
      std::lock_guard lock(mutex_);
      if (end_.ok()) end_ = grpc::Status::CANCELLED;
    }
    Next(false);
  }

  void OnWriteDone(bool ok) override {
    if (!ok) End();
    Next(true);
  }
  void OnCancel() override { End(); }
  void OnDone() override {
    events_->Remove(listener_);
    auto last = std::move(self_);
  }

  Events* const events_;
  int listener_ = 0;
  std::shared_ptr<EventStream> self_;
  std::mutex mutex_;
  std::deque<Event> queue_;  // its first is being written while writing_
  bool writing_ = false, ended_ = false;
  grpc::Status end_;
};

}  // namespace sock::cri
