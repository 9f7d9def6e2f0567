#include "stream_socket.h"

#include <cerrno>

#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "registration.h"
#include "socket.h"
#include "spin.h"

namespace holdfast {

namespace {

constexpr int kRoundsPerPoll = 16;
constexpr int kUnixBufferBytes = 1 << 20;
constexpr size_t kDropBytes = 32 << 10;
// As much as one small message, or a few.
constexpr size_t kLoneBytes = 4 << 10;

// A Unix socket has a fixed buffer, by default one of 208 KiB: a bulk would pass through it in many turns of both sides. TCP
// lets its buffers grow to several MiB by itself.
void EnlargeUnixBuffer(int fd) {
  int domain = 0;
  socklen_t length = sizeof domain;
  if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &length) != 0 || domain != AF_UNIX) return;
  const int bytes = kUnixBufferBytes;
  // Only a process with CAP_NET_ADMIN may exceed net.core.wmem_max. Another gets that much, and the rest is speed only.
  if (setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &bytes, sizeof bytes) != 0) {
    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes);
  }
}

bool IsDetached(napi_env env, napi_value view) {
  napi_value memory;
  bool detached = false;
  return napi_get_typedarray_info(env, view, nullptr, nullptr, nullptr, &memory, nullptr) == napi_ok &&
         napi_is_detached_arraybuffer(env, memory, &detached) == napi_ok && detached;
}

}  // namespace

ssize_t ReceiveInto(int fd, uint8_t* memory, size_t length) {
  ssize_t got;
  do {
    got = recv(fd, memory, length, MSG_DONTWAIT);
  } while (got < 0 && errno == EINTR);
  return got;
}

StreamSocket* StreamSocket::Of(napi_env env, const Arguments& args) {
  void* data = nullptr;
  if (napi_unwrap(env, args.self(), &data) != napi_ok) {
    ThrowType(env, "not a StreamSocket");
    return nullptr;
  }
  return static_cast<StreamSocket*>(data);
}

bool StreamSocket::KeepArguments(const Arguments& args) {
  bool is_array = false;
  napi_value on_data;
  napi_value on_sent;
  napi_value on_ended;
  if (napi_is_array(env_, args[1], &is_array) != napi_ok || !is_array) {
    ThrowType(env_, "argument 1 must be an array");
    return false;
  }
  if (!args.Function(2, &on_data) || !args.Function(3, &on_sent) || !args.Function(4, &on_ended)) return false;
  napi_value resource_name;
  if (napi_create_string_utf8(env_, "holdfast:socket", NAPI_AUTO_LENGTH, &resource_name) != napi_ok ||
      napi_async_init(env_, args.self(), resource_name, &context_) != napi_ok ||
      napi_create_reference(env_, args.self(), 1, &self_) != napi_ok ||
      napi_create_reference(env_, args[1], 1, &memory_) != napi_ok ||
      napi_create_reference(env_, on_data, 1, &on_data_) != napi_ok ||
      napi_create_reference(env_, on_sent, 1, &on_sent_) != napi_ok ||
      napi_create_reference(env_, on_ended, 1, &on_ended_) != napi_ok) {
    ThrowNapiFailure(env_);
    return false;
  }
  return true;
}

// new StreamSocket(fd, memory, onData, onSent, onEnded)
napi_value StreamSocket::Construct(napi_env env, napi_callback_info info) {
  const Arguments args(env, info);
  napi_value target = nullptr;
  HOLDFAST_NAPI(env, napi_get_new_target(env, info, &target));
  if (target == nullptr) return ThrowType(env, "StreamSocket is a class");
  int32_t fd;
  if (!args.Int32(0, &fd)) return nullptr;
  int type = 0;
  socklen_t length = sizeof type;
  if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &length) != 0) return ThrowErrno(env, errno, "getsockopt");
  if (type != SOCK_STREAM) return ThrowErrno(env, EPROTOTYPE, "getsockopt");
  uv_loop_t* loop = nullptr;
  HOLDFAST_NAPI(env, napi_get_uv_event_loop(env, &loop));

  std::unique_ptr<StreamSocket> socket(new StreamSocket(env));
  const auto finalize = [](napi_env final_env, void* data, void*) {
    std::unique_ptr<StreamSocket> dead(static_cast<StreamSocket*>(data));
    if (dead->context_ != nullptr) napi_async_destroy(final_env, dead->context_);
  };
  HOLDFAST_NAPI(env, napi_wrap(env, args.self(), socket.get(), finalize, nullptr, nullptr));
  StreamSocket* self = socket.release();  // from here the JavaScript object owns it
  if (!self->KeepArguments(args)) {
    self->Shut();
    return nullptr;
  }
  self->fd_ = fcntl(fd, F_DUPFD_CLOEXEC, 0);
  if (self->fd_ < 0) {
    const int error = errno;
    self->Shut();
    return ThrowErrno(env, error, "fcntl");
  }
  EnlargeUnixBuffer(self->fd_);
  auto* handles = new Handles;
  const int error = -uv_poll_init(loop, &handles->poll, self->fd_);
  if (error != 0) {
    delete handles;
    self->Shut();
    return ThrowErrno(env, error, "uv_poll_init");
  }
  handles->open = 1;
  handles->poll.data = self;
  self->handles_ = handles;
  napi_add_async_cleanup_hook(env, OnEnvironmentGone, self, &self->cleanup_);
  return args.self();
}

