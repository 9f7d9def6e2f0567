/** Admin family. Opcodes 128-143: status, shutdown and evict commands. Served while starting and shutting down too. */

import { Empty, operation } from './operation.js';
import { bool, list, message, nested, type Of, oneOf, opt, req, text, u32, uint } from './schema.js';

export const serverState = oneOf(
  'standby',
  'starting',
  'recovering',
  'active',
  'draining',
  'committing',
  'stopped',
);

export const ClientStatus = message('ClientStatus', {
  uuid: req(1, text(36)),
  name: req(2, text(255)),
  /** connected; disconnected; recovering (known, replay not complete); draining; drained. */
  state: req(3, oneOf('connected', 'disconnected', 'recovering', 'draining', 'drained')),
  softwareVersion: req(4, text(64)),
  address: opt(5, text(255)),
  opens: req(6, uint),
  locks: req(7, uint),
  /** As last reported by the client. */
  dirtyBytes: req(8, uint),
  rpcsInFlight: req(9, uint),
  idleMs: req(10, uint),
});

const EvictedClient = message('EvictedClient', {
  uuid: req(1, text(36)),
  name: req(2, text(255)),
  reason: req(3, text(500)),
});

/** One that an earlier instance evicted, as the target keeps it. */
const EarlierEviction = message('EarlierEviction', {
  uuid: req(1, text(36)),
  name: req(2, text(255)),
  reason: req(3, text(500)),
  instance: req(4, uint),
  /** Milliseconds since 1970. */
  atMs: req(5, uint),
  /** What it had then; absent: it was away. */
  had: opt(
    6,
    nested(message('Possessions', { opens: req(1, uint), locks: req(2, uint), dirtyBytes: req(3, uint) })),
  ),
});

/** The recovery of this instance: of clients that the instance before it left. Kept after its end. */
export const RecoveryStatus = message('RecoveryStatus', {
  /** Requests wait for its end. */
  open: req(1, bool),
  /** Clients known when the server started. */
  clients: req(2, uint),
  /** Of them those that are not done, and of those the ones that have not connected. */
  waitedFor: req(3, uint),
  away: req(4, uint),
  /** Operations replayed; those that have arrived and wait for one with a lower transno. */
  replayed: req(5, uint),
  queued: req(6, uint),
  /** Until the first client that is waited for is evicted, if nothing happens. 0 when it is over. */
  leftMs: req(7, uint),
  /** Since it began; when it is over, what it took. */
  tookMs: req(8, uint),
});

export const Status = operation(
  128,
  'STATUS',
  /** Of many clients one page at a time: a reply has no more than fit a frame. */
  message('StatusRequest', {
    /** Only clients whose UUIDs come after this one. Absent: from the first client on. */
    after: opt(1, text(36)),
    /** At most so many clients; 0: the reply has only the server's own fields. */
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
    /** Absent when no client had to be waited for. */
    recovery: opt(17, nested(RecoveryStatus)),
    /** Bytes of the devices behind what was formatted; absent: none, or an older server. */
    metaUnusedBytes: opt(18, uint),
    dataUnusedBytes: opt(19, uint),
    /** What this process has told in its log, by kind: how often. */
    notices: opt(
      20,
      list(nested(message('NoticeCount', { kind: req(1, text(64)), count: req(2, uint) })), 64),
    ),
    /** draining: until clients that have not drained are evicted. */
    drainLeftMs: opt(21, uint),
    /** Newest last; absent: none are kept, this is not the first page, or an older server. */
    evictedBefore: opt(22, list(nested(EarlierEviction), 64)),
    /** The last UUID of this page, if more clients come after it. */
    more: opt(40, text(36)),
    /** All clients, on this page or not. Absent: all are here. */
    clientCount: opt(41, uint),
  }),
);
/** Controlled shutdown. Answered at once; progress is read by STATUS, completion seen by the connection's end. */
export const Shutdown = operation(
  129,
  'SHUTDOWN',
  message('ShutdownRequest', { drainTimeoutMs: opt(1, uint), cancel: opt(2, bool) }),
  message('ShutdownReply', { accepted: req(1, bool), text: req(2, text(500)) }),
);
/** Client by UUID, UUID prefix or name. ENOENT, or EINVAL when more than one fits. */
export const Evict = operation(
  130,
  'EVICT',
  message('EvictRequest', { client: req(1, text(255)), reason: opt(2, text(200)) }),
  message('EvictReply', { uuid: req(1, text(36)), name: req(2, text(255)) }),
);
/** Notice from client to server while it drains, so that the server can show progress. */
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
/** Notice from the server to the administrator who asked for the shutdown, as its last message: whom it evicted. */
export const ShutdownEnds = operation(
  132,
  'SHUTDOWN_ENDS',
  message('ShutdownEndsNotice', {
    /** Evicted since the shutdown began; the first of them. */
    evicted: req(1, list(nested(EvictedClient), 1000)),
    evictedCount: req(2, uint),
  }),
  Empty,
  'notice',
);
export type ShutdownEndsNotice = Of<typeof ShutdownEnds.request>;
export type StatusReply = Of<typeof Status.reply>;
export type StatusRequest = Of<typeof Status.request>;
export type ClientStatusMessage = Of<typeof ClientStatus>;
export type EarlierEvictionMessage = Of<typeof EarlierEviction>;
export type RecoveryStatusMessage = Of<typeof RecoveryStatus>;
export type ServerStateName = StatusReply['state'];
