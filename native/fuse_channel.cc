// The /dev/fuse channel: brings requests to JavaScript in batches, and replies back to the kernel.
//
// Owns the descriptor (shared with the notify threads), the poll handle and references to the two slabs.
// - The channel reads requests until there are none, packs them at 8-byte alignment into the request slab, and calls
//   JavaScript once for all of them. The next batch overwrites the slab.
// - JavaScript puts replies into the reply slab, one behind the other at 8-byte alignment. The batch callback returns
//   how many bytes they take, and the channel writes them then, before promise continuations run; or earlier in
//   flush(bytes).
// - One poll event handles at most kRoundsPerPoll batches, so that sockets and timers get their turn under load.
// - pause() stops reading: then another process that has the descriptor may read. Replies and notifications go on.
// - The channel keeps its JavaScript object alive while it is open.

#include <cerrno>
#include <cstring>
#include <memory>
#include <vector>

#include <fcntl.h>
#include <limits.h>
#include <malloc.h>
#include <sys/uio.h>
#include <unistd.h>
#include <uv.h>

#include "napi_util.h"
#include "notify_thread.h"
#include "registration.h"
#include "spin.h"

namespace holdfast {

namespace {

constexpr int kRoundsPerPoll = 2;
constexpr uint32_t kRequestsPerBatch = 256;
constexpr size_t kReplyHeaderBytes = 16;  // fuse_out_header: len, error, unique

// The client's page cache takes and frees slabs of 1 MiB as long as the mount lives. By default glibc puts memory of
// this size into its arenas once some was freed. There small pieces prevent its return to the system: this cost 80 MiB
// with a cache of 256 MiB.
void GiveLargeMemoryBack() {
#ifdef __GLIBC__
  mallopt(M_MMAP_THRESHOLD, 256 << 10);
  mallopt(M_TRIM_THRESHOLD, 1 << 20);
  mallopt(M_ARENA_MAX, 2);
#endif
}

constexpr size_t Align8(size_t bytes) { return (bytes + 7) & ~static_cast<size_t>(7); }

class FuseChannel {
 public:
  static napi_value Construct(napi_env env, napi_callback_info info);
  static napi_value Flush(napi_env env, napi_callback_info info);
  static napi_value Send(napi_env env, napi_callback_info info);
  static napi_value Notify(napi_env env, napi_callback_info info);
  static napi_value Pause(napi_env env, napi_callback_info info);
  static napi_value Resume(napi_env env, napi_callback_info info);
  static napi_value Close(napi_env env, napi_callback_info info);

 private:
  explicit FuseChannel(napi_env env) : env_(env) {}

  static void OnPoll(uv_poll_t* handle, int status, int events);
  static void OnEnvironmentGone(napi_async_cleanup_hook_handle handle, void* data);
  static FuseChannel* Of(napi_env env, napi_value self);

  // @returns 0, EAGAIN if there is no more to read, or the errno that ended the channel.
  int ReadBatch(size_t* used, uint32_t* count);
  void Deliver(size_t used, uint32_t count);
  void FlushReplies(size_t bytes);
  void ReportFailedReply(int error, uint64_t unique);
  void ReportClosed(int error);
  void Shut();
  void DropReferences();
  bool HasSlabs() const;
  bool KeepArguments(const Arguments& args);

