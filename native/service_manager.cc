// What a process says to systemd (sd_notify(3)), with the descriptors that systemd is to keep for the next process of the unit.

#include <cerrno>
#include <cstddef>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "background.h"
#include "napi_util.h"
#include "registration.h"

namespace holdfast {

namespace {

constexpr size_t kDescriptorsMax = 2;

// The caller may close its descriptors while a message waits: these are duplicates.
struct Message {
  sockaddr_un address = {};
  socklen_t address_length = 0;
  std::string text;
  std::vector<int> fds;

  ~Message() {
    for (const int fd : fds) close(fd);
  }
};

// May wait until the manager has read what others have said.
int Send(const Message& what) {
  const int to = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (to < 0) return errno;
  iovec iov = {const_cast<char*>(what.text.data()), what.text.size()};
  alignas(cmsghdr) char control[CMSG_SPACE(kDescriptorsMax * sizeof(int))] = {};
  msghdr message = {};
  message.msg_name = const_cast<sockaddr_un*>(&what.address);
  message.msg_namelen = what.address_length;
  message.msg_iov = &iov;
  message.msg_iovlen = 1;
  if (!what.fds.empty()) {
    const size_t length = what.fds.size() * sizeof(int);
    message.msg_control = control;
    message.msg_controllen = CMSG_SPACE(length);
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(length);
    memcpy(CMSG_DATA(header), what.fds.data(), length);
  }
  ssize_t sent;
  do {
    sent = sendmsg(to, &message, MSG_NOSIGNAL);
  } while (sent < 0 && errno == EINTR);
  const int error = sent < 0 ? errno : 0;
  close(to);
  return error;
}

// tellManager(socket, text, first, second): one message; -1: no descriptor.
napi_value TellManager(napi_env env, napi_callback_info info) {
  const Arguments args(env, info);
  std::string name;
  auto message = std::make_shared<Message>();
  int32_t given[kDescriptorsMax];
  if (!args.CString(0, &name) || !args.String(1, &message->text) || !args.Int32(2, &given[0]) ||
      !args.Int32(3, &given[1])) {
    return nullptr;
  }
  sockaddr_un& address = message->address;
  if (name.size() + 1 > sizeof address.sun_path) return ThrowErrno(env, ENAMETOOLONG, "sendmsg", name);
  address.sun_family = AF_UNIX;
  memcpy(address.sun_path, name.data(), name.size());
  // "@" stands for the zero byte of an abstract name, which has no other at its end.
  const bool is_abstract = !name.empty() && name.front() == '@';
  if (is_abstract) address.sun_path[0] = '\0';
  message->address_length =
      static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + name.size() + (is_abstract ? 0 : 1));
  for (const int32_t fd : given) {
    if (fd == -1) continue;
    const int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (copy < 0) return ThrowErrno(env, errno, "fcntl");
    message->fds.push_back(copy);
  }
  return RunInBackground(env, "sendmsg", name, [message] { return Send(*message); });
}

// memoryFile(name): an empty file that has no place in any filesystem.
napi_value MemoryFile(napi_env env, napi_callback_info info) {
  const Arguments args(env, info);
  std::string name;
  if (!args.CString(0, &name)) return nullptr;
  const int fd = memfd_create(name.c_str(), MFD_CLOEXEC);
  if (fd < 0) return ThrowErrno(env, errno, "memfd_create");
  napi_value value;
  if (napi_create_int32(env, fd, &value) == napi_ok) return value;
  close(fd);
  return ThrowNapiFailure(env);
}

// fuseHasEnded(fd): whether the mount behind a descriptor of /dev/fuse has ended, or has never been made. The kernel says POLLERR then.
napi_value FuseHasEnded(napi_env env, napi_callback_info info) {
  const Arguments args(env, info);
  int32_t fd;
  if (!args.Int32(0, &fd)) return nullptr;
  pollfd one = {fd, 0, 0};
  int ready;
  do {
    ready = poll(&one, 1, 0);
  } while (ready < 0 && errno == EINTR);
  if (ready < 0) return ThrowErrno(env, errno, "poll");
  // poll(2) ignores numbers below 0.
  const bool has_ended = fd < 0 || (ready > 0 && (one.revents & (POLLERR | POLLHUP | POLLNVAL)) != 0);
  napi_value result;
  HOLDFAST_NAPI(env, napi_get_boolean(env, has_ended, &result));
  return result;
}

}  // namespace

bool RegisterServiceManager(napi_env env, napi_value exports) {
  return DefineFunction(env, exports, "tellManager", TellManager) &&
         DefineFunction(env, exports, "memoryFile", MemoryFile) &&
         DefineFunction(env, exports, "fuseHasEnded", FuseHasEnded);
}

}  // namespace holdfast
