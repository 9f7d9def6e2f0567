/**
 * ClientExport: what the server has of one client. It outlives connections, not the server: across restarts only the
 * ClientRecord in the store remains.
 *
 * Invariants:
 * - At most one link at a time; frames of any other are dropped.
 * - Once its life is over (evicted, or said goodbye) nothing is executed for it any more, and it is in no table.
 * - Without a link it has no request that waits for a lock, and no frame is held for it.
 * - heldBytes are those of the held frames. Moved bytes are counted for exactly the files whose locks are called back.
 */

import { assert } from '../../base/assert.js';
import type { FsError } from '../../base/errno.js';
import type { ClientUuid, Fh, Fid, LockHandle, Transno, Xid } from '../../base/ids.js';
import { Lifetime } from '../../base/lifetime.js';
import { CountDown } from '../../base/wait.js';
import type { Frame, Link, RequesterApi } from '../../rpc/api.js';
import type { Timer } from '../../runtime/ports.js';
import type { ClientRecord } from '../../storage/api.js';
import { AnsweredRequests } from './answered_requests.js';
import { DurableAnswers } from './durable_answers.js';
import { frameBytes, type KeptFrames } from './kept_frames.js';
import { ReclaimedLocks } from './reclaimed_locks.js';
import { UnconfirmedCasts } from './unconfirmed_casts.js';

const SHORT_UUID_LENGTH = 8;

/** The beginning of a client's UUID, for logs and for peers that must not know all of it. It names the client to EVICT. */
export function shortUuid(uuid: string): string {
  return uuid.slice(0, SHORT_UUID_LENGTH);
}

export interface OpenHandle {
  readonly fid: Fid;
  readonly flags: number;
}

export interface ExportIdentity {
  readonly uuid: ClientUuid;
  /** Only a peer that knows it is this client. undefined: a client of a release without secrets. */
  readonly secret?: string | undefined;
  readonly name: string;
  readonly softwareVersion: string;
}

/** What the client last said of its drain. */
export interface DrainProgressReport {
  readonly dirtyBytes: number;
  readonly rpcsInFlight: number;
  readonly locks: number;
}

/** A lock that is late, whose file is being flushed or read. */
export interface Prolonged {
  readonly timer: Timer;
  /** What had been written and read when it was looked at. */
  readonly movedBytes: number;
  /** How often it was put off. */
  readonly times: number;
}

/** A request while it is executed: see target/served_call.ts. */
export interface PendingCall {
  readonly xid: Xid;
  /** Changes something: a shutdown waits for it. */
  readonly modifies: boolean;
  /** Through which it came again; its reply goes there too. */
  resentLink: Link | undefined;
}

export class ClientExport {
  readonly uuid: ClientUuid;
  readonly secret: string | undefined;
  name: string;
  softwareVersion: string;
  /** Requests from the server to this client (glimpses) and notices. */
  readonly requester: RequesterApi;

  link: Link | undefined;
  connCount = 0;
  /** Waits for cache locks, ended with the connection: the client asks again through the next. */
  readonly waits = new Set<AbortController>();
  features = 0;
  lastHeardMs: number;
  /** Set while there is no link. */
  disconnectedAtMs: number | undefined;

  /** Set until its record is durable: a server that starts after a crash must know every client that changed something. */
  recorded: Promise<void> | undefined;
  /** It must replay its opens before anything new of it is executed; shown until the window ends. */
  recovering = false;
  /** The instance it recovered from. It may say so once more: the end of its recovery may not have reached it. */
  recoveredFrom: number | undefined;
  /** Ends when it is evicted or says goodbye, and with the target. */
  readonly life: Lifetime;

  /** Changed by OpenTable only. */
  readonly opens = new Map<Fh, OpenHandle>();
  readonly answered = new AnsweredRequests();
  readonly durableAnswers = new DurableAnswers();
  readonly reclaimed = new ReclaimedLocks();
  /** Inodes without a name that its kernel refers to. Changed by Holds only. */
  readonly holds = new Set<Fid>();
  /** Handles kept for CREATEs whose answers are lost: see unanswered_creates.ts. */
  readonly provisional = new Set<Xid>();
  /** Replays in the queue; the link that is paused because they are many. */
  replayBytes = 0;
  replayPaused: Link | undefined;
  readonly casts = new UnconfirmedCasts();
  /** Requests being executed. */
  readonly calls = new Map<Xid, PendingCall>();
  /** Requests that wait for the recovery window to end, or for the server that comes after this one. */
  held: Frame[] = [];
  heldBytes = 0;
  heldPause = false;
  /** What is held and queued is counted there too. */
  readonly kept: KeptFrames;
  /** Its handles of the active server lock: not drained while there is one. */
  readonly activeLocks = new Set<LockHandle>();
  /** BASTs that it is late to answer but shows progress on. */
  readonly prolonged = new Map<LockHandle, Prolonged>();
  /** Data locks it was asked to give back. */
  readonly calledBack = new Map<LockHandle, Fid>();
  /** Bytes written to and read of each of those files since: it goes on. See eviction.ts. */
  readonly movedBytes = new Map<Fid, number>();
  /** WRITEs that the store works on. */
  readonly writes = new CountDown();

  /** Changed by SpaceGrants only. */
  grantBytes = 0;
  /** Of its last change: replays up to it were executed. */
  lastTransno = 0 as Transno;
  progress: DrainProgressReport | undefined;

  /** @param target its life. */
  constructor(
    identity: ExportIdentity,
    requester: RequesterApi,
    nowMs: number,
    kept: KeptFrames,
    target: Lifetime,
  ) {
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
      lastTransno: this.lastTransno,
    };
  }

  endWaits(reason: FsError): void {
    for (const wait of this.waits) wait.abort(reason);
    this.waits.clear();
  }

  /** For messages: name and the start of the UUID. */
  get label(): string {
    return `${this.name} (${shortUuid(this.uuid)})`;
  }

  /** Of an export in the table. */
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
    assert(this.replayBytes >= 0 && this.grantBytes >= 0, `${label} has ${this.grantBytes} bytes of grant`);
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