  napi_env env_;
  uv_poll_t* poll_ = nullptr;
  std::shared_ptr<SharedFd> fd_;
  std::shared_ptr<NotifyQueue> notify_;
  napi_async_context context_ = nullptr;
  napi_async_cleanup_hook_handle cleanup_ = nullptr;
  // References to the object itself, the slabs and the callbacks; all are strong until the channel is closed.
  napi_ref self_ = nullptr;
  napi_ref request_slab_ref_ = nullptr;
  napi_ref reply_slab_ref_ = nullptr;
  napi_ref on_batch_ = nullptr;
  napi_ref on_reply_failed_ = nullptr;
  napi_ref on_closed_ = nullptr;
  uint8_t* request_slab_ = nullptr;
  size_t request_slab_bytes_ = 0;
  uint8_t* reply_slab_ = nullptr;
  size_t reply_slab_bytes_ = 0;
  uint32_t max_request_bytes_ = 0;
  bool paused_ = false;
};

// Writes all or nothing: the kernel takes a reply in one piece.
int WriteReply(int fd, const iovec* iov, int count) {
  ssize_t written;
  do {
    written = writev(fd, iov, count);
  } while (written < 0 && errno == EINTR);
  return written < 0 ? errno : 0;
}

// The request is gone: it was interrupted and answered, or its process died. That is no error of ours.
bool IsHarmless(int error) { return error == ENOENT || error == ENODEV; }

FuseChannel* FuseChannel::Of(napi_env env, napi_value self) {
  void* data = nullptr;
  if (napi_unwrap(env, self, &data) != napi_ok) {
    ThrowType(env, "not a FuseChannel");
    return nullptr;
  }
  return static_cast<FuseChannel*>(data);
}

bool FuseChannel::KeepArguments(const Arguments& args) {
  napi_value on_batch;
  napi_value on_reply_failed;
  napi_value on_closed;
  if (!args.Bytes(1, &request_slab_, &request_slab_bytes_) || !args.Bytes(2, &reply_slab_, &reply_slab_bytes_) ||
      !args.Uint32(3, &max_request_bytes_) || !args.Function(4, &on_batch) || !args.Function(5, &on_reply_failed) ||
      !args.Function(7, &on_closed)) {
    return false;
  }
  if (reinterpret_cast<uintptr_t>(request_slab_) % 8 != 0 || reinterpret_cast<uintptr_t>(reply_slab_) % 8 != 0 ||
      max_request_bytes_ == 0 || request_slab_bytes_ < max_request_bytes_) {
    ThrowType(env_, "slabs must be 8-byte aligned, and the request slab must hold the largest request");
    return false;
  }
  napi_value resource_name;
  if (napi_create_string_utf8(env_, "holdfast:fuse", NAPI_AUTO_LENGTH, &resource_name) != napi_ok ||
      napi_async_init(env_, args.self(), resource_name, &context_) != napi_ok ||
      napi_create_reference(env_, args.self(), 1, &self_) != napi_ok ||
      napi_create_reference(env_, args[1], 1, &request_slab_ref_) != napi_ok ||
      napi_create_reference(env_, args[2], 1, &reply_slab_ref_) != napi_ok ||
      napi_create_reference(env_, on_batch, 1, &on_batch_) != napi_ok ||
      napi_create_reference(env_, on_reply_failed, 1, &on_reply_failed_) != napi_ok ||
      napi_create_reference(env_, on_closed, 1, &on_closed_) != napi_ok) {
    ThrowNapiFailure(env_);
    return false;
  }
  return true;
}

// new FuseChannel(fd, requestSlab, replySlab, maxRequestBytes, onBatch, onReplyFailed, onNotified, onClosed)
napi_value FuseChannel::Construct(napi_env env, napi_callback_info info) {
  const Arguments args(env, info);
  napi_value target = nullptr;
  HOLDFAST_NAPI(env, napi_get_new_target(env, info, &target));
  if (target == nullptr) return ThrowType(env, "FuseChannel is a class");
  int32_t fd;
  napi_value on_notified;
  if (!args.Int32(0, &fd) || !args.Function(6, &on_notified)) return nullptr;
  GiveLargeMemoryBack();
  // It may come from another process, and those that this one starts have no business with it.
  const int keeps = fcntl(fd, F_GETFD);
  if (keeps < 0 || fcntl(fd, F_SETFD, keeps | FD_CLOEXEC) != 0) return ThrowErrno(env, errno, "fcntl");
  const int flags = fcntl(fd, F_GETFL);
  if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) != 0) return ThrowErrno(env, errno, "fcntl");
  uv_loop_t* loop = nullptr;
  HOLDFAST_NAPI(env, napi_get_uv_event_loop(env, &loop));

  std::unique_ptr<FuseChannel> channel(new FuseChannel(env));
  const auto finalize = [](napi_env final_env, void* data, void*) {
    std::unique_ptr<FuseChannel> dead(static_cast<FuseChannel*>(data));
    if (dead->context_ != nullptr) napi_async_destroy(final_env, dead->context_);
  };
  HOLDFAST_NAPI(env, napi_wrap(env, args.self(), channel.get(), finalize, nullptr, nullptr));
  FuseChannel* self = channel.release();  // from here the JavaScript object owns it
  if (!self->KeepArguments(args)) {
    self->DropReferences();
    return nullptr;
  }
  auto* poll = new uv_poll_t;
  int error = -uv_poll_init(loop, poll, fd);
  if (error != 0) {
    delete poll;
    self->DropReferences();
    return ThrowErrno(env, error, "uv_poll_init");
  }
  // From here the channel owns the descriptor. After a failure above the caller still owns it.
  self->poll_ = poll;
  self->fd_ = std::make_shared<SharedFd>(fd);
  poll->data = self;
  self->notify_ = NotifyQueue::Create(env, self->fd_, on_notified, 4);
  if (self->notify_ == nullptr) {
    self->Shut();
    return nullptr;
  }
  error = -uv_poll_start(poll, UV_READABLE, OnPoll);
  if (error != 0) {
    self->Shut();
    return ThrowErrno(env, error, "uv_poll_start");
  }
  napi_add_async_cleanup_hook(env, OnEnvironmentGone, self, &self->cleanup_);
  return args.self();
}

