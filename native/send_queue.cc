#include "send_queue.h"

#include <algorithm>
#include <cerrno>

#include <limits.h>
#include <sys/socket.h>

#include "napi_util.h"

namespace holdfast {

namespace {

// Of the queue, in one system call. The kernel seldom has room for more when it has room again.
constexpr size_t kPiecesPerSend = 64;

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
  const int error = SendPieces(fd, &pieces, &sent);
  taken_bytes_ += sent;
  return error == EAGAIN ? Append(chunks, sent) : error;
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
  const size_t before = bytes_;
  int error = 0;
  for (int round = 0; round < rounds && error == 0 && !empty(); ++round) {
    napi_handle_scope scope;
    if (napi_open_handle_scope(env_, &scope) != napi_ok) return ENOMEM;
    std::vector<iovec> iov;
    size_t bytes = 0;
    if (FirstPieces(&iov, &bytes)) {
      const ssize_t sent = SendVector(fd, iov.data(), iov.size());
      if (sent < 0) {
        error = errno;
      } else {
        RemoveSent(static_cast<size_t>(sent));
        if (static_cast<size_t>(sent) < bytes) error = EAGAIN;
      }
    } else {
      error = EFAULT;
    }
    napi_close_handle_scope(env_, scope);
  }
  return error == EAGAIN && bytes_ < before ? 0 : error;
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
  while (!empty()) {
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
}

}  // namespace holdfast
