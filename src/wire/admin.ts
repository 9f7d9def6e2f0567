/**
 * Admin family. Opcodes 128-143: the commands status, shutdown, evict and access. The server answers them while it starts and
 * shuts down too.
 */

import { Empty, operation } from './operation.js';
import { bool, bytes, list, message, nested, type Of, oneOf, opt, req, text, u32, uint } from './schema.js';

export const SERVER_STATES = [
  'standby',
  'starting',
  'recovering',
  'active',
  'draining',
  'committing',
  'stopped',
] as const;
export const serverState = oneOf(...SERVER_STATES);

export const ClientStatus = message('ClientStatus', {
  uuid: req(1, text(36)),
  name: req(2, text(255)),
  /** connected; disconnected; recovering (known, replay not complete); draining; drained. */
  state: req(3, oneOf('connected', 'disconnected', 'recovering', 'draining', 'drained')),
  softwareVersion: req(4, text(64)),
  address: opt(5, text(255)),
  opens: req(6, uint),
  locks: req(7, uint),
  /** As the client reported in the drain that is under way; 0 at other times. */
  dirtyBytes: req(8, uint),
  rpcsInFlight: req(9, uint),
  idleMs: req(10, uint),
  /** 'local', 'plain', 'key:NAME' or 'certificate:NAME'. */
  access: opt(11, text(80)),
  /**
   * The client has had to wait within the last seconds because it sends more requests a second than its key may: how long, in all.
   * Absent: it has not, or an earlier release.
   */
  throttledMs: opt(12, uint),
});

const EvictedClient = message('EvictedClient', {
  uuid: req(1, text(36)),
  name: req(2, text(255)),
  reason: req(3, text(500)),
});

/** A client that an earlier instance evicted; the target keeps this record. */
const EarlierEviction = message('EarlierEviction', {
  uuid: req(1, text(36)),
  name: req(2, text(255)),
  reason: req(3, text(500)),
  instance: req(4, uint),
  /** Milliseconds since 1970. */
  atMs: req(5, uint),
  /** What the client had when it was evicted; absent if it had not come back to that instance. */
  had: opt(
    6,
    nested(message('Possessions', { opens: req(1, uint), locks: req(2, uint), dirtyBytes: req(3, uint) })),
  ),
});

/** The recovery of this instance, in which clients of the instance before it come back. Kept after the recovery ends. */
export const RecoveryStatus = message('RecoveryStatus', {
  /** Recovery is under way, and requests wait for its end. */
  open: req(1, bool),
  /** Clients known when the server started. */
  clients: req(2, uint),
  /** waitedFor: those of them that are not done. away: those of these that have not connected. */
  waitedFor: req(3, uint),
  away: req(4, uint),
  /** replayed: operations replayed. queued: replays that have arrived and wait for one with a lower transno. */
  replayed: req(5, uint),
  queued: req(6, uint),
  /** Time until the server evicts the first client it waits for, if nothing happens. 0 after the recovery. */
  leftMs: req(7, uint),
  /** Time since recovery began; after its end, how long it took. */
  tookMs: req(8, uint),
});

