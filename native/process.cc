// What Node has no function for, of this process and of the OpenSSL in it.

#include <atomic>
#include <cerrno>

#include <dlfcn.h>
#include <fcntl.h>
#include <sys/prctl.h>

#include "napi_util.h"
#include "registration.h"

namespace holdfast {

namespace {

// setDumpable(dumpable): prctl(PR_SET_DUMPABLE). A process that is not dumpable leaves no core, and only root may attach to it or read
// its memory. A program that this one starts is dumpable again.
napi_value SetDumpable(napi_env env, napi_callback_info info) {
  const Arguments args(env, info);
  bool dumpable;
  if (!args.Bool(0, &dumpable)) return nullptr;
  if (prctl(PR_SET_DUMPABLE, dumpable ? 1 : 0, 0, 0, 0) != 0) return ThrowErrno(env, errno, "prctl");
  return Undefined(env);
}

// closeOnExec(fd): programs that this one starts do not get the descriptor.
napi_value CloseOnExec(napi_env env, napi_callback_info info) {
  const Arguments args(env, info);
  int32_t fd;
  if (!args.Int32(0, &fd)) return nullptr;
  const int flags = fcntl(fd, F_GETFD);
  if (flags < 0 || fcntl(fd, F_SETFD, flags | FD_CLOEXEC) != 0) return ThrowErrno(env, errno, "fcntl");
  return Undefined(env);
}

// From openssl/ssl.h and openssl/crypto.h: they are part of OpenSSL's interface.
constexpr int kGetMaxCertificateList = 50;
constexpr int kSetMaxCertificateList = 51;
constexpr long kMaxCertificateListDefault = 100 * 1024;
constexpr int kIndexOfContexts = 1;

using Control = long (*)(void* context, int command, long number, void* pointer);
using OnNew = void (*)(void* parent, void* pointer, void* data, int index, long number, void* more);
using NewIndex = int (*)(int kind, long number, void* pointer, OnNew on_new, void* on_copy, void* on_free);

std::atomic<long> certificates_max{0};

// OpenSSL calls it for each context that it makes.
void LimitContext(void* context, void*, void*, int, long, void* control) {
  const auto call = reinterpret_cast<Control>(control);
  // Another default would mean that the numbers above have another meaning in this OpenSSL.
  if (call(context, kGetMaxCertificateList, 0, nullptr) == kMaxCertificateListDefault) {
    call(context, kSetMaxCertificateList, certificates_max.load(), nullptr);
  }
}

// limitCertificates(bytes): see binding.ts. Node has OpenSSL in it and lets addons use it. Its headers are installed seldom, so its
// functions are looked up by their names.
napi_value LimitCertificates(napi_env env, napi_callback_info info) {
  const Arguments args(env, info);
  uint32_t bytes;
  if (!args.Uint32(0, &bytes)) return nullptr;
  if (bytes == 0 || bytes > kMaxCertificateListDefault) return ThrowRange(env, "the limit is from 1 to 102400 bytes");
  void* control = dlsym(RTLD_DEFAULT, "SSL_CTX_ctrl");
  const auto new_index = reinterpret_cast<NewIndex>(dlsym(RTLD_DEFAULT, "CRYPTO_get_ex_new_index"));
  bool limited = control != nullptr && new_index != nullptr;
  if (limited && certificates_max.exchange(static_cast<long>(bytes)) == 0) {
    // OpenSSL keeps the function for ever, so this file has to stay loaded.
    Dl_info self;
    if (dladdr(reinterpret_cast<void*>(&LimitContext), &self) != 0) dlopen(self.dli_fname, RTLD_LAZY | RTLD_NODELETE);
    limited = new_index(kIndexOfContexts, 0, control, LimitContext, nullptr, nullptr) >= 0;
  }
  napi_value result;
  HOLDFAST_NAPI(env, napi_get_boolean(env, limited, &result));
  return result;
}

}  // namespace

bool RegisterProcess(napi_env env, napi_value exports) {
  return DefineFunction(env, exports, "closeOnExec", CloseOnExec) &&
         DefineFunction(env, exports, "setDumpable", SetDumpable) &&
         DefineFunction(env, exports, "limitCertificates", LimitCertificates);
}

}  // namespace holdfast
