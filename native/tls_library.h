// The functions of OpenSSL 3 that TLS needs. Node has OpenSSL in it and lets addons use it, but its headers are installed seldom: so
// the functions are declared here and looked up by their names. Their binary interface stays the same in all of OpenSSL 3.
//
// OpenSSL keeps errors in a queue of each thread, which Node's own TLS uses too. Whoever calls it clears the queue before and after.
#pragma once

#include <cstddef>
#include <cstdint>

namespace holdfast {

// Of OpenSSL; nobody looks into them.
struct SslContext;
struct Ssl;
struct SslMethod;
struct Bio;
struct BioMethod;
struct X509;
struct X509Store;
struct PrivateKey;
struct Cipher;
struct CipherContext;
struct Digest;

using VerifyCallback = int (*)(int ok, void* store_context);
using PasswordCallback = int (*)(char* text, int size, int writing, void* data);
using ServerKeyCallback = unsigned (*)(Ssl* ssl, const char* identity, unsigned char* key, unsigned size);
using ClientKeyCallback = unsigned (*)(Ssl* ssl, const char* hint, char* identity, unsigned identity_size, unsigned char* key,
                                       unsigned size);
using KeyLogCallback = void (*)(const Ssl* ssl, const char* line);

// Name in this table, name in OpenSSL, result, arguments.
#define HOLDFAST_TLS_FUNCTIONS(F)                                                                                   \
  F(tls_method, TLS_method, const SslMethod*, ())                                                                   \
  F(context_new, SSL_CTX_new, SslContext*, (const SslMethod*))                                                      \
  F(context_free, SSL_CTX_free, void, (SslContext*))                                                                \
  F(context_control, SSL_CTX_ctrl, long, (SslContext*, int, long, void*))                                           \
  F(context_set_options, SSL_CTX_set_options, uint64_t, (SslContext*, uint64_t))                                    \
  F(context_set_ciphersuites, SSL_CTX_set_ciphersuites, int, (SslContext*, const char*))                            \
  F(context_set_tickets, SSL_CTX_set_num_tickets, int, (SslContext*, size_t))                                       \
  F(context_set_session_context, SSL_CTX_set_session_id_context, int, (SslContext*, const unsigned char*, unsigned))         \
  F(context_set_verify, SSL_CTX_set_verify, void, (SslContext*, int, VerifyCallback))                               \
  F(context_set_server_key, SSL_CTX_set_psk_server_callback, void, (SslContext*, ServerKeyCallback))                \
  F(context_set_client_key, SSL_CTX_set_psk_client_callback, void, (SslContext*, ClientKeyCallback))                \
  F(context_set_key_log, SSL_CTX_set_keylog_callback, void, (SslContext*, KeyLogCallback))                          \
  F(context_use_certificate, SSL_CTX_use_certificate, int, (SslContext*, X509*))                                    \
  F(context_use_private_key, SSL_CTX_use_PrivateKey, int, (SslContext*, PrivateKey*))                               \
  F(context_check_private_key, SSL_CTX_check_private_key, int, (const SslContext*))                                 \
  F(context_add_client_ca, SSL_CTX_add_client_CA, int, (SslContext*, X509*))                                        \
  F(context_store, SSL_CTX_get_cert_store, X509Store*, (const SslContext*))                                         \
  F(store_add, X509_STORE_add_cert, int, (X509Store*, X509*))                                                       \
  F(ssl_new, SSL_new, Ssl*, (SslContext*))                                                                          \
  F(ssl_free, SSL_free, void, (Ssl*))                                                                               \
  F(ssl_set_bio, SSL_set_bio, void, (Ssl*, Bio*, Bio*))                                                             \
  F(ssl_set_accept_state, SSL_set_accept_state, void, (Ssl*))                                                       \
  F(ssl_set_connect_state, SSL_set_connect_state, void, (Ssl*))                                                     \
  F(ssl_set_data, SSL_set_ex_data, int, (Ssl*, int, void*))                                                         \
  F(ssl_data, SSL_get_ex_data, void*, (const Ssl*, int))                                                            \
  F(ssl_handshake, SSL_do_handshake, int, (Ssl*))                                                                   \
  F(ssl_error, SSL_get_error, int, (const Ssl*, int))                                                               \
  F(ssl_has_pending, SSL_has_pending, int, (const Ssl*))                                                            \
  F(ssl_used_key, SSL_session_reused, int, (const Ssl*))                                                            \
  F(ssl_verify_result, SSL_get_verify_result, long, (const Ssl*))                                                   \
  F(ssl_peer_certificate, SSL_get1_peer_certificate, X509*, (const Ssl*))                                           \
  F(bio_memory, BIO_s_mem, const BioMethod*, ())                                                                    \
  F(bio_new, BIO_new, Bio*, (const BioMethod*))                                                                     \
  F(bio_of_memory, BIO_new_mem_buf, Bio*, (const void*, int))                                                       \
  F(bio_free, BIO_free, int, (Bio*))                                                                                \
  F(bio_read, BIO_read, int, (Bio*, void*, int))                                                                    \
  F(bio_write, BIO_write, int, (Bio*, const void*, int))                                                            \
  F(bio_control, BIO_ctrl, long, (Bio*, int, long, void*))                                                          \
  F(read_certificate, PEM_read_bio_X509, X509*, (Bio*, X509**, PasswordCallback, void*))                            \
  F(read_private_key, PEM_read_bio_PrivateKey, PrivateKey*, (Bio*, PrivateKey**, PasswordCallback, void*))          \
  F(encode_certificate, i2d_X509, int, (const X509*, unsigned char**))                                              \
  F(certificate_free, X509_free, void, (X509*))                                                                     \
  F(private_key_free, EVP_PKEY_free, void, (PrivateKey*))                                                           \
  F(verify_text, X509_verify_cert_error_string, const char*, (long))                                                \
  F(aes_128_gcm, EVP_aes_128_gcm, const Cipher*, ())                                                                \
  F(cipher_new, EVP_CIPHER_CTX_new, CipherContext*, ())                                                             \
  F(cipher_free, EVP_CIPHER_CTX_free, void, (CipherContext*))                                                       \
  F(cipher_control, EVP_CIPHER_CTX_ctrl, int, (CipherContext*, int, int, void*))                                    \
  F(cipher_init, EVP_CipherInit_ex, int,                                                                            \
    (CipherContext*, const Cipher*, void*, const unsigned char*, const unsigned char*, int))                        \
  F(cipher_update, EVP_CipherUpdate, int, (CipherContext*, unsigned char*, int*, const unsigned char*, int))        \
  F(cipher_final, EVP_CipherFinal_ex, int, (CipherContext*, unsigned char*, int*))                                  \
  F(sha256, EVP_sha256, const Digest*, ())                                                                          \
  F(hmac, HMAC, unsigned char*,                                                                                     \
    (const Digest*, const void*, int, const unsigned char*, size_t, unsigned char*, unsigned*))                     \
  F(cleanse, OPENSSL_cleanse, void, (void*, size_t))                                                                \
  F(error_clear, ERR_clear_error, void, ())                                                                         \
  F(error_get, ERR_get_error, unsigned long, ())                                                                    \
  F(error_reason, ERR_reason_error_string, const char*, (unsigned long))

struct TlsLibrary {
#define HOLDFAST_TLS_MEMBER(member, name, result, arguments) result(*member) arguments = nullptr;
  HOLDFAST_TLS_FUNCTIONS(HOLDFAST_TLS_MEMBER)
#undef HOLDFAST_TLS_MEMBER
};

// @returns nullptr if this process does not have all of them, of OpenSSL 3.
const TlsLibrary* FindTlsLibrary();

}  // namespace holdfast
