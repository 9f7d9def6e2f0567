#include "notify_thread.h"

#include <cerrno>
#include <functional>

#include <unistd.h>

#include "background.h"
#include "napi_util.h"

namespace holdfast {

namespace {

struct Completion {
  uint32_t id;
  int error;
};

void CallDone(napi_env env, napi_value function, void*, void* data) {
  std::unique_ptr<Completion> completion(static_cast<Completion*>(data));
  if (env == nullptr) return;
  napi_value args[2];
  if (napi_create_uint32(env, completion->id, &args[0]) == napi_ok &&
      napi_create_int32(env, completion->error, &args[1]) == napi_ok) {
    // An exception of the callback reaches 'uncaughtException' by itself, because this is the outermost call.
    napi_call_function(env, Undefined(env), function, 2, args, nullptr);
  }
}

using QueueRef = std::shared_ptr<NotifyQueue>;

}  // namespace

SharedFd::~SharedFd() { close(fd_); }

QueueRef NotifyQueue::Create(napi_env env, std::shared_ptr<SharedFd> fd, napi_value on_done, unsigned max_threads) {
  auto queue = std::make_shared<NotifyQueue>(std::move(fd), max_threads);
  napi_value name;
  auto* kept = new QueueRef(queue);
  const auto on_final = [](napi_env final_env, void* data, void*) {
    auto* owned = static_cast<QueueRef*>(data);
    napi_remove_env_cleanup_hook(final_env, OnEnvironmentGone, owned);
    delete owned;
  };
  if (napi_create_string_utf8(env, "holdfast:notify", NAPI_AUTO_LENGTH, &name) != napi_ok ||
      napi_create_threadsafe_function(env, on_done, nullptr, name, 0, 1, kept, on_final, nullptr, CallDone,
                                      &queue->done_) != napi_ok) {
    delete kept;
    ThrowNapiFailure(env);
    return nullptr;
  }
  napi_add_env_cleanup_hook(env, OnEnvironmentGone, kept);
  // The open mount keeps the process alive; this queue alone must not.
  napi_unref_threadsafe_function(env, queue->done_);
  return queue;
}

void NotifyQueue::OnEnvironmentGone(void* data) {
  NotifyQueue* queue = static_cast<QueueRef*>(data)->get();
  std::lock_guard<std::mutex> lock(queue->mutex_);
  queue->done_ = nullptr;
  queue->closing_ = true;
  queue->jobs_.clear();
  queue->wake_.notify_all();
}

int NotifyQueue::Submit(uint32_t id, std::vector<uint8_t> message) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (closing_) return ECANCELED;
  if (idle_ <= jobs_.size() && threads_ < max_threads_) {
    auto* start = new std::function<void()>([self = shared_from_this()] { self->Run(); });
    const int error = StartDetached(start);
    if (error == 0) {
      ++threads_;
    } else {
      delete start;
      if (threads_ == 0) return error;
    }
  }
  jobs_.push_back({id, std::move(message)});
  wake_.notify_one();
  return 0;
}

void NotifyQueue::Run() {
  std::unique_lock<std::mutex> lock(mutex_);
  for (;;) {
    while (jobs_.empty() && !closing_) {
      ++idle_;
      wake_.wait(lock);
      --idle_;
    }
    if (jobs_.empty()) break;
    Job job = std::move(jobs_.front());
    jobs_.pop_front();
    lock.unlock();
    ssize_t written;
    do {
      written = write(fd_->get(), job.message.data(), job.message.size());
    } while (written < 0 && errno == EINTR);
    const int error = written < 0 ? errno : 0;
    lock.lock();
    Complete(job.id, error);
  }
  --threads_;
  if (threads_ == 0 && done_ != nullptr) {
    napi_release_threadsafe_function(done_, napi_tsfn_release);
    done_ = nullptr;
  }
}

// The caller holds mutex_.
void NotifyQueue::Complete(uint32_t id, int error) {
  if (done_ == nullptr) return;
  auto* completion = new Completion{id, error};
  if (napi_call_threadsafe_function(done_, completion, napi_tsfn_nonblocking) != napi_ok) delete completion;
}

void NotifyQueue::Close() {
  std::lock_guard<std::mutex> lock(mutex_);
  if (closing_) return;
  closing_ = true;
  for (const Job& job : jobs_) Complete(job.id, ECANCELED);
  jobs_.clear();
  wake_.notify_all();
  if (threads_ == 0 && done_ != nullptr) {
    napi_release_threadsafe_function(done_, napi_tsfn_release);
    done_ = nullptr;
  }
}

}  // namespace holdfast
