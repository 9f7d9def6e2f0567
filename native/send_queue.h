// What JavaScript has written to a socket and the kernel has not taken yet, in order.
//
// - The queue has strong references to the chunks, so their memory stays. JavaScript can still detach it (transfer it to a
//   worker), so the queue looks it up again at each send.
// - Over TLS the chunks become records right before they leave, up to kGatherBytes for one system call. What the kernel does not take
//   of these is kept (sealed_); its chunks are let go then, and count as waiting until the last byte of it has left.
#pragma once

#include <cstdint>
#include <deque>
#include <vector>

#include <node_api.h>
#include <sys/uio.h>

#include "tls_records.h"

namespace holdfast {

class SendQueue {
 public:
  explicit SendQueue(napi_env env) : env_(env) {}

  // From now on what leaves is encrypted. @param sealer outlives the queue.
  void Encrypt(RecordSealer* sealer) { sealer_ = sealer; }

  bool empty() const { return pieces_.empty() && sealed_.empty(); }
  // Of chunks, without what TLS adds to them, and of WriteRaw().
  size_t bytes() const { return bytes_ + sealed_content_; }
  // All bytes that the kernel has taken so far.
  uint64_t taken_bytes() const { return taken_bytes_; }

  // Sends the chunks as far as the kernel takes them now, and queues the rest. While anything waits, everything is
  // queued. @returns 0, or the errno that broke the connection.
  int Write(int fd, const std::vector<napi_value>& chunks);
  // Sends bytes as they are: of a handshake, or a record. No chunk waits. @returns as Write().
  int WriteRaw(int fd, const uint8_t* bytes, size_t length);
  // Sends what waits, at most `rounds` system calls. @returns 0 if anything left, EAGAIN if the kernel took nothing, or
  // the errno that broke the connection (EFAULT: memory of the queue was taken away).
  int Flush(int fd, int rounds);
  // Drops what waits. Not after the environment is gone.
  void Clear();

 private:
  // A chunk of which the kernel has not taken the last `length - sent` bytes.
  struct Piece {
    napi_ref chunk;
    const uint8_t* data;
    size_t length;
    size_t sent;
  };

  int Append(const std::vector<napi_value>& chunks, size_t sent);
  int SendSealed(int fd, const iovec* pieces, size_t count, size_t records, size_t* taken);
  int SendKept(int fd);
  int FlushOnce(int fd);
  bool FirstPieces(std::vector<iovec>* iov, size_t* bytes) const;
  void RemoveSent(size_t bytes);

  napi_env env_;
  std::deque<Piece> pieces_;
  // Of pieces_.
  size_t bytes_ = 0;
  RecordSealer* sealer_ = nullptr;
  // Records of which the kernel has taken the first sealed_sent_ bytes, and what they count for in bytes().
  std::vector<uint8_t> sealed_;
  size_t sealed_sent_ = 0;
  size_t sealed_content_ = 0;
  uint64_t taken_bytes_ = 0;
};

}  // namespace holdfast
