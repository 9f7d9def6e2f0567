// The records of an open TLS 1.3 connection with TLS_AES_128_GCM_SHA256 (RFC 8446, chapters 5 and 7): one class for each direction.
//
// OpenSSL does the handshake (tls_handshake.cc) and the encryption. The records are made here, because SSL_read and SSL_write would
// copy all bytes twice more: here they are encrypted from where they lie, and decrypted to where they shall lie.
// - Record n of a key has the number n in its nonce. Both directions begin at 0, right behind the handshake.
// - Nothing of a record is handed out before its tag was verified. Any error is the end of the connection.
// - The sender changes its key after kRecordsPerKey records, long before the cipher wears out. The peer may do so too, but not often.
// - Secrets and keys are cleansed when they are replaced, and at the end.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include <sys/uio.h>

#include "tls_error.h"
#include "tls_library.h"

namespace holdfast {

constexpr size_t kTlsHeaderBytes = 5;
constexpr size_t kTlsPlainBytes = 16 << 10;
constexpr size_t kTlsTagBytes = 16;
// Ours: header, content, one byte for its type, tag.
constexpr size_t kTlsSealedBytes = kTlsHeaderBytes + kTlsPlainBytes + 1 + kTlsTagBytes;
// A peer's may have up to 256 bytes more than its content.
constexpr size_t kTlsRecordMaxBytes = kTlsHeaderBytes + kTlsPlainBytes + 256;
constexpr size_t kTlsSecretBytes = 32;

enum class RecordType : uint8_t { kAlert = 21, kHandshake = 22, kData = 23 };

// The cipher of one direction, with the secret that its keys come from.
class RecordCipher {
 public:
  RecordCipher(const TlsLibrary& library, bool encrypts) : library_(library), encrypts_(encrypts) {}
  ~RecordCipher();
  RecordCipher(const RecordCipher&) = delete;
  RecordCipher& operator=(const RecordCipher&) = delete;

  // @returns false if OpenSSL cannot do it.
  bool Begin(const uint8_t secret[kTlsSecretBytes]);
  // Goes on with the next secret. @returns as Begin().
  bool Renew();
  // Begins the next record. @returns as Begin().
  bool NextRecord(const uint8_t header[kTlsHeaderBytes]);
  bool Update(uint8_t* out, const uint8_t* in, size_t length);
  bool FinishEncrypting(uint8_t tag[kTlsTagBytes]);
  // @returns false if the record is not authentic.
  bool FinishDecrypting(const uint8_t tag[kTlsTagBytes]);
  // Records since Begin() or Renew().
  uint64_t records() const { return records_; }
  const TlsLibrary& library() const { return library_; }

 private:
  bool Expand(const char* label, uint8_t* out, size_t length);
  bool Rekey();

  const TlsLibrary& library_;
  const bool encrypts_;
  CipherContext* cipher_ = nullptr;
  uint8_t secret_[kTlsSecretBytes] = {};
  uint8_t nonce_[12] = {};
  uint64_t records_ = 0;
};

class RecordSealer {
 public:
  explicit RecordSealer(const TlsLibrary& library) : cipher_(library, true) {}

  bool Begin(const uint8_t secret[kTlsSecretBytes]) { return cipher_.Begin(secret); }
  // The peer has asked for a new key.
  void RenewSoon() { renews_ = true; }
  // Encrypts as many of the pieces, from their start, as fit into `out`, which has room for one full record at least, and a small one.
  // @returns the length of the records; 0: OpenSSL cannot do it. *taken: bytes of the pieces that are in them.
  size_t Seal(const iovec* pieces, size_t count, uint8_t* out, size_t size, size_t* taken);
  // One small record. @returns as Seal().
  size_t SealMessage(RecordType type, const uint8_t* bytes, size_t length, uint8_t* out);

 private:
  size_t SealKeyUpdate(uint8_t* out);

  RecordCipher cipher_;
  bool renews_ = false;
};

class RecordOpener {
 public:
  enum class Result {
    // The rest of the input is no complete record.
    kNeedsInput,
    // There is more for the receiver, but no room.
    kNeedsRoom,
    // close_notify.
    kEnded,
    kBroken,
  };

  // @param takes_tickets of a server.
  RecordOpener(const TlsLibrary& library, bool takes_tickets) : cipher_(library, false), takes_tickets_(takes_tickets) {}
  ~RecordOpener();

  bool Begin(const uint8_t secret[kTlsSecretBytes]) { return cipher_.Begin(secret); }
  // Decrypts the records of input[*at, end) into `out`, advances *at behind the last, and says how much of `out` is filled. What was
  // filled is good, also if the result is kEnded or kBroken.
  Result Open(const uint8_t* input, size_t* at, size_t end, uint8_t* out, size_t size, size_t* filled);
  // Bytes that found no room.
  bool has_left() const { return left_at_ < left_.size(); }
  const TlsError& error() const { return error_; }
  // Whether the peer asked for a new key of ours; once.
  bool TakeKeyRequest();

 private:
  Result Broken(Alert alert, const char* reason);
  bool Decrypt(const uint8_t* record, size_t inner, uint8_t* out);
  Result OpenMessage(RecordType type, const uint8_t* bytes, size_t length, bool* ends);
  Result OpenHandshake(const uint8_t* bytes, size_t length);
  void TakeLeft(uint8_t* out, size_t size, size_t* filled);

  RecordCipher cipher_;
  const bool takes_tickets_;
  // A record's content that is longer than the receiver's memory was.
  std::vector<uint8_t> left_;
  size_t left_at_ = 0;
  // Records without data since the last one with data.
  int empty_ = 0;
  int tickets_ = 0;
  uint64_t key_updates_ = 0;
  // With the keys before this one.
  uint64_t records_before_ = 0;
  bool asks_key_ = false;
  TlsError error_;
};

}  // namespace holdfast
