/** Session family: connecting, recovery, pings. Opcodes 1-15. */

import type { ClientUuid, Fh, TargetUuid, Transno, Xid } from '../base/ids.js';
import { Empty, operation } from './operation.js';
import {
  bool,
  branded,
  bytes,
  fid,
  list,
  message,
  nested,
  type Of,
  oneOf,
  opt,
  req,
  text,
  timespec,
  u8,
  u16,
  u32,
  uint,
} from './schema.js';

/** Feature bits. Once a release has carried a bit, its meaning never changes. Bits in between are reserved for planned changes. */
export const FEATURE = {
  /** READDIR may return attributes and locks with each entry. */
  readdirPlus: 1,
  /** A WRITE uses up bytes of the client's space grant. */
  grants: 2,
  /** Full recovery: clients replay uncommitted operations and cache locks, and reply data outlives the server. */
  replay: 4,
  /** Own locks and BATCH: the client executes operations on names by itself, and tells the server later. */
  batch: 8,
  /** REPLAY_OPENS outside recovery: a client that holds ATTR opens files by itself, and tells of them when the lock goes back. */
  localOpens: 16,
  /** NAMELESS, GONE and CLOSE.released: an unlinked inode lives while a client's kernel refers to it. */
  holds: 256,
  /** FlockRange of TEST_FLOCK, ENQUEUE, UNFLOCK: start and end may be 2^53 to 2^63 - 1. */
  lockOffsets: 512,
  /** SYNC covers the WRITEs that the client has sent before it, answered or not. */
  orderedSync: 1024,
  /** WANT_OWN_FILES: the owner of a directory gets own locks on the files that were there before. */
  ownFiles: 2048,
} as const;
export const FEATURES_ALL =
  FEATURE.readdirPlus |
  FEATURE.grants |
  FEATURE.replay |
  FEATURE.batch |
  FEATURE.localOpens |
  FEATURE.holds |
  FEATURE.lockOffsets |
  FEATURE.orderedSync |
  FEATURE.ownFiles;

/** A range of unused FIDs [start, end) from which the client names new objects. */
export const FidRange = message('FidRange', { start: req(1, fid), end: req(2, fid) });

export const AccessClaim = message('AccessClaim', {
  name: req(1, text(64)),
  /** The target whose access table has the entry. On another target the claim says nothing. Absent: this one. */
  targetUuid: opt(2, text(36)),
});

export const Restricted = message('Restricted', {
  /** Requests that change something are answered EROFS. */
  readOnly: req(1, bool),
  /** uid and gid 0 count as 65534. */
  squashRoot: req(2, bool),
});

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
    /** Goes up by one with each connect of this client. The server drops messages that still arrive from a lower one. */
    connCount: req(7, u32),
    /** Instance to which this client was connected before; absent at its first connect. */
    previousInstance: opt(8, uint),
    /** The target that the client expects; absent at its first connect. */
    targetUuid: opt(9, text<TargetUuid>(36)),
    /** 'admin' connections get no export and may send only the admin family. */
    role: req(10, oneOf('client', 'admin')),
    /** Highest transno for which the client has a reply. */
    lastTransno: opt(11, branded<Transno>('transno')),
    /** The client has more to replay or resend than opens and application locks. */
    hasMoreThanOpens: opt(12, bool),
    /** Bytes of space grants that its dirty data and its unanswered WRITEs use: an earlier instance has promised them. */
    grantsInUse: opt(13, uint),
    /**
     * The client chooses a secret for its UUID, and sends the same one in each CONNECT. The server keeps it with the
     * client's record, and refuses a peer that names the UUID without it. Clients of earlier releases do not send it.
     */
    secret: opt(14, text(64)),
    /** FEATURE.batch: bytes of the metadata grant that operations not answered yet use up. */
    metaGrantInUse: opt(15, uint),
    /**
     * The entry of the access table that a client counts as which comes through a Unix socket now, and over the network, with
     * the entry's key, at other times.
     */
    access: opt(16, nested(AccessClaim)),
    /** Of the filesystem that the user has named; absent: any. */
    label: opt(17, text(64)),
  }),
  message('ConnectReply', {
    /**
     * new: the server has made a new export. resumed: same instance, and everything that the server held for this
     * client is still there. recover: another instance that knows this client; the client replays opens and locks, then
     * sends RECOVERY_DONE. evicted: the server has kept nothing of this client, which drops its state and connects
     * again as new (no export was made). wait: the server is not active (standby, starting, shutting down); the client
     * tries again, here or at the partner.
     */
    outcome: req(1, oneOf('new', 'resumed', 'recover', 'evicted', 'wait')),
    /** For people: why the server evicted the client, or what it waits for. */
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
    /** Reserved: servers up to 0.1 send it, and no client has ever read it. */
    lockTimeoutMs: opt(13, u32),
    /**
     * recover: operations up to this transno are durable, and the client must not replay them. Absent without
     * FEATURE.replay.
     */
    lastCommitted: opt(14, branded<Transno>('transno')),
    /** FEATURE.batch: bytes of the meta store that are promised to this client's BATCHes, beside those that it has in use. */
    metaGrantBytes: opt(15, uint),
    /** FEATURE.batch: the server's clock. The client gives its own operations times by it. */
    time: opt(16, timespec),
    /** What the session may not do. Absent: nothing is forbidden, or an earlier release. */
    restricted: opt(17, nested(Restricted)),
  }),
);

