/**
 * INIT: the kernel's offer, the flags that we want, and the flags that both then have.
 *
 * Flags that we never ask for, and why:
 * - WRITEBACK_CACHE: each write must pass the gate.
 * - AUTO_INVAL_DATA: we invalidate data when the server calls a lock back, not when a time differs.
 * - EXPLICIT_INVAL_DATA: the kernel would keep pages and cut them off at each size that it hears of. Such a cut may
 *   wait for the folio of a READ under way, and then cut off the data behind that size which this READ has brought
 *   (vfs/invalidation.ts).
 * - REQUEST_TIMEOUT: it would abort the whole connection during a server's upgrade.
 */

import {
  FUSE_KERNEL_MINOR_VERSION,
  FUSE_KERNEL_VERSION,
  FUSE_MINOR_OLDEST,
  INIT_FLAG,
  SIZE,
} from './constants.js';
import type { Cursor, Writer } from './cursor.js';

export const PAGE_BYTES = 4096;
/** 1 MiB: the kernel's own limit (fs.fuse.max_pages_limit), unless an administrator has raised it. */
export const MAX_PAGES = 256;
export const MAX_WRITE_BYTES = MAX_PAGES * PAGE_BYTES;
/** A read of /dev/fuse needs at least this much room: for the largest WRITE and its headers. */
export const READ_BUFFER_BYTES = MAX_WRITE_BYTES + PAGE_BYTES;
/** Without MAX_PAGES the kernel sends at most 32 pages. */
const MAX_WRITE_COMPAT = 32 * PAGE_BYTES;

export const WANTED_FLAGS: bigint =
  INIT_FLAG.ASYNC_READ |
  INIT_FLAG.POSIX_LOCKS |
  INIT_FLAG.ATOMIC_O_TRUNC |
  INIT_FLAG.BIG_WRITES |
  INIT_FLAG.DONT_MASK | // the umask reaches us: a default ACL takes its place
  INIT_FLAG.FLOCK_LOCKS |
  INIT_FLAG.DO_READDIRPLUS |
  INIT_FLAG.READDIRPLUS_AUTO |
  INIT_FLAG.ASYNC_DIO |
  INIT_FLAG.PARALLEL_DIROPS |
  INIT_FLAG.POSIX_ACL |
  INIT_FLAG.MAX_PAGES |
  INIT_FLAG.CACHE_SYMLINKS |
  INIT_FLAG.HANDLE_KILLPRIV_V2 | // else the kernel sends a GETXATTR of security.capability before each write
  INIT_FLAG.SETXATTR_EXT | // tells us when an ACL change must clear the set-group-id bit
  INIT_FLAG.INIT_EXT |
  INIT_FLAG.CREATE_SUPP_GROUP |
  INIT_FLAG.HAS_EXPIRE_ONLY |
  INIT_FLAG.DIRECT_IO_ALLOW_MMAP |
  INIT_FLAG.HAS_RESEND;

export interface InitIn {
  readonly major: number;
  readonly minor: number;
  readonly maxReadaheadBytes: number;
  readonly flags: bigint;
}

/** fuse_init_in: 16 bytes before 7.36, 64 since then; flags2 is valid if INIT_EXT is set. */
export function readInit(c: Cursor): InitIn {
  const major = c.u32();
  const minor = c.u32();
  // A kernel of another major may send anything after these two.
  if (major !== FUSE_KERNEL_VERSION) return { major, minor, maxReadaheadBytes: 0, flags: 0n };
  const maxReadaheadBytes = c.u32();
  let flags = BigInt(c.u32());
  if ((flags & INIT_FLAG.INIT_EXT) !== 0n && c.remainingBytes >= 4) flags |= BigInt(c.u32()) << 32n;
  return { major, minor, maxReadaheadBytes, flags };
}

export interface Negotiated {
  readonly minor: number;
  readonly flags: bigint;
  readonly maxWriteBytes: number;
  readonly maxReadaheadBytes: number;
  readonly maxBackground: number;
  readonly congestionThreshold: number;
}

export type InitAnswer =
  | { readonly kind: 'agreed'; readonly negotiated: Negotiated }
  /** The kernel has a higher major. We answer with ours, and it sends another INIT. */
  | { readonly kind: 'offerOurs' }
  /** The kernel is too old for us. */
  | { readonly kind: 'refused' };

export interface InitOptions {
  readonly maxBackground: number;
  readonly congestionThreshold: number;
  /** Flags not to ask for, in tests and as a workaround for a kernel's bug. */
  readonly withoutFlags: bigint;
}

export function negotiate(init: InitIn, options: InitOptions): InitAnswer {
  if (init.major > FUSE_KERNEL_VERSION) return { kind: 'offerOurs' };
  if (init.major < FUSE_KERNEL_VERSION || init.minor < FUSE_MINOR_OLDEST) return { kind: 'refused' };
  const flags = init.flags & WANTED_FLAGS & ~options.withoutFlags;
  return {
    kind: 'agreed',
    negotiated: {
      minor: Math.min(init.minor, FUSE_KERNEL_MINOR_VERSION),
      flags,
      maxWriteBytes: (flags & INIT_FLAG.MAX_PAGES) !== 0n ? MAX_WRITE_BYTES : MAX_WRITE_COMPAT,
      maxReadaheadBytes: init.maxReadaheadBytes,
      maxBackground: options.maxBackground,
      congestionThreshold: options.congestionThreshold,
    },
  };
}

/** fuse_init_out, 64 bytes. */
export function putInit(w: Writer, at: number, agreed: Negotiated): number {
  w.zero(at, SIZE.INIT_OUT);
  w.u32(at, FUSE_KERNEL_VERSION);
  w.u32(at + 4, agreed.minor);
  w.u32(at + 8, agreed.maxReadaheadBytes);
  w.u32(at + 12, Number(agreed.flags & 0xffff_ffffn));
  w.u16(at + 16, agreed.maxBackground);
  w.u16(at + 18, agreed.congestionThreshold);
  w.u32(at + 20, agreed.maxWriteBytes);
  w.u32(at + 24, 1); // time_gran: file times have nanoseconds
  if ((agreed.flags & INIT_FLAG.MAX_PAGES) !== 0n) w.u16(at + 28, MAX_PAGES);
  w.u32(at + 32, Number(agreed.flags >> 32n));
  return SIZE.INIT_OUT;
}

/** The answer to a kernel of a higher major: only our version. */
export function putInitOffer(w: Writer, at: number): number {
  w.zero(at, SIZE.INIT_OUT);
  w.u32(at, FUSE_KERNEL_VERSION);
  w.u32(at + 4, FUSE_KERNEL_MINOR_VERSION);
  return SIZE.INIT_OUT;
}