// @returns false if JavaScript has taken the memory of a slab away.
bool FuseChannel::HasSlabs() const {
  const auto is_there = [this](napi_ref ref, const uint8_t* data, size_t length) {
    napi_value slab;
    uint8_t* data_now;
    size_t length_now;
    return ref != nullptr && napi_get_reference_value(env_, ref, &slab) == napi_ok &&
           BytesOf(env_, slab, &data_now, &length_now) && data_now == data && length_now == length;
  };
  return is_there(request_slab_ref_, request_slab_, request_slab_bytes_) &&
         is_there(reply_slab_ref_, reply_slab_, reply_slab_bytes_);
}

int FuseChannel::ReadBatch(size_t* used, uint32_t* count) {
  if (!HasSlabs()) return EFAULT;
  while (request_slab_bytes_ - *used >= max_request_bytes_ && *count < kRequestsPerBatch) {
    const ssize_t got = read(fd_->get(), request_slab_ + *used, request_slab_bytes_ - *used);
    if (got >= 0) {
      *used += Align8(static_cast<size_t>(got));
      if (*used > request_slab_bytes_) *used = request_slab_bytes_;
      ++*count;
    } else if (errno != EINTR && errno != ENOENT) {  // ENOENT: the request was aborted while we read it
      return errno;
    }
  }
  return 0;
}

void FuseChannel::OnPoll(uv_poll_t* handle, int status, int) {
  auto* self = static_cast<FuseChannel*>(handle->data);
  napi_handle_scope scope;
  if (napi_open_handle_scope(self->env_, &scope) != napi_ok) return;
  // status < 0 is the error condition of poll(2): the connection has ended, and read() says how.
  int end = 0;
  uint32_t requests = 0;
  for (int round = 0; round < kRoundsPerPoll && end == 0 && self->poll_ != nullptr && !self->paused_; ++round) {
    size_t used = 0;
    uint32_t count = 0;
    end = self->ReadBatch(&used, &count);
    requests += count;
    if (count > 0) self->Deliver(used, count);
  }
  if (requests == 1) SpinAfterLoneEvent(self->env_);
  if (end == EAGAIN && status < 0) end = -status;
  if (end != 0 && end != EAGAIN && self->poll_ != nullptr) self->ReportClosed(end);
  napi_close_handle_scope(self->env_, scope);
}

// Calls JavaScript from the event loop. Continuations run when the scope closes, after the replies have left.
void FuseChannel::Deliver(size_t used, uint32_t count) {
  napi_value resource;
  napi_value args[2];
  napi_callback_scope scope;
  if (napi_get_reference_value(env_, self_, &resource) != napi_ok ||
      napi_create_uint32(env_, static_cast<uint32_t>(used), &args[0]) != napi_ok ||
      napi_create_uint32(env_, count, &args[1]) != napi_ok ||
      napi_open_callback_scope(env_, resource, context_, &scope) != napi_ok) {
    napi_fatal_error("FuseChannel::Deliver", NAPI_AUTO_LENGTH, "cannot call back", NAPI_AUTO_LENGTH);
  }
  uint32_t reply_bytes = 0;
  napi_value result = CallFunction(env_, on_batch_, 2, args);
  if (result != nullptr && napi_get_value_uint32(env_, result, &reply_bytes) == napi_ok) FlushReplies(reply_bytes);
  napi_close_callback_scope(env_, scope);
}

// Writes the replies of [0, bytes) of the slab.
void FuseChannel::FlushReplies(size_t bytes) {
  if (bytes > reply_slab_bytes_) bytes = reply_slab_bytes_;
  size_t cursor = 0;
  if (poll_ == nullptr || !HasSlabs()) return;
  // The report of a failure calls JavaScript, which may close the channel.
  bool goes_on = true;
  while (bytes - cursor >= kReplyHeaderBytes && goes_on) {
    uint8_t* reply = reply_slab_ + cursor;
    uint32_t length;
    uint64_t unique;
    memcpy(&length, reply, sizeof length);
    memcpy(&unique, reply + 8, sizeof unique);
    if (length < kReplyHeaderBytes || length > bytes - cursor) {
      // We do not know where the next reply starts.
      ReportFailedReply(EMSGSIZE, unique);
      return;
    }
    const iovec iov = {reply, length};
    const int error = WriteReply(fd_->get(), &iov, 1);
    cursor += Align8(length);
    if (error != 0 && !IsHarmless(error)) {
      ReportFailedReply(error, unique);
      goes_on = poll_ != nullptr && HasSlabs();
    }
    if (cursor > bytes) return;
  }
}

