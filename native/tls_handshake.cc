#include "tls_handshake.h"

#include <cstring>

namespace holdfast {

namespace {

constexpr int kAppData = 0;
constexpr int kWantsRead = 2;
constexpr int kPending = 10;
constexpr int kEndOfMemory = 130;
constexpr const char* kSecretNames[] = {"CLIENT_TRAFFIC_SECRET_0 ", "SERVER_TRAFFIC_SECRET_0 "};

int DigitOf(char letter) {
  if (letter >= '0' && letter <= '9') return letter - '0';
  if (letter >= 'a' && letter <= 'f') return letter - 'a' + 10;
  if (letter >= 'A' && letter <= 'F') return letter - 'A' + 10;
  return -1;
}

// @returns false if the text is not exactly so many bytes in hexadecimal.
bool Decode(const char* text, uint8_t* out, size_t length) {
  for (size_t i = 0; i < length; ++i) {
    const int high = DigitOf(text[0]);
    const int low = high < 0 ? -1 : DigitOf(text[1]);
    if (low < 0) return false;
    out[i] = static_cast<uint8_t>(high << 4 | low);
    text += 2;
  }
  return *text == '\0';
}

TlsHandshake* Of(const TlsLibrary& library, const Ssl* ssl) { return static_cast<TlsHandshake*>(library.ssl_data(ssl, kAppData)); }

}  // namespace

void TlsHandshake::Prepare(const TlsLibrary& library, SslContext* context, bool is_server, bool has_key) {
  library.context_set_key_log(context, KeyLog);
  if (is_server) library.context_set_server_key(context, ServerKey);
  else if (has_key) library.context_set_client_key(context, ClientKey);
}

TlsHandshake::TlsHandshake(std::shared_ptr<TlsContext> context, KeyOf key_of)
    : context_(std::move(context)), library_(context_->library()), key_of_(std::move(key_of)) {
  library_.error_clear();
  ssl_ = library_.ssl_new(context_->context());
  input_ = library_.bio_new(library_.bio_memory());
  output_ = library_.bio_new(library_.bio_memory());
  if (ssl_ == nullptr || input_ == nullptr || output_ == nullptr) {
    library_.bio_free(input_);
    library_.bio_free(output_);
    library_.ssl_free(ssl_);
    ssl_ = nullptr;
    library_.error_clear();
    return;
  }
  // An empty one is not at its end: more will come.
  library_.bio_control(input_, kEndOfMemory, -1, nullptr);
  library_.ssl_set_bio(ssl_, input_, output_);
  library_.ssl_set_data(ssl_, kAppData, this);
  if (context_->is_server()) library_.ssl_set_accept_state(ssl_);
  else library_.ssl_set_connect_state(ssl_);
}

TlsHandshake::~TlsHandshake() {
  library_.ssl_free(ssl_);
  library_.cleanse(secrets_, sizeof secrets_);
  library_.error_clear();
}

unsigned TlsHandshake::ServerKey(Ssl* ssl, const char* identity, unsigned char* key, unsigned size) {
  const TlsHandshake* self = Of(*FindTlsLibrary(), ssl);
  return self->key_of_ ? static_cast<unsigned>(self->key_of_(identity, key, size)) : 0;
}

unsigned TlsHandshake::ClientKey(Ssl* ssl, const char*, char* identity, unsigned identity_size, unsigned char* key, unsigned size) {
  const TlsContext& context = *Of(*FindTlsLibrary(), ssl)->context_;
  if (context.identity().size() + 1 > identity_size || context.key().size() > size) return 0;
  memcpy(identity, context.identity().c_str(), context.identity().size() + 1);
  memcpy(key, context.key().data(), context.key().size());
  return static_cast<unsigned>(context.key().size());
}

// NAME RANDOM SECRET, the last two in hexadecimal.
void TlsHandshake::KeyLog(const Ssl* ssl, const char* line) {
  TlsHandshake* self = Of(*FindTlsLibrary(), ssl);
  for (int i = 0; i < 2; ++i) {
    const size_t length = strlen(kSecretNames[i]);
    if (strncmp(line, kSecretNames[i], length) != 0) continue;
    const char* secret = strchr(line + length, ' ');
    self->has_secret_[i] = secret != nullptr && Decode(secret + 1, self->secrets_[i], kTlsSecretBytes);
  }
}

TlsHandshake::Result TlsHandshake::Failed(const TlsError& error) {
  error_ = error;
  library_.error_clear();
  return Result::kFailed;
}

TlsHandshake::Result TlsHandshake::Step(const uint8_t* bytes, size_t length) {
  library_.error_clear();
  if (ssl_ == nullptr) return Failed(OwnTlsError(Alert::kInternalError, "internal error"));
  if (length > 0 && library_.bio_write(input_, bytes, static_cast<int>(length)) != static_cast<int>(length)) {
    return Failed(OwnTlsError(Alert::kInternalError, "internal error"));
  }
  const int status = library_.ssl_handshake(ssl_);
  if (status != 1) {
    if (library_.ssl_error(ssl_, status) == kWantsRead) {
      library_.error_clear();
      return Result::kGoesOn;
    }
    return Failed(QueuedTlsError(library_));
  }
  library_.error_clear();
  // Both directions begin with their record 0 now: OpenSSL has read nothing behind the handshake, and knows both secrets.
  if (library_.ssl_has_pending(ssl_) != 0 || !has_secret_[0] || !has_secret_[1]) {
    return Failed(OwnTlsError(Alert::kInternalError, "internal error"));
  }
  return Result::kDone;
}

std::vector<uint8_t> TlsHandshake::ReadAll(Bio* bio) {
  std::vector<uint8_t> bytes(ssl_ == nullptr ? 0 : static_cast<size_t>(library_.bio_control(bio, kPending, 0, nullptr)));
  if (!bytes.empty()) library_.bio_read(bio, bytes.data(), static_cast<int>(bytes.size()));
  return bytes;
}

std::vector<uint8_t> TlsHandshake::TakeOutput() { return ReadAll(output_); }

std::vector<uint8_t> TlsHandshake::TakeRest() { return ReadAll(input_); }

TlsOutcome TlsHandshake::Outcome() const {
  TlsOutcome outcome;
  outcome.used_key = library_.ssl_used_key(ssl_) == 1;
  X509* certificate = library_.ssl_peer_certificate(ssl_);
  if (certificate != nullptr) {
    const int length = library_.encode_certificate(certificate, nullptr);
    if (length > 0) {
      outcome.certificate.resize(static_cast<size_t>(length));
      unsigned char* out = outcome.certificate.data();
      library_.encode_certificate(certificate, &out);
    }
    library_.certificate_free(certificate);
    outcome.verify_result = library_.ssl_verify_result(ssl_);
    outcome.verify_text = library_.verify_text(outcome.verify_result);
  }
  library_.error_clear();
  return outcome;
}

}  // namespace holdfast
