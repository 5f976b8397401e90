// C++ bindings for Node-API: conversion of values, classes, and promises of work on other threads. The parameter and result types of a
// bound function require a specialization of `Type`. Exceptions become JavaScript Errors with the same message.
#pragma once
#include <node-api/node_api.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "js/mailbox.h"

namespace octet::js {

/** Thrown if a JavaScript exception is pending, or the environment is ending. */
struct Pending : std::exception {};

/** Throws `Pending`, or an exception with the message of Node-API, if a call failed. */
void check(napi_env env, napi_status status);

/** The result of a function without a value. */
struct Nothing {};

/** Properties of an object, in order. */
template <class T>
using Record = std::vector<std::pair<std::string, T>>;

/** The memory of a typed array, valid until the end of the call or, for an asynchronous call, until its promise is settled. */
struct TypedArray {
  napi_typedarray_type type;
  size_t length;
  size_t bytes;
  const void* data;
};

/** Conversion of a type. `read` converts a JavaScript value and throws if it has another type; `write` creates a JavaScript value. */
template <class T>
struct Type;

template <>
struct Type<Nothing> {
  static napi_value write(napi_env env, Nothing);
};
template <>
struct Type<bool> {
  static bool read(napi_env env, napi_value value);
  static napi_value write(napi_env env, bool value);
};
/** A size, an index or a count as a number. `read` also throws for fractions and negative numbers. */
template <>
struct Type<int64_t> {
  static int64_t read(napi_env env, napi_value value);
  static napi_value write(napi_env env, int64_t value);
};
/** An address or a handle as a BigInt. */
template <>
struct Type<uint64_t> {
  static uint64_t read(napi_env env, napi_value value);
  static napi_value write(napi_env env, uint64_t value);
};
template <>
struct Type<std::string> {
  static std::string read(napi_env env, napi_value value);
  static napi_value write(napi_env env, const std::string& value);
};
template <>
struct Type<TypedArray> {
  static TypedArray read(napi_env env, napi_value value);
};

bool isNullish(napi_env env, napi_value value);
napi_value property(napi_env env, napi_value object, const char* name);
std::vector<std::string> propertyNames(napi_env env, napi_value object);

/** A property of an object. */
template <class T>
T field(napi_env env, napi_value object, const char* name) {
  return Type<T>::read(env, property(env, object, name));
}

/** An optional value, absent for null and undefined. */
template <class T>
struct Type<std::optional<T>> {
  static std::optional<T> read(napi_env env, napi_value value) {
    if (isNullish(env, value)) return std::nullopt;
    return Type<T>::read(env, value);
  }
  static napi_value write(napi_env env, const std::optional<T>& value) {
    if (value) return Type<T>::write(env, *value);
    napi_value null;
    check(env, napi_get_null(env, &null));
    return null;
  }
};

template <class T>
struct Type<std::vector<T>> {
  static std::vector<T> read(napi_env env, napi_value value) {
    uint32_t length = 0;
    check(env, napi_get_array_length(env, value, &length));
    std::vector<T> elements;
    for (uint32_t i = 0; i < length; i++) {
      napi_value element;
      check(env, napi_get_element(env, value, i, &element));
      elements.push_back(Type<T>::read(env, element));
    }
    return elements;
  }
  static napi_value write(napi_env env, const std::vector<T>& elements) {
    napi_value array;
    check(env, napi_create_array_with_length(env, elements.size(), &array));
    for (uint32_t i = 0; i < elements.size(); i++)
      check(env, napi_set_element(env, array, i, Type<T>::write(env, elements[i])));
    return array;
  }
};

template <class T>
struct Type<Record<T>> {
  static Record<T> read(napi_env env, napi_value value) {
    Record<T> record;
    for (const std::string& name : propertyNames(env, value)) record.emplace_back(name, field<T>(env, value, name.c_str()));
    return record;
  }
  static napi_value write(napi_env env, const Record<T>& record) {
    napi_value object;
    check(env, napi_create_object(env, &object));
    for (const auto& [name, value] : record)
      check(env, napi_set_named_property(env, object, name.c_str(), Type<T>::write(env, value)));
    return object;
  }
};

/** Registers a class of objects that hold a `std::shared_ptr`. */
napi_value defineClass(napi_env env, const char* name, uint64_t id, const std::vector<napi_property_descriptor>& members);
napi_value createObject(napi_env env, uint64_t id, std::shared_ptr<void> content);
std::shared_ptr<void> contentOf(napi_env env, uint64_t id, napi_value object);

/** An object of a registered class. Every class has a unique `ID`. */
template <class T>
struct Type<std::shared_ptr<T>> {
  static std::shared_ptr<T> read(napi_env env, napi_value value) {
    return std::static_pointer_cast<T>(contentOf(env, T::ID, value));
  }
  static napi_value write(napi_env env, std::shared_ptr<T> content) { return createObject(env, T::ID, std::move(content)); }
};

}  // namespace octet::js
