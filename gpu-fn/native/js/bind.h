// Node-API property descriptors of C++ functions, methods and getters.
#pragma once
#include <type_traits>
#include <utility>

#include "js/js.h"
#include "threads.h"

namespace octet::js {

/** The arguments of a call. */
struct Call {
  static constexpr size_t MAX_ARGUMENTS = 8;
  napi_value self;
  napi_value arguments[MAX_ARGUMENTS];

  Call(napi_env env, napi_callback_info info) {
    size_t count = MAX_ARGUMENTS;
    check(env, napi_get_cb_info(env, info, &count, arguments, &self, nullptr));
  }
};

/** Calls `action` and converts C++ exceptions to JavaScript exceptions. */
napi_value guarded(napi_env env, const std::function<napi_value()>& action);
/** Creates a reference to the object and the arguments of a call. */
napi_ref keep(napi_env env, const Call& call);
napi_value createError(napi_env env, const std::string& message);

template <class T>
struct Result {
  static napi_value write(napi_env env, const Call&, T value) { return Type<T>::write(env, std::move(value)); }
};

/** A promise of the result. The object and the arguments of the call stay alive until it is settled. */
template <class T>
struct Result<Work<T>> {
  static napi_value write(napi_env env, const Call& call, Work<T> work) {
    napi_deferred deferred;
    napi_value promise;
    check(env, napi_create_promise(env, &deferred, &promise));
    const napi_ref kept = keep(env, call);
    const std::shared_ptr<Mailbox> mailbox = mailboxOf(env);
    mailbox->begin(env);
    work.start([=, action = std::move(work.action)]() mutable {
      std::optional<T> value;
      std::string message;
      try {
        value = action();
      } catch (const std::exception& error) {
        message = error.what();
      }
      // Releases the action's captures before the promise is settled.
      action = nullptr;
      mailbox->post([=](napi_env env) {
        mailbox->end(env);
        napi_delete_reference(env, kept);
        if (value)
          check(env, napi_resolve_deferred(env, deferred, Type<T>::write(env, *value)));
        else
          check(env, napi_reject_deferred(env, deferred, createError(env, message)));
      });
    });
    return promise;
  }
};

template <class R, class... A, class Function, size_t... I>
napi_value invoke(napi_env env, const Call& call, Function function, std::index_sequence<I...>) {
  static_assert(sizeof...(A) <= Call::MAX_ARGUMENTS);
  if constexpr (std::is_void_v<R>) {
    function(Type<std::decay_t<A>>::read(env, call.arguments[I])...);
    return Type<Nothing>::write(env, {});
  } else {
    return Result<R>::write(env, call, function(Type<std::decay_t<A>>::read(env, call.arguments[I])...));
  }
}

template <auto Function>
struct Bound;

template <class R, class... A, R (*Function)(A...)>
struct Bound<Function> {
  static napi_value call(napi_env env, napi_callback_info info) {
    return guarded(env, [&] { return invoke<R, A...>(env, Call(env, info), Function, std::index_sequence_for<A...>()); });
  }
};

template <class T, class R, class... A, R (T::*Method)(A...)>
struct Bound<Method> {
  static napi_value call(napi_env env, napi_callback_info info) {
    return guarded(env, [&] {
      const Call call(env, info);
      const std::shared_ptr<T> object = Type<std::shared_ptr<T>>::read(env, call.self);
      const auto method = [&](A... arguments) -> R { return (object.get()->*Method)(std::move(arguments)...); };
      return invoke<R, A...>(env, call, method, std::index_sequence_for<A...>());
    });
  }
};

template <auto Method>
napi_property_descriptor method(const char* name) {
  return {name, nullptr, Bound<Method>::call, nullptr, nullptr, nullptr, napi_default_method, nullptr};
}
template <auto Method>
napi_property_descriptor getter(const char* name) {
  return {name, nullptr, nullptr, Bound<Method>::call, nullptr, nullptr, napi_default, nullptr};
}
/** A static function of a class, or a function of the addon. */
template <auto Function>
napi_property_descriptor function(const char* name, bool isStatic = false) {
  const auto attributes = static_cast<napi_property_attributes>(napi_enumerable | (isStatic ? napi_static : 0));
  return {name, nullptr, Bound<Function>::call, nullptr, nullptr, nullptr, attributes, nullptr};
}

}  // namespace octet::js