void FuseChannel::ReportFailedReply(int error, uint64_t unique) {
  napi_value args[2];
  if (napi_create_int32(env_, error, &args[0]) == napi_ok &&
      napi_create_bigint_uint64(env_, unique, &args[1]) == napi_ok) {
    CallFunction(env_, on_reply_failed_, 2, args);
  }
}

void FuseChannel::ReportClosed(int error) {
  napi_value resource;
  napi_value arg;
  napi_callback_scope scope;
  if (napi_get_reference_value(env_, self_, &resource) != napi_ok ||
      napi_create_int32(env_, error, &arg) != napi_ok ||
      napi_open_callback_scope(env_, resource, context_, &scope) != napi_ok) {
    napi_fatal_error("FuseChannel::ReportClosed", NAPI_AUTO_LENGTH, "cannot call back", NAPI_AUTO_LENGTH);
  }
  const napi_ref callback = on_closed_;
  on_closed_ = nullptr;  // once, and it must outlive Shut()
  Shut();
  CallFunction(env_, callback, 1, &arg);
  napi_delete_reference(env_, callback);
  napi_close_callback_scope(env_, scope);
}

// Stops everything that can be stopped now. Idempotent. May run inside the batch callback, so the async context that
// Deliver still needs goes with the object.
void FuseChannel::Shut() {
  if (poll_ == nullptr) return;
  uv_poll_stop(poll_);
  // The descriptor stays open until libuv is done with the handle.
  poll_->data = new std::shared_ptr<SharedFd>(std::move(fd_));
  uv_close(reinterpret_cast<uv_handle_t*>(poll_), [](uv_handle_t* handle) {
    delete static_cast<std::shared_ptr<SharedFd>*>(handle->data);
    delete reinterpret_cast<uv_poll_t*>(handle);
  });
  poll_ = nullptr;
  if (notify_ != nullptr) notify_->Close();
  notify_ = nullptr;
  if (cleanup_ != nullptr) napi_remove_async_cleanup_hook(cleanup_);
  cleanup_ = nullptr;
  DropReferences();
}

void FuseChannel::DropReferences() {
  for (napi_ref* ref : {&on_batch_, &on_reply_failed_, &on_closed_, &request_slab_ref_, &reply_slab_ref_, &self_}) {
    if (*ref != nullptr) napi_delete_reference(env_, *ref);
    *ref = nullptr;
  }
}

// Environment teardown: our handle must leave the loop before the loop can be closed.
void FuseChannel::OnEnvironmentGone(napi_async_cleanup_hook_handle handle, void* data) {
  auto* self = static_cast<FuseChannel*>(data);
  self->cleanup_ = nullptr;
  uv_poll_t* poll = self->poll_;
  if (poll == nullptr) {
    napi_remove_async_cleanup_hook(handle);
    return;
  }
  struct Closing {
    napi_async_cleanup_hook_handle hook;
    std::shared_ptr<SharedFd> fd;
  };
  uv_poll_stop(poll);
  poll->data = new Closing{handle, std::move(self->fd_)};
  self->poll_ = nullptr;
  uv_close(reinterpret_cast<uv_handle_t*>(poll), [](uv_handle_t* closed) {
    std::unique_ptr<Closing> closing(static_cast<Closing*>(closed->data));
    napi_remove_async_cleanup_hook(closing->hook);
    delete reinterpret_cast<uv_poll_t*>(closed);
  });
}

// flush(bytes): writes the replies in the first `bytes` of the slab, which is free then.
napi_value FuseChannel::Flush(napi_env env, napi_callback_info info) {
  const Arguments args(env, info);
  FuseChannel* self = Of(env, args.self());
  uint32_t bytes;
  if (self == nullptr || !args.Uint32(0, &bytes)) return nullptr;
  self->FlushReplies(bytes);
  return Undefined(env);
}

