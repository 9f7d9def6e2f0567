/*
 * One system call in a loop, timed: what a benchmark in JavaScript would hide behind its own cost.
 *   syscalls stat PATH SECONDS [PROCESSES]       stat(2)
 *   syscalls fstat PATH SECONDS [PROCESSES]      statx(AT_STATX_FORCE_SYNC) on an open file: never the kernel's cache
 *   syscalls statfs PATH SECONDS [PROCESSES]     fstatfs(2)
 *   syscalls create FOLDER COUNT BYTES [FIRST]   open(O_CREAT), write, close of file-FIRST (0) and so on
 *   syscalls spread COUNT BYTES FOLDER...        the same by a process in each folder, all at once
 *   syscalls names KIND FOLDER COUNT [FIRST]     stat, read (open, read, close), rename (there and back), unlink, link,
 *                                                or mkdir (with rmdir), of file-FIRST (0) and so on
 *   syscalls list FOLDER [stat]                  readdir(3), and lstat(2) of each entry
 *   syscalls open FOLDER COUNT                   opens them, prints, and keeps them open until its input ends
 *   syscalls write PATH MIB [nosync]             1 MiB write(2)s, then fsync
 *   syscalls read PATH [KIB]                     read(2)s of that much (1024) to the end
 *   syscalls random read|write PATH COUNT        4 KiB at random places; after writes one fsync
 *   syscalls syncs PATH COUNT                    4 KiB and fsync, one after the other
 *   syscalls alternate A B COUNT                 creates in one directory, in turn through two mounts
 *   syscalls pingpong A B COUNT                  one page of a file, written through one mount and read through the other
 *   syscalls touch MIB                           so much memory is touched and given back: a virtual machine's host may
 *                                                have taken it away while it was free, and giving it again costs time
 * Prints operations (or bytes), seconds and the longest single call in microseconds; syncs, alternate and pingpong also the
 * median and the 99th percentile in microseconds.
 */
#define _GNU_SOURCE
#include "timing.h"
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + t.tv_nsec / 1e9;
}

void die(const char *what) {
  fprintf(stderr, "%s: %s\n", what, strerror(errno));
  exit(1);
}

void print(double amount, double seconds, double longest) {
  printf("%.0f %.6f %.1f\n", amount, seconds, longest * 1e6);
}

static int ascending(const void *a, const void *b) {
  double left = *(const double *)a, right = *(const double *)b;
  return (left > right) - (left < right);
}

void print_quantiles(double *took, size_t count, double seconds) {
  qsort(took, count, sizeof *took, ascending);
  printf("%zu %.6f %.1f %.1f %.1f\n", count, seconds, took[count - 1] * 1e6, took[count / 2] * 1e6,
         took[count * 99 / 100] * 1e6);
}

const char *name_of(const char *folder, const char *prefix, long number) {
  static char path[4096];
  snprintf(path, sizeof path, "%s/%s-%06ld", folder, prefix, number);
  return path;
}

enum looked_at { PATH_STAT, FORCED_STAT, STATFS };

static int look(const char *path, int fd, enum looked_at what) {
  struct stat st;
  struct statx sx;
  struct statfs sf;
  switch (what) {
    case PATH_STAT: return stat(path, &st);
    case FORCED_STAT: return statx(fd, "", AT_EMPTY_PATH | AT_STATX_FORCE_SYNC, STATX_BASIC_STATS, &sx);
    case STATFS: return fstatfs(fd, &sf);
  }
  return -1;
}

static void stat_loop(const char *path, double seconds, enum looked_at what, double *counts, double *longest) {
  int fd = open(path, O_RDONLY);
  if (fd < 0) die(path);
  double start = now(), count = 0, before = start, worst = 0;
  while (before - start < seconds) {
    for (int i = 0; i < 64; i++) {
      if (look(path, fd, what) != 0) die("stat");
    }
    double after = now();
    if ((after - before) / 64 > worst) worst = (after - before) / 64;
    before = after;
    count += 64;
  }
  *counts = count;
  *longest = worst;
}

static void run_stat(const char *path, double seconds, int processes, enum looked_at what) {
  double *shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  double start = now();
  for (int i = 0; i < processes; i++) {
    if (fork() == 0) {
      stat_loop(path, seconds, what, &shared[2 * i], &shared[2 * i + 1]);
      _exit(0);
    }
  }
  int status;
  while (wait(&status) > 0) {
    if (status != 0) exit(1);
  }
  double elapsed = now() - start, total = 0, worst = 0;
  for (int i = 0; i < processes; i++) {
    total += shared[2 * i];
    if (shared[2 * i + 1] > worst) worst = shared[2 * i + 1];
  }
  print(total, elapsed, worst);
}

