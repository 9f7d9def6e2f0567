// What the kernel knows of a TCP connection, for socket.cc and stream_socket.cc.
#pragma once

#include <cstdint>

namespace holdfast {

// Bytes that the peer's kernel has acknowledged. @returns 0, or an errno: EOPNOTSUPP if this is no TCP socket.
int TcpTakenBytes(int fd, uint64_t* bytes);

}  // namespace holdfast
