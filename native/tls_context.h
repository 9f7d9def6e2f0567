// What TLS handshakes of one side have in common: the rules, our certificate and the CAs, or a client's key.
//
// - TLS 1.3, one cipher, two groups, no tickets: nobody resumes a session.
// - A certificate that does not count ends no handshake here: JavaScript judges it, and says why.
// - The key is cleansed at the end. OpenSSL does that with private keys.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <node_api.h>

#include "tls_error.h"
#include "tls_library.h"

namespace holdfast {

class TlsContext {
 public:
  static napi_value Construct(napi_env env, napi_callback_info info);
  // @returns nullptr, with a TypeError, for any other value.
  static std::shared_ptr<TlsContext> Of(napi_env env, napi_value value);

  TlsContext(const TlsLibrary& library, bool is_server) : library_(library), is_server_(is_server) {}
  ~TlsContext();
  TlsContext(const TlsContext&) = delete;
  TlsContext& operator=(const TlsContext&) = delete;

  const TlsLibrary& library() const { return library_; }
  bool is_server() const { return is_server_; }
  SslContext* context() const { return context_; }
  const std::string& identity() const { return identity_; }
  const std::vector<uint8_t>& key() const { return key_; }

 private:
  bool Begin();
  bool UseFiles(const std::vector<uint8_t> texts[3]);
  bool UseCertificates(const std::vector<uint8_t>& text);
  bool UsePrivateKey(const std::vector<uint8_t>& text);
  bool UseCas(const std::vector<uint8_t>& text);

  const TlsLibrary& library_;
  const bool is_server_;
  SslContext* context_ = nullptr;
  std::string identity_;
  std::vector<uint8_t> key_;
};

}  // namespace holdfast
