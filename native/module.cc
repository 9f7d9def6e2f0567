// Entry point of the addon, which has only what needs native code (native/binding.ts has the types and the
// documentation of every function).

#include "napi_util.h"
#include "registration.h"

namespace holdfast {

static napi_value Init(napi_env env, napi_value exports) {
  if (!RegisterFuseChannel(env, exports) || !RegisterMount(env, exports) || !RegisterBlockDevice(env, exports) ||
      !RegisterCrc32c(env, exports) || !RegisterPosixCalls(env, exports) || !RegisterMetaPages(env, exports) ||
      !RegisterSocket(env, exports) || !RegisterStreamSocket(env, exports) || !RegisterSpin(env, exports) ||
      !RegisterProcess(env, exports) || !RegisterServiceManager(env, exports) || !RegisterTlsContext(env, exports)) {
    return ThrowNapiFailure(env);
  }
  return exports;
}

}  // namespace holdfast

NAPI_MODULE_INIT() { return holdfast::Init(env, exports); }
