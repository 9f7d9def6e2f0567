/**
 * ClientExport: the server's state of one client. It outlives connections, but not the server: across restarts only the
 * ClientRecord in the store remains.
 *
 * Invariants:
 * - At most one link at a time; the server drops frames of any other link.
 * - Once its life is over (evicted, or said goodbye), the server executes nothing for it any more, and it is in no
 *   table.
 * - Without a link the client has no request that waits for a lock, and the server holds no frame for it.
 * - heldBytes are the bytes of the held frames. Moved bytes are counted for exactly the files whose locks the server
 *   called back.
 */

import { assert } from '../../base/assert.js';
import type { FsError } from '../../base/errno.js';
import type { ClientUuid, Fh, Fid, LockHandle, Transno, Xid } from '../../base/ids.js';
import { Lifetime } from '../../base/lifetime.js';
import { CountDown } from '../../base/wait.js';
import type { Frame, Link, RequesterApi } from '../../rpc/api.js';
import type { Timer } from '../../runtime/ports.js';
import type { ClientRecord } from '../../storage/api.js';
import type { Rights } from '../access/rights.js';
import { AnsweredRequests } from './answered_requests.js';
import { DurableAnswers } from './durable_answers.js';
import { FidRanges } from './fid_ranges.js';
import { HandleAccess, type OpenHandle } from './handle_access.js';
import { frameBytes, type KeptShare } from './kept_frames.js';
import { ReclaimedLocks } from './reclaimed_locks.js';
import { UnconfirmedCasts } from './unconfirmed_casts.js';

const SHORT_UUID_LENGTH = 8;

/**
 * The beginning of a client's UUID, for logs and for peers that must not know the whole UUID. The EVICT request accepts
 * it as the client's name.
 */
export function shortUuid(uuid: string): string {
  return uuid.slice(0, SHORT_UUID_LENGTH);
}

export interface ExportIdentity {
  readonly uuid: ClientUuid;
  /** A peer must know it to be accepted as this client. undefined: a client of a release without secrets. */
  readonly secret?: string | undefined;
  readonly name: string;
  readonly softwareVersion: string;
}

/** The progress of its drain that the client reported last. */
export interface DrainProgressReport {
  readonly dirtyBytes: number;
  readonly rpcsInFlight: number;
  readonly locks: number;
}

/** A lock that the client is late to give back while it flushes or reads the file. */
export interface Prolonged {
  readonly timer: Timer;
  /** Bytes that had been written and read at the last look. */
  readonly movedBytes: number;
  /** How often the server put the eviction off. */
  readonly times: number;
}

/** A request while the server executes it: see target/served_call.ts. */
export interface PendingCall {
  readonly xid: Xid;
  readonly opcode: number;
  /** Whether the request changes something: a shutdown waits for it. */
  readonly modifies: boolean;
  /** The link through which the request came again; the reply goes there too. */
  resentLink: Link | undefined;
  /** Resolves when it is answered. */
  answered(): Promise<void>;
}

export class ClientExport {
  readonly uuid: ClientUuid;
  readonly secret: string | undefined;
  /** With which it connected last. The principal stays. */
  rights: Rights;
  name: string;
  softwareVersion: string;
  /** Requests from the server to this client (glimpses) and notices. */
  readonly requester: RequesterApi;

  link: Link | undefined;
  connCount = 0;
  /** Waits for cache locks. They end with the connection: the client asks again through the next one. */
  readonly waits = new Set<AbortController>();
  features = 0;
  lastHeardMs: number;
  /** Set while there is no link. */
  disconnectedAtMs: number | undefined;

  /**
   * Set until the client's record is durable: a server that starts after a crash must know every client that changed
   * something.
   */
  recorded: Promise<void> | undefined;
  /**
   * The client must replay its opens before the server executes anything new of it; STATUS shows it as recovering until
   * the window ends.
   */
  recovering = false;
  /**
   * The instance that the client recovered from. It may name it once more: it may not have heard of the end of its
   * recovery.
   */
  recoveredFrom: number | undefined;
  /** Ends when the client is evicted or says goodbye, and with the target. */
  readonly life: Lifetime;

