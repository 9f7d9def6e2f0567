#include "tls_records.h"

#include <algorithm>
#include <cstring>
#include <string>

namespace holdfast {

namespace {

constexpr size_t kKeyBytes = 16;
constexpr size_t kNonceBytes = 12;
// EVP_CTRL_AEAD_GET_TAG, EVP_CTRL_AEAD_SET_TAG.
constexpr int kGetTag = 16;
constexpr int kSetTag = 17;
// AES-GCM is good for 2^24.5 records of a key (RFC 8446, 5.5).
constexpr uint64_t kRecordsPerKey = 1 << 24;
// A piece shorter than this is copied, and encrypted with those beside it: OpenSSL is slow with many short ones.
constexpr size_t kShortBytes = 1 << 10;
// Records without data, one behind the other; OpenSSL has this bound too.
constexpr int kEmptyMax = 32;
constexpr int kTicketsMax = 16;
// Of a peer: so many at any time, and one more for each so many records.
constexpr uint64_t kFreeKeyUpdates = 8;
constexpr uint64_t kRecordsPerKeyUpdate = 1 << 10;

constexpr uint8_t kNewSessionTicket = 4;
constexpr uint8_t kKeyUpdate = 24;
constexpr uint8_t kFatal = 2;

void PutHeader(uint8_t* header, size_t inner) {
  const size_t length = inner + kTlsTagBytes;
  header[0] = static_cast<uint8_t>(RecordType::kData);
  header[1] = 3;
  header[2] = 3;
  header[3] = static_cast<uint8_t>(length >> 8);
  header[4] = static_cast<uint8_t>(length);
}

}  // namespace

RecordCipher::~RecordCipher() {
  // OpenSSL cleanses the key.
  library_.cipher_free(cipher_);
  library_.cleanse(secret_, sizeof secret_);
  library_.cleanse(nonce_, sizeof nonce_);
}

bool RecordCipher::Begin(const uint8_t secret[kTlsSecretBytes]) {
  memcpy(secret_, secret, sizeof secret_);
  library_.error_clear();
  if (cipher_ == nullptr) cipher_ = library_.cipher_new();
  return cipher_ != nullptr && Rekey();
}

bool RecordCipher::Renew() {
  uint8_t next[kTlsSecretBytes];
  const bool renewed = Expand("tls13 traffic upd", next, sizeof next);
  memcpy(secret_, next, sizeof secret_);
  library_.cleanse(next, sizeof next);
  return renewed && Rekey();
}

// HKDF-Expand-Label without context, for at most one block of the hash.
bool RecordCipher::Expand(const char* label, uint8_t* out, size_t length) {
  const size_t label_length = strlen(label);
  std::vector<uint8_t> info = {0, static_cast<uint8_t>(length), static_cast<uint8_t>(label_length)};
  info.insert(info.end(), label, label + label_length);
  info.push_back(0);
  info.push_back(1);
  uint8_t block[kTlsSecretBytes];
  unsigned block_length = 0;
  const uint8_t* hashed =
      library_.hmac(library_.sha256(), secret_, sizeof secret_, info.data(), info.size(), block, &block_length);
  const bool made = hashed != nullptr && block_length == sizeof block;
  if (made) memcpy(out, block, length);
  library_.cleanse(block, sizeof block);
  return made;
}

bool RecordCipher::Rekey() {
  uint8_t key[kKeyBytes];
  const bool made = Expand("tls13 key", key, sizeof key) && Expand("tls13 iv", nonce_, sizeof nonce_) &&
                    library_.cipher_init(cipher_, library_.aes_128_gcm(), nullptr, key, nullptr, encrypts_ ? 1 : 0) == 1;
  library_.cleanse(key, sizeof key);
  library_.error_clear();
  records_ = 0;
  return made;
}

bool RecordCipher::NextRecord(const uint8_t header[kTlsHeaderBytes]) {
  uint8_t nonce[kNonceBytes];
  memcpy(nonce, nonce_, sizeof nonce);
  for (size_t i = 0; i < sizeof records_; ++i) nonce[kNonceBytes - 1 - i] ^= static_cast<uint8_t>(records_ >> (8 * i));
  ++records_;
  int length;
  return library_.cipher_init(cipher_, nullptr, nullptr, nullptr, nonce, encrypts_ ? 1 : 0) == 1 &&
         library_.cipher_update(cipher_, nullptr, &length, header, kTlsHeaderBytes) == 1;
}

bool RecordCipher::Update(uint8_t* out, const uint8_t* in, size_t length) {
  int done = 0;
  return library_.cipher_update(cipher_, out, &done, in, static_cast<int>(length)) == 1 && static_cast<size_t>(done) == length;
}

bool RecordCipher::FinishEncrypting(uint8_t tag[kTlsTagBytes]) {
  int length;
  return library_.cipher_final(cipher_, tag, &length) == 1 && library_.cipher_control(cipher_, kGetTag, kTlsTagBytes, tag) == 1;
}

bool RecordCipher::FinishDecrypting(const uint8_t tag[kTlsTagBytes]) {
  int length;
  uint8_t rest[kTlsTagBytes];
  return library_.cipher_control(cipher_, kSetTag, kTlsTagBytes, const_cast<uint8_t*>(tag)) == 1 &&
         library_.cipher_final(cipher_, rest, &length) == 1;
}

size_t RecordSealer::Seal(const iovec* pieces, size_t count, uint8_t* out, size_t size, size_t* taken) {
  uint8_t* const begin = out;
  *taken = 0;
  size_t left = 0;
  for (size_t i = 0; i < count; ++i) left += pieces[i].iov_len;
  size_t piece = 0;
  size_t offset = 0;
  while (left > 0) {
    if (renews_ || cipher_.records() >= kRecordsPerKey) {
      const size_t length = SealKeyUpdate(out);
      if (length == 0) return 0;
      out += length;
    }
    const size_t room = size - static_cast<size_t>(out - begin);
    const size_t content = std::min(left, kTlsPlainBytes);
    if (room < kTlsHeaderBytes + content + 1 + kTlsTagBytes) break;
    PutHeader(out, content + 1);
    if (!cipher_.NextRecord(out)) return 0;
    out += kTlsHeaderBytes;
    // Where the bytes begin that were copied and are not encrypted yet.
    uint8_t* copied = out;
    for (size_t missing = content; missing > 0;) {
      const size_t length = std::min(missing, pieces[piece].iov_len - offset);
      const uint8_t* bytes = static_cast<const uint8_t*>(pieces[piece].iov_base) + offset;
      if (length < kShortBytes) {
        memcpy(out, bytes, length);
      } else {
        if (out > copied && !cipher_.Update(copied, copied, static_cast<size_t>(out - copied))) return 0;
        if (!cipher_.Update(out, bytes, length)) return 0;
        copied = out + length;
      }
      out += length;
      missing -= length;
      offset += length;
      if (offset == pieces[piece].iov_len) {
        ++piece;
        offset = 0;
      }
    }
    *out++ = static_cast<uint8_t>(RecordType::kData);
    if (!cipher_.Update(copied, copied, static_cast<size_t>(out - copied)) || !cipher_.FinishEncrypting(out)) return 0;
    out += kTlsTagBytes;
    left -= content;
    *taken += content;
  }
  return static_cast<size_t>(out - begin);
}

size_t RecordSealer::SealMessage(RecordType type, const uint8_t* bytes, size_t length, uint8_t* out) {
  PutHeader(out, length + 1);
  if (!cipher_.NextRecord(out)) return 0;
  uint8_t* const inner = out + kTlsHeaderBytes;
  memcpy(inner, bytes, length);
  inner[length] = static_cast<uint8_t>(type);
  if (!cipher_.Update(inner, inner, length + 1) || !cipher_.FinishEncrypting(inner + length + 1)) return 0;
  return kTlsHeaderBytes + length + 1 + kTlsTagBytes;
}

size_t RecordSealer::SealKeyUpdate(uint8_t* out) {
  renews_ = false;
  // Asks for no new key of the peer.
  const uint8_t message[] = {kKeyUpdate, 0, 0, 1, 0};
  const size_t length = SealMessage(RecordType::kHandshake, message, sizeof message, out);
  return length > 0 && cipher_.Renew() ? length : 0;
}

RecordOpener::~RecordOpener() { cipher_.library().cleanse(left_.data(), left_.size()); }

bool RecordOpener::TakeKeyRequest() {
  const bool asks = asks_key_;
  asks_key_ = false;
  return asks;
}

RecordOpener::Result RecordOpener::Broken(Alert alert, const char* reason) {
  error_ = OwnTlsError(alert, reason);
  return Result::kBroken;
}

void RecordOpener::TakeLeft(uint8_t* out, size_t size, size_t* filled) {
  const size_t length = std::min(left_.size() - left_at_, size - *filled);
  memcpy(out + *filled, left_.data() + left_at_, length);
  *filled += length;
  left_at_ += length;
  if (has_left()) return;
  left_ = {};
  left_at_ = 0;
}

RecordOpener::Result RecordOpener::Open(const uint8_t* input, size_t* at, size_t end, uint8_t* out, size_t size, size_t* filled) {
  *filled = 0;
  if (has_left()) TakeLeft(out, size, filled);
  if (has_left()) return Result::kNeedsRoom;
  while (end - *at >= kTlsHeaderBytes) {
    const uint8_t* record = input + *at;
    const size_t length = (static_cast<size_t>(record[3]) << 8) | record[4];
    // Encrypted alerts and messages of a handshake have this type too.
    if (record[0] != static_cast<uint8_t>(RecordType::kData) || record[1] != 3) {
      return Broken(Alert::kUnexpectedMessage, "wrong version number");
    }
    if (length > kTlsRecordMaxBytes - kTlsHeaderBytes) return Broken(Alert::kRecordOverflow, "encrypted length too long");
    if (length < kTlsTagBytes + 1) return Broken(Alert::kDecodeError, "length too short");
    if (end - *at < kTlsHeaderBytes + length) return Result::kNeedsInput;
    const size_t inner = length - kTlsTagBytes;
    const bool fits = size - *filled >= inner;
    // What is there first: the receiver may have a better place for the next record.
    if (!fits && *filled > 0) return Result::kNeedsRoom;
    std::vector<uint8_t> aside;
    if (!fits) aside.resize(inner);
    uint8_t* const plain = fits ? out + *filled : aside.data();
    if (!Decrypt(record, inner, plain)) return Broken(Alert::kBadRecordMac, "decryption failed or bad record mac");
    *at += kTlsHeaderBytes + length;
    size_t content = inner;
    while (content > 0 && plain[content - 1] == 0) --content;
    if (content == 0) return Broken(Alert::kUnexpectedMessage, "bad record type");
    const auto type = static_cast<RecordType>(plain[--content]);
    if (content > kTlsPlainBytes) return Broken(Alert::kRecordOverflow, "data length too long");
    if (content > 0 && type == RecordType::kData) {
      empty_ = 0;
      if (fits) {
        *filled += content;
      } else {
        aside.resize(content);
        left_ = std::move(aside);
        TakeLeft(out, size, filled);
        if (has_left()) return Result::kNeedsRoom;
      }
      continue;
    }
    if (++empty_ > kEmptyMax) return Broken(Alert::kUnexpectedMessage, "record too small");
    if (type == RecordType::kData) continue;
    bool ends = false;
    const Result result = OpenMessage(type, plain, content, &ends);
    if (ends) return result;
  }
  return Result::kNeedsInput;
}

bool RecordOpener::Decrypt(const uint8_t* record, size_t inner, uint8_t* out) {
  const uint8_t* const sealed = record + kTlsHeaderBytes;
  if (cipher_.NextRecord(record) && cipher_.Update(out, sealed, inner) && cipher_.FinishDecrypting(sealed + inner)) return true;
  cipher_.library().error_clear();
  return false;
}

// What is no data. @returns a result if *ends.
RecordOpener::Result RecordOpener::OpenMessage(RecordType type, const uint8_t* bytes, size_t length, bool* ends) {
  *ends = true;
  if (type == RecordType::kAlert) {
    if (length != 2) return Broken(Alert::kDecodeError, "invalid alert");
    const int alert = bytes[1];
    if (alert == static_cast<int>(Alert::kCloseNotify)) return Result::kEnded;
    if (alert == static_cast<int>(Alert::kUserCanceled) && bytes[0] != kFatal) {
      *ends = false;
      return Result::kNeedsInput;
    }
    error_ = ReceivedTlsError(cipher_.library(), alert);
    return Result::kBroken;
  }
  if (type != RecordType::kHandshake) return Broken(Alert::kUnexpectedMessage, "unexpected record");
  const Result result = OpenHandshake(bytes, length);
  *ends = result == Result::kBroken;
  return result;
}

// Each message lies in one record. OpenSSL makes them so.
RecordOpener::Result RecordOpener::OpenHandshake(const uint8_t* bytes, size_t length) {
  for (size_t at = 0; at < length;) {
    if (length - at < 4) return Broken(Alert::kUnexpectedMessage, "unexpected message");
    const uint8_t kind = bytes[at];
    const size_t body = (static_cast<size_t>(bytes[at + 1]) << 16) | (static_cast<size_t>(bytes[at + 2]) << 8) | bytes[at + 3];
    if (length - at - 4 < body) return Broken(Alert::kUnexpectedMessage, "unexpected message");
    if (kind == kNewSessionTicket && takes_tickets_ && ++tickets_ <= kTicketsMax) {
      at += 4 + body;
      continue;
    }
    // It is the last message with its key.
    if (kind != kKeyUpdate || body != 1 || bytes[at + 4] > 1 || at + 5 != length) {
      return Broken(Alert::kUnexpectedMessage, "unexpected message");
    }
    records_before_ += cipher_.records();
    if (++key_updates_ > kFreeKeyUpdates + records_before_ / kRecordsPerKeyUpdate) {
      return Broken(Alert::kUnexpectedMessage, "too many key updates");
    }
    if (bytes[at + 4] == 1) asks_key_ = true;
    if (!cipher_.Renew()) return Broken(Alert::kInternalError, "internal error");
    at += 5;
  }
  return Result::kNeedsInput;
}

}  // namespace holdfast
