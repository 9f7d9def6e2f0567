/**
 * ServedCall: one request of a client while the server executes it. It is the context of the handlers, and it does what
 * must happen around the reply:
 *
 * - The call gives server locks back only after it has sent the reply: otherwise the next operation's reply could leave
 *   first, and the client would apply the two in the wrong order (docs/LOCKING.md, "Order").
 * - The reply goes to the connection on which the client last sent the request.
 * - If a request changed or granted something, the server keeps its reply until the client says that it arrived.
 *
 * In a replay (FLAG_REPLAY) the operation changes what it changed the first time, with the same transno and the same
 * time, and nothing else: it takes no locks and grants none, opens nothing, and asks for no space. The client replays
 * its own locks and opens separately.
 */

import type { Timespec } from '../../base/attr.js';
import type { Fid, Transno, Xid } from '../../base/ids.js';
import { Deferred } from '../../base/wait.js';
import type { LockSpec } from '../../dlm/api.js';
import type { Frame, Link, ServiceHooks } from '../../rpc/api.js';
import type { Caller } from '../../rules/permission.js';
import type { Executed, ReplyRecord, Tx } from '../../storage/api.js';
import { FLAG_REPLAY, type Header, KIND } from '../../wire/header.js';
import type { ClientExport, PendingCall } from '../export/export.js';
import { type NotedCall, noteChanges } from './commit_on_sharing.js';
import type { ServedTarget } from './served_target.js';

type SentReply = Parameters<NonNullable<ServiceHooks['onReply']>>[1];

const NO_LOCKS: readonly LockSpec[] = [];
const NOWHERE: readonly Fid[] = [];

export class ServedCall implements ServiceHooks, PendingCall, NotedCall {
  readonly target: ServedTarget;
  readonly client: ClientExport;
  /** Only the header is kept: the rest of the frame is dropped once it is decoded. */
  readonly header: Header;
  /** Whether the request changes something: a shutdown waits for it. */
  readonly modifies: boolean;
  /** The link through which the request came first. */
  readonly link: Link;
  /** Server locks of this operation. */
  locked: readonly LockSpec[] = NO_LOCKS;
  noted: Transno | undefined;
  /** Directories in which the operation looks for names before it has locks. */
  looksInto: readonly Fid[] = NOWHERE;
  /** What this operation changed under locks of its client, and what is new: no lock of the operation covers it. */
  alsoChanged: readonly LockSpec[] = NO_LOCKS;
  resentLink: Link | undefined;
  /**
   * Set if an earlier instance of the server executed the request and its answer is lost: operations/table.ts makes an
   * answer from the state.
   */
  executedBefore: ReplyRecord | undefined;
  /** Who asks, if the server has to check that: the session is squashed. */
  caller: Caller | undefined;
  /** Checks whether the operation may be executed now, if its session is squashed. @throws FsError EACCES, EPERM. */
  permit: (() => void) | undefined;
  /** The errno of the reply, once it was sent. */
  errno: number | undefined;
  #keepReply: boolean;
  #forgotten = false;
  #started = false;
  #dispatching = false;
  #replied = false;
  /** Made when somebody waits for the answer. */
  #waited: Deferred<void> | undefined;
  #releases: (() => void)[] = [];

  constructor(target: ServedTarget, client: ClientExport, { header }: Frame, link: Link, modifies: boolean) {
    this.target = target;
    this.client = client;
    this.header = header;
    this.link = link;
    this.modifies = modifies;
    this.#keepReply = modifies;
  }

  get isReplay(): boolean {
    return (this.header.flags & FLAG_REPLAY) !== 0;
  }

  /** The transno that the operation had when it was executed first. */
  get replayTransno(): Transno | undefined {
    return this.isReplay ? this.header.transno : undefined;
  }

  /** @param then the request's `time`: the time at which the operation was executed first. */
  time(then: Timespec | undefined): Timespec {
    return (this.isReplay ? then : undefined) ?? this.target.runtime.clock.wall();
  }

  get xid(): Xid {
    return this.header.xid;
  }

  get opcode(): number {
    return this.header.opcode;
  }