static void run_create(const char *folder, long count, size_t bytes, long first) {
  char *data = malloc(bytes + 1);
  memset(data, 'x', bytes);
  double start = now(), worst = 0;
  for (long i = first; i < first + count; i++) {
    const char *path = name_of(folder, "file", i);
    double before = now();
    int fd = open(path, O_CREAT | O_WRONLY | O_EXCL, 0644);
    if (fd < 0 || write(fd, data, bytes) != (ssize_t)bytes || close(fd) != 0) die(path);
    double took = now() - before;
    if (took > worst) worst = took;
  }
  print(count, now() - start, worst);
}

static void run_write(const char *path, long mib, int sync) {
  char *data = malloc(1 << 20);
  for (size_t i = 0; i < 1 << 20; i += 8) memcpy(data + i, &i, 8);
  double start = now(), worst = 0;
  int fd = open(path, O_CREAT | O_WRONLY | O_TRUNC, 0644);
  if (fd < 0) die(path);
  for (long i = 0; i < mib; i++) {
    memcpy(data, &i, sizeof i);
    double before = now();
    if (write(fd, data, 1 << 20) != 1 << 20) die("write");
    double took = now() - before;
    if (took > worst) worst = took;
  }
  if (sync && fsync(fd) != 0) die("fsync");
  if (close(fd) != 0) die("close");
  print((double)mib * (1 << 20), now() - start, worst);
}

static void run_touch(long mib) {
  double start = now();
  char *data = mmap(NULL, (size_t)mib << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (data == MAP_FAILED) die("mmap");
  for (size_t at = 0; at < (size_t)mib << 20; at += 4096) data[at] = 1;
  print((double)mib * (1 << 20), now() - start, 0);
}

static void run_read(const char *path, size_t bytes) {
  char *data = malloc(bytes);
  double start = now(), worst = 0, total = 0;
  int fd = open(path, O_RDONLY);
  if (fd < 0) die(path);
  for (;;) {
    double before = now();
    ssize_t got = read(fd, data, bytes);
    if (got < 0) die("read");
    if (got == 0) break;
    total += got;
    double took = now() - before;
    if (took > worst) worst = took;
  }
  print(total, now() - start, worst);
}

int main(int argc, char **argv) {
  if (argc >= 4 && (!strcmp(argv[1], "stat") || !strcmp(argv[1], "fstat") || !strcmp(argv[1], "statfs"))) {
    enum looked_at what = argv[1][0] == 'f' ? FORCED_STAT : argv[1][4] != 0 ? STATFS : PATH_STAT;
    run_stat(argv[2], atof(argv[3]), argc > 4 ? atoi(argv[4]) : 1, what);
  } else if (argc >= 5 && !strcmp(argv[1], "create")) {
    run_create(argv[2], atol(argv[3]), (size_t)atol(argv[4]), argc > 5 ? atol(argv[5]) : 0);
  } else if (argc >= 4 && !strcmp(argv[1], "write")) {
    run_write(argv[2], atol(argv[3]), argc == 4);
  } else if (argc >= 3 && !strcmp(argv[1], "read")) {
    run_read(argv[2], (argc > 3 ? (size_t)atol(argv[3]) : 1024) << 10);
  } else if (argc == 3 && !strcmp(argv[1], "touch")) {
    run_touch(atol(argv[2]));
  } else if (argc == 5 && !strcmp(argv[1], "random")) {
    run_random(argv[3], argv[2][0] == 'w', atol(argv[4]));
  } else if (argc == 4 && !strcmp(argv[1], "syncs") && atol(argv[3]) > 0) {
    run_syncs(argv[2], atol(argv[3]));
  } else if (argc >= 5 && !strcmp(argv[1], "names")) {
    run_names(argv[2], argv[3], atol(argv[4]), argc > 5 ? atol(argv[5]) : 0);
  } else if (argc >= 3 && !strcmp(argv[1], "list")) {
    run_list(argv[2], argc > 3);
  } else if (argc == 4 && !strcmp(argv[1], "open")) {
    run_open_many(argv[2], atol(argv[3]));
  } else if (argc >= 5 && !strcmp(argv[1], "spread")) {
    run_spread(atol(argv[2]), (size_t)atol(argv[3]), argc - 4, argv + 4);
  } else if (argc == 5 && !strcmp(argv[1], "alternate") && atol(argv[4]) > 0) {
    run_alternate(argv[2], argv[3], atol(argv[4]));
  } else if (argc == 5 && !strcmp(argv[1], "pingpong") && atol(argv[4]) > 0) {
    run_ping_pong(argv[2], argv[3], atol(argv[4]));
  } else {
    fprintf(stderr, "see the comment in syscalls.c\n");
    return 2;
  }
  return 0;
}
