/**
 * What a client sends to one target: every call leaves here, first in, first out.
 *
 * A call leaves in the turn in which it is made, behind the changes that the client has made by itself until then (change_log.ts).
 * An end (the close of a handle, the release of a held inode, the return of an
 * application lock) has no caller that waits for it. So ends collect for a moment, and one CLOSE serves many files: a message for
 * each file would cost as much as the CREATE that comes next. While the gate is closed, ends stay here: the drain has waited for
 * the calls before, and the server is about to stop. Ends leave in the order in which they were made. A call may overtake ends of handles: no call names a
 * handle after its close.
 *
 * An end tells a server instance that the client gives something back. The next instance learns from the replay what the client
 * has, without these ends; after an eviction the client has nothing. So both make the ends void.
 *
 * Calls are counted by kind until their reply comes, also when their caller was interrupted. A drain waits for all kinds but
 * the last.
 *   operation  calls for a caller that has passed the gate
 *   data       READs and WRITEs of the page cache: a drain depends on them
 *   changes    BATCHes of the change log
 *   closing    CLOSE, CANCEL, UNFLOCK, GET_FIDS: no caller has passed the gate for them, and a drain waits for them too
 *   session    what the connection itself needs, and what is void without it
 *
 * Invariants: ends wait only while their timer runs or the gate is closed; each call under way is counted.
 */

import { assert } from '../../base/assert.js';
import type { Fh, Fid, LockHandle } from '../../base/ids.js';
import { logger } from '../../base/log.js';
import { CountDown, interruptible } from '../../base/wait.js';
import type { Answer, CallOptions } from '../../rpc/api.js';
import type { Requester } from '../../rpc/requester.js';
import type { Timers } from '../../runtime/ports.js';
import { Cancel } from '../../wire/lock.js';
import { Close } from '../../wire/meta.js';
import type { Operation } from '../../wire/operation.js';
import type { Gate } from './gate.js';

const log = logger('client:outgoing');

/** How long ends collect. Too short for anyone to notice that an unlinked file still takes space. */
const ENDS_DELAY_MS = 5;
/** With this number of ends the client waits no longer. */
const ENDS_AT_ONCE = 512;
/** Limit on the handles in one CLOSE or CANCEL. */
const HANDLES_MAX = 10_000;

export type CallKind = 'operation' | 'data' | 'changes' | 'closing' | 'session';

/** A function sends the end as a call of its own. */
type End = { readonly fh: Fh } | { readonly released: Fid } | (() => void);

export class Outgoing {
  readonly #requester: Pick<Requester, 'call' | 'inFlight'>;
  readonly #gate: Gate;
  readonly #timers: Timers;
  readonly #pushChanges: () => void;
  readonly #calls: Record<CallKind, CountDown> = {
    operation: new CountDown(),
    data: new CountDown(),
    changes: new CountDown(),
    closing: new CountDown(),
    session: new CountDown(),
  };
  #ends: End[] = [];
  /** The timer of the ends runs. */
  #collecting = false;

  /** @param pushChanges sends the changes that the client has made by itself until now. */
  constructor(
    requester: Pick<Requester, 'call' | 'inFlight'>,
    gate: Gate,
    timers: Timers,
    pushChanges: () => void,
  ) {
    this.#pushChanges = pushChanges;
    this.#requester = requester;
    this.#gate = gate;
    this.#timers = timers;
  }

  /** @throws FsError of the reply, EIO when the client was evicted meanwhile, EINTR when the signal aborts first. */
  call<Q, R>(
    kind: CallKind,
    operation: Operation<Q, R>,
    request: Q,
    options: CallOptions<R> = {},
  ): Promise<Answer<R>> {
    const { signal, ...rest } = options;
    // Calls of the connection itself say nothing about names.
    if (kind !== 'changes' && kind !== 'session') this.#pushChanges();
    this.#calls[kind].add();
    const answered = this.#requester.call(operation, request, rest);
    const done = (): void => this.#calls[kind].done();
    answered.then(done, done);
    return signal === undefined ? answered : interruptible(answered, signal);
  }

  inFlight(kind: CallKind): number {
    return this.#calls[kind].count;
  }

  /** Resolves when no call of these kinds is in flight. */
  async idle(...kinds: CallKind[]): Promise<void> {
    const counts = kinds.map((kind) => this.#calls[kind]);
    while (counts.some(({ count }) => count > 0)) await Promise.all(counts.map((count) => count.zero()));
  }

  /** Gives cache locks back. Failure means that they are gone already. */
  cancel(handles: readonly LockHandle[]): void {
    for (let at = 0; at < handles.length; at += HANDLES_MAX) {
      this.#background(Cancel, { handles: handles.slice(at, at + HANDLES_MAX) });
    }
  }

  /** A handle is closed. */
  close(fh: Fh): void {
    this.#ends.push({ fh });
    this.#endSoon();
  }

  /** The kernel has forgotten an inode that this client holds. */
  release(fid: Fid): void {
    this.#ends.push({ released: fid });
    this.#endSoon();
  }

  /**
   * Calls send() after the ends that were made before: now, or when the gate opens again while the same instance serves.
   * Otherwise never.
   */
  whenOpen(send: () => void): void {
    this.#ends.push(send);
    this.sendEnds();
  }

  #endSoon(): void {
    if (this.#ends.length >= ENDS_AT_ONCE) {
      this.sendEnds();
      return;
    }
    if (this.#collecting) return;
    this.#collecting = true;
    this.#timers.after(ENDS_DELAY_MS, () => {
      this.#collecting = false;
      this.sendEnds();
    });
  }

  /** Sends the collected ends, unless the gate is closed. To be called when the gate opens, too. */
  sendEnds(): void {
    if (this.#ends.length === 0 || this.#gate.isClosed) return;
    const ends = this.#ends;
    this.#ends = [];
    let fhs: Fh[] = [];
    let released: Fid[] = [];
    const sendCloses = (): void => {
      for (let at = 0; at < Math.max(fhs.length, released.length); at += HANDLES_MAX) {
        const end = at + HANDLES_MAX;
        const some = at < released.length ? released.slice(at, end) : undefined;
        this.#background(Close, { fhs: fhs.slice(at, end), released: some });
      }
      fhs = [];
      released = [];
    };
    for (const end of ends) {
      if (typeof end === 'function') {
        sendCloses();
        end();
      } else if ('fh' in end) {
        fhs.push(end.fh);
      } else {
        released.push(end.released);
      }
    }
    sendCloses();
  }

  /** The instance that they would tell does not serve any more, or has evicted this client. */
  voidEnds(): void {
    this.#ends = [];
  }

  #background<Q, R>(operation: Operation<Q, R>, request: Q): void {
    this.call('closing', operation, request).catch((error: unknown) => log('%s: %s', operation.name, error));
  }

  checkInvariants(): void {
    const { length } = this.#ends;
    const { state } = this.#gate;
    assert(
      length === 0 || this.#collecting || state === 'CLOSED',
      `${length} ends wait, and nothing sends them`,
    );
    let counted = 0;
    for (const { count } of Object.values(this.#calls)) counted += count;
    const { inFlight } = this.#requester;
    assert(counted >= inFlight, `${inFlight} calls are under way, counted ${counted}`);
  }
}
