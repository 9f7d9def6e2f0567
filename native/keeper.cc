// holdfast_keeper: keeps the /dev/fuse descriptor of one mount, so that the mount outlives its client process.
//
// The client starts it with a socket as descriptor 3 and /dev/fuse as descriptor 4, and tells it what to start if it dies:
// the program's words, and bytes that the next client gets. A client that hands its mount over gives its end of the socket on.
// So the end of the socket means that no client is left. If the mount is still there then, the keeper starts the program, with
// another socket as 3 and /dev/fuse as 4, and passes the bytes on.
//
//   holdfast_keeper MOUNTPOINT DEATHS DEVICE
//
// After DEATHS deaths within a minute it ends the mount, with a line on stderr. It ends when the mount does. DEVICE (MAJOR:MINOR) tells
// this mount from others: if it is not at its place any more (umount -l), the keeper starts no client for it, and touches nothing there.
//
// A message is: u32 length of what follows, u32 number of words, for each word u32 length and its bytes, then the bytes for the next
// client. Numbers have this machine's byte order. To the next client the keeper writes: u32 length, and the bytes.

#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

namespace {

constexpr int kSocket = 3;
constexpr int kFuse = 4;
constexpr size_t kMessageMax = 1 << 20;
constexpr double kWindowSeconds = 60;

// What the last client has said.
struct Will {
  std::vector<std::string> words;
  std::string seed;
};

double Now() {
  timespec now = {};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) / 1e9;
}

bool TakeNumber(const std::string& bytes, size_t* at, uint32_t* number) {
  if (bytes.size() - *at < sizeof *number) return false;
  memcpy(number, bytes.data() + *at, sizeof *number);
  *at += sizeof *number;
  return true;
}

// @returns false if the bytes are no message.
bool Parse(const std::string& bytes, Will* will) {
  size_t at = 0;
  uint32_t count;
  if (!TakeNumber(bytes, &at, &count) || count == 0 || count > 1000) return false;
  Will read;
  for (uint32_t i = 0; i < count; ++i) {
    uint32_t length;
    if (!TakeNumber(bytes, &at, &length) || bytes.size() - at < length) return false;
    read.words.emplace_back(bytes, at, length);
    at += length;
  }
  read.seed = bytes.substr(at);
  *will = read;
  return true;
}

// Takes complete messages from the front of what has come. @returns false if it is none of ours.
bool TakeMessages(std::string* come, Will* will) {
  for (;;) {
    size_t at = 0;
    uint32_t length;
    if (!TakeNumber(*come, &at, &length)) return true;
    if (length > kMessageMax) return false;
    if (come->size() - at < length) return true;
    if (!Parse(come->substr(at, length), will)) return false;
    come->erase(0, at + length);
  }
}

// The kernel says POLLERR for a /dev/fuse whose mount is gone.
bool MountIsGone() {
  pollfd fuse = {kFuse, 0, 0};
  return poll(&fuse, 1, 0) > 0 && (fuse.revents & (POLLERR | POLLHUP | POLLNVAL)) != 0;
}

// As mountinfo has a path: space, tab, line break and backslash in octal.
std::string Escaped(const std::string& path) {
  std::string escaped;
  for (const char letter : path) {
    char octal[5];
    snprintf(octal, sizeof octal, "\\%03o", static_cast<unsigned char>(letter));
    escaped += letter == ' ' || letter == '\t' || letter == '\n' || letter == '\\' ? octal : std::string(1, letter);
  }
  return escaped;
}

// Whether the mount that lies there, above all others, is this one.
bool IsAt(const std::string& mountpoint, const std::string& device) {
  const std::string wanted = Escaped(mountpoint);
  std::ifstream table("/proc/self/mountinfo");
  std::string line;
  bool is_at = false;
  while (std::getline(table, line)) {
    // id, parent, MAJOR:MINOR, root, mount point
    std::istringstream fields(line);
    std::string id, parent, major_minor, root, at;
    if (fields >> id >> parent >> major_minor >> root >> at && at == wanted) is_at = major_minor == device;
  }
  return is_at;
}

bool WriteAll(int fd, const void* bytes, size_t length) {
  const char* from = static_cast<const char*>(bytes);
  while (length > 0) {
    const ssize_t written = send(fd, from, length, MSG_NOSIGNAL);
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return false;
    from += written;
    length -= static_cast<size_t>(written);
  }
  return true;
}

