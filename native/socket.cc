// What the kernel knows of a TCP connection and Node does not show.

#include <cerrno>

#include <linux/tcp.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include "napi_util.h"
#include "registration.h"
#include "socket.h"

namespace holdfast {

int TcpTakenBytes(int fd, uint64_t* bytes) {
  struct tcp_info tcp = {};
  socklen_t length = sizeof(tcp);
  if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &tcp, &length) != 0) return errno;
  *bytes = tcp.tcpi_bytes_acked;
  return 0;
}

namespace {

// socketTakenBytes(fd)
napi_value SocketTakenBytes(napi_env env, napi_callback_info info) {
  const Arguments args(env, info);
  int32_t fd;
  if (!args.Int32(0, &fd)) return nullptr;
  uint64_t bytes = 0;
  const int error = TcpTakenBytes(fd, &bytes);
  if (error != 0) return ThrowErrno(env, error, "getsockopt");
  napi_value result;
  HOLDFAST_NAPI(env, napi_create_double(env, static_cast<double>(bytes), &result));
  return result;
}

}  // namespace

bool RegisterSocket(napi_env env, napi_value exports) {
  return DefineFunction(env, exports, "socketTakenBytes", SocketTakenBytes);
}

}  // namespace holdfast
