// What the kernel knows of a TCP connection and Node does not show.

#include <cerrno>

#include <linux/tcp.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include "napi_util.h"
#include "registration.h"

namespace holdfast {

namespace {

// socketTakenBytes(fd)
napi_value SocketTakenBytes(napi_env env, napi_callback_info info) {
  const Arguments args(env, info);
  int32_t fd;
  if (!args.Int32(0, &fd)) return nullptr;
  struct tcp_info tcp = {};
  socklen_t length = sizeof(tcp);
  if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &tcp, &length) != 0) return ThrowErrno(env, errno, "getsockopt");
  napi_value result;
  HOLDFAST_NAPI(env, napi_create_double(env, static_cast<double>(tcp.tcpi_bytes_acked), &result));
  return result;
}

}  // namespace

bool RegisterSocket(napi_env env, napi_value exports) {
  return DefineFunction(env, exports, "socketTakenBytes", SocketTakenBytes);
}

}  // namespace holdfast
