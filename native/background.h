// System calls that may take long, each on a detached thread of its own, answered as a promise.
//
// Not the libuv pool: its threads are joined at exit, so one call that hangs in the kernel would keep the process
// from ending, and four of them would stop all file I/O.
#pragma once

#include <functional>
#include <string>

#include <node_api.h>

namespace holdfast {

// `work` runs on the thread and returns 0 or an errno. @returns a promise of undefined; it rejects with an errno Error
// that names `operation` (a literal) and `path`.
// @param result makes what the promise resolves with instead, on the event loop's thread; nullptr with an exception
// pending rejects it.
napi_value RunInBackground(napi_env env, const char* operation, std::string path, std::function<int()> work,
                           std::function<napi_value(napi_env)> result = nullptr);

// Starts a detached thread. `start` is deleted by it. @returns 0 or an errno (then nothing was started nor deleted).
int StartDetached(std::function<void()>* start);

}  // namespace holdfast
