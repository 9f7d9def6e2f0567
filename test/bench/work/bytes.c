/* Small pieces at random places of one file, and small pieces that are durable one by one. */
#define _GNU_SOURCE
#include "timing.h"
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PIECE = 4096 };

/** The same places in each run and on each filesystem: xorshift64 from a fixed seed. */
static uint64_t next_random(uint64_t *state) {
  *state ^= *state << 13;
  *state ^= *state >> 7;
  *state ^= *state << 17;
  return *state;
}

void run_random(const char *path, int write, long count) {
  int fd = open(path, write ? O_RDWR : O_RDONLY);
  struct stat st;
  if (fd < 0 || fstat(fd, &st) != 0) die(path);
  uint64_t pieces = (uint64_t)st.st_size / PIECE, state = 0x9e3779b97f4a7c15;
  if (pieces == 0) die("the file is shorter than a piece");
  char data[PIECE];
  memset(data, 'r', sizeof data);
  double start = now(), worst = 0;
  for (long i = 0; i < count; i++) {
    off_t at = (off_t)(next_random(&state) % pieces) * PIECE;
    double before = now();
    ssize_t done = write ? pwrite(fd, data, PIECE, at) : pread(fd, data, PIECE, at);
    if (done != PIECE) die(write ? "pwrite" : "pread");
    double took = now() - before;
    if (took > worst) worst = took;
  }
  if (write && fsync(fd) != 0) die("fsync");
  print(count, now() - start, worst);
}

void run_syncs(const char *path, long count) {
  int fd = open(path, O_CREAT | O_WRONLY | O_TRUNC, 0644);
  if (fd < 0) die(path);
  double *took = calloc((size_t)count, sizeof *took);
  char data[PIECE];
  memset(data, 's', sizeof data);
  double start = now();
  for (long i = 0; i < count; i++) {
    double before = now();
    if (write(fd, data, PIECE) != PIECE || fsync(fd) != 0) die("write and fsync");
    took[i] = now() - before;
  }
  print_quantiles(took, (size_t)count, now() - start);
}