  /** Changed by OpenTable only. */
  readonly opens = new Map<Fh, OpenHandle>();
  /** The same by inode, once somebody has asked: see opened(). Changed by OpenTable only. */
  handleAccess: HandleAccess | undefined;
  /**
   * What tickets that the client has shown allow it, by inode (ACCESS_* bits): while it recovers, and before its handles are open
   * again. See access/tickets.ts.
   */
  readonly proven = new Map<Fid, number>();
  /** It may show tickets, and what it had: from a CONNECT that says 'recover' until its recovery is over. */
  reclaims = false;
  readonly answered = new AnsweredRequests();
  readonly durableAnswers = new DurableAnswers();
  readonly reclaimed = new ReclaimedLocks();
  /** Inodes without a name that the client's kernel refers to. Changed by Holds only. */
  readonly holds = new Set<Fid>();
  /** Handles that the server keeps for CREATEs whose answers are lost: see unanswered_creates.ts. */
  readonly provisional = new Set<Xid>();
  /** Bytes of replays in the queue; the link that the server pauses because they are many. */
  replayBytes = 0;
  replayPaused: Link | undefined;
  /**
   * Directories that the client has made by BATCHes, and whose own locks the server could not grant. The client may have
   * executed more operations there before it learns of that.
   */
  readonly madeUnowned = new Set<Fid>();
  readonly fids = new FidRanges();
  readonly casts = new UnconfirmedCasts();
  /** Requests that the server executes at the moment. */
  readonly calls = new Map<Xid, PendingCall>();
  /** Requests that wait for the end of the recovery window, or for the server that comes after this one. */
  held: Frame[] = [];
  heldBytes = 0;
  heldPause = false;
  /** Counts the held and queued frames too. */
  readonly kept: KeptShare;
  /** The client's handles of the active server lock: it has not drained while there is one. */
  readonly activeLocks = new Set<LockHandle>();
  /** BASTs that the client is late to answer but shows progress on. */
  readonly prolonged = new Map<LockHandle, Prolonged>();
  /** Data locks and own locks that the server asked the client to give back. */
  readonly calledBack = new Map<LockHandle, Fid>();
  /**
   * Bytes that the client wrote to and read from each of those inodes since then: it shows progress. See eviction.ts.
   */
  readonly movedBytes = new Map<Fid, number>();
  /** WRITEs of the client that the store works on. */
  readonly writes = new CountDown();

  /** Changed by SpaceGrants only. */
  grantBytes = 0;
  /** Changed by MetaGrants only. */
  metaGrantBytes = 0;
  /** Transno of the client's last change: the server has executed its replays up to it. */
  lastTransno = 0 as Transno;
  progress: DrainProgressReport | undefined;
  /** Changed by Throttle only: since when its connection waits for tokens, until when it last did, and how long in all. */
  throttledSinceMs: number | undefined;
  throttledAtMs: number | undefined;
  throttledMs = 0;

  /** @param target the life of the target. */
  constructor(
    identity: ExportIdentity,
    rights: Rights,
    requester: RequesterApi,
    nowMs: number,
    kept: KeptShare,
    target: Lifetime,
  ) {
    this.rights = rights;
    this.life = new Lifetime(target);
    this.kept = kept;
    this.uuid = identity.uuid;
    this.secret = identity.secret;
    this.name = identity.name;
    this.softwareVersion = identity.softwareVersion;
    this.requester = requester;
    this.lastHeardMs = nowMs;
  }

  record(): ClientRecord {
    return {
      uuid: this.uuid,
      secret: this.secret,
      name: this.name,
      softwareVersion: this.softwareVersion,
      principal: this.rights.principal,
      lastTransno: this.lastTransno,
    };
  }

  /** The server checks what it asks for: operations/permits.ts. */
  get isRestricted(): boolean {
    return this.rights.readOnly || this.rights.squashRoot;
  }

  /** Which files it has open, and for what. */
  opened(): HandleAccess {
    this.handleAccess ??= new HandleAccess(this.opens.values());
    return this.handleAccess;
  }

  endWaits(reason: FsError): void {
    for (const wait of this.waits) wait.abort(reason);
    this.waits.clear();
  }

  /** Name and start of the UUID, for messages. */
  get label(): string {
    return `${this.name} (${shortUuid(this.uuid)})`;
  }

  /** Only for an export in the table. */
  checkInvariants(): void {
    const { label } = this;
    this.answered.checkInvariants();
    this.durableAnswers.checkInvariants();
    const isAway = this.disconnectedAtMs !== undefined;
    assert(this.link === undefined || !isAway, `${label} has a link, and is away`);
    if (isAway) {
      assert(this.waits.size === 0, `${this.waits.size} requests of ${label} wait, and it is away`);
      assert(this.held.length === 0, `${this.held.length} frames of ${label} are held, and it is away`);
    }
    for (const handle of this.prolonged.keys()) {
      assert(this.calledBack.has(handle), `lock ${handle} of ${label} is put off, and was not called back`);
    }
    let heldBytes = 0;
    for (const frame of this.held) heldBytes += frameBytes(frame);
    assert(
      heldBytes === this.heldBytes,
      `${heldBytes} bytes of ${label} are held, counted ${this.heldBytes}`,
    );
    assert(this.metaGrantBytes >= 0, `${label} has ${this.metaGrantBytes} bytes of meta grant`);
    assert(this.replayBytes >= 0 && this.grantBytes >= 0, `${label} has ${this.grantBytes} bytes of grant`);
    this.handleAccess?.checkInvariants(this.opens.values());
    assert(this.reclaims || this.proven.size === 0, `${label} has shown tickets, and does not recover`);
    const called = new Set(this.calledBack.values());
    for (const fid of called)
      assert(this.movedBytes.has(fid), `what ${label} moves of ${fid} is not counted`);
    const counted = this.movedBytes.size;
    assert(
      counted === called.size,
      `${called.size} files of ${label} are called back, ${counted} are counted`,
    );
    for (const [xid, call] of this.calls)
      assert(call.xid === xid, `call ${call.xid} of ${label} stands as ${xid}`);
  }
}
