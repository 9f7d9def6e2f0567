/**
 * How the kernel treats an open file (FOPEN_* bits of the reply to OPEN and CREATE).
 *
 * Files opened for writing bypass the kernel's page cache for read(2) and write(2); mappings of them still use it.
 * Without that,
 *   - a WRITE of part of a page holds that page locked until it is answered: a write that waits at the gate or for a lock
 *     would keep the invalidation of its own file from ending, and so the lock from being given back;
 *   - an append goes into the kernel's pages at the end of file that the kernel knows, which another client may have
 *     moved.
 * The data is cached once, by the client, and its locks see every access. A kernel that refuses shared mappings of such
 * files (before 6.6, no DIRECT_IO_ALLOW_MMAP) gets the bit only where no mapping is possible or sensible: write-only and
 * append.
 */

import { O_ACCMODE, O_APPEND, O_DIRECT, O_WRONLY, opensForWrite } from '../base/attr.js';
import { FOPEN, INIT_FLAG } from '../fuse/constants.js';

/** Both O_DSYNC and O_SYNC contain this bit (asm-generic/fcntl.h). */
export const O_DSYNC = 0o10000;

export interface OpenPolicy {
  /** The kernel allows shared mappings of files whose read(2) and write(2) bypass its page cache. */
  readonly directMaps: boolean;
}

/** What every kernel can do: the policy until INIT tells more. */
export const OLDEST_KERNEL: OpenPolicy = { directMaps: false };

export function openPolicy(negotiatedFlags: bigint): OpenPolicy {
  return { directMaps: (negotiatedFlags & INIT_FLAG.DIRECT_IO_ALLOW_MMAP) !== 0n };
}

/** read(2) and write(2) through such a handle go past the kernel's page cache. */
export function isDirect(policy: OpenPolicy, flags: number): boolean {
  if ((flags & O_DIRECT) !== 0) return true;
  if (!opensForWrite(flags)) return false;
  return policy.directMaps || (flags & O_ACCMODE) === O_WRONLY || (flags & O_APPEND) !== 0;
}

/**
 * @param pagesTrue the client holds the data lock, so whatever pages the kernel has are true.
 *
 * Not FOPEN_NOFLUSH: FLUSH is what releases a process's fcntl locks, and a read-only descriptor may hold read locks.
 * Not FOPEN_PARALLEL_DIRECT_WRITES: from Linux 6.9 to 6.11 it can make a first shared mapping wait forever.
 */
export function openFlags(policy: OpenPolicy, flags: number, pagesTrue: boolean): number {
  return (isDirect(policy, flags) ? FOPEN.DIRECT_IO : 0) | (pagesTrue ? FOPEN.KEEP_CACHE : 0);
}
