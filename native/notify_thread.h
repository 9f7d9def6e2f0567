// Notifications to the kernel (FUSE_NOTIFY_*), written by threads of their own.
//
// The write of a notification may wait in the kernel for a page under a READ or WRITE that we have not answered. So it
// must never happen on the event loop's thread, which gives that answer. There are several threads, made on demand, so
// that one such wait does not hold up other notifications; notifications have no order among themselves.
//
// The threads are detached and share ownership of the queue and the descriptor: nobody ever waits for them, not even at
// exit. The descriptor closes when its last user is done.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <vector>

#include <node_api.h>

namespace holdfast {

// A descriptor that closes with its last owner.
class SharedFd {
 public:
  explicit SharedFd(int fd) : fd_(fd) {}
  ~SharedFd();
  SharedFd(const SharedFd&) = delete;
  SharedFd& operator=(const SharedFd&) = delete;
  int get() const { return fd_; }

 private:
  const int fd_;
};

class NotifyQueue : public std::enable_shared_from_this<NotifyQueue> {
 public:
  // @param on_done JavaScript function (id, errno), called once for each submitted id while the environment lives.
  // @returns nullptr with an exception pending.
  static std::shared_ptr<NotifyQueue> Create(napi_env env, std::shared_ptr<SharedFd> fd, napi_value on_done,
                                             unsigned max_threads);

  // Called on the event loop's thread. @returns 0, or the errno of the failed start of a thread (then nothing was
  // queued).
  int Submit(uint32_t id, std::vector<uint8_t> message);
  // Called on the event loop's thread. Jobs that no thread has begun complete with ECANCELED; threads end when they
  // can. Idempotent.
  void Close();

  NotifyQueue(std::shared_ptr<SharedFd> fd, unsigned max_threads) : fd_(std::move(fd)), max_threads_(max_threads) {}

 private:
  struct Job {
    uint32_t id;
    std::vector<uint8_t> message;
  };

  void Run();
  void Complete(uint32_t id, int error);
  static void OnEnvironmentGone(void* data);

  const std::shared_ptr<SharedFd> fd_;
  const unsigned max_threads_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<Job> jobs_;
  unsigned threads_ = 0;
  unsigned idle_ = 0;
  bool closing_ = false;
  napi_threadsafe_function done_ = nullptr;  // nullptr once closed and drained, or the environment is gone
};

}  // namespace holdfast