export const Status = operation(
  128,
  'STATUS',
  /** Asks for one page of clients at a time: a reply has no more than fit into a frame. */
  message('StatusRequest', {
    /** Only clients whose UUIDs come after this one. Absent: from the first client on. */
    after: opt(1, text(36)),
    /** At most this many clients; 0: the reply has only the server's own fields. */
    limit: opt(2, u32),
  }),
  message('StatusReply', {
    state: req(1, serverState),
    label: req(2, text(64)),
    targetUuid: req(3, text(36)),
    softwareVersion: req(4, text(64)),
    instance: req(5, uint),
    uptimeMs: req(6, uint),
    clients: req(7, list(nested(ClientStatus), 100_000)),
    blocks: req(8, uint),
    blocksFree: req(9, uint),
    blockBytes: req(10, u32),
    inodes: req(11, uint),
    lastTransno: req(12, uint),
    lastCommitted: req(13, uint),
    /** Evictions of this instance, newest last, 16 at most. */
    evicted: req(14, list(nested(EvictedClient), 16)),
    orphans: req(15, uint),
    pid: opt(16, uint),
    /** Absent if the server had no client to wait for. */
    recovery: opt(17, nested(RecoveryStatus)),
    /** Bytes of the devices behind the formatted part; absent: there are none, or an older server. */
    metaUnusedBytes: opt(18, uint),
    dataUnusedBytes: opt(19, uint),
    /** How often this process has logged a notice of each kind. */
    notices: opt(
      20,
      list(nested(message('NoticeCount', { kind: req(1, text(64)), count: req(2, uint) })), 64),
    ),
    /** In state draining: time until the server evicts the clients that have not drained. */
    drainLeftMs: opt(21, uint),
    /** Earlier evictions, newest last; absent: the target keeps none, this is not the first page, or an older server. */
    evictedBefore: opt(22, list(nested(EarlierEviction), 64)),
    /** The last UUID of this page, if more clients come after it. */
    more: opt(40, text(36)),
    /** Number of all clients, on this page or not. Absent: all are on this page. */
    clientCount: opt(41, uint),
    /** The peer is no administrator: clients, evictions, space and the process are left out. */
    brief: opt(42, bool),
    /** Networks from which the server takes connections that prove nothing. Absent: from none, or an earlier release. */
    plainFrom: opt(43, list(text(64), 64)),
    /** Incompatible features of the disk format that the target keeps after a controlled shutdown. Absent: an earlier release. */
    diskFeatures: opt(44, u32),
  }),
);
/**
 * Controlled shutdown. The server answers at once. STATUS shows its progress, and the end of the connection shows that
 * it is complete.
 */
export const Shutdown = operation(
  129,
  'SHUTDOWN',
  message('ShutdownRequest', { drainTimeoutMs: opt(1, uint), cancel: opt(2, bool) }),
  message('ShutdownReply', { accepted: req(1, bool), text: req(2, text(500)) }),
);
/** Evicts a client, named by UUID, UUID prefix or name. ENOENT if none fits, EINVAL if more than one does. */
export const Evict = operation(
  130,
  'EVICT',
  message('EvictRequest', { client: req(1, text(255)), reason: opt(2, text(200)) }),
  message('EvictReply', { uuid: req(1, text(36)), name: req(2, text(255)) }),
);
/** Notice from a draining client to the server, so that the server can show progress. */
export const DrainProgress = operation(
  131,
  'DRAIN_PROGRESS',
  message('DrainProgressNotice', {
    dirtyBytes: req(1, uint),
    rpcsInFlight: req(2, uint),
    locks: req(3, uint),
  }),
  Empty,
  'notice',
);
/**
 * Notice from the server to the administrator who asked for the shutdown: names the evicted clients. The server's last
 * message.
 */
export const ShutdownEnds = operation(
  132,
  'SHUTDOWN_ENDS',
  message('ShutdownEndsNotice', {
    /** The first clients that the server has evicted since the shutdown began. */
    evicted: req(1, list(nested(EvictedClient), 1000)),
    evictedCount: req(2, uint),
  }),
  Empty,
  'notice',
);