void StreamSocket::OnPoll(uv_poll_t* handle, int status, int events) {
  auto* self = static_cast<StreamSocket*>(handle->data);
  // status < 0: poll(2) says that the socket has an error, and libuv has stopped the handle. What the peer sent before
  // is read first; then recv() tells the error.
  const bool broken = status < 0;
  if (broken) self->polled_ = 0;
  self->OnEvent(broken, broken || (events & UV_READABLE) != 0, broken || (events & UV_WRITABLE) != 0);
}

void StreamSocket::OnEvent(bool broken, bool readable, bool writable) {
  napi_handle_scope scope;
  if (napi_open_handle_scope(env_, &scope) != napi_ok) return;
  // A callback may close the socket. This handle keeps the object until the end of this function.
  napi_value object;
  napi_get_reference_value(env_, self_, &object);
  const char* operation = "read";
  int error = 0;
  if (readable) error = is_tls() ? (is_shaking_hands() ? ReceiveHandshake() : ReceiveRecords()) : Receive();
  if (handles_ != nullptr && (error == 0 || error == EAGAIN) && !queue_.empty() && writable) {
    operation = "write";
    error = SendQueued();
  }
  if (handles_ != nullptr) {
    if (broken && error == EAGAIN) {
      socklen_t length = sizeof error;
      if (getsockopt(fd_, SOL_SOCKET, SO_ERROR, &error, &length) != 0) error = errno;
      if (error == 0) error = EIO;
    }
    if (error != 0 && error != EAGAIN) {
      ReportError(error, operation);
    } else {
      UpdatePoll();
    }
  }
  napi_close_handle_scope(env_, scope);
}

// @returns false if memory[0] is no memory.
bool StreamSocket::Memory(uint8_t** memory, size_t* length) {
  napi_value array;
  napi_value view;
  if (napi_get_reference_value(env_, memory_, &array) == napi_ok &&
      napi_get_element(env_, array, 0, &view) == napi_ok && BytesOf(env_, view, memory, length) && *length > 0) {
    return true;
  }
  // That of a getter. The caller reports an error of its own.
  napi_value thrown;
  bool pending = false;
  if (napi_is_exception_pending(env_, &pending) == napi_ok && pending) {
    napi_get_and_clear_last_exception(env_, &thrown);
  }
  return false;
}

// Reads what is there, within bounds, and hands it to JavaScript. @returns 0, EAGAIN if nothing was there, or an errno.
int StreamSocket::Receive() {
  for (int round = 0; round < kRoundsPerPoll && handles_ != nullptr && reading_ && !peer_ended_; ++round) {
    uint8_t dropped[kDropBytes];
    uint8_t* memory = dropped;
    size_t length = sizeof dropped;
    const bool drops = ending_;
    if (!drops && !Memory(&memory, &length)) return EFAULT;
    const ssize_t got = ReceiveInto(fd_, memory, length);
    if (got < 0) return round > 0 && errno == EAGAIN ? 0 : errno;
    if (got == 0) {
      peer_ended_ = true;
      CallBack(on_ended_, Undefined(env_));
      return 0;
    }
    if (!drops) CallBackWithBytes(on_data_, static_cast<size_t>(got));
    // Less than asked for: there is no more, and asking again would cost a system call.
    if (static_cast<size_t>(got) < length) {
      if (round == 0 && static_cast<size_t>(got) <= kLoneBytes) SpinAfterLoneEvent(env_);
      return 0;
    }
  }
  return 0;
}

// @returns as SendQueue::Flush.
int StreamSocket::SendQueued() {
  const int error = queue_.Flush(fd_, kRoundsPerPoll);
  if (error != 0) return error;
  FinishIfSent();
  CallBackWithBytes(on_sent_, queue_.bytes());
  return 0;
}

void StreamSocket::FinishIfSent() {
  if (!ending_ || finished_ || !queue_.empty()) return;
  if (records_ != nullptr && !said_goodbye_) {
    SendCloseNotify();
    if (!queue_.empty()) return;
  }
  finished_ = true;
  // This fails only if the connection is broken. Then the next read says how.
  shutdown(fd_, SHUT_WR);
}