// send(chunks): one reply in its parts, as one write. @returns 0 or the errno of the write.
napi_value FuseChannel::Send(napi_env env, napi_callback_info info) {
  const Arguments args(env, info);
  FuseChannel* self = Of(env, args.self());
  if (self == nullptr) return nullptr;
  uint32_t count;
  if (napi_get_array_length(env, args[0], &count) != napi_ok) return ThrowType(env, "argument 0 must be an array");
  // First all elements, then their memory: an element may be a getter, which can do anything to the others. The array may say any
  // length, so nothing is sized by it.
  std::vector<napi_value> chunks;
  for (uint32_t i = 0; i < count; ++i) {
    napi_value chunk;
    bool is_bytes = false;
    HOLDFAST_NAPI(env, napi_get_element(env, args[0], i, &chunk));
    if (napi_is_buffer(env, chunk, &is_bytes) != napi_ok || !is_bytes) {
      return ThrowType(env, "chunks must be an array of Uint8Array");
    }
    chunks.push_back(chunk);
  }
  constexpr uint32_t kFew = 16;
  iovec few[kFew];
  std::vector<iovec> many;
  if (count > kFew) many.resize(count);
  iovec* iov = count > kFew ? many.data() : few;
  size_t total = 0;
  for (uint32_t i = 0; i < count; ++i) {
    uint8_t* data;
    if (!BytesOf(env, chunks[i], &data, &iov[i].iov_len)) {
      return ThrowType(env, "chunks must be an array of Uint8Array");
    }
    iov[i].iov_base = data;
    total += iov[i].iov_len;
  }
  int error = ENODEV;
  if (self->poll_ != nullptr) {
    if (count <= IOV_MAX) {
      error = WriteReply(self->fd_->get(), iov, static_cast<int>(count));
    } else {
      std::vector<uint8_t> joined;
      joined.reserve(total);
      for (uint32_t i = 0; i < count; ++i) {
        const auto* bytes = static_cast<const uint8_t*>(iov[i].iov_base);
        joined.insert(joined.end(), bytes, bytes + iov[i].iov_len);
      }
      const iovec one = {joined.data(), joined.size()};
      error = WriteReply(self->fd_->get(), &one, 1);
    }
  }
  napi_value result;
  HOLDFAST_NAPI(env, napi_create_int32(env, IsHarmless(error) ? 0 : error, &result));
  return result;
}

// notify(id, message): queues a copy of a notification. @returns 0, or an errno, and then onNotified is not called.
napi_value FuseChannel::Notify(napi_env env, napi_callback_info info) {
  const Arguments args(env, info);
  FuseChannel* self = Of(env, args.self());
  uint32_t id;
  uint8_t* message;
  size_t length;
  if (self == nullptr || !args.Uint32(0, &id) || !args.Bytes(1, &message, &length)) return nullptr;
  int error = ENODEV;
  if (self->notify_ != nullptr) {
    error = self->notify_->Submit(id, std::vector<uint8_t>(message, message + length));
  }
  napi_value result;
  HOLDFAST_NAPI(env, napi_create_int32(env, error, &result));
  return result;
}

// pause(): reads no more requests until resume(). Idempotent.
napi_value FuseChannel::Pause(napi_env env, napi_callback_info info) {
  const Arguments args(env, info);
  FuseChannel* self = Of(env, args.self());
  if (self == nullptr) return nullptr;
  self->paused_ = true;
  if (self->poll_ != nullptr) uv_poll_stop(self->poll_);
  return Undefined(env);
}

// resume(): reads again. Idempotent.
napi_value FuseChannel::Resume(napi_env env, napi_callback_info info) {
  const Arguments args(env, info);
  FuseChannel* self = Of(env, args.self());
  if (self == nullptr) return nullptr;
  self->paused_ = false;
  const int error = self->poll_ == nullptr ? 0 : -uv_poll_start(self->poll_, UV_READABLE, OnPoll);
  if (error != 0) return ThrowErrno(env, error, "uv_poll_start");
  return Undefined(env);
}

// close(): after it, only onNotified is called, for queued notifications. The descriptor closes when its last user is
// done.
napi_value FuseChannel::Close(napi_env env, napi_callback_info info) {
  const Arguments args(env, info);
  FuseChannel* self = Of(env, args.self());
  if (self == nullptr) return nullptr;
  self->Shut();
  return Undefined(env);
}

}  // namespace

bool RegisterFuseChannel(napi_env env, napi_value exports) {
  const napi_property_descriptor methods[] = {
      Method("flush", FuseChannel::Flush),
      Method("send", FuseChannel::Send),
      Method("notify", FuseChannel::Notify),
      Method("pause", FuseChannel::Pause),
      Method("resume", FuseChannel::Resume),
      Method("close", FuseChannel::Close),
  };
  napi_value constructor;
  return napi_define_class(env, "FuseChannel", NAPI_AUTO_LENGTH, FuseChannel::Construct, nullptr,
                           sizeof methods / sizeof *methods, methods, &constructor) == napi_ok &&
         napi_set_named_property(env, exports, "FuseChannel", constructor) == napi_ok;
}

}  // namespace holdfast
