/* One process on two mounts of the same filesystem: each operation needs what the other mount has just done. */
#define _GNU_SOURCE
#include "timing.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/** @param a @param b the same folder, seen through two mounts. */
void run_alternate(const char *a, const char *b, long count) {
  double *took = calloc((size_t)count, sizeof *took);
  double start = now();
  for (long i = 0; i < count; i++) {
    double before = now();
    int fd = open(name_of(i % 2 == 0 ? a : b, "turn", i), O_CREAT | O_WRONLY | O_EXCL, 0644);
    if (fd < 0 || close(fd) != 0) die("create");
    took[i] = now() - before;
  }
  print_quantiles(took, (size_t)count, now() - start);
}

/** @param a @param b the same file, seen through two mounts. A turn is a write through one and a read through the other. */
void run_ping_pong(const char *a, const char *b, long count) {
  int fds[2] = {open(a, O_RDWR | O_CREAT, 0644), -1};
  if (fds[0] < 0) die(a);
  fds[1] = open(b, O_RDWR);
  if (fds[1] < 0) die(b);
  double *took = calloc((size_t)count, sizeof *took);
  char page[4096], seen[4096];
  double start = now();
  for (long i = 0; i < count; i++) {
    memset(page, 'a' + (int)(i % 26), sizeof page);
    memcpy(page, &i, sizeof i);
    double before = now();
    if (pwrite(fds[i % 2], page, sizeof page, 0) != sizeof page) die("pwrite");
    ssize_t got = pread(fds[1 - i % 2], seen, sizeof seen, 0);
    if (got < 0) die("pread");
    took[i] = now() - before;
    if (got != sizeof seen || memcmp(page, seen, sizeof page) != 0) {
      errno = ESTALE;
      die("the other mount reads old bytes");
    }
  }
  print_quantiles(took, (size_t)count, now() - start);
}
