// The part of a stream socket that speaks TLS.

#include "stream_socket.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "spin.h"
#include "thread_buffer.h"

namespace holdfast {

namespace {

// What one read may bring. A socket holds this much at most.
constexpr size_t kInputBytes = 128 << 10;
constexpr int kRoundsPerPoll = 8;
// A flight of a handshake has less, but for certificates of a size that nobody takes.
constexpr size_t kHandshakeBytes = 16 << 10;
// As in stream_socket.cc, with what TLS adds.
constexpr size_t kLoneBytes = 4 << 10;

using InputBuffer = ThreadBuffer<BufferUse::kReceive, kInputBytes>;

}  // namespace

// startTls(context, first, keyOf, onSecure): see binding.ts.
napi_value StreamSocket::StartTls(napi_env env, napi_callback_info info) {
  const Arguments args(env, info);
  StreamSocket* self = Of(env, args);
  if (self == nullptr) return nullptr;
  std::shared_ptr<TlsContext> context = TlsContext::Of(env, args[0]);
  if (context == nullptr) return nullptr;
  uint8_t* first;
  size_t length;
  napi_value key_of;
  napi_value on_secure;
  if (!args.Bytes(1, &first, &length) || !args.Function(2, &key_of) || !args.Function(3, &on_secure)) return nullptr;
  if (length > kInputBytes) return ThrowRange(env, "argument 1 is too long");
  if (self->handles_ == nullptr || self->is_tls() || self->reading_ || self->ending_ || !self->queue_.empty()) {
    return ThrowErrno(env, EISCONN, "startTls");
  }
  uv_loop_t* loop = nullptr;
  HOLDFAST_NAPI(env, napi_get_uv_event_loop(env, &loop));
  HOLDFAST_NAPI(env, napi_create_reference(env, key_of, 1, &self->key_of_));
  HOLDFAST_NAPI(env, napi_create_reference(env, on_secure, 1, &self->on_secure_));
  Handles* handles = self->handles_;
  if (handles->open == 1) {
    const int error = -uv_timer_init(loop, &handles->again);
    if (error != 0) return ThrowErrno(env, error, "uv_timer_init");
    handles->open = 2;
    handles->again.data = self;
  }
  self->held_.assign(first, first + length);
  const auto ask = [self](const char* identity, uint8_t* key, size_t size) { return self->KeyOf(identity, key, size); };
  self->handshake_ = std::make_unique<TlsHandshake>(context, ask);
  self->context_of_tls_ = std::move(context);
  // In an event of its own: it may call JavaScript.
  uv_timer_start(&handles->again, OnAgain, 0, 0);
  return Undefined(env);
}

void StreamSocket::OnAgain(uv_timer_t* handle) { static_cast<StreamSocket*>(handle->data)->OnEvent(false, true, false); }

// Asks JavaScript for the key with this identity. @returns its length; 0: there is none.
size_t StreamSocket::KeyOf(const char* identity, uint8_t* key, size_t size) {
  if (key_of_ == nullptr) return 0;
  napi_value argument;
  if (napi_create_string_utf8(env_, identity, NAPI_AUTO_LENGTH, &argument) != napi_ok) return 0;
  // A client that offers a session offers its number as an identity. That is no text, and no key of ours has it.
  std::vector<char> text(strlen(identity) * 3 + 4);
  size_t written = 0;
  if (napi_get_value_string_utf8(env_, argument, text.data(), text.size(), &written) != napi_ok ||
      strcmp(text.data(), identity) != 0) {
    return 0;
  }
  napi_value answer = CallFunction(env_, key_of_, 1, &argument);
  uint8_t* data;
  size_t length;
  if (answer == nullptr || !BytesOf(env_, answer, &data, &length) || length > size) return 0;
  memcpy(key, data, length);
  return length;
}

// @returns 0, EAGAIN, or an errno that ends the connection.
int StreamSocket::ReceiveHandshake() {
  if (!has_begun_) {
    has_begun_ = true;
    const std::vector<uint8_t> first = std::move(held_);
    held_ = {};
    return StepHandshake(first.data(), first.size());
  }
  for (int round = 0; round < kRoundsPerPoll && handles_ != nullptr && is_shaking_hands(); ++round) {
    uint8_t bytes[kHandshakeBytes];
    const ssize_t got = ReceiveInto(fd_, bytes, sizeof bytes);
    if (got < 0) return round > 0 && errno == EAGAIN ? 0 : errno;
    // There is no handshake without an answer.
    if (got == 0) return ECONNRESET;
    const int error = StepHandshake(bytes, static_cast<size_t>(got));
    if (error != 0 || static_cast<size_t>(got) < sizeof bytes) return error;
  }
  return 0;
}

int StreamSocket::StepHandshake(const uint8_t* bytes, size_t length) {
  napi_value resource;
  napi_callback_scope scope;
  if (napi_get_reference_value(env_, self_, &resource) != napi_ok ||
      napi_open_callback_scope(env_, resource, context_, &scope) != napi_ok) {
    return EIO;
  }
  // JavaScript may close the socket in the middle.
  std::unique_ptr<TlsHandshake> handshake = std::move(handshake_);
  const TlsHandshake::Result result = handshake->Step(bytes, length);
  napi_close_callback_scope(env_, scope);
  if (handles_ == nullptr) return 0;
  const std::vector<uint8_t> answer = handshake->TakeOutput();
  const int error = answer.empty() ? 0 : queue_.WriteRaw(fd_, answer.data(), answer.size());
  if (result == TlsHandshake::Result::kFailed) {
    ReportTlsError(handshake->error());
    return 0;
  }
  if (error != 0) return error;
  if (result == TlsHandshake::Result::kDone) return FinishHandshake(handshake.get());
  handshake_ = std::move(handshake);
  return 0;
}

int StreamSocket::FinishHandshake(TlsHandshake* handshake) {
  const bool is_server = context_of_tls_->is_server();
  const TlsLibrary& library = context_of_tls_->library();
  std::unique_ptr<Records> records(new Records{RecordSealer(library), RecordOpener(library, !is_server)});
  if (!records->sealer.Begin(handshake->secret(is_server)) || !records->opener.Begin(handshake->secret(!is_server))) return EIO;
  records_ = std::move(records);
  queue_.Encrypt(&records_->sealer);
  held_ = handshake->TakeRest();
  napi_value outcome = OutcomeValue(handshake->Outcome());
  if (outcome == nullptr) return EIO;
  CallBack(on_secure_, outcome);
  return 0;
}

// @returns nullptr if JavaScript cannot have it.
napi_value StreamSocket::OutcomeValue(const TlsOutcome& outcome) {
  napi_value result;
  napi_value used_key;
  napi_value certificate = Undefined(env_);
  napi_value verify_result;
  napi_value verify_text;
  if (napi_create_object(env_, &result) != napi_ok || napi_get_boolean(env_, outcome.used_key, &used_key) != napi_ok ||
      (!outcome.certificate.empty() &&
       napi_create_buffer_copy(env_, outcome.certificate.size(), outcome.certificate.data(), nullptr, &certificate) != napi_ok) ||
      napi_create_int64(env_, outcome.verify_result, &verify_result) != napi_ok ||
      napi_create_string_utf8(env_, outcome.verify_text.data(), outcome.verify_text.size(), &verify_text) != napi_ok ||
      napi_set_named_property(env_, result, "usedKey", used_key) != napi_ok ||
      napi_set_named_property(env_, result, "certificate", certificate) != napi_ok ||
      napi_set_named_property(env_, result, "verifyResult", verify_result) != napi_ok ||
      napi_set_named_property(env_, result, "verifyText", verify_text) != napi_ok) {
    return nullptr;
  }
  return result;
}

// Whether more can be done without a further read.
bool StreamSocket::HasHeld() const {
  if (records_ == nullptr) return false;
  if (records_->opener.has_left()) return true;
  if (held_.size() < kTlsHeaderBytes) return false;
  return held_.size() >= kTlsHeaderBytes + ((static_cast<size_t>(held_[3]) << 8) | held_[4]);
}

// As Receive().
int StreamSocket::ReceiveRecords() {
  const InputBuffer input;
  size_t at = 0;
  size_t end = held_.size();
  if (end > 0) memcpy(input.data(), held_.data(), end);
  held_ = {};
  int error = 0;
  bool had_any = end > 0;
  for (int round = 0;; ++round) {
    error = HandOut(input.data(), &at, end);
    if (error != 0 || handles_ == nullptr || !reading_ || peer_ended_) break;
    end -= at;
    if (at > 0) memmove(input.data(), input.data() + at, end);
    at = 0;
    // A complete record would not be there any more, and an incomplete one is far smaller than the memory.
    if (round == kRoundsPerPoll) break;
    const size_t room = kInputBytes - end;
    const ssize_t got = ReceiveInto(fd_, input.data() + end, room);
    if (got < 0) {
      error = had_any && errno == EAGAIN ? 0 : errno;
      break;
    }
    if (got == 0) {
      if (!ending_) {
        ReportTlsError({"the peer's stream was cut", 0, 0, "ECONNRESET"});
        return 0;
      }
      peer_ended_ = true;
      CallBack(on_ended_, Undefined(env_));
      break;
    }
    had_any = true;
    end += static_cast<size_t>(got);
    if (static_cast<size_t>(got) < room) {
      error = HandOut(input.data(), &at, end);
      if (round == 0 && static_cast<size_t>(got) <= kLoneBytes) SpinAfterLoneEvent(env_);
      break;
    }
  }
  if (handles_ != nullptr && !peer_ended_ && !ending_) held_.assign(input.data() + at, input.data() + end);
  return error;
}

// Decrypts what is complete of input[*at, end), and hands it to JavaScript, until that pauses. @returns 0 or an errno.
int StreamSocket::HandOut(const uint8_t* input, size_t* at, size_t end) {
  while (handles_ != nullptr && reading_ && !peer_ended_) {
    // After end() nobody wants it.
    if (ending_) {
      *at = end;
      return 0;
    }
    if (!records_->opener.has_left() && end - *at < kTlsHeaderBytes) return 0;
    uint8_t* memory;
    size_t size;
    if (!Memory(&memory, &size)) return EFAULT;
    size_t filled = 0;
    const RecordOpener::Result result = records_->opener.Open(input, at, end, memory, size, &filled);
    if (records_->opener.TakeKeyRequest()) records_->sealer.RenewSoon();
    if (filled > 0) CallBackWithBytes(on_data_, filled);
    if (handles_ == nullptr) return 0;
    switch (result) {
      case RecordOpener::Result::kNeedsInput:
        return 0;
      case RecordOpener::Result::kNeedsRoom:
        break;
      case RecordOpener::Result::kEnded:
        peer_ended_ = true;
        if (!ending_) CallBack(on_ended_, Undefined(env_));
        return 0;
      case RecordOpener::Result::kBroken:
        if (!ending_) ReportTlsError(records_->opener.error());
        else peer_ended_ = true;
        return 0;
    }
  }
  return 0;
}

// Tells the peer why, if it can be told at once, and JavaScript; and closes.
void StreamSocket::ReportTlsError(const TlsError& error) {
  if (error.sends != 0 && records_ != nullptr && queue_.empty()) {
    constexpr uint8_t kFatal = 2;
    const uint8_t alert[] = {kFatal, static_cast<uint8_t>(error.sends)};
    uint8_t record[kTlsHeaderBytes + sizeof alert + 1 + kTlsTagBytes];
    const size_t length = records_->sealer.SealMessage(RecordType::kAlert, alert, sizeof alert, record);
    // It may get lost. Closing says the same in fewer words.
    if (length > 0) queue_.WriteRaw(fd_, record, length);
  }
  ReportEnd(TlsErrorValue(env_, error));
}

void StreamSocket::SendCloseNotify() {
  said_goodbye_ = true;
  constexpr uint8_t kWarning = 1;
  const uint8_t alert[] = {kWarning, static_cast<uint8_t>(Alert::kCloseNotify)};
  uint8_t record[kTlsHeaderBytes + sizeof alert + 1 + kTlsTagBytes];
  const size_t length = records_->sealer.SealMessage(RecordType::kAlert, alert, sizeof alert, record);
  // If the connection is broken, the next read says how.
  if (length > 0) queue_.WriteRaw(fd_, record, length);
}

}  // namespace holdfast
