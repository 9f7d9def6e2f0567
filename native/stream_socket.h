// One connected stream socket: brings bytes to JavaScript and back with few system calls and few calls of JavaScript.
//
// Owns its descriptor (a duplicate of the one it was made from), the poll handle and the queue of what is to be sent.
// - The socket receives into memory that JavaScript provides ahead (`memory[0]`), and looks that memory up at each read:
//   JavaScript may replace or detach it at any time between calls.
// - write() sends at once what the kernel takes. The rest leaves when the kernel has room.
// - Methods never call JavaScript; only events of the loop do.
// - One event handles at most kRoundsPerPoll reads and sends, so that other sockets and timers get their turn.
// - After end() the socket drops what it receives, and sends FIN behind the queue.
// - The socket keeps its JavaScript object alive while it is open.
//
// After startTls() the bytes are those of TLS (stream_socket_tls.cc):
// - First comes the handshake. When it is done, the socket is paused, and goes on as above.
// - It reads into memory of the thread, and decrypts from there to JavaScript's memory. What is not complete yet, or came before a
//   pause(), is held here, at most kInputBytes. resume() sees to it from the event loop (again).
// - end() sends close_notify before FIN. An end of the peer without close_notify is an error, unless end() was called before.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include <node_api.h>
#include <uv.h>

#include "napi_util.h"
#include "send_queue.h"
#include "tls_handshake.h"
#include "tls_records.h"

namespace holdfast {

class StreamSocket {
 public:
  static napi_value Construct(napi_env env, napi_callback_info info);
  static napi_value StartTls(napi_env env, napi_callback_info info);
  static napi_value Resume(napi_env env, napi_callback_info info);
  static napi_value Pause(napi_env env, napi_callback_info info);
  static napi_value Write(napi_env env, napi_callback_info info);
  static napi_value End(napi_env env, napi_callback_info info);
  static napi_value TakenBytes(napi_env env, napi_callback_info info);
  static napi_value Close(napi_env env, napi_callback_info info);

 private:
  // They close together.
  struct Handles {
    uv_poll_t poll;
    // With TLS: what is held is seen to in the next turn of the loop.
    uv_timer_t again;
    int open = 0;
    napi_async_cleanup_hook_handle cleanup = nullptr;
  };
  struct Records {
    RecordSealer sealer;
    RecordOpener opener;
  };

  explicit StreamSocket(napi_env env) : env_(env), queue_(env) {}

  static void OnPoll(uv_poll_t* handle, int status, int events);
  static void OnAgain(uv_timer_t* handle);
  static void OnEnvironmentGone(napi_async_cleanup_hook_handle handle, void* data);
  static StreamSocket* Of(napi_env env, const Arguments& args);
  static void CloseHandles(Handles* handles);

  bool KeepArguments(const Arguments& args);
  bool Memory(uint8_t** memory, size_t* length);
  void OnEvent(bool broken, bool readable, bool writable);
  int Receive();
  int SendQueued();
  void FinishIfSent();
  void UpdatePoll();
  void ReportError(int error, const char* operation);
  void ReportEnd(napi_value error);
  void CallBack(napi_ref function, napi_value argument);
  void CallBackWithBytes(napi_ref function, size_t bytes);
  Handles* Detach();
  void Shut();

  bool is_tls() const { return context_of_tls_ != nullptr; }
  bool is_shaking_hands() const { return is_tls() && records_ == nullptr; }
  size_t KeyOf(const char* identity, uint8_t* key, size_t size);
  int ReceiveHandshake();
  int StepHandshake(const uint8_t* bytes, size_t length);
  int FinishHandshake(TlsHandshake* handshake);
  napi_value OutcomeValue(const TlsOutcome& outcome);
  int ReceiveRecords();
  int HandOut(const uint8_t* input, size_t* at, size_t end);
  bool HasHeld() const;
  void ReportTlsError(const TlsError& error);
  void SendCloseNotify();

  napi_env env_;
  Handles* handles_ = nullptr;  // nullptr once closed
  int fd_ = -1;
  int polled_ = 0;  // the events that poll waits for
  bool reading_ = false;
  bool ending_ = false;
  bool peer_ended_ = false;
  bool finished_ = false;
  // Before queue_, which uses the sealer.
  std::unique_ptr<Records> records_;
  SendQueue queue_;
  napi_async_context context_ = nullptr;
  napi_async_cleanup_hook_handle cleanup_ = nullptr;
  // References to the object itself, to the array with the memory and to the callbacks; strong until it is closed.
  napi_ref self_ = nullptr;
  napi_ref memory_ = nullptr;
  napi_ref on_data_ = nullptr;
  napi_ref on_sent_ = nullptr;
  napi_ref on_ended_ = nullptr;

  std::shared_ptr<TlsContext> context_of_tls_;
  // nullptr when it is done, and during its steps.
  std::unique_ptr<TlsHandshake> handshake_;
  // What was read and is not decrypted yet.
  std::vector<uint8_t> held_;
  bool has_begun_ = false;
  bool said_goodbye_ = false;
  napi_ref key_of_ = nullptr;
  napi_ref on_secure_ = nullptr;
};

// @returns the number of bytes, or -1 and errno.
ssize_t ReceiveInto(int fd, uint8_t* memory, size_t length);

}  // namespace holdfast
