// What Node does not show of a connection, and Unix sockets. Node pads an abstract name with zeros or not, depending on its
// version; here it has exactly the bytes that were given. Node removes a socket's path when it closes, whoever has it by then.

#include <cerrno>
#include <cstddef>
#include <cstring>
#include <string>

#include <linux/tcp.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

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

// A socket that does not block, and the address of an abstract name, or of a path: that begins with a slash.
// @returns its descriptor, or -1 with an exception.
int UnixSocket(napi_env env, const Arguments& args, sockaddr_un* address, socklen_t* length) {
  std::string name;
  if (!args.String(0, &name)) return -1;
  *address = {};
  address->sun_family = AF_UNIX;
  // An abstract name begins with a zero byte, and a path ends with one.
  if (name.size() + 1 > sizeof address->sun_path) {
    ThrowErrno(env, ENAMETOOLONG, "socket");
    return -1;
  }
  const bool is_path = !name.empty() && name.front() == '/';
  if (is_path && name.find('\0') != std::string::npos) {
    ThrowErrno(env, EINVAL, "socket");
    return -1;
  }
  memcpy(address->sun_path + (is_path ? 0 : 1), name.data(), name.size());
  *length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + name.size());
  const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) ThrowErrno(env, errno, "socket");
  return fd;
}

napi_value Descriptor(napi_env env, int fd, int error, const char* operation) {
  napi_value result;
  if (error == 0 && napi_create_int32(env, fd, &result) == napi_ok) return result;
  close(fd);
  return error != 0 ? ThrowErrno(env, error, operation) : ThrowNapiFailure(env);
}

// unixListen(name, backlog). A path has mode 0600 from its beginning: bind() takes the mode of the socket.
napi_value UnixListen(napi_env env, napi_callback_info info) {
  const Arguments args(env, info);
  int32_t backlog;
  if (!args.Int32(1, &backlog)) return nullptr;
  sockaddr_un address;
  socklen_t length;
  const int fd = UnixSocket(env, args, &address, &length);
  if (fd < 0) return nullptr;
  const bool listens = fchmod(fd, S_IRUSR | S_IWUSR) == 0 && bind(fd, reinterpret_cast<sockaddr*>(&address), length) == 0 && listen(fd, backlog) == 0;
  return Descriptor(env, fd, listens ? 0 : errno, "listen");
}

// unixConnect(name): never waits. A Unix socket is connected at once or not at all.
napi_value UnixConnect(napi_env env, napi_callback_info info) {
  const Arguments args(env, info);
  sockaddr_un address;
  socklen_t length;
  const int fd = UnixSocket(env, args, &address, &length);
  if (fd < 0) return nullptr;
  int status;
  do {
    status = connect(fd, reinterpret_cast<sockaddr*>(&address), length);
  } while (status != 0 && errno == EINTR);
  return Descriptor(env, fd, status == 0 ? 0 : errno, "connect");
}

// unixPeer(fd)
napi_value UnixPeer(napi_env env, napi_callback_info info) {
  const Arguments args(env, info);
  int32_t fd;
  if (!args.Int32(0, &fd)) return nullptr;
  ucred peer = {};
  socklen_t length = sizeof peer;
  if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length) != 0) return ThrowErrno(env, errno, "getsockopt");
  napi_value result;
  napi_value uid;
  napi_value pid;
  HOLDFAST_NAPI(env, napi_create_object(env, &result));
  HOLDFAST_NAPI(env, napi_create_uint32(env, peer.uid, &uid));
  HOLDFAST_NAPI(env, napi_create_int32(env, peer.pid, &pid));
  HOLDFAST_NAPI(env, napi_set_named_property(env, result, "uid", uid));
  HOLDFAST_NAPI(env, napi_set_named_property(env, result, "pid", pid));
  return result;
}

}  // namespace

bool RegisterSocket(napi_env env, napi_value exports) {
  return DefineFunction(env, exports, "socketTakenBytes", SocketTakenBytes) &&
         DefineFunction(env, exports, "unixListen", UnixListen) &&
         DefineFunction(env, exports, "unixConnect", UnixConnect) && DefineFunction(env, exports, "unixPeer", UnixPeer);
}

}  // namespace holdfast