  answered(): Promise<void> {
    if (this.#replied) return Promise.resolve();
    this.#waited ??= new Deferred<void>();
    return this.#waited.promise;
  }

  /**
   * The call's handler runs now. Before that (bulks wait for room in memory) a resend finds no call, and takes its
   * place.
   */
  started(): void {
    this.#started = true;
    this.client.calls.set(this.xid, this);
    if (this.modifies) this.target.modifying.add();
  }

  /** The reply grants something: it must reach the client even if the connection breaks now. */
  keepReply(): void {
    this.#keepReply = true;
  }

  /** Treats the request as if it had never come: if the client sends it again, the server executes it anew. */
  forget(): void {
    this.#forgotten = true;
    this.client.calls.delete(this.xid);
  }

  releaseAfterReply(release: () => void): void {
    this.#releases.push(release);
  }

  /** @throws FsError ESHUTDOWN if the client was evicted while the request waited, or the server is stopping. */
  assertLive(): void {
    this.client.life.check();
  }

  /**
   * Executes a change for this client, with the record that it took effect.
   * @param fid the inode that the change makes, removes or changes.
   * @param reserve as in ExecuteOptions: only for changes that free space.
   */
  execute<R>(run: (tx: Tx) => R, fid: Fid | 0, reserve: boolean | 'own' = false): Executed<R> {
    this.assertLive();
    const executed = this.target.store.execute(
      (tx) => {
        const result = run(tx);
        this.writeRecord(tx, fid);
        return result;
      },
      { reserve, transno: this.replayTransno },
    );
    noteChanges(this, executed);
    return executed;
  }

  /** For changes that other code executes (file data): puts the record into their last transaction. */
  writeRecord(tx: Tx, fid: Fid | 0, copiedBytes = 0): void {
    const client = this.client;
    if (client.life.isOverAlone) return;
    const { xid } = this;
    const { transno } = tx;
    if (transno > client.lastTransno) client.lastTransno = transno;
    const { opcode } = this.header;
    tx.putReply(client.uuid, client.durableAnswers.slotFor(xid), { xid, opcode, transno, fid, copiedBytes });
  }

  // ServiceHooks.

  /** A replay's reply has no body: the client has had the answer. */
  get isBodyless(): boolean {
    return this.isReplay;
  }

  lastCommitted(): Transno {
    return this.target.store.lastCommitted;
  }

  onReply(header: Header, reply: SentReply): void {
    this.errno = reply.errno;
    if (this.client.calls.get(header.xid) === this) this.client.calls.delete(header.xid);
    if (!this.isReplay) this.client.casts.replied(header.xid);
    if (this.#keepReply && !this.isReplay && !this.#forgotten && !this.client.life.isOverAlone) {
      this.client.answered.store(header.xid, {
        opcode: header.opcode,
        errno: reply.errno,
        transno: reply.transno,
        body: reply.body,
      });
    }
    if (this.resentLink !== undefined && !this.#forgotten) {
      this.resentLink.send(
        {
          kind: KIND.reply,
          opcode: header.opcode,
          errno: reply.errno,
          xid: header.xid,
          ackXidOrCommitted: this.lastCommitted(),
          transno: reply.transno,
        },
        reply.body,
        // Copy the bulk: the sender of the first connection uses its memory again, and that connection may not have
        // broken yet.
        reply.bulk.map((chunk) => Buffer.from(chunk)),
      );
    }
    this.#replied = true;
    this.#waited?.resolve();
    // The reply leaves in this turn, right after this function returns.
    if (!this.#dispatching && this.#releases.length > 0) queueMicrotask(() => this.#finish());
    if (this.#started && this.modifies) this.target.modifying.done();
  }

  /**
   * Wraps the dispatch of the request. If the request was answered meanwhile, its locks go at once. Then the next frame
   * of the same chunk, often the next create in the same directory, finds them free and need not wait.
   */
  during(dispatch: () => void): void {
    this.#dispatching = true;
    try {
      dispatch();
    } finally {
      this.#dispatching = false;
      if (this.#replied) this.#finish();
    }
  }

  #finish(): void {
    const releases = this.#releases;
    this.#releases = [];
    for (const release of releases) release();
  }
}
