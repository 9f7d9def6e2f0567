// System calls that may take a long time, each on a detached thread of its own, with a promise as result.
//
// They do not use libuv's pool: libuv joins its threads at exit, so one call that hangs in the kernel would keep the
// process from ending, and four of them would stop all file I/O.
#pragma once

#include <functional>
#include <string>

#include <node_api.h>

namespace holdfast {

// `work` runs on the thread and returns 0 or an errno. @returns a promise of undefined; it rejects with an errno Error
// that names `operation` (a literal) and `path`.
// @param result makes the promise's value instead, on the event loop's thread. nullptr with an exception pending
// rejects the promise.
napi_value RunInBackground(napi_env env, const char* operation, std::string path, std::function<int()> work,
                           std::function<napi_value(napi_env)> result = nullptr);

// Starts a detached thread, which deletes `start`. @returns 0, or an errno (then no thread was started and `start` is
// not deleted).
int StartDetached(std::function<void()>* start);

}  // namespace holdfast