void StreamSocket::UpdatePoll() {
  const bool receives = is_shaking_hands() ? has_begun_ : reading_ && !peer_ended_;
  // Events of the socket would come behind what is held, and each of them would see to it.
  if (receives && HasHeld() && uv_timer_start(&handles_->again, OnAgain, 0, 0) != 0) {
    napi_fatal_error("StreamSocket::UpdatePoll", NAPI_AUTO_LENGTH, "no timer", NAPI_AUTO_LENGTH);
  }
  const int wanted = (receives ? UV_READABLE : 0) | (queue_.empty() ? 0 : UV_WRITABLE);
  if (wanted == polled_) return;
  polled_ = wanted;
  const int status = wanted == 0 ? uv_poll_stop(&handles_->poll) : uv_poll_start(&handles_->poll, wanted, OnPoll);
  // Only a closed handle or descriptor is refused, and ours are open.
  if (status != 0) napi_fatal_error("StreamSocket::UpdatePoll", NAPI_AUTO_LENGTH, uv_strerror(status), NAPI_AUTO_LENGTH);
}

// Tells JavaScript why the socket is broken, and closes it.
void StreamSocket::ReportError(int error, const char* operation) {
  ReportEnd(ErrnoError(env_, error, operation, ""));
}

// @param error there is none while the environment ends: libuv still runs then, and nothing of JavaScript may.
void StreamSocket::ReportEnd(napi_value error) {
  if (error != nullptr) CallBack(on_ended_, error);
  Shut();
}

// Calls JavaScript from the event loop. Continuations run when the scope closes.
void StreamSocket::CallBack(napi_ref function, napi_value argument) {
  napi_value resource;
  napi_callback_scope scope;
  if (napi_get_reference_value(env_, self_, &resource) != napi_ok ||
      napi_open_callback_scope(env_, resource, context_, &scope) != napi_ok) {
    napi_fatal_error("StreamSocket::CallBack", NAPI_AUTO_LENGTH, "cannot call back", NAPI_AUTO_LENGTH);
  }
  CallFunction(env_, function, 1, &argument);
  napi_close_callback_scope(env_, scope);
}

void StreamSocket::CallBackWithBytes(napi_ref function, size_t bytes) {
  napi_handle_scope scope;
  napi_value argument;
  if (napi_open_handle_scope(env_, &scope) != napi_ok ||
      napi_create_double(env_, static_cast<double>(bytes), &argument) != napi_ok) {
    napi_fatal_error("StreamSocket::CallBackWithBytes", NAPI_AUTO_LENGTH, "cannot call back", NAPI_AUTO_LENGTH);
  }
  CallBack(function, argument);
  napi_close_handle_scope(env_, scope);
}

// Takes the handles out of service. The caller closes them.
StreamSocket::Handles* StreamSocket::Detach() {
  Handles* handles = handles_;
  handles_ = nullptr;
  if (handles != nullptr) uv_poll_stop(&handles->poll);
  return handles;
}

void StreamSocket::CloseHandles(Handles* handles) {
  const auto closed = [](uv_handle_t* handle) {
    auto* gone = static_cast<Handles*>(handle->data);
    if (--gone->open > 0) return;
    if (gone->cleanup != nullptr) napi_remove_async_cleanup_hook(gone->cleanup);
    delete gone;
  };
  const bool has_timer = handles->open == 2;
  handles->poll.data = handles;
  handles->again.data = handles;
  uv_close(reinterpret_cast<uv_handle_t*>(&handles->poll), closed);
  if (has_timer) uv_close(reinterpret_cast<uv_handle_t*>(&handles->again), closed);
}

// Stops everything and frees what it holds. Idempotent. The async context goes with the object: a callback may be
// running in it.
void StreamSocket::Shut() {
  Handles* handles = Detach();
  if (handles != nullptr) CloseHandles(handles);
  // libuv has forgotten the descriptor, so it may close before the handle does: the peer hears of it at once.
  if (fd_ >= 0) close(fd_);
  fd_ = -1;
  if (cleanup_ != nullptr) napi_remove_async_cleanup_hook(cleanup_);
  cleanup_ = nullptr;
  queue_.Clear();
  queue_.Encrypt(nullptr);
  records_.reset();
  handshake_.reset();
  held_ = {};
  for (napi_ref* ref : {&on_data_, &on_sent_, &on_ended_, &memory_, &self_, &key_of_, &on_secure_}) {
    if (*ref != nullptr) napi_delete_reference(env_, *ref);
    *ref = nullptr;
  }
}