/** A key of the access table, without its secret. */
const AccessKeyInfo = message('AccessKeyInfo', {
  id: req(1, text(16)),
  /** Milliseconds since 1970. */
  createdMs: req(2, uint),
  /** Absent: without limit. */
  untilMs: opt(3, uint),
});
const AccessLimitsMessage = message('AccessLimits', {
  clients: opt(1, uint),
  locks: opt(2, uint),
  opens: opt(3, uint),
  requestsPerSecond: opt(4, uint),
  waitingBytes: opt(5, uint),
});
const accessKind = oneOf('key', 'certificate');
const accessFrom = list(text(64), 64);
const AccessEntry = message('AccessEntry', {
  name: req(1, text(64)),
  kind: req(2, accessKind),
  keys: req(3, list(nested(AccessKeyInfo), 16)),
  readOnly: req(4, bool),
  squashRoot: req(5, bool),
  admin: req(6, bool),
  from: req(7, accessFrom),
  limits: req(8, nested(AccessLimitsMessage)),
  createdMs: req(9, uint),
  /** Clients of this entry that are here. */
  clients: req(10, uint),
  /** How long its clients have had to wait because of the limit of requests a second, since the server started. Absent: never. */
  throttledMs: opt(11, uint),
});
/** A new key with what its file needs. The only message with a secret; the server sends it once, to the administrator who asked. */
const NewKey = message('NewKey', {
  id: req(1, text(16)),
  secret: req(2, bytes(32)),
  label: req(3, text(64)),
  targetUuid: req(4, text(36)),
});
/** The access table. For administrators, as the other operations on it. */
export const AccessList = operation(
  133,
  'ACCESS_LIST',
  /** after: only entries whose names come after this one. */
  message('AccessListRequest', { after: opt(1, text(64)) }),
  message('AccessListReply', {
    entries: req(1, list(nested(AccessEntry), 1000)),
    /** There are more entries. */
    more: opt(2, bool),
  }),
);
/** EEXIST; EINVAL for a bad name or network; ENOSPC. Durable when answered. */
export const AccessAdd = operation(
  134,
  'ACCESS_ADD',
  message('AccessAddRequest', {
    name: req(1, text(64)),
    kind: req(2, accessKind),
    readOnly: req(3, bool),
    squashRoot: req(4, bool),
    admin: req(5, bool),
    from: req(6, accessFrom),
    limits: req(7, nested(AccessLimitsMessage)),
  }),
  message('AccessAddReply', { key: opt(1, nested(NewKey)) }),
);
/** The entry's clients are evicted, and its connections end. ENOENT. Durable when answered. */
export const AccessRemove = operation(
  135,
  'ACCESS_REMOVE',
  message('AccessRemoveRequest', { name: req(1, text(64)) }),
  message('AccessRemoveReply', { evicted: req(1, uint) }),
);
/** A new key for an entry. The keys before it go on working for graceMs; 0: not at all. ENOENT, EINVAL, EBUSY. */
export const AccessRotate = operation(
  136,
  'ACCESS_ROTATE',
  message('AccessRotateRequest', { name: req(1, text(64)), graceMs: req(2, uint) }),
  message('AccessRotateReply', { key: req(1, nested(NewKey)) }),
);
/** A lock or an open file, held or waited for. */
const Holding = message('Holding', {
  /** Inode number; 0: the active lock. */
  fid: req(1, uint),
  /** As far as the side that answers knows one. */
  name: opt(2, text(255)),
  /** inode, data, active, flock, posix, ofd; or file, directory of what is open. */
  kind: req(3, text(16)),
  mode: req(4, text(16)),
  /** Name of the client; absent: an operation of the server itself. */
  client: opt(5, text(255)),
  /** How long it is held or waited for. Absent: not known. */
  forMs: opt(6, uint),
  waits: req(7, bool),
  /** How many wait on the same inode or its data. */
  waiters: req(8, uint),
  /** The client was asked to give it back. */
  calledBack: opt(9, bool),
});
/** Who holds what. Those who wait come first, the oldest before the others; then what is waited for. For administrators. */
export const Holdings = operation(
  138,
  'HOLDINGS',
  /** limit: at most 1000 are sent. */
  message('HoldingsRequest', { what: req(1, oneOf('locks', 'opens')), limit: req(2, u32) }),
  message('HoldingsReply', {
    holdings: req(1, list(nested(Holding), 1000)),
    /** How many there are. */
    total: req(2, uint),
  }),
);
export type HoldingMessage = Of<typeof Holding>;
export type HoldingsReply = Of<typeof Holdings.reply>;
/** What the server counts of itself. The bulk of the reply has it, in Prometheus' text format 0.0.4. For administrators. */
export const Metrics = operation(137, 'METRICS', Empty, Empty);
export type AccessEntryMessage = Of<typeof AccessEntry>;
export type AccessAddRequest = Of<typeof AccessAdd.request>;
export type NewKeyMessage = Of<typeof NewKey>;
export type ShutdownEndsNotice = Of<typeof ShutdownEnds.request>;
export type StatusReply = Of<typeof Status.reply>;
export type StatusRequest = Of<typeof Status.request>;
export type ClientStatusMessage = Of<typeof ClientStatus>;
export type EarlierEvictionMessage = Of<typeof EarlierEviction>;
export type RecoveryStatusMessage = Of<typeof RecoveryStatus>;
export type ServerStateName = StatusReply['state'];
