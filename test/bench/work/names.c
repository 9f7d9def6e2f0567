/* Operations on many names. The names are known (file-000000 and so on), so only `list` reads a directory. */
#define _GNU_SOURCE
#include "timing.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

typedef int each_name(const char *folder, long number);

static int stat_name(const char *folder, long number) {
  struct stat st;
  return stat(name_of(folder, "file", number), &st);
}

static int read_name(const char *folder, long number) {
  char data[4096];
  int fd = open(name_of(folder, "file", number), O_RDONLY);
  if (fd < 0) return -1;
  if (read(fd, data, sizeof data) < 0) return -1;
  return close(fd);
}

static int rename_between(const char *folder, const char *from, const char *to, long number) {
  char old[4096];
  snprintf(old, sizeof old, "%s", name_of(folder, from, number));
  return rename(old, name_of(folder, to, number));
}

static int rename_there(const char *folder, long number) { return rename_between(folder, "file", "moved", number); }
static int rename_back(const char *folder, long number) { return rename_between(folder, "moved", "file", number); }

static int unlink_name(const char *folder, long number) { return unlink(name_of(folder, "file", number)); }

/** A second name of the folder's first file. */
static int link_name(const char *folder, long number) {
  char first[4096];
  snprintf(first, sizeof first, "%s", name_of(folder, "file", 0));
  return link(first, name_of(folder, "link", number));
}

static int unlink_link(const char *folder, long number) { return unlink(name_of(folder, "link", number)); }
static int make_folder(const char *folder, long number) { return mkdir(name_of(folder, "dir", number), 0755); }
static int remove_folder(const char *folder, long number) { return rmdir(name_of(folder, "dir", number)); }

static const struct {
  const char *kind;
  each_name *first;
  /** Undoes it, or does it again the other way. NULL: there is nothing more. */
  each_name *second;
  /** Whether the second pass is part of the measurement. */
  int both;
} KINDS[] = {
    {"stat", stat_name, NULL, 0},          {"read", read_name, NULL, 0},
    {"rename", rename_there, rename_back, 1}, {"unlink", unlink_name, NULL, 0},
    {"link", link_name, unlink_link, 0},   {"mkdir", make_folder, remove_folder, 1},
};

static void pass(each_name *each, const char *folder, long count, long first, double *worst) {
  for (long i = first; i < first + count; i++) {
    double before = now();
    if (each(folder, i) != 0) die(folder);
    double took = now() - before;
    if (took > *worst) *worst = took;
  }
}

void run_names(const char *kind, const char *folder, long count, long first) {
  for (size_t at = 0; at < sizeof KINDS / sizeof *KINDS; at++) {
    if (strcmp(KINDS[at].kind, kind) != 0) continue;
    double start = now(), worst = 0, unmeasured = 0;
    pass(KINDS[at].first, folder, count, first, &worst);
    if (KINDS[at].both) pass(KINDS[at].second, folder, count, first, &worst);
    double seconds = now() - start;
    if (KINDS[at].second != NULL && !KINDS[at].both) pass(KINDS[at].second, folder, count, first, &unmeasured);
    print(KINDS[at].both ? 2 * count : count, seconds, worst);
    return;
  }
  errno = EINVAL;
  die(kind);
}

void run_list(const char *folder, int with_stat) {
  double start = now(), count = 0;
  DIR *dir = opendir(folder);
  if (dir == NULL) die(folder);
  for (;;) {
    errno = 0;
    struct dirent *entry = readdir(dir);
    if (entry == NULL) break;
    struct stat st;
    if (with_stat && fstatat(dirfd(dir), entry->d_name, &st, AT_SYMLINK_NOFOLLOW) != 0) die(entry->d_name);
    count++;
  }
  if (errno != 0) die("readdir");
  closedir(dir);
  print(count, now() - start, 0);
}

/** Keeps all of them open, says so, and goes on when its input ends: whoever measures looks at the memory meanwhile. */
void run_open_many(const char *folder, long count) {
  struct rlimit limit = {(rlim_t)count + 64, (rlim_t)count + 64};
  if (setrlimit(RLIMIT_NOFILE, &limit) != 0) die("setrlimit");
  double start = now(), worst = 0;
  for (long i = 0; i < count; i++) {
    double before = now();
    if (open(name_of(folder, "file", i), O_RDONLY) < 0) die("open");
    double took = now() - before;
    if (took > worst) worst = took;
  }
  print(count, now() - start, worst);
  fflush(stdout);
  char byte;
  if (read(0, &byte, 1) < 0) die("stdin");
}

/** A process in each of the folders makes `count` files; they begin together. */
void run_spread(long count, size_t bytes, int folders, char **folder) {
  int start_pipe[2];
  if (pipe(start_pipe) != 0) die("pipe");
  char *data = malloc(bytes + 1);
  memset(data, 'x', bytes);
  for (int at = 0; at < folders; at++) {
    pid_t child = fork();
    if (child < 0) die("fork");
    if (child != 0) continue;
    close(start_pipe[1]);
    char byte;
    if (read(start_pipe[0], &byte, 1) < 0) die("pipe");
    char prefix[32];
    // Two of the folders may be one.
    snprintf(prefix, sizeof prefix, "made-%d", at);
    for (long i = 0; i < count; i++) {
      int fd = open(name_of(folder[at], prefix, i), O_CREAT | O_WRONLY | O_EXCL, 0644);
      if (fd < 0 || write(fd, data, bytes) != (ssize_t)bytes || close(fd) != 0) die(folder[at]);
    }
    _exit(0);
  }
  double start = now();
  close(start_pipe[1]);
  int status;
  while (wait(&status) > 0) {
    if (status != 0) exit(1);
  }
  print((double)count * folders, now() - start, 0);
}
