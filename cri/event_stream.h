// A client's stream of GetContainerEvents.
#pragma once

#include <grpcpp/grpcpp.h>

#include <chrono>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>

#include "absl/cleanup/cleanup.h"
#include "cri/events.h"

namespace sock::cri {

constexpr size_t kMaxEventQueue = 4096;

// Tells the client of `events` until it goes away or the server ends. What it has not taken yet is queued;
// one that lags too far behind is cut off with RESOURCE_EXHAUSTED, as events must not be lost in silence.
//
// In a thread of the server, not as one of gRPC's callbacks: a server with one of these has threads in
// gRPC 1.51 that poll for all calls and sleep 100 ms in each second, when every call waits for them.
inline grpc::Status StreamEvents(Events* events, grpc::ServerContext* context,
                                 grpc::ServerWriter<::runtime::v1::ContainerEventResponse>* writer) {
  using Event = ::runtime::v1::ContainerEventResponse;
  using namespace std::chrono_literals;
  struct Queue {
    std::mutex mutex;
    std::condition_variable more;
    std::deque<Event> events;
    bool over = false;
  };
  auto queue = std::make_shared<Queue>();  // the listener may be called once more when this has returned
  const int listener = events->Add([queue](const Event& event) {
    std::lock_guard lock(queue->mutex);
    queue->over = queue->over || queue->events.size() == kMaxEventQueue;
    if (queue->over) {
      queue->events.clear();
    } else {
      queue->events.push_back(event);
    }
    queue->more.notify_one();
  });
  absl::Cleanup remove = [&] { events->Remove(listener); };
  writer->SendInitialMetadata();  // the client knows from here on that it misses nothing
  std::unique_lock lock(queue->mutex);
  while (!queue->over) {
    if (queue->events.empty()) {
      // Nothing wakes a thread whose client goes away: it looks.
      if (context->IsCancelled()) return grpc::Status::CANCELLED;
      queue->more.wait_for(lock, 250ms);
      continue;
    }
    const Event event = std::move(queue->events.front());
    queue->events.pop_front();
    lock.unlock();
    if (!writer->Write(event)) return grpc::Status::CANCELLED;
    lock.lock();
  }
  return {grpc::StatusCode::RESOURCE_EXHAUSTED, "events: the client does not take them fast enough"};
}

}  // namespace sock::cri