// Environment teardown: our handle must leave the loop before the loop can be closed. The references go with the
// environment.
void StreamSocket::OnEnvironmentGone(napi_async_cleanup_hook_handle handle, void* data) {
  auto* self = static_cast<StreamSocket*>(data);
  self->cleanup_ = nullptr;
  Handles* handles = self->Detach();
  if (self->fd_ >= 0) close(self->fd_);
  self->fd_ = -1;
  if (handles == nullptr) {
    napi_remove_async_cleanup_hook(handle);
    return;
  }
  handles->cleanup = handle;
  CloseHandles(handles);
}

// resume(): receives from now on.
napi_value StreamSocket::Resume(napi_env env, napi_callback_info info) {
  StreamSocket* self = Of(env, Arguments(env, info));
  if (self == nullptr) return nullptr;
  self->reading_ = true;
  if (self->handles_ != nullptr) self->UpdatePoll();
  return Undefined(env);
}

// pause(): receives nothing, not even the end, until resume().
napi_value StreamSocket::Pause(napi_env env, napi_callback_info info) {
  StreamSocket* self = Of(env, Arguments(env, info));
  if (self == nullptr) return nullptr;
  self->reading_ = self->ending_;
  if (self->handles_ != nullptr) self->UpdatePoll();
  return Undefined(env);
}

// write(chunks). @returns the number of bytes that wait, or a negative errno.
napi_value StreamSocket::Write(napi_env env, napi_callback_info info) {
  const Arguments args(env, info);
  StreamSocket* self = Of(env, args);
  if (self == nullptr) return nullptr;
  uint32_t count;
  if (napi_get_array_length(env, args[0], &count) != napi_ok) return ThrowType(env, "argument 0 must be an array");
  // First all elements, then their memory: an element may be a getter, which can do anything to the others.
  std::vector<napi_value> chunks;
  for (uint32_t i = 0; i < count; ++i) {
    napi_value chunk;
    HOLDFAST_NAPI(env, napi_get_element(env, args[0], i, &chunk));
    uint8_t* data;
    size_t length;
    if (!BytesOf(env, chunk, &data, &length) || (length == 0 && IsDetached(env, chunk))) {
      return ThrowType(env, "chunks must be an array of Uint8Array");
    }
    chunks.push_back(chunk);
  }
  int error = 0;
  if (self->handles_ == nullptr || self->ending_) error = EPIPE;
  else if (self->is_shaking_hands()) error = ENOTCONN;
  else error = self->queue_.Write(self->fd_, chunks);
  if (error == 0) self->UpdatePoll();
  napi_value result;
  HOLDFAST_NAPI(env, napi_create_double(env, error != 0 ? -error : static_cast<double>(self->queue_.bytes()), &result));
  return result;
}

// end(): no further write() is accepted. @returns the number of bytes that wait; at 0 FIN is sent.
napi_value StreamSocket::End(napi_env env, napi_callback_info info) {
  StreamSocket* self = Of(env, Arguments(env, info));
  if (self == nullptr) return nullptr;
  if (self->handles_ != nullptr) {
    self->ending_ = true;
    self->reading_ = true;
    self->FinishIfSent();
    self->UpdatePoll();
  }
  napi_value result;
  HOLDFAST_NAPI(env, napi_create_double(env, static_cast<double>(self->queue_.bytes()), &result));
  return result;
}

// takenBytes(): what the peer's kernel has acknowledged. A Unix socket's peer has the kernel that took the bytes.
napi_value StreamSocket::TakenBytes(napi_env env, napi_callback_info info) {
  StreamSocket* self = Of(env, Arguments(env, info));
  if (self == nullptr) return nullptr;
  uint64_t bytes = 0;
  if (self->fd_ >= 0 && TcpTakenBytes(self->fd_, &bytes) != 0) bytes = self->queue_.taken_bytes();
  napi_value result;
  HOLDFAST_NAPI(env, napi_create_double(env, static_cast<double>(bytes), &result));
  return result;
}

// close(): drops what waits. No callback follows. Idempotent.
napi_value StreamSocket::Close(napi_env env, napi_callback_info info) {
  StreamSocket* self = Of(env, Arguments(env, info));
  if (self == nullptr) return nullptr;
  self->Shut();
  return Undefined(env);
}

bool RegisterStreamSocket(napi_env env, napi_value exports) {
  const napi_property_descriptor methods[] = {
      Method("resume", StreamSocket::Resume),         Method("pause", StreamSocket::Pause),
      Method("write", StreamSocket::Write),           Method("end", StreamSocket::End),
      Method("takenBytes", StreamSocket::TakenBytes), Method("close", StreamSocket::Close),
      Method("startTls", StreamSocket::StartTls),
  };
  napi_value constructor;
  return napi_define_class(env, "StreamSocket", NAPI_AUTO_LENGTH, StreamSocket::Construct, nullptr,
                           sizeof methods / sizeof *methods, methods, &constructor) == napi_ok &&
         napi_set_named_property(env, exports, "StreamSocket", constructor) == napi_ok;
}

}  // namespace holdfast
