/**
 * MountState: what a client process hands to the process that takes its mount over (docs/TAKEOVER.md). It travels between two
 * processes of one host, through a socket that only they have, and carries the secret of the session.
 *
 * Its bytes are frozen as those of the protocol are: a process of any version reads what a process of any other has written. A
 * change that an older reader would not survive gets another STATE_VERSION, and the two processes agree on one before.
 *
 * A client that hands over has drained: it has no dirty data, no cache lock, no change that the server does not have, and nothing
 * that a crash of the server could undo. So there is nothing of that here.
 */

import type { ClientUuid, Fh, TargetUuid, Transno, Xid } from '../base/ids.js';
import { FlockRange, lockHandle } from './lock.js';
import {
  bool,
  branded,
  bytes,
  fid,
  list,
  message,
  nested,
  type Of,
  opt,
  req,
  text,
  u32,
  uint,
} from './schema.js';
import { FidRange } from './session.js';

/** The versions of the message that this build reads and writes. */
export const STATE_VERSIONS: readonly number[] = [1];

const MANY = 10_000_000;
const fh = branded<Fh>('fh');
const ERRNO_NAME_MAX = 32;
const TEXT_MAX = 1000;

/** A failure that a call on a file has to report. */
const Failure = message('Failure', { code: req(1, text(ERRNO_NAME_MAX)), message: req(2, text(TEXT_MAX)) });

const OpenHandle = message('OpenHandle', {
  fh: req(1, fh),
  fid: req(2, fid),
  /** open(2) flags. */
  flags: req(3, u32),
  directory: req(4, bool),
  /** The server need not know of it: it is one of the root directory. */
  unknown: req(5, bool),
  /** Why all calls on it fail. */
  lost: opt(6, nested(Failure)),
  /** The server has nothing to close. */
  gone: req(7, bool),
  /** Position in `failures` of a write-back that it has to report: by the next call that may, and by fsync alone. */
  writeFailure: opt(8, u32),
  earlierFailure: opt(9, u32),
});

const UnreportedFailure = message('UnreportedFailure', { fid: req(1, fid), failure: req(2, u32) });

const lockFields = {
  fid: req(1, fid),
  range: req(2, nested(FlockRange)),
  sequence: req(3, uint),
  fh: req(4, fh),
};
const GrantedAppLock = message('GrantedAppLock', lockFields);
const WaitingAppLock = message('WaitingAppLock', { ...lockFields, handle: req(5, lockHandle) });

const TicketState = message('TicketState', {
  fid: req(1, fid),
  access: req(2, uint),
  ticket: req(3, bytes(256)),
});

export const ClientState = message('ClientState', {
  uuid: req(1, text<ClientUuid>(36)),
  secret: req(2, text(64)),
  /** Of the last connection; the next one has a higher one. */
  connCount: req(3, u32),
  nextXid: req(4, branded<Xid>('xid')),
  /** Server instance with which the client has an export. */
  instance: req(5, uint),
  targetUuid: req(6, text<TargetUuid>(36)),
  targetIndex: req(7, uint),
  label: req(8, text(64)),
  /** Highest transno for which the client has a reply. */
  lastTransno: req(9, branded<Transno>('transno')),
  /** Bytes of the grants that the client has not used. */
  grantBytes: req(10, uint),
  metaGrantBytes: req(11, uint),
  /** FIDs for new objects. */
  fids: req(12, list(nested(FidRange), MANY)),
  activeHandles: req(13, list(lockHandle, 16)),
  tickets: req(14, list(nested(TicketState), MANY)),
  nextFh: req(15, fh),
  handles: req(16, list(nested(OpenHandle), MANY)),
  failures: req(17, list(nested(Failure), MANY)),
  /** Failures of files that nobody had open for writing any more. */
  unreported: req(18, list(nested(UnreportedFailure), MANY)),
  granted: req(19, list(nested(GrantedAppLock), MANY)),
  waiting: req(20, list(nested(WaitingAppLock), MANY)),
  /** Handles below this are of a process that has died. */
  firstFh: req(22, fh),
  /** Inodes without a name that the client holds for its kernel. */
  held: req(21, list(fid, MANY)),
});

const OwnersOfHandle = message('OwnersOfHandle', { fh: req(1, fh), owners: req(2, list(text(16), MANY)) });

export const KernelState = message('KernelState', {
  /** What was negotiated at INIT. flags: the low and the high 32 bits. */
  minor: req(1, u32),
  flagsLow: req(2, u32),
  flagsHigh: req(3, u32),
  maxWriteBytes: req(4, u32),
  maxReadaheadBytes: req(5, u32),
  maxBackground: req(6, u32),
  congestionThreshold: req(7, u32),
  /** The kernel's references: pairs of two float64, little-endian: FID, and the value of src/vfs/nodes.ts. */
  nodes: req(8, bytes(1 << 30)),
  /** Who took fcntl locks through which handle. */
  lockOwners: req(9, list(nested(OwnersOfHandle), MANY)),
  /** Requests that wait, as the kernel sent them, the oldest first. */
  requests: req(10, list(bytes(2 << 20), MANY)),
});

export const MountState = message('MountState', {
  client: req(1, nested(ClientState)),
  kernel: req(2, nested(KernelState)),
});

export type ClientStateMessage = Of<typeof ClientState>;
export type KernelStateMessage = Of<typeof KernelState>;
export type MountStateMessage = Of<typeof MountState>;
