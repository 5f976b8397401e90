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

/** A thread that runs actions in order. It ends after its last action if the object is gone. */
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
 * The only thread that runs the sessions of a device, by its index: cuDNN stores its plans per thread, CUDA graphs belong to one, and
 * onnxruntime's memory grows if runs of a session come from different threads.
 */
Thread& deviceThread(int64_t device);

template <class Action>
auto onThread(Thread& thread, Action action) -> Work<decltype(action())> {
  return {[&thread](std::function<void()> task) { thread.post(std::move(task)); }, std::move(action)};
}

void startThread(std::function<void()> action);

/** Work for a thread that exists only for it, because it may take seconds. */
template <class Action>
auto onNewThread(Action action) -> Work<decltype(action())> {
  return {startThread, std::move(action)};
}

}  // namespace octet
