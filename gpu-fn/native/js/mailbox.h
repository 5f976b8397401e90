// Dispatch of actions from other threads to the thread of a JavaScript environment.
#pragma once
#include <node-api/node_api.h>

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>

namespace octet::js {

/** Runs actions on the thread of an environment until the environment ends. Unfinished work keeps its event loop alive. */
class Mailbox {
 public:
  explicit Mailbox(napi_env env);

  /** Runs an action on JavaScript's thread, or discards it if the environment has ended. Can be called on any thread. */
  void post(std::function<void(napi_env)> action);
  /** Marks the beginning and the end of work. Must be called on JavaScript's thread. */
  void begin(napi_env env);
  void end(napi_env env);
  bool isClosed() const { return closed; }

 private:
  std::mutex mutex;
  napi_threadsafe_function function = nullptr;
  std::atomic<bool> closed = false;
  int unfinished = 0;
};

/** The mailbox of an environment. */
const std::shared_ptr<Mailbox>& mailboxOf(napi_env env);

}  // namespace octet::js