// Moves the descriptor to another number, which its program finds open.
bool MoveTo(int from, int to) {
  if (from == to) return fcntl(to, F_SETFD, 0) == 0;
  return dup2(from, to) == to;
}

// Starts the next client. @returns our end of its socket, or -1.
int Start(const Will& will) {
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) return -1;
  std::vector<char*> argv;
  for (const std::string& word : will.words) argv.push_back(const_cast<char*>(word.c_str()));
  argv.push_back(nullptr);
  const pid_t pid = fork();
  if (pid < 0) {
    close(ends[0]);
    close(ends[1]);
    return -1;
  }
  if (pid == 0) {
    signal(SIGCHLD, SIG_DFL);
    setsid();
    if (MoveTo(ends[1], kSocket) && MoveTo(kFuse, kFuse)) execvp(argv[0], argv.data());
    fprintf(stderr, "holdfast: cannot start %s: %s\n", argv[0], strerror(errno));
    _exit(127);
  }
  close(ends[1]);
  const uint32_t length = static_cast<uint32_t>(will.seed.size());
  // If it has died already, the socket says so in a moment.
  if (WriteAll(ends[0], &length, sizeof length)) WriteAll(ends[0], will.seed.data(), will.seed.size());
  return ends[0];
}

void EndMount(const char* mountpoint, const char* device) {
  if (!IsAt(mountpoint, device)) return;
  if (umount2(mountpoint, MNT_FORCE | MNT_DETACH | UMOUNT_NOFOLLOW) == 0) return;
  // Not root: the helper may. With the last descriptor closed, calls fail in any case.
  close(kFuse);
  execlp("fusermount3", "fusermount3", "-uz", "--", mountpoint, static_cast<char*>(nullptr));
}

// Listens to one client until it is gone. @returns false if the mount is gone.
bool Listen(int socket, Will* will) {
  std::string come;
  for (;;) {
    // Without /dev/fuse, whose end is the end of the mount: each request of the kernel would wake this process. The client ends when
    // the mount does.
    pollfd one = {socket, POLLIN, 0};
    if (poll(&one, 1, -1) < 0) {
      if (errno == EINTR) continue;
      return false;
    }
    char bytes[4096];
    const ssize_t got = recv(socket, bytes, sizeof bytes, MSG_DONTWAIT);
    if (got < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (got <= 0) return !MountIsGone();
    come.append(bytes, static_cast<size_t>(got));
    if (!TakeMessages(&come, will)) {
      fprintf(stderr, "holdfast: the client says something unexpected to its keeper, which ends\n");
      return false;
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) {
    fprintf(stderr, "holdfast_keeper is started by a client process of Holdfast\n");
    return 2;
  }
  const char* mountpoint = argv[1];
  const char* device = argv[3];
  const size_t limit = static_cast<size_t>(strtoul(argv[2], nullptr, 10));
  // What it keeps is a secret.
  prctl(PR_SET_DUMPABLE, 0);
  // Nobody waits for the clients that it starts. A signal for all processes of the mount is the client's business.
  signal(SIGCHLD, SIG_IGN);
  for (const int number : {SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGPIPE}) signal(number, SIG_IGN);
  fcntl(kFuse, F_SETFD, FD_CLOEXEC);
  fcntl(kSocket, F_SETFD, FD_CLOEXEC);

  Will will;
  std::vector<double> deaths;
  int socket = kSocket;
  while (Listen(socket, &will)) {
    close(socket);
    // Nobody could ask a client for it to end.
    if (!IsAt(mountpoint, device)) return 0;
    const double now = Now();
    deaths.push_back(now);
    while (now - deaths.front() > kWindowSeconds) deaths.erase(deaths.begin());
    if (will.words.empty() || deaths.size() >= limit) {
      fprintf(stderr, "holdfast: the client process of %s died %zu times within a minute: the mount ends\n", mountpoint,
              deaths.size());
      EndMount(mountpoint, device);
      return 1;
    }
    fprintf(stderr, "holdfast: the client process of %s has died; its keeper starts another one\n", mountpoint);
    socket = Start(will);
    if (socket < 0) {
      fprintf(stderr, "holdfast: cannot start a client process for %s: %s\n", mountpoint, strerror(errno));
      EndMount(mountpoint, device);
      return 1;
    }
  }
  return 0;
}
