#include "send_queue.h"

#include <algorithm>
#include <cerrno>

#include <limits.h>
#include <sys/socket.h>

#include "napi_util.h"
#include "thread_buffer.h"

namespace holdfast {

namespace {

// Of the queue, in one system call. The kernel seldom has room for more when it has room again.
constexpr size_t kPiecesPerSend = 64;
// Records that leave together: few at first, so that the receiver begins soon, and more while it is busy with these.
constexpr size_t kFirstRecords = 2;
constexpr size_t kGatherRecords = 8;
// There may be one before them.
constexpr size_t kKeyUpdateBytes = 64;
constexpr size_t kGatherBytes = kGatherRecords * kTlsSealedBytes + kKeyUpdateBytes;

using GatherBuffer = ThreadBuffer<BufferUse::kSend, kGatherBytes>;

// @returns the number of bytes that the kernel took, or -1 and errno.
ssize_t SendVector(int fd, iovec* iov, size_t count) {
  msghdr message = {};
  message.msg_iov = iov;
  message.msg_iovlen = count;
  ssize_t sent;
  do {
    sent = sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
  } while (sent < 0 && errno == EINTR);
  return sent;
}

// Sends pieces until the kernel has no room. @returns 0, EAGAIN if it has none for the rest, or an errno.
int SendPieces(int fd, std::vector<iovec>* pieces, size_t* sent) {
  for (size_t at = 0; at < pieces->size();) {
    const size_t count = std::min<size_t>(pieces->size() - at, IOV_MAX);
    size_t bytes = 0;
    for (size_t i = at; i < at + count; ++i) bytes += (*pieces)[i].iov_len;
    const ssize_t taken = SendVector(fd, pieces->data() + at, count);
    if (taken < 0) return errno;
    *sent += static_cast<size_t>(taken);
    if (static_cast<size_t>(taken) < bytes) return EAGAIN;
    at += count;
  }
  return 0;
}

// Leaves the first bytes of the pieces, so many.
void Shorten(std::vector<iovec>* pieces, size_t bytes) {
  for (size_t i = 0; i < pieces->size(); ++i) {
    iovec& piece = (*pieces)[i];
    if (piece.iov_len < bytes) {
      bytes -= piece.iov_len;
      continue;
    }
    piece.iov_len = bytes;
    pieces->resize(i + 1);
  }
}

}  // namespace

int SendQueue::Write(int fd, const std::vector<napi_value>& chunks) {
  if (!empty()) return Append(chunks, 0);
  std::vector<iovec> pieces;
  pieces.reserve(chunks.size());
  for (napi_value chunk : chunks) {
    uint8_t* data;
    size_t length;
    if (!BytesOf(env_, chunk, &data, &length)) return EFAULT;
    if (length > 0) pieces.push_back({data, length});
  }
  size_t sent = 0;
  const int error = sealer_ == nullptr ? SendPieces(fd, &pieces, &sent)
                                       : SendSealed(fd, pieces.data(), pieces.size(), kFirstRecords, &sent);
  taken_bytes_ += sent;
  return error == EAGAIN ? Append(chunks, sent) : error;
}

int SendQueue::WriteRaw(int fd, const uint8_t* bytes, size_t length) {
  size_t sent = 0;
  if (sealed_.empty()) {
    iovec piece = {const_cast<uint8_t*>(bytes), length};
    const ssize_t taken = SendVector(fd, &piece, 1);
    if (taken < 0 && errno != EAGAIN) return errno;
    if (taken > 0) sent = static_cast<size_t>(taken);
  }
  sealed_.insert(sealed_.end(), bytes + sent, bytes + length);
  sealed_content_ += length - sent;
  return 0;
}

// Encrypts and sends pieces until the kernel has no room. @param records for the first system call.
// @returns 0, EAGAIN if the kernel has no room for the rest, or an errno. *taken: bytes of the pieces that have left, or are kept as
// records.
int SendQueue::SendSealed(int fd, const iovec* pieces, size_t count, size_t records, size_t* taken) {
  const GatherBuffer buffer;
  std::vector<iovec> left(pieces, pieces + count);
  size_t at = 0;
  for (; at < left.size(); records = std::min(records * 2, kGatherRecords)) {
    size_t content = 0;
    const size_t room = records * kTlsSealedBytes + kKeyUpdateBytes;
    const size_t length = sealer_->Seal(left.data() + at, left.size() - at, buffer.data(), room, &content);
    if (length == 0) return EIO;
    *taken += content;
    for (size_t skip = content; skip > 0;) {
      const size_t part = std::min(skip, left[at].iov_len);
      left[at] = {static_cast<uint8_t*>(left[at].iov_base) + part, left[at].iov_len - part};
      skip -= part;
      if (left[at].iov_len == 0) ++at;
    }
    iovec sealed = {buffer.data(), length};
    const ssize_t sent = SendVector(fd, &sealed, 1);
    if (sent < 0 && errno != EAGAIN) return errno;
    const size_t gone = sent < 0 ? 0 : static_cast<size_t>(sent);
    if (gone < length) {
      sealed_.assign(buffer.data() + gone, buffer.data() + length);
      sealed_content_ = content;
      return EAGAIN;
    }
  }
  return 0;
}

// Sends kept records. @returns 0 if all have left, EAGAIN, or an errno.
int SendQueue::SendKept(int fd) {
  iovec piece = {sealed_.data() + sealed_sent_, sealed_.size() - sealed_sent_};
  const ssize_t sent = SendVector(fd, &piece, 1);
  if (sent < 0) return errno;
  sealed_sent_ += static_cast<size_t>(sent);
  if (sealed_sent_ < sealed_.size()) return EAGAIN;
  sealed_ = {};
  sealed_sent_ = 0;
  sealed_content_ = 0;
  return 0;
}

// Queues the chunks apart from their first `sent` bytes.
int SendQueue::Append(const std::vector<napi_value>& chunks, size_t sent) {
  for (napi_value chunk : chunks) {
    uint8_t* data;
    size_t length;
    if (!BytesOf(env_, chunk, &data, &length)) return EFAULT;
    if (sent >= length) {
      sent -= length;
      continue;
    }
    Piece piece = {nullptr, data, length, sent};
    sent = 0;
    if (napi_create_reference(env_, chunk, 1, &piece.chunk) != napi_ok) return ENOMEM;
    bytes_ += piece.length - piece.sent;
    pieces_.push_back(piece);
  }
  return 0;
}

int SendQueue::Flush(int fd, int rounds) {
  const size_t before = bytes();
  const size_t sealed_before = sealed_.size() - sealed_sent_;
  int error = 0;
  for (int round = 0; round < rounds && error == 0 && !empty(); ++round) {
    napi_handle_scope scope;
    if (napi_open_handle_scope(env_, &scope) != napi_ok) return ENOMEM;
    error = sealed_.empty() ? FlushOnce(fd) : SendKept(fd);
    napi_close_handle_scope(env_, scope);
  }
  return error == EAGAIN && (bytes() < before || sealed_.size() - sealed_sent_ < sealed_before) ? 0 : error;
}

// One system call for the first pieces. @returns as SendPieces.
int SendQueue::FlushOnce(int fd) {
  std::vector<iovec> iov;
  size_t bytes = 0;
  if (!FirstPieces(&iov, &bytes)) return EFAULT;
  if (sealer_ != nullptr) {
    Shorten(&iov, kGatherRecords * kTlsPlainBytes);
    size_t taken = 0;
    const int error = SendSealed(fd, iov.data(), iov.size(), kGatherRecords, &taken);
    RemoveSent(taken);
    return error;
  }
  const ssize_t sent = SendVector(fd, iov.data(), iov.size());
  if (sent < 0) return errno;
  RemoveSent(static_cast<size_t>(sent));
  return static_cast<size_t>(sent) < bytes ? EAGAIN : 0;
}

// @returns false if JavaScript has taken the memory of one away.
bool SendQueue::FirstPieces(std::vector<iovec>* iov, size_t* bytes) const {
  const size_t count = std::min(pieces_.size(), kPiecesPerSend);
  iov->reserve(count);
  for (size_t i = 0; i < count; ++i) {
    const Piece& piece = pieces_[i];
    napi_value chunk;
    uint8_t* data;
    size_t length;
    if (napi_get_reference_value(env_, piece.chunk, &chunk) != napi_ok || !BytesOf(env_, chunk, &data, &length) ||
        data != piece.data || length != piece.length) {
      return false;
    }
    iov->push_back({data + piece.sent, length - piece.sent});
    *bytes += length - piece.sent;
  }
  return true;
}

void SendQueue::RemoveSent(size_t bytes) {
  bytes_ -= bytes;
  taken_bytes_ += bytes;
  while (!pieces_.empty()) {
    Piece& piece = pieces_.front();
    const size_t left = piece.length - piece.sent;
    if (bytes < left) {
      piece.sent += bytes;
      return;
    }
    bytes -= left;
    napi_delete_reference(env_, piece.chunk);
    pieces_.pop_front();
  }
}

void SendQueue::Clear() {
  for (const Piece& piece : pieces_) napi_delete_reference(env_, piece.chunk);
  pieces_.clear();
  bytes_ = 0;
  sealed_ = {};
  sealed_sent_ = 0;
  sealed_content_ = 0;
}

}  // namespace holdfast
