// The addon's own threads.
#pragma once
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <type_traits>

namespace octet {

/** Runs an action on another thread. */
using Start = std::function<void(std::function<void()>)>;

/** An action for another thread, with a result or an exception. */
template <class T>
struct Work {
  Start start;
  std::function<T()> action;
};

/** A thread that runs actions in order. After destruction of the object, it runs the remaining actions and ends. */
class Thread {
 public:
  Thread();
  ~Thread();
  Thread(const Thread&) = delete;

  void post(std::function<void()> action);

 private:
  struct Queue {
    std::mutex mutex;
    std::condition_variable changed;
    std::deque<std::function<void()>> actions;
    bool ended = false;
  };
  std::shared_ptr<Queue> queue;
};

/**
 * The thread for all session runs of a device, by device index. It is the only one because cuDNN caches plans per thread, CUDA graphs are
 * bound to a thread, and onnxruntime's memory grows if a session runs on different threads.
 */
Thread& deviceThread(int64_t device);

template <class Action>
auto onThread(Thread& thread, Action action) -> Work<decltype(action())> {
  return {[&thread](std::function<void()> task) { thread.post(std::move(task)); }, std::move(action)};
}

void startThread(std::function<void()> action);

/** Work on a dedicated thread, because it may take seconds. */
template <class Action>
auto onNewThread(Action action) -> Work<decltype(action())> {
  return {startThread, std::move(action)};
}

}  // namespace octet
