/** Session family: connecting, recovery, pings. Opcodes 1-15. */

import type { ClientUuid, Fh, TargetUuid, Transno, Xid } from '../base/ids.js';
import { Empty, operation } from './operation.js';
import {
  bool,
  branded,
  fid,
  list,
  message,
  nested,
  type Of,
  oneOf,
  opt,
  req,
  text,
  u8,
  u16,
  u32,
  uint,
} from './schema.js';

/** Feature bits. A bit stands for good once a release carried it. */
export const FEATURE = {
  /** READDIR may answer attributes and locks with each entry. */
  readdirPlus: 1,
  /** WRITE is paid for from a space grant. */
  grants: 2,
  /** Full recovery: uncommitted operations and cache locks are replayed, reply data outlives the server. */
  replay: 4,
  /** NAMELESS, GONE and CLOSE.released: an unlinked inode lives while a client's kernel refers to it. */
  holds: 256,
  /** FlockRange of TEST_FLOCK, ENQUEUE, UNFLOCK: start and end may be 2^53 to 2^63 - 1. */
  lockOffsets: 512,
} as const;
export const FEATURES_ALL =
  FEATURE.readdirPlus | FEATURE.grants | FEATURE.replay | FEATURE.holds | FEATURE.lockOffsets;

/** An unused run of FIDs [start, end) that the client may name new objects from. */
export const FidRange = message('FidRange', { start: req(1, fid), end: req(2, fid) });

export const Connect = operation(
  1,
  'CONNECT',
  message('ConnectRequest', {
    uuid: req(1, text<ClientUuid>(36)),
    /** Host name and mount point, for people. */
    name: req(2, text(255)),
    protocolMin: req(3, u8),
    protocolMax: req(4, u8),
    features: req(5, u32),
    softwareVersion: req(6, text(64)),
    /** One more at each connect of this client; the server drops what still comes from a lower one. */
    connCount: req(7, u32),
    /** Instance number this client was connected to before; absent at its first connect. */
    previousInstance: opt(8, uint),
    /** Target it expects; absent at its first connect. */
    targetUuid: opt(9, text<TargetUuid>(36)),
    /** 'admin' connections get no export and may send only the admin family. */
    role: req(10, oneOf('client', 'admin')),
    /** Highest transno it has a reply for. */
    lastTransno: opt(11, branded<Transno>('transno')),
    /** It has something other than opens and application locks to replay or resend. */
    hasMoreThanOpens: opt(12, bool),
    /** Of space grants, what its dirty data and its unanswered WRITEs use: an earlier instance has promised it. */
    grantsInUse: opt(13, uint),
    /**
     * The client makes it up for this UUID, and says the same one in each CONNECT. The server keeps it with the client's
     * record, and refuses a peer that names the UUID without it. Absent in clients of earlier releases.
     */
    secret: opt(14, text(64)),
  }),
  message('ConnectReply', {
    /**
     * new: a fresh export. resumed: same instance, everything the server held for this client is still there.
     * recover: another instance that knows this client; replay opens and locks, then RECOVERY_DONE.
     * evicted: nothing is left of this client; it drops its state and connects again as new (no export was made).
     * wait: not active (standby, starting, shutting down); try again, here or at the partner.
     */
    outcome: req(1, oneOf('new', 'resumed', 'recover', 'evicted', 'wait')),
    /** For people: why evicted, what is waited for. */
    reason: opt(2, text(500)),
    protocol: req(3, u8),
    features: req(4, u32),
    softwareVersion: req(5, text(64)),
    label: opt(6, text(64)),
    targetUuid: opt(7, text<TargetUuid>(36)),
    targetIndex: opt(8, u16),
    instance: opt(9, uint),
    fids: opt(10, nested(FidRange)),
    grantBytes: opt(11, uint),
    pingIntervalMs: opt(12, u32),
    /** Reserved: servers up to 0.1 say it, and no client has read it. */
    lockTimeoutMs: opt(13, u32),
    /** recover: operations up to this transno are durable and must not be replayed. Absent without FEATURE.replay. */
    lastCommitted: opt(14, branded<Transno>('transno')),
  }),
);

/** Clean goodbye of umount: the export is removed. */
export const Disconnect = operation(2, 'DISCONNECT', Empty, Empty);
export const Ping = operation(3, 'PING', Empty, Empty);
/** This client has replayed all it had. Answered when the recovery window ends. FLAG_RECOVERY. */
export const RecoveryDone = operation(4, 'RECOVERY_DONE', Empty, Empty);
export const GetFids = operation(5, 'GET_FIDS', Empty, FidRange);

/** One open handle sent again after a restart. FLAG_RECOVERY. Answered EIO/ESTALE when the inode is gone. */
export const ReplayOpens = operation(
  6,
  'REPLAY_OPENS',
  message('ReplayOpensRequest', {
    opens: req(
      1,
      list(
        nested(
          message('ReplayedOpen', {
            fid: req(1, fid),
            fh: req(2, branded<Fh>('fh')),
            flags: req(3, u32),
            xid: opt(4, branded<Xid>('xid')),
          }),
        ),
        10_000,
      ),
    ),
  }),
  /** Handles whose inode is gone: the client answers EIO on them. */
  message('ReplayOpensReply', { lost: req(1, list(branded<Fh>('fh'), 10_000)) }),
);

/** Server to client, notice: this client was evicted; everything it holds is void. The connection closes after it. */
export const Evicted = operation(
  7,
  'EVICTED',
  message('EvictedNotice', { reason: req(1, text(500)) }),
  Empty,
  'notice',
);

/**
 * Every operation that was answered and is not committed has been sent again before this one, each with FLAG_REPLAY and
 * its old transno. Answered when the last of them has been executed. FLAG_RECOVERY; FEATURE.replay.
 */
export const Replayed = operation(8, 'REPLAYED', Empty, Empty);

/** Cache locks that the client goes on holding, granted again as they were. FLAG_RECOVERY; FEATURE.replay. */
export const ReplayLocks = operation(
  9,
  'REPLAY_LOCKS',
  message('ReplayLocksRequest', {
    locks: req(
      1,
      list(
        nested(
          message('ReplayedLock', {
            fid: req(1, fid),
            type: req(2, oneOf('inode', 'data')),
            mode: req(3, oneOf('PR', 'PW')),
            bits: opt(4, u32),
          }),
        ),
        10_000,
      ),
    ),
  }),
  /** A handle for each, in their order; 0: refused, the client drops the lock and what it covers. */
  message('ReplayLocksReply', { handles: req(1, list(uint, 10_000)) }),
);

export type ConnectRequest = Of<typeof Connect.request>;
export type ConnectReply = Of<typeof Connect.reply>;
