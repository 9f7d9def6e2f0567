// One function for each source file, which adds its exports to the module. It returns false on failure, with or without
// a pending exception.
#pragma once

#include <node_api.h>

namespace holdfast {

bool RegisterFuseChannel(napi_env env, napi_value exports);
bool RegisterMount(napi_env env, napi_value exports);
bool RegisterBlockDevice(napi_env env, napi_value exports);
bool RegisterCrc32c(napi_env env, napi_value exports);
bool RegisterMetaPages(napi_env env, napi_value exports);
bool RegisterPosixCalls(napi_env env, napi_value exports);
bool RegisterProcess(napi_env env, napi_value exports);
bool RegisterServiceManager(napi_env env, napi_value exports);
bool RegisterSocket(napi_env env, napi_value exports);
bool RegisterSpin(napi_env env, napi_value exports);
bool RegisterStreamSocket(napi_env env, napi_value exports);
bool RegisterTlsContext(napi_env env, napi_value exports);

}  // namespace holdfast
