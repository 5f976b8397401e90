#include "threads.h"

#include <map>
#include <thread>

namespace octet {

Thread::Thread() : queue(std::make_shared<Queue>()) {
  std::thread([queue = queue] {
    for (;;) {
      std::unique_lock lock(queue->mutex);
      queue->changed.wait(lock, [&] { return queue->ended || !queue->actions.empty(); });
      if (queue->actions.empty()) return;
      std::function<void()> action = std::move(queue->actions.front());
      queue->actions.pop_front();
      lock.unlock();
      action();
    }
  }).detach();
}

Thread::~Thread() {
  const std::lock_guard lock(queue->mutex);
  queue->ended = true;
  queue->changed.notify_one();
}

void Thread::post(std::function<void()> action) {
  const std::lock_guard lock(queue->mutex);
  queue->actions.push_back(std::move(action));
  queue->changed.notify_one();
}

Thread& deviceThread(int64_t device) {
  // Never destroyed: threads use them until the process ends.
  static auto& mutex = *new std::mutex;
  static auto& threads = *new std::map<int64_t, Thread>;
  const std::lock_guard lock(mutex);
  return threads[device];
}

void startThread(std::function<void()> action) { std::thread(std::move(action)).detach(); }

}  // namespace octet
