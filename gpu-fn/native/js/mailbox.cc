#include "js/mailbox.h"

#include "js/js.h"

namespace octet::js {
namespace {

using Action = std::function<void(napi_env)>;

/** Runs an action on JavaScript's thread; `env` is null if the environment is ending. */
void perform(napi_env env, napi_value, void*, void* data) {
  const std::unique_ptr<Action> action(static_cast<Action*>(data));
  if (!env) return;
  try {
    (*action)(env);
  } catch (const Pending&) {
    // Node reports a pending exception. If the environment is ending, the result is discarded.
  } catch (const std::exception& error) {
    napi_fatal_error("octet", NAPI_AUTO_LENGTH, error.what(), NAPI_AUTO_LENGTH);
  }
}

}  // namespace

Mailbox::Mailbox(napi_env env) {
  napi_value name;
  check(env, napi_create_string_utf8(env, "octet", NAPI_AUTO_LENGTH, &name));
  check(env, napi_create_threadsafe_function(env, nullptr, nullptr, name, 0, 1, nullptr, nullptr, nullptr, perform, &function));
  // An idle mailbox must not keep the process alive.
  check(env, napi_unref_threadsafe_function(env, function));
  // Hooks run in reverse order of registration, so this one runs before the thread-safe function is closed.
  const auto close = [](void* data) {
    Mailbox* mailbox = static_cast<Mailbox*>(data);
    const std::lock_guard lock(mailbox->mutex);
    mailbox->closed = true;
  };
  check(env, napi_add_env_cleanup_hook(env, close, this));
}

void Mailbox::post(Action action) {
  const std::lock_guard lock(mutex);
  if (closed) return;
  auto* data = new Action(std::move(action));
  if (napi_call_threadsafe_function(function, data, napi_tsfn_nonblocking) != napi_ok) delete data;
}

void Mailbox::begin(napi_env env) {
  if (unfinished++ == 0) check(env, napi_ref_threadsafe_function(env, function));
}

void Mailbox::end(napi_env env) {
  if (--unfinished == 0) check(env, napi_unref_threadsafe_function(env, function));
}

}  // namespace octet::js
