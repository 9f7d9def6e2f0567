/* What the workloads share: a clock, an end with a message, and the line that each of them prints. */
#pragma once
#include <stddef.h>

/** Seconds of CLOCK_MONOTONIC. */
double now(void);
/** Prints what failed and errno's text, and exits with status 1. */
void die(const char *what) __attribute__((noreturn));
/** Operations (or bytes), seconds, and the longest single call in seconds: AMOUNT SECONDS LONGEST_US. */
void print(double amount, double seconds, double longest);
/** As print(), with two quantiles more: AMOUNT SECONDS LONGEST_US P50_US P99_US. Sorts `took`, seconds of each operation. */
void print_quantiles(double *took, size_t count, double seconds);
/** FOLDER/PREFIX-NUMBER, in a buffer that the next call uses again. */
const char *name_of(const char *folder, const char *prefix, long number);

void run_random(const char *path, int write, long count);
void run_syncs(const char *path, long count);
void run_names(const char *kind, const char *folder, long count, long first);
void run_list(const char *folder, int with_stat);
void run_open_many(const char *folder, long count);
void run_spread(long count, size_t bytes, int folders, char **folder);
void run_alternate(const char *a, const char *b, long count);
void run_ping_pong(const char *a, const char *b, long count);
