// Mounting and unmounting. Paths and option strings come from mount/native/driver.ts, which has checked them.

#include <cerrno>
#include <cstring>

#include <fcntl.h>
#include <linux/fuse.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "background.h"
#include "napi_util.h"
#include "registration.h"

namespace holdfast {

namespace {

napi_value FileDescriptor(napi_env env, int fd) {
  napi_value value;
  if (napi_create_int32(env, fd, &value) != napi_ok) {
    close(fd);
    return ThrowNapiFailure(env);
  }
  return value;
}

// mount(source, target, type, flags, data): mount(2). Sends no request to the mount, so the process that serves it may
// call this.
napi_value Mount(napi_env env, napi_callback_info info) {
  const Arguments args(env, info);
  std::string source;
  std::string target;
  std::string type;
  uint32_t flags;
  std::string data;
  if (!args.CString(0, &source) || !args.CString(1, &target) || !args.CString(2, &type) || !args.Uint32(3, &flags) ||
      !args.CString(4, &data)) {
    return nullptr;
  }
  if (mount(source.c_str(), target.c_str(), type.c_str(), flags, data.c_str()) != 0) {
    return ThrowErrno(env, errno, "mount", target);
  }
  return Undefined(env);
}

// The last close of a mount writes dirty pages back through the serving process, and waits for it. If a thread of that
// process waited so, it could not be killed. If the process died meanwhile, that thread would keep /dev/fuse open for
// ever. A child without descriptors can wait: when the serving process is gone, the kernel ends the connection and the
// child goes on.
int UmountInChild(const std::string& target, int flags) {
  const pid_t child = fork();
  if (child < 0) return errno;
  if (child == 0) {
    // Only system calls from here on: other threads of the parent may have held any lock at the fork.
    if (syscall(SYS_close_range, 0u, ~0u, 0u) != 0) {
      const int limit = static_cast<int>(sysconf(_SC_OPEN_MAX));
      for (int fd = 0; fd < limit; ++fd) close(fd);
    }
    _exit(umount2(target.c_str(), flags) == 0 ? 0 : errno);
  }
  int status = 0;
  while (waitpid(child, &status, 0) < 0) {
    if (errno != EINTR) return errno;
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : EINTR;
}

// umount(target, flags): umount2(2) in the background.
napi_value Umount(napi_env env, napi_callback_info info) {
  const Arguments args(env, info);
  std::string target;
  int32_t flags;
  if (!args.CString(0, &target) || !args.Int32(1, &flags)) return nullptr;
  return RunInBackground(env, "umount", target, [target, flags] { return UmountInChild(target, flags); });
}

// umountHere(target, flags): umount2(2) in this process. Not for the process that serves the mount: it would wait for
// itself.
napi_value UmountHere(napi_env env, napi_callback_info info) {
  const Arguments args(env, info);
  std::string target;
  int32_t flags;
  if (!args.CString(0, &target) || !args.Int32(1, &flags)) return nullptr;
  if (umount2(target.c_str(), flags) != 0) return ThrowErrno(env, errno, "umount", target);
  return Undefined(env);
}

// socketPair(): two connected descriptors; fusermount3 passes /dev/fuse through them (_FUSE_COMMFD).
napi_value SocketPair(napi_env env, napi_callback_info) {
  int fds[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) != 0) return ThrowErrno(env, errno, "socketpair");
  napi_value result;
  napi_value first;
  napi_value second;
  if (napi_create_array_with_length(env, 2, &result) != napi_ok ||
      napi_create_int32(env, fds[0], &first) != napi_ok || napi_create_int32(env, fds[1], &second) != napi_ok ||
      napi_set_element(env, result, 0, first) != napi_ok || napi_set_element(env, result, 1, second) != napi_ok) {
    close(fds[0]);
    close(fds[1]);
    return ThrowNapiFailure(env);
  }
  return result;
}

// receiveFd(socket): receives the descriptor in a message that has already arrived; never waits.
napi_value ReceiveFd(napi_env env, napi_callback_info info) {
  const Arguments args(env, info);
  int32_t socket;
  if (!args.Int32(0, &socket)) return nullptr;
  char byte;
  iovec iov = {&byte, 1};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))];
  msghdr message = {};
  message.msg_iov = &iov;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  ssize_t got;
  do {
    got = recvmsg(socket, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  } while (got < 0 && errno == EINTR);
  if (got < 0) return ThrowErrno(env, errno, "recvmsg");
  const cmsghdr* header = got == 0 ? nullptr : CMSG_FIRSTHDR(&message);
  if (header == nullptr || header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS || header->cmsg_len != CMSG_LEN(sizeof(int))) {
    return ThrowErrno(env, EPROTO, "recvmsg");
  }
  int fd;
  memcpy(&fd, CMSG_DATA(header), sizeof fd);
  return FileDescriptor(env, fd);
}

// cloneFuse(fd): one more descriptor of the same mount. The kernel ends requests with ECONNABORTED when the descriptor closes through
// which they were read, and the mount when the last one does (fuse_dev_release).
napi_value CloneFuse(napi_env env, napi_callback_info info) {
  const Arguments args(env, info);
  int32_t fd;
  if (!args.Int32(0, &fd)) return nullptr;
  const int clone = open("/dev/fuse", O_RDWR | O_CLOEXEC | O_NONBLOCK);
  if (clone < 0) return ThrowErrno(env, errno, "open", "/dev/fuse");
  uint32_t from = static_cast<uint32_t>(fd);
  if (ioctl(clone, FUSE_DEV_IOC_CLONE, &from) != 0) {
    const int error = errno;
    close(clone);
    return ThrowErrno(env, error, "ioctl", "/dev/fuse");
  }
  return FileDescriptor(env, clone);
}

}  // namespace

bool RegisterMount(napi_env env, napi_value exports) {
  return DefineFunction(env, exports, "mount", Mount) && DefineFunction(env, exports, "umount", Umount) &&
         DefineFunction(env, exports, "umountHere", UmountHere) &&
         DefineFunction(env, exports, "socketPair", SocketPair) &&
         DefineFunction(env, exports, "receiveFd", ReceiveFd) && DefineFunction(env, exports, "cloneFuse", CloneFuse);
}

}  // namespace holdfast
