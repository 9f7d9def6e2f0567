#include "background.h"

#include <csignal>
#include <memory>
#include <mutex>

#include <pthread.h>

#include "napi_util.h"

namespace holdfast {

namespace {

// The thread and the environment share this. If one of them ends, the other sees it under the mutex.
struct Call {
  std::mutex mutex;
  napi_env env;
  napi_threadsafe_function done = nullptr;  // nullptr once the environment is gone
  napi_deferred deferred = nullptr;
  const char* operation;
  std::string path;
  std::function<napi_value(napi_env)> result;
  int error = 0;
};
using CallRef = std::shared_ptr<Call>;

void OnEnvironmentGone(void* data) {
  Call* call = static_cast<CallRef*>(data)->get();
  std::lock_guard<std::mutex> lock(call->mutex);
  call->done = nullptr;
}

void Settle(napi_env env, napi_value, void*, void* data) {
  CallRef* owned = static_cast<CallRef*>(data);
  const CallRef& call = *owned;
  if (env != nullptr) {
    if (call->error == 0) {
      napi_value value = call->result ? call->result(env) : Undefined(env);
      if (value != nullptr) {
        napi_resolve_deferred(env, call->deferred, value);
      } else {
        napi_value thrown = nullptr;
        napi_get_and_clear_last_exception(env, &thrown);
        napi_reject_deferred(env, call->deferred, thrown != nullptr ? thrown : Undefined(env));
      }
    } else {
      napi_value reason = ErrnoError(env, call->error, call->operation, call->path);
      napi_reject_deferred(env, call->deferred, reason != nullptr ? reason : Undefined(env));
    }
  }
}

void* ThreadMain(void* data) {
  std::unique_ptr<std::function<void()>> start(static_cast<std::function<void()>*>(data));
  (*start)();
  return nullptr;
}

// Runs when the function ends: nothing calls it any more, so the reference that it kept can go.
void OnFunctionFinal(napi_env env, void* data, void*) {
  CallRef* owned = static_cast<CallRef*>(data);
  napi_remove_env_cleanup_hook(env, OnEnvironmentGone, owned);
  {
    std::lock_guard<std::mutex> lock((*owned)->mutex);
    (*owned)->done = nullptr;
  }
  delete owned;
}

}  // namespace

int StartDetached(std::function<void()>* start) {
  pthread_attr_t attributes;
  int error = pthread_attr_init(&attributes);
  if (error != 0) return error;
  pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
  pthread_attr_setstacksize(&attributes, 256 * 1024);
  // Only the event loop's thread handles signals.
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  pthread_t thread;
  error = pthread_create(&thread, &attributes, ThreadMain, start);
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  pthread_attr_destroy(&attributes);
  return error;
}

napi_value RunInBackground(napi_env env, const char* operation, std::string path, std::function<int()> work,
                           std::function<napi_value(napi_env)> result) {
  auto call = std::make_shared<Call>();
  call->env = env;
  call->operation = operation;
  call->path = std::move(path);
  call->result = std::move(result);
  napi_value promise;
  napi_value name;
  HOLDFAST_NAPI(env, napi_create_promise(env, &call->deferred, &promise));
  HOLDFAST_NAPI(env, napi_create_string_utf8(env, operation, NAPI_AUTO_LENGTH, &name));
  auto* kept = new CallRef(call);
  const napi_status made = napi_create_threadsafe_function(env, nullptr, nullptr, name, 0, 1, kept, OnFunctionFinal,
                                                           nullptr, Settle, &call->done);
  if (made != napi_ok) {
    delete kept;
    return ThrowNapiFailure(env);
  }
  napi_add_env_cleanup_hook(env, OnEnvironmentGone, kept);
  auto* start = new std::function<void()>([call, kept, work = std::move(work)] {
    call->error = work();
    std::lock_guard<std::mutex> lock(call->mutex);
    if (call->done == nullptr) return;
    napi_call_threadsafe_function(call->done, kept, napi_tsfn_nonblocking);
    napi_release_threadsafe_function(call->done, napi_tsfn_release);
  });
  const int error = StartDetached(start);
  if (error != 0) {
    delete start;
    napi_release_threadsafe_function(call->done, napi_tsfn_release);
    napi_reject_deferred(env, call->deferred, ErrnoError(env, error, operation, call->path));
  }
  return promise;
}

}  // namespace holdfast
