// The adaptive spin of an event loop.
//
// A uv_idle_t that is active makes libuv ask the kernel for events without waiting. So the loop goes on as always, and no event,
// timer or continuation is delayed; it only does not sleep. Between two rounds it gives the processor to whoever waits for it.
//
// - A spin lasts kSpinNs at most. A lone event within that time is a success, and begins the next one.
// - After a spin without success it skips lone events: one, then 3, then 7, up to kSkipMax. So it stays on while requests keep
//   coming, one behind the other, and nearly off otherwise.
// - If another thread used the processor for long between two rounds, the processors are busy: that also ends the spin, without
//   success.

#include "spin.h"

#include <cstdint>

#include <sched.h>
#include <uv.h>

#include "napi_util.h"
#include "registration.h"

namespace holdfast {

namespace {

constexpr uint64_t kSpinNs = 50'000;
constexpr uint32_t kSkipMax = 255;

// Made for an environment, and in its instance data until the environment ends.
class Spin {
 public:
  static Spin* Make(napi_env env);
  void Lone();

 private:
  static void OnIdle(uv_idle_t* handle);
  static void OnEnvironmentGone(napi_async_cleanup_hook_handle hook, void* data);
  void Failed();

  napi_env env_ = nullptr;
  uv_idle_t idle_;
  bool active_ = false;
  uint64_t until_ns_ = 0;
  uint32_t skip_ = 0;
  uint32_t skip_next_ = 1;
  napi_async_cleanup_hook_handle cleanup_ = nullptr;
};

Spin* Spin::Make(napi_env env) {
  uv_loop_t* loop = nullptr;
  if (napi_get_uv_event_loop(env, &loop) != napi_ok) return nullptr;
  auto* spin = new Spin;
  if (uv_idle_init(loop, &spin->idle_) != 0 ||
      napi_add_async_cleanup_hook(env, OnEnvironmentGone, spin, &spin->cleanup_) != napi_ok) {
    delete spin;
    return nullptr;
  }
  spin->env_ = env;
  spin->idle_.data = spin;
  uv_unref(reinterpret_cast<uv_handle_t*>(&spin->idle_));
  return spin;
}

void Spin::Lone() {
  if (active_) {
    skip_next_ = 1;
  } else {
    if (skip_ > 0) {
      --skip_;
      return;
    }
    if (uv_idle_start(&idle_, OnIdle) != 0) return;
    active_ = true;
  }
  until_ns_ = uv_hrtime() + kSpinNs;
}

void Spin::Failed() {
  uv_idle_stop(&idle_);
  active_ = false;
  skip_ = skip_next_;
  skip_next_ = skip_next_ >= kSkipMax ? kSkipMax : skip_next_ * 2 + 1;
}

void Spin::OnIdle(uv_idle_t* handle) {
  auto* self = static_cast<Spin*>(handle->data);
  if (uv_hrtime() >= self->until_ns_) {
    self->Failed();
    return;
  }
  sched_yield();
}

void Spin::OnEnvironmentGone(napi_async_cleanup_hook_handle hook, void* data) {
  auto* self = static_cast<Spin*>(data);
  napi_set_instance_data(self->env_, nullptr, nullptr, nullptr);
  uv_idle_stop(&self->idle_);
  self->cleanup_ = hook;
  uv_close(reinterpret_cast<uv_handle_t*>(&self->idle_), [](uv_handle_t* closed) {
    auto* gone = static_cast<Spin*>(closed->data);
    napi_remove_async_cleanup_hook(gone->cleanup_);
    delete gone;
  });
}

}  // namespace

void SpinAfterLoneEvent(napi_env env) {
  void* spin = nullptr;
  if (napi_get_instance_data(env, &spin) == napi_ok && spin != nullptr) static_cast<Spin*>(spin)->Lone();
}

bool RegisterSpin(napi_env env, napi_value) {
  Spin* spin = Spin::Make(env);
  // OnEnvironmentGone deletes it.
  return spin != nullptr && napi_set_instance_data(env, spin, nullptr, nullptr) == napi_ok;
}

}  // namespace holdfast
