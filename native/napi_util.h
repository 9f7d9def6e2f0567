// Shared by all files of the addon: errors as JavaScript sees them, and argument access.
//
// Invariant: every function that JavaScript calls either returns a value or leaves exactly one exception pending; a
// failed system call becomes an Error with `code` (errno name), `syscall` and, if there is one, `path`.
#pragma once

#include <cstdint>
#include <string>

#include <node_api.h>

namespace holdfast {

// For functions that return napi_value: a failed N-API call becomes the exception of the current call.
#define HOLDFAST_NAPI(env, call)                \
  do {                                          \
    if ((call) != napi_ok) {                    \
      return ::holdfast::ThrowNapiFailure(env); \
    }                                           \
  } while (0)

napi_value ThrowNapiFailure(napi_env env);
napi_value ThrowType(napi_env env, const char* message);
napi_value ThrowRange(napi_env env, const char* message);
napi_value ThrowErrno(napi_env env, int error, const char* operation, const std::string& path = "");

// The Error itself, to reject a promise with; nullptr if even that failed.
napi_value ErrnoError(napi_env env, int error, const char* operation, const std::string& path);

napi_value Undefined(napi_env env);

// Calls a function that is not called by JavaScript. An exception is our bug: it goes to 'uncaughtException', as if the
// event loop had called the function itself. @returns nullptr then.
napi_value CallFunction(napi_env env, napi_ref function, size_t argc, const napi_value* argv);

// The bytes of a Buffer or any other view; a detached one has none. `data` is never nullptr. @returns false, without an exception, for other values.
bool BytesOf(napi_env env, napi_value value, uint8_t** data, size_t* length);

// Arguments of one call. The readers return false with a TypeError pending; for a number that is no integer of the range, with a
// RangeError.
class Arguments {
 public:
  static constexpr size_t kMax = 8;
  Arguments(napi_env env, napi_callback_info info);

  bool Int32(size_t index, int32_t* out) const;
  bool Uint32(size_t index, uint32_t* out) const;
  // A safe integer of JavaScript that is not negative.
  bool Uint53(size_t index, uint64_t* out) const;
  bool Bool(size_t index, bool* out) const;
  bool String(size_t index, std::string* out) const;
  // For system calls, which would see the part before a zero only.
  bool CString(size_t index, std::string* out) const;
  bool Bytes(size_t index, uint8_t** data, size_t* length) const;
  bool Function(size_t index, napi_value* out) const;

  napi_value operator[](size_t index) const { return values_[index]; }
  napi_value self() const { return self_; }

 private:
  bool Integer(size_t index, double low, double high, double* out) const;
  bool Refuse(size_t index, const char* expected) const;

  napi_env env_;
  napi_value values_[kMax];
  napi_value self_ = nullptr;
};

// A method of a class, for napi_define_class.
napi_property_descriptor Method(const char* name, napi_callback function);

bool DefineFunction(napi_env env, napi_value exports, const char* name, napi_callback function);

}  // namespace holdfast
