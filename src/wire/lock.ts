/** Lock family. Opcodes 16-47. ASTs go from server to client. Modes, bits and policies: docs/LOCKING.md. */

import type { LockHandle } from '../base/ids.js';
import { earlier } from '../base/lock_offset.js';
import { caller } from './caller.js';
import { Empty, operation } from './operation.js';
import {
  attr,
  bool,
  branded,
  fid,
  list,
  lockOffset,
  message,
  nested,
  type Of,
  oneOf,
  opt,
  req,
  text,
  timespec,
  u8,
  u32,
  uint,
} from './schema.js';
import { FEATURE } from './session.js';

export const lockHandle = branded<LockHandle>('lockHandle');
/** Lustre's modes; the compatibility matrix is in dlm/modes.ts. */
export const lockMode = oneOf('EX', 'PW', 'PR', 'CW', 'CR', 'NL');
/**
 * active: the active server lock, a plain lock. inode: inodebits. data: extent (the whole file for now). flock:
 * application locks (flock, fcntl, OFD).
 */
export const resourceType = oneOf('active', 'inode', 'data', 'flock');

/**
 * Inodebits. UPDATE: the names in a directory, negative ones too, and the directory's size and times. ATTR: attributes,
 * xattrs.
 */
export const BIT_UPDATE = 1;
export const BIT_ATTR = 2;

/** A cache lock that came with the reply of another operation. */
export const Grant = message('Grant', {
  handle: req(1, lockHandle),
  fid: req(2, fid),
  type: req(3, oneOf('inode', 'data')),
  mode: req(4, lockMode),
  bits: opt(5, u8),
});
export const grants = list(nested(Grant), 20_000);

/**
 * One application lock. end is exclusive; if absent, the range reaches to the end of the file, whatever its size
 * becomes.
 */
export const FlockRange = message('FlockRange', {
  /** 'flock' (whole file) conflicts only with 'flock'; 'posix' and 'ofd' conflict with each other. */
  kind: req(1, oneOf('posix', 'ofd', 'flock')),
  /** The kernel's lk_owner, 16 hex digits; unique with the client's UUID. */
  owner: req(2, text(16)),
  pid: req(3, u32),
  exclusive: req(4, bool),
  start: req(5, lockOffset),
  end: opt(6, lockOffset),
  /**
   * posix: the host and pid namespace to which `pid` belongs. One process has an owner on each mount; the server
   * detects deadlocks across them. Absent: not known.
   */
  host: opt(7, uint),
});

/**
 * Cache locks (active, inode, data): the server answers when it has granted the lock. flock: the server answers at
 * once; if `granted` is false, the lock waits on the server, and a CAST reports its grant. FLAG_RECOVERY: lock replay.
 */
export const Enqueue = operation(
  16,
  'ENQUEUE',
  message('EnqueueRequest', {
    type: req(1, resourceType),
    /** Absent for active. */
    fid: opt(2, fid),
    mode: req(3, lockMode),
    bits: opt(4, u8),
    flock: opt(5, nested(FlockRange)),
    /** flock only: wait if the lock conflicts; otherwise a conflict gives EAGAIN. */
    wait: opt(6, bool),
    /** flock replay: the sequence number that the lock had, so that waiters keep their order. */
    sequence: opt(7, uint),
    /** data: of an operation without a handle, as truncate(2). */
    caller: opt(8, caller),
  }),
  message('EnqueueReply', {
    handle: req(1, lockHandle),
    granted: req(2, bool),
    sequence: opt(3, uint),
    /** data and inode: attributes at the moment of the grant. */
    attr: opt(4, attr),
  }),
);
/**
 * Gives back locks, granted or waiting. The server ignores unknown handles (it may have evicted the client or cancelled
 * the lock).
 */
export const Cancel = operation(
  17,
  'CANCEL',
  message('CancelRequest', { handles: req(1, list(lockHandle, 50_000)) }),
  Empty,
);
/** GETLK: the first conflicting lock, absent if there is none. */
export const TestFlock = operation(
  18,
  'TEST_FLOCK',
  message('TestFlockRequest', { fid: req(1, fid), flock: req(2, nested(FlockRange)) }),
  message('TestFlockReply', { conflict: opt(1, nested(FlockRange)) }),
);
/** Unlocks a range of one owner; may split or shrink its locks. */
export const Unflock = operation(
  19,
  'UNFLOCK',
  message('UnflockRequest', { fid: req(1, fid), flock: req(2, nested(FlockRange)) }),
  Empty,
);

/**
 * Notice: somebody waits for this lock; the client gives it back (CANCEL) as soon as it has flushed and dropped what
 * the lock protects.
 */
export const Bast = operation(
  32,
  'BAST',
  message('BastNotice', { handle: req(1, lockHandle), type: req(2, resourceType), fid: opt(3, fid) }),
  Empty,
  'notice',
);
/** Notice: the server has granted a waiting flock; or never will, if errno is set (EDEADLK). */
export const Cast = operation(
  33,
  'CAST',
  message('CastNotice', { handle: req(1, lockHandle), errno: opt(2, u32) }),
  Empty,
  'notice',
);
/**
 * Asks the holder of a PW data lock for size and times as its applications see them. ENOENT: it has just given the lock
 * back.
 */
export const Glimpse = operation(
  34,
  'GLIMPSE',
  message('GlimpseRequest', { handle: req(1, lockHandle), fid: req(2, fid) }),
  message('GlimpseReply', {
    sizeBytes: req(1, uint),
    mtime: req(2, timespec),
    ctime: opt(3, timespec),
    dirtyBytes: opt(4, uint),
  }),
);

/** Most FIDs in one NAMELESS or GONE. */
export const NAMELESS_MAX = 10_000;

/**
 * Request to a client: these inodes have neither a name nor a handle any more. The client names those that its kernel
 * still refers to, and holds them until it releases them (CLOSE). FEATURE.holds.
 */
export const Nameless = operation(
  40,
  'NAMELESS',
  message('NamelessRequest', { fids: req(1, list(fid, NAMELESS_MAX)) }),
  message('NamelessReply', { held: req(1, list(fid, NAMELESS_MAX)) }),
);
/**
 * Notice to clients with cache locks on these inodes: the server has destroyed them, and their cached pages are
 * useless. FEATURE.holds.
 */
export const Gone = operation(
  41,
  'GONE',
  message('GoneNotice', { fids: req(1, list(fid, NAMELESS_MAX)) }),
  Empty,
  'notice',
);

export type GrantMessage = Of<typeof Grant>;
export type FlockRangeMessage = Of<typeof FlockRange>;

/**
 * The range in the form for a peer with these features. A peer without lockOffsets gets an end beyond 2^53 - 1 as "to
 * the end".
 */
export function rangeFor(features: number, range: FlockRangeMessage): FlockRangeMessage {
  if ((features & FEATURE.lockOffsets) !== 0) return range;
  const { start, end } = range;
  if (typeof start === 'number' && typeof end !== 'bigint') return range;
  return { ...range, start: earlier(start, Number.MAX_SAFE_INTEGER), end: undefined };
}
export type LockModeName = 'EX' | 'PW' | 'PR' | 'CW' | 'CR' | 'NL';
export type ResourceTypeName = 'active' | 'inode' | 'data' | 'flock';