/** The client unmounts in order: the server removes its export. */
export const Disconnect = operation(2, 'DISCONNECT', Empty, Empty);
export const Ping = operation(3, 'PING', Empty, Empty);
/** The client has replayed everything. The server answers when the recovery window ends. FLAG_RECOVERY. */
export const RecoveryDone = operation(4, 'RECOVERY_DONE', Empty, Empty);
export const GetFids = operation(5, 'GET_FIDS', Empty, FidRange);

/**
 * Open handles. After a restart of the server a client names all of its handles again (FLAG_RECOVERY). At other times it names
 * those that it opened by itself and that the server must know now (FEATURE.localOpens).
 */
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
  /** Handles whose inode is gone: operations on them fail with EIO. */
  message('ReplayOpensReply', { lost: req(1, list(branded<Fh>('fh'), 10_000)) }),
);

/**
 * Server to client, notice: the server has evicted this client; everything the client holds is void. The connection
 * closes after this notice.
 */
export const Evicted = operation(
  7,
  'EVICTED',
  message('EvictedNotice', { reason: req(1, text(500)) }),
  Empty,
  'notice',
);

/**
 * Before this request the client has sent again every operation that was answered and is not committed, each with
 * FLAG_REPLAY and its old transno. The server answers when it has executed the last of them. FLAG_RECOVERY;
 * FEATURE.replay.
 */
export const Replayed = operation(8, 'REPLAYED', Empty, Empty);

/**
 * Cache locks that the client goes on holding. The server grants them again as they were. FLAG_RECOVERY;
 * FEATURE.replay.
 */
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
            /** EX: an own lock; FEATURE.batch. */
            mode: req(3, oneOf('PR', 'PW', 'EX')),
            bits: opt(4, u32),
          }),
        ),
        10_000,
      ),
    ),
  }),
  /** A handle for each lock, in the order of the request. 0: refused, and the client drops the lock and what it covers. */
  message('ReplayLocksReply', { handles: req(1, list(uint, 10_000)) }),
);

/** Bytes of a ticket. */
export const TICKET_BYTES = 16;

/**
 * What a client may do with files by handles that it has, or that it had when it changed them. OPEN and CREATE have answered a ticket
 * for it, if the session squashes root. The client shows its tickets before anything else of its recovery. The server does not
 * believe such a client a replay of WRITE, a handle or a data lock without. FLAG_RECOVERY. It ignores tickets that it did not make.
 */
export const ReplayTickets = operation(
  10,
  'REPLAY_TICKETS',
  message('ReplayTicketsRequest', {
    tickets: req(
      1,
      list(
        nested(
          message('ReplayedTicket', {
            fid: req(1, fid),
            /** 1: read, 2: write, 3: both; 0: neither. As the flags of the handle say. */
            access: req(2, u8),
            ticket: req(3, bytes(TICKET_BYTES)),
          }),
        ),
        10_000,
      ),
    ),
  }),
  Empty,
);

export type ConnectRequest = Of<typeof Connect.request>;
export type ConnectReply = Of<typeof Connect.reply>;
