// One TLS handshake by OpenSSL, over memory: it touches no socket.
//
// - It gets what the peer sent, and makes what is to be sent to it. What the peer sent behind its handshake stays as it is: OpenSSL
//   takes whole records only, and none behind the last of the handshake (Step checks it).
// - OpenSSL tells the secrets of both directions by its key log, which goes nowhere else. The records begin with them.
// - KeyOf may call JavaScript, and JavaScript may close the connection. So the owner keeps the handshake elsewhere during Step().
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "tls_context.h"
#include "tls_records.h"

namespace holdfast {

struct TlsOutcome {
  // Both have the key. Without it the peer may have shown a certificate: DER, else empty.
  bool used_key = false;
  std::vector<uint8_t> certificate;
  // X509_V_OK, or what is wrong with it.
  long verify_result = 0;
  std::string verify_text;
};

class TlsHandshake {
 public:
  enum class Result { kGoesOn, kDone, kFailed };
  // The key with an identity, up to `size` bytes. @returns its length; 0: there is none.
  using KeyOf = std::function<size_t(const char* identity, uint8_t* key, size_t size)>;

  // Sets the callbacks of a context.
  static void Prepare(const TlsLibrary& library, SslContext* context, bool is_server, bool has_key);

  // @param key_of for a server.
  TlsHandshake(std::shared_ptr<TlsContext> context, KeyOf key_of);
  ~TlsHandshake();
  TlsHandshake(const TlsHandshake&) = delete;
  TlsHandshake& operator=(const TlsHandshake&) = delete;

  // Goes on with what the peer has sent.
  Result Step(const uint8_t* bytes, size_t length);
  // What is to be sent; also an alert when it has failed.
  std::vector<uint8_t> TakeOutput();
  const TlsError& error() const { return error_; }

  // After kDone.
  TlsOutcome Outcome() const;
  const uint8_t* secret(bool of_server) const { return secrets_[of_server ? 1 : 0]; }
  // What came behind the handshake.
  std::vector<uint8_t> TakeRest();

 private:
  static unsigned ServerKey(Ssl* ssl, const char* identity, unsigned char* key, unsigned size);
  static unsigned ClientKey(Ssl* ssl, const char* hint, char* identity, unsigned identity_size, unsigned char* key, unsigned size);
  static void KeyLog(const Ssl* ssl, const char* line);
  std::vector<uint8_t> ReadAll(Bio* bio);
  Result Failed(const TlsError& error);

  const std::shared_ptr<TlsContext> context_;
  const TlsLibrary& library_;
  const KeyOf key_of_;
  Ssl* ssl_ = nullptr;
  // Of ssl_.
  Bio* input_ = nullptr;
  Bio* output_ = nullptr;
  // The client's, the server's.
  uint8_t secrets_[2][kTlsSecretBytes] = {};
  bool has_secret_[2] = {false, false};
  TlsError error_;
};

}  // namespace holdfast
