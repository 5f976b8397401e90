#include "js/js.h"

#include <cmath>
#include <cstring>
#include <map>

#include "js/bind.h"

namespace octet::js {
namespace {

/** The addon's state per environment. Never destroyed, because threads and finalizers refer to it. */
struct Instance {
  std::shared_ptr<Mailbox> mailbox;
  std::map<uint64_t, napi_ref> constructors;

  static Instance& of(napi_env env) {
    void* data = nullptr;
    check(env, napi_get_instance_data(env, &data));
    if (data) return *static_cast<Instance*>(data);
    auto* instance = new Instance{std::make_shared<Mailbox>(env), {}};
    check(env, napi_set_instance_data(env, instance, nullptr, nullptr));
    return *instance;
  }
};

/** The C++ object of a JavaScript object. */
struct Holder {
  std::shared_ptr<void> content;
  std::shared_ptr<Mailbox> mailbox;
};

/** Deletes the holder, unless the environment is ending: threads may then still use its content. */
void finalize(napi_env, void* data, void*) {
  Holder* holder = static_cast<Holder*>(data);
  if (!holder->mailbox->isClosed()) delete holder;
}

/** The constructor of every class takes a holder in an external value, so that only the addon can create objects. */
napi_value construct(napi_env env, napi_callback_info info) {
  return guarded(env, [&] {
    const Call call(env, info);
    napi_valuetype type;
    check(env, napi_typeof(env, call.arguments[0], &type));
    if (type != napi_external) throw std::runtime_error("objects of this class are created by functions of the addon");
    void* holder = nullptr;
    check(env, napi_get_value_external(env, call.arguments[0], &holder));
    check(env, napi_wrap(env, call.self, holder, finalize, nullptr, nullptr));
    return call.self;
  });
}

napi_type_tag tagOf(uint64_t id) { return {0x6f63746574, id}; }

}  // namespace

void check(napi_env env, napi_status status) {
  if (status == napi_ok) return;
  const napi_extended_error_info* info = nullptr;
  napi_get_last_error_info(env, &info);
  const std::string message = info && info->error_message ? info->error_message : "Node-API failed";
  bool pending = false;
  napi_is_exception_pending(env, &pending);
  if (pending || status == napi_pending_exception) throw Pending();
  throw std::runtime_error(message);
}

napi_value guarded(napi_env env, const std::function<napi_value()>& action) {
  try {
    return action();
  } catch (const Pending&) {
  } catch (const std::exception& error) {
    napi_throw_error(env, nullptr, error.what());
  }
  return nullptr;
}

napi_ref keep(napi_env env, const Call& call) {
  napi_value array;
  napi_ref reference;
  check(env, napi_create_array(env, &array));
  check(env, napi_set_element(env, array, 0, call.self));
  for (uint32_t i = 0; i < Call::MAX_ARGUMENTS; i++) check(env, napi_set_element(env, array, i + 1, call.arguments[i]));
  check(env, napi_create_reference(env, array, 1, &reference));
  return reference;
}

napi_value createError(napi_env env, const std::string& message) {
  napi_value error;
  check(env, napi_create_error(env, nullptr, Type<std::string>::write(env, message), &error));
  return error;
}

const std::shared_ptr<Mailbox>& mailboxOf(napi_env env) { return Instance::of(env).mailbox; }

napi_value Type<Nothing>::write(napi_env env, Nothing) {
  napi_value undefined;
  check(env, napi_get_undefined(env, &undefined));
  return undefined;
}

bool Type<bool>::read(napi_env env, napi_value value) {
  bool read;
  check(env, napi_get_value_bool(env, value, &read));
  return read;
}
napi_value Type<bool>::write(napi_env env, bool value) {
  napi_value written;
  check(env, napi_get_boolean(env, value, &written));
  return written;
}

int64_t Type<int64_t>::read(napi_env env, napi_value value) {
  double read;
  check(env, napi_get_value_double(env, value, &read));
  constexpr double MAX_SAFE_INTEGER = 0x1p53 - 1;
  if (!(read >= 0 && read <= MAX_SAFE_INTEGER && std::trunc(read) == read))
    throw std::range_error(std::to_string(read) + " is not a size, an index or a count");
  return static_cast<int64_t>(read);
}
napi_value Type<int64_t>::write(napi_env env, int64_t value) {
  napi_value written;
  check(env, napi_create_int64(env, value, &written));
  return written;
}

uint64_t Type<uint64_t>::read(napi_env env, napi_value value) {
  uint64_t read;
  bool lossless;
  check(env, napi_get_value_bigint_uint64(env, value, &read, &lossless));
  if (!lossless) throw std::range_error("a BigInt has more than 64 bits or a sign");
  return read;
}
napi_value Type<uint64_t>::write(napi_env env, uint64_t value) {
  napi_value written;
  check(env, napi_create_bigint_uint64(env, value, &written));
  return written;
}

std::string Type<std::string>::read(napi_env env, napi_value value) {
  size_t length = 0;
  check(env, napi_get_value_string_utf8(env, value, nullptr, 0, &length));
  std::string read(length, '\0');
  check(env, napi_get_value_string_utf8(env, value, read.data(), length + 1, &length));
  return read;
}
napi_value Type<std::string>::write(napi_env env, const std::string& value) {
  napi_value written;
  check(env, napi_create_string_utf8(env, value.data(), value.size(), &written));
  return written;
}

TypedArray Type<TypedArray>::read(napi_env env, napi_value value) {
  TypedArray read{};
  void* data = nullptr;
  check(env, napi_get_typedarray_info(env, value, &read.type, &read.length, &data, nullptr, nullptr));
  read.data = data;
  const bool isWide = read.type == napi_bigint64_array || read.type == napi_biguint64_array || read.type == napi_float64_array;
  const bool isByte = read.type == napi_int8_array || read.type == napi_uint8_array || read.type == napi_uint8_clamped_array;
  const bool isHalf = read.type == napi_int16_array || read.type == napi_uint16_array;
  read.bytes = read.length * (isWide ? 8 : isByte ? 1 : isHalf ? 2 : 4);
  return read;
}

bool isNullish(napi_env env, napi_value value) {
  napi_valuetype type;
  check(env, napi_typeof(env, value, &type));
  return type == napi_null || type == napi_undefined;
}

napi_value property(napi_env env, napi_value object, const char* name) {
  napi_value value;
  check(env, napi_get_named_property(env, object, name, &value));
  return value;
}

std::vector<std::string> propertyNames(napi_env env, napi_value object) {
  napi_value names;
  check(env, napi_get_property_names(env, object, &names));
  return Type<std::vector<std::string>>::read(env, names);
}

napi_value defineClass(napi_env env, const char* name, uint64_t id, const std::vector<napi_property_descriptor>& members) {
  napi_value defined;
  check(env, napi_define_class(env, name, NAPI_AUTO_LENGTH, construct, nullptr, members.size(), members.data(), &defined));
  check(env, napi_create_reference(env, defined, 1, &Instance::of(env).constructors[id]));
  return defined;
}

napi_value createObject(napi_env env, uint64_t id, std::shared_ptr<void> content) {
  Instance& instance = Instance::of(env);
  auto holder = std::make_unique<Holder>(Holder{std::move(content), instance.mailbox});
  napi_value constructor, external, object;
  check(env, napi_get_reference_value(env, instance.constructors.at(id), &constructor));
  check(env, napi_create_external(env, holder.get(), nullptr, nullptr, &external));
  check(env, napi_new_instance(env, constructor, 1, &external, &object));
  holder.release();  // Ownership has passed to the object.
  const napi_type_tag tag = tagOf(id);
  check(env, napi_type_tag_object(env, object, &tag));
  return object;
}

std::shared_ptr<void> contentOf(napi_env env, uint64_t id, napi_value object) {
  const napi_type_tag tag = tagOf(id);
  bool matches = false;
  napi_valuetype type;
  check(env, napi_typeof(env, object, &type));
  if (type == napi_object) check(env, napi_check_object_type_tag(env, object, &tag, &matches));
  if (!matches) throw std::runtime_error("an object of another class was given to the addon");
  void* holder = nullptr;
  check(env, napi_unwrap(env, object, &holder));
  return static_cast<Holder*>(holder)->content;
}

}  // namespace octet::js
