#include "napi_util.h"

#include <cerrno>
#include <cmath>
#include <cstring>

#include <uv.h>

namespace holdfast {

namespace {

std::string ErrnoName(int error) {
  // The names that libuv does not have. All others come from its table, so that codes read like those of Node itself.
  switch (error) {
    case ENOTBLK:
      return "ENOTBLK";
    case EUCLEAN:
      return "EUCLEAN";
    case EBADMSG:
      return "EBADMSG";
    case ENOLCK:
      return "ENOLCK";
    case EDEADLK:
      return "EDEADLK";
    case ENOKEY:
      return "ENOKEY";
    default: {
      char name[64];
      uv_err_name_r(-error, name, sizeof name);
      return strncmp(name, "Unknown", 7) == 0 ? "EIO" : name;
    }
  }
}

std::string ErrnoText(int error) {
  char text[128];
  uv_strerror_r(-error, text, sizeof text);
  if (strncmp(text, "Unknown", 7) != 0) return text;
  return error == ENOTBLK ? "block device required" : "error " + std::to_string(error);
}

bool SetString(napi_env env, napi_value object, const char* key, const std::string& value) {
  napi_value string;
  return napi_create_string_utf8(env, value.data(), value.size(), &string) == napi_ok &&
         napi_set_named_property(env, object, key, string) == napi_ok;
}

}  // namespace

napi_value Undefined(napi_env env) {
  napi_value value = nullptr;
  napi_get_undefined(env, &value);
  return value;
}

napi_value ThrowNapiFailure(napi_env env) {
  bool pending = false;
  if (napi_is_exception_pending(env, &pending) == napi_ok && pending) return nullptr;
  const napi_extended_error_info* info = nullptr;
  const char* text = nullptr;
  if (napi_get_last_error_info(env, &info) == napi_ok && info != nullptr) text = info->error_message;
  napi_throw_error(env, "ERR_NATIVE", text != nullptr ? text : "a call into the JavaScript engine failed");
  return nullptr;
}

napi_value ThrowType(napi_env env, const char* message) {
  napi_throw_type_error(env, "ERR_INVALID_ARG_TYPE", message);
  return nullptr;
}

napi_value ThrowRange(napi_env env, const char* message) {
  napi_throw_range_error(env, "ERR_OUT_OF_RANGE", message);
  return nullptr;
}

napi_value ErrnoError(napi_env env, int error, const char* operation, const std::string& path) {
  const std::string name = ErrnoName(error);
  std::string message = name + ": " + ErrnoText(error) + ", " + operation;
  if (!path.empty()) message += " '" + path + "'";
  napi_value code;
  napi_value text;
  napi_value result;
  if (napi_create_string_utf8(env, name.data(), name.size(), &code) != napi_ok ||
      napi_create_string_utf8(env, message.data(), message.size(), &text) != napi_ok ||
      napi_create_error(env, code, text, &result) != napi_ok || !SetString(env, result, "syscall", operation) ||
      (!path.empty() && !SetString(env, result, "path", path))) {
    return nullptr;
  }
  return result;
}

napi_value ThrowErrno(napi_env env, int error, const char* operation, const std::string& path) {
  napi_value thrown = ErrnoError(env, error, operation, path);
  if (thrown == nullptr || napi_throw(env, thrown) != napi_ok) return ThrowNapiFailure(env);
  return nullptr;
}

napi_value CallFunction(napi_env env, napi_ref function, size_t argc, const napi_value* argv) {
  napi_value called;
  napi_value result = nullptr;
  if (napi_get_reference_value(env, function, &called) != napi_ok) return nullptr;
  const napi_status status = napi_call_function(env, Undefined(env), called, argc, argv, &result);
  if (status == napi_ok) return result;
  napi_value thrown;
  if (status == napi_pending_exception && napi_get_and_clear_last_exception(env, &thrown) == napi_ok) {
    napi_fatal_exception(env, thrown);
  }
  return nullptr;
}

bool BytesOf(napi_env env, napi_value value, uint8_t** data, size_t* length) {
  // Node aborts if it is asked for the bytes of anything else.
  bool is_buffer = false;
  void* start = nullptr;
  if (napi_is_buffer(env, value, &is_buffer) != napi_ok || !is_buffer ||
      napi_get_buffer_info(env, value, &start, length) != napi_ok) {
    return false;
  }
  // No memory has no address, but the functions of C want one even for nothing.
  static uint8_t nothing;
  *data = *length == 0 ? &nothing : static_cast<uint8_t*>(start);
  return true;
}

Arguments::Arguments(napi_env env, napi_callback_info info) : env_(env) {
  size_t count = kMax;
  // A missing argument reads as undefined, which every reader below refuses.
  for (napi_value& value : values_) value = Undefined(env);
  napi_get_cb_info(env, info, &count, values_, &self_, nullptr);
}

bool Arguments::Refuse(size_t index, const char* expected) const {
  const std::string message = "argument " + std::to_string(index) + " must be " + expected;
  ThrowType(env_, message.c_str());
  return false;
}

// Node's own functions for integers would make 0 of NaN, and a large number of a negative one.
bool Arguments::Integer(size_t index, double low, double high, double* out) const {
  if (napi_get_value_double(env_, values_[index], out) != napi_ok) return Refuse(index, "a number");
  // This is false for NaN, too.
  if (*out >= low && *out <= high && *out == std::trunc(*out)) return true;
  const std::string message = "argument " + std::to_string(index) + " must be an integer from " +
                              std::to_string(static_cast<int64_t>(low)) + " to " +
                              std::to_string(static_cast<int64_t>(high));
  ThrowRange(env_, message.c_str());
  return false;
}

bool Arguments::Int32(size_t index, int32_t* out) const {
  double value;
  if (!Integer(index, INT32_MIN, INT32_MAX, &value)) return false;
  *out = static_cast<int32_t>(value);
  return true;
}

bool Arguments::Uint32(size_t index, uint32_t* out) const {
  double value;
  if (!Integer(index, 0, UINT32_MAX, &value)) return false;
  *out = static_cast<uint32_t>(value);
  return true;
}

bool Arguments::Uint53(size_t index, uint64_t* out) const {
  double value;
  if (!Integer(index, 0, 9007199254740991.0, &value)) return false;
  *out = static_cast<uint64_t>(value);
  return true;
}

bool Arguments::Bool(size_t index, bool* out) const {
  return napi_get_value_bool(env_, values_[index], out) == napi_ok || Refuse(index, "a boolean");
}

bool Arguments::String(size_t index, std::string* out) const {
  size_t length = 0;
  if (napi_get_value_string_utf8(env_, values_[index], nullptr, 0, &length) != napi_ok) {
    return Refuse(index, "a string");
  }
  out->resize(length);
  if (napi_get_value_string_utf8(env_, values_[index], out->data(), length + 1, &length) != napi_ok) {
    return Refuse(index, "a string");
  }
  return true;
}

bool Arguments::CString(size_t index, std::string* out) const {
  return String(index, out) && (out->find('\0') == std::string::npos || Refuse(index, "a string without a zero"));
}

bool Arguments::Bytes(size_t index, uint8_t** data, size_t* length) const {
  return BytesOf(env_, values_[index], data, length) || Refuse(index, "a Buffer or Uint8Array");
}

bool Arguments::Function(size_t index, napi_value* out) const {
  napi_valuetype type = napi_undefined;
  if (napi_typeof(env_, values_[index], &type) != napi_ok || type != napi_function) {
    return Refuse(index, "a function");
  }
  *out = values_[index];
  return true;
}

napi_property_descriptor Method(const char* name, napi_callback function) {
  napi_property_descriptor property = {};
  property.utf8name = name;
  property.method = function;
  return property;
}

bool DefineFunction(napi_env env, napi_value exports, const char* name, napi_callback function) {
  napi_value value;
  return napi_create_function(env, name, NAPI_AUTO_LENGTH, function, nullptr, &value) == napi_ok &&
         napi_set_named_property(env, exports, name, value) == napi_ok;
}

}  // namespace holdfast
