/**
 * The change log of one target: operations on names and attributes that the client has executed by itself and answered, and
 * that the target has not answered yet (FEATURE.batch). docs/WRITE_BACK.md has the whole picture.
 *
 * - One queue, one connection, one order: the target executes changes in the order in which the client has answered them.
 * - Whatever leaves for the target after a change leaves behind it: outgoing.ts calls push() before each other call. So the
 *   target always sees what the client's programs have done, in program order.
 * - The log sends by itself when nothing of it is under way and its oldest change is SEND_AFTER_MS old, or when SEND_AT changes
 *   wait. It waits a little longer for a program that is writing the file that it has just made: then the content can go with
 *   the file. It does not wait to collect more: the gain is that nobody waits, and a short log makes callbacks, drains and losses small.
 * - Each change is paid from the metadata grant, which the target has promised. So nothing that was answered is refused later.
 *   A target that refuses a BATCH evicts this client.
 * - Answers that come from other calls are not believed about what the log still changes: `touches` and `changesName` say so.
 * - pin(): while an operation of ours that the target executes is under way, nothing that it touches is changed here. Its answer
 *   may be lost on its way while its effect is there, and a change made on top of an unknown state could be refused.
 *
 * Invariants: #touched and #names count exactly what the changes in the log name; an inode is in #born exactly while the change that
 * makes it is in the log; while changes wait, a timer runs or a BATCH is under way.
 */

import { assert } from '../../base/assert.js';
import { Counts } from '../../base/counts.js';
import { FsError } from '../../base/errno.js';
import type { Fid, LockHandle } from '../../base/ids.js';
import { logger } from '../../base/log.js';
import type { CachedLock } from '../../dlm/api.js';
import type { Answer, CallOptions } from '../../rpc/api.js';
import type { Clock, Timers } from '../../runtime/ports.js';
import {
  BATCH_BULK_MAX,
  BATCH_CONTENT_MAX,
  BATCH_MAX,
  type Batch,
  type BatchedOperationMessage,
  operationCost,
} from '../../wire/batch.js';
import type { GrantMessage } from '../../wire/lock.js';
import type { ReplyOf, RequestOf } from '../../wire/operation.js';

const log = logger('client:changes');

const SEND_AFTER_MS = 3;
/** Limit on the age of a change when a program is still writing the newest file. */
const SEND_AT_LATEST_MS = 8;
/** So many changes are worth a message, even while another one is under way. */
const SEND_AT = 64;
const UNDER_WAY_MAX = 2;
/** A target that has no room now is asked again after this time. */
const ASK_AGAIN_MS = 1000;
/** Limit on the changes in the log. Above it the target is asked, which makes the caller wait. */
const CHANGES_MAX = 1024;

/** An inode that a change in the log makes. */
export interface Born {
  readonly fid: Fid;
  /** What the client holds of it ahead of the grant. */
  readonly locks: readonly CachedLock[];
}

/** What the log keeps of one operation. */
export interface Change {
  readonly operation: BatchedOperationMessage;
  /** Inodes whose attributes or names it changes. */
  readonly touches: readonly Fid[];
  /** Names that it changes: keys made by nameKey(). */
  readonly names: readonly string[];
  readonly born?: Born | undefined;
  /** A file in the log whose content must be at the target with this change, or before. */
  readonly contentOf?: Fid | undefined;
  readonly costBytes: number;
}

/** The whole content of a new file, on its way with the BATCH that makes the file. */
export interface WholeContent {
  readonly fid: Fid;
  readonly mtime: { readonly sec: number; readonly nsec: number };
  readonly chunks: readonly Uint8Array[];
  readonly lengthBytes: number;
  /** Called once, with the error if the target has not got it. */
  ended(error?: unknown): void;
}

/** What the log needs of the rest of the client. */
export interface ChangeLogHost {
  /** The content of a file that is made by the BATCH that is being put together, if it is small and wholly dirty. */
  contentOf(fid: Fid): WholeContent | undefined;
  isOpenToWrite(fid: Fid): boolean;
  /** The target has granted the lock that was added ahead. */
  granted(lock: CachedLock, handle: LockHandle): void;
  /** The target has not granted it: it will never be granted. */
  refused(lock: CachedLock): void;
}

type Call = (
  request: RequestOf<typeof Batch>,
  options: CallOptions<ReplyOf<typeof Batch>>,
) => Promise<Answer<ReplyOf<typeof Batch>>>;

const CONTENT_COST_MAX = operationCost(0, BATCH_CONTENT_MAX);

interface Waiting extends Change {
  readonly sinceMs: number;
}

/** Waits until the target has answered all BATCHes up to this one, or none that is left changes the inode. */
interface Waiter {
  readonly upTo: number;
  readonly fid: Fid | undefined;
  readonly done: () => void;
}

function lockKey({ fid, type, mode }: Pick<CachedLock, 'fid' | 'mode'> & { readonly type: string }): string {
  return `${fid} ${type} ${mode}`;
}

/** @throws FsError EPROTO for a lock that these changes do not wait for. */
function checkLocks(changes: readonly Change[], locks: readonly GrantMessage[]): void {
  const wanted = new Map<string, CachedLock>();
  for (const { born } of changes) for (const lock of born?.locks ?? []) wanted.set(lockKey(lock), lock);
  for (const grant of locks) {
    const key = lockKey(grant);
    const lock = wanted.get(key);
    wanted.delete(key);
    if (lock === undefined || lock.bits !== (grant.bits ?? 0))
      throw new FsError('EPROTO', `the server granted a lock that nobody asked for: ${key}`);
  }
}

type SetattrMessage = NonNullable<BatchedOperationMessage['setattr']>;

/** Both changes in one; undefined: they are not the same in one, because the loss of privileges depends on their order. */
function joinedAttrs(before: SetattrMessage, after: SetattrMessage): SetattrMessage | undefined {
  if (before.killSuidgid === true || after.killSuidgid === true) return undefined;
  // The time of the first change is not that of both.
  const atime = before.atimeNow === true ? before.time : before.atime;
  const mtime = before.mtimeNow === true ? before.time : before.mtime;
  const setsAtime = after.atime !== undefined || after.atimeNow === true;
  const setsMtime = after.mtime !== undefined || after.mtimeNow === true;
  return {
    fid: after.fid,
    mode: after.mode ?? before.mode,
    uid: after.uid ?? before.uid,
    gid: after.gid ?? before.gid,
    atime: setsAtime ? after.atime : atime,
    mtime: setsMtime ? after.mtime : mtime,
    atimeNow: after.atimeNow,
    mtimeNow: after.mtimeNow,
    ctime: after.ctime,
    time: after.time,
  };
}

export function nameKey(parent: Fid, name: string): string {
  return `${parent}/${name}`;
}

export class ChangeLog {
  readonly #call: Call;
  readonly #runtime: { readonly timers: Timers; readonly clock: Clock };
  #host: ChangeLogHost | undefined;
  #waiting: Waiting[] = [];
  /** Changes that were sent and not answered. */
  #sent = 0;
  #underWay = 0;
  #timerRuns = false;
  readonly #touched = new Counts<Fid>();
  readonly #names = new Counts<string>();
  readonly #born = new Map<Fid, Born>();
  /** Those of changes that wait. */
  readonly #bornWaiting = new Set<Fid>();
  /** Files whose contents must go with changes that wait: the grant for them is kept. */
  readonly #contentsKept = new Set<Fid>();
  readonly #pinned = new Counts<Fid>();
  #allPinned = 0;
  /** BATCHes of this session that were sent, and those that have ended. */
  #sentCount = 0;
  #endedCount = 0;
  #waiters: Waiter[] = [];
  /** When the client last asked for a grant. */
  #askedMs: number | undefined;
  /** Bytes of the metadata grant that no change has used. */
  #grantBytes = 0;
  /** Bytes that the changes in the log use. */
  #usedBytes = 0;
  /** Grows with each session: answers to BATCHes of an earlier one change nothing. */
  #session = 0;

  constructor(runtime: { readonly timers: Timers; readonly clock: Clock }, call: Call) {
    this.#runtime = runtime;
    this.#call = call;
  }

  set host(host: ChangeLogHost) {
    this.#host = host;
  }

  /** Changes that the target has not answered. */
  get size(): number {
    return this.#waiting.length + this.#sent;
  }
  /** Changes that were not sent. */
  get waiting(): number {
    return this.#waiting.length;
  }
  get usedBytes(): number {
    return this.#usedBytes;
  }

  /** Bytes of the metadata grant that no change has used. */
  get grantBytes(): number {
    return this.#grantBytes;
  }

  /** The target has promised so much room for changes, beside what those in the log use. */
  promised(bytes: number): void {
    this.#grantBytes += bytes;
  }

  /** Another instance serves: what the last one has promised and was not used is void. */
  newInstance(): void {
    this.#grantBytes = 0;
    this.#askedMs = undefined;
  }

  /** @param withContent whether the change keeps the grant for the content of a file, too. */
  hasRoom(costBytes: number, withContent = false): boolean {
    const neededBytes = costBytes + (withContent ? CONTENT_COST_MAX : 0);
    if (neededBytes <= this.#grantBytes) return this.size < CHANGES_MAX;
    if (this.#underWay === 0) this.#askForGrant();
    return false;
  }

  /** Each answer to a BATCH fills the grant up, but without a grant there is no BATCH: so the client sends an empty one. */
  #askForGrant(): void {
    const now = this.#runtime.clock.nowMs();
    if (this.#askedMs !== undefined && now - this.#askedMs < ASK_AGAIN_MS) return;
    this.#askedMs = now;
    this.#send();
  }

  /** Whether a change in the log changes the inode. */
  touches(fid: Fid): boolean {
    return this.#touched.has(fid);
  }
  changesName(parent: Fid, name: string): boolean {
    return this.#names.size > 0 && this.#names.has(nameKey(parent, name));
  }
  /** Whether a change in the log makes the inode: the target may not have it yet. */
  isBorn(fid: Fid): boolean {
    return this.#born.has(fid);
  }
  /** Whether a change that makes the inode waits: what is dirty of it can go with that change. */
  isWaiting(fid: Fid): boolean {
    return this.#bornWaiting.has(fid);
  }
  /** Inodes that would be lost, or not be as programs were told, if the log were lost. */
  touched(): Iterable<Fid> {
    return this.#touched.keys();
  }

  /** The caller has checked hasRoom(), and changes the caches in this turn. */
  add(change: Change): void {
    const { touches, names, born, contentOf, costBytes } = change;
    if (this.#joinsLast(change)) return;
    for (const fid of touches) this.#touched.add(fid);
    for (const name of names) this.#names.add(name);
    if (born !== undefined) {
      this.#born.set(born.fid, born);
      this.#bornWaiting.add(born.fid);
    }
    // If the file has been sent meanwhile, its content was sent with it.
    if (contentOf !== undefined && this.#bornWaiting.has(contentOf)) this.#keepGrant(contentOf);
    this.#grantBytes -= costBytes;
    this.#usedBytes += costBytes;
    this.#waiting.push({ ...change, sinceMs: this.#runtime.clock.nowMs() });
    if (this.#waiting.length >= SEND_AT && this.#underWay < UNDER_WAY_MAX) this.#send();
    else this.#sendLater();
  }

  /**
   * A change of attributes joins the one right before it, if both are of one inode: programs that unpack or copy set owner, times and
   * mode one after the other.
   */
  #joinsLast({ operation: { setattr } }: Change): boolean {
    const last = this.#waiting.at(-1);
    const before = last?.operation.setattr;
    if (last === undefined || before === undefined || before.fid !== setattr?.fid) return false;
    const joined = joinedAttrs(before, setattr);
    if (joined === undefined) return false;
    this.#waiting[this.#waiting.length - 1] = { ...last, operation: { setattr: joined } };
    return true;
  }

  /** What is dirty of the file is about to change: a change that waits may need the content as it is now. */
  contentChanges(fid: Fid): void {
    if (this.#contentsKept.has(fid)) this.push();
  }

  /** Sends everything that waits, in this turn. */
  push(): void {
    while (this.#waiting.length > 0) this.#send();
  }

  /** Sends everything. @returns resolves when the target has answered all that is in the log now, or never will. */
  flushed(): Promise<void> {
    return this.#answered(undefined);
  }

  /** Sends everything. @returns resolves when the target has answered all that changes this inode; undefined: nothing does. */
  settled(fid: Fid): Promise<void> | undefined {
    return this.touches(fid) ? this.#answered(fid) : undefined;
  }

  #answered(fid: Fid | undefined): Promise<void> {
    this.push();
    return new Promise((done) => {
      if (this.#underWay === 0) done();
      else this.#waiters.push({ upTo: this.#sentCount, fid, done });
    });
  }

  // Pins.

  /** @param fids inodes that an operation at the target may change; undefined: nobody knows which. @returns to be called at its end. */
  pin(fids: readonly (Fid | undefined)[]): () => void {
    for (const fid of fids) {
      if (fid === undefined) this.#allPinned += 1;
      else this.#pinned.add(fid);
    }
    return () => {
      for (const fid of fids) {
        if (fid === undefined) this.#allPinned -= 1;
        else this.#pinned.remove(fid);
      }
    };
  }

  isPinned(fid: Fid): boolean {
    return this.#allPinned > 0 || this.#pinned.has(fid);
  }

  // Sending.

  #sendLater(): void {
    if (this.#timerRuns || this.#underWay > 0 || this.#waiting.length === 0) return;
    this.#sendAfter(SEND_AFTER_MS);
  }

  #sendAfter(ms: number): void {
    this.#timerRuns = true;
    this.#runtime.timers.after(ms, () => {
      this.#timerRuns = false;
      if (this.#underWay > 0) return;
      if (this.#isBeingWritten()) this.#sendAfter(1);
      else this.push();
    });
  }

  /** A program has made the newest file, and has not closed it yet. */
  #isBeingWritten(): boolean {
    const [oldest] = this.#waiting;
    const newest = this.#waiting.at(-1);
    if (oldest === undefined || newest?.born === undefined) return false;
    if (this.#runtime.clock.nowMs() - oldest.sinceMs >= SEND_AT_LATEST_MS) return false;
    return this.#host?.isOpenToWrite(newest.born.fid) === true;
  }

  #send(): void {
    const contents: WholeContent[] = [];
    const changes = this.#next(contents);
    const operations = changes.map(({ operation }) => operation);
    let grantUsed = 0;
    let contentBytes = 0;
    for (const { costBytes } of changes) grantUsed += costBytes;
    for (const { fid, mtime, lengthBytes } of contents) {
      operations.push({ content: { fid, mtime, lengthBytes } });
      contentBytes += operationCost(0, lengthBytes);
    }
    grantUsed += contentBytes;
    this.#sent += changes.length;
    this.#underWay += 1;
    this.#sentCount += 1;
    const session = this.#session;
    const bulk = contents.flatMap(({ chunks }) => chunks);
    let isSettled = false;
    const settle = (locks: readonly GrantMessage[]): void => {
      isSettled = true;
      this.#usedBytes -= contentBytes;
      this.#settle(changes, locks);
    };
    this.#call(
      { operations, grantUsed },
      {
        bulk: bulk.length === 0 ? undefined : bulk,
        apply: ({ reply }) => {
          if (session !== this.#session) return;
          checkLocks(changes, reply.locks);
          this.#grantBytes += reply.grantBytes;
          settle(reply.locks);
        },
      },
    )
      .then(
        () => {
          for (const content of contents) content.ended();
        },
        (error: unknown) => {
          log('%d changes are lost: %s', changes.length, error);
          // An eviction has emptied the log. Any other failure comes from a server that does not keep the protocol.
          if (session === this.#session && !isSettled) settle([]);
          for (const content of contents) content.ended(error);
        },
      )
      .finally(() => {
        if (session !== this.#session) return;
        this.#underWay -= 1;
        this.#endedCount += 1;
        this.#wake();
        if (this.#waiting.length >= SEND_AT) this.#send();
        else this.#sendLater();
      })
      .catch((error: unknown) => log('%O', error));
  }

  /** The changes of the next BATCH, and the contents that go with them. */
  #next(contents: WholeContent[]): readonly Waiting[] {
    let count = 0;
    let bulkBytes = 0;
    for (const { born } of this.#waiting) {
      const isFull = count + contents.length + 2 > BATCH_MAX || bulkBytes > BATCH_BULK_MAX / 2;
      if (isFull) break;
      count += 1;
      if (born === undefined) continue;
      this.#bornWaiting.delete(born.fid);
      this.#releaseGrant(born.fid);
      const pays = this.#grantBytes >= CONTENT_COST_MAX;
      const content = pays ? this.#host?.contentOf(born.fid) : undefined;
      if (content === undefined) continue;
      const costBytes = operationCost(0, content.lengthBytes);
      this.#grantBytes -= costBytes;
      this.#usedBytes += costBytes;
      contents.push(content);
      bulkBytes += content.lengthBytes;
    }
    return this.#waiting.splice(0, count);
  }

  #keepGrant(fid: Fid): void {
    if (this.#contentsKept.has(fid)) return;
    this.#contentsKept.add(fid);
    this.#grantBytes -= CONTENT_COST_MAX;
    this.#usedBytes += CONTENT_COST_MAX;
  }

  #releaseGrant(fid: Fid): void {
    if (!this.#contentsKept.delete(fid)) return;
    this.#grantBytes += CONTENT_COST_MAX;
    this.#usedBytes -= CONTENT_COST_MAX;
  }

  /** The target has executed these changes, or never will. @param locks what it has granted of what they wait for. */
  #settle(changes: readonly Waiting[], locks: readonly GrantMessage[]): void {
    this.#sent -= changes.length;
    const granted = new Map(locks.map((grant) => [lockKey(grant), grant.handle]));
    for (const change of changes) {
      this.#forget(change);
      for (const lock of change.born?.locks ?? []) {
        const handle = granted.get(lockKey(lock));
        if (handle !== undefined) this.#host?.granted(lock, handle);
        else this.#host?.refused(lock);
      }
    }
  }

  #forget({ touches, names, born, costBytes }: Change): void {
    for (const fid of touches) this.#touched.remove(fid);
    for (const name of names) this.#names.remove(name);
    if (born !== undefined) this.#born.delete(born.fid);
    this.#usedBytes -= costBytes;
  }

  /** The target has evicted this client: nothing of the log will be executed any more. */
  clear(): void {
    this.#session += 1;
    this.#waiting = [];
    this.#sent = 0;
    this.#underWay = 0;
    this.#touched.clear();
    this.#names.clear();
    this.#born.clear();
    this.#bornWaiting.clear();
    this.#contentsKept.clear();
    this.#grantBytes = 0;
    this.#usedBytes = 0;
    this.#endedCount = this.#sentCount;
    this.#wake();
  }

  /** BATCHes end in the order in which they were sent. */
  #wake(): void {
    const { length } = this.#waiters;
    if (length === 0) return;
    const isOver = ({ upTo, fid }: Waiter): boolean =>
      upTo <= this.#endedCount || (fid !== undefined && !this.touches(fid));
    const waiters = this.#waiters;
    this.#waiters = waiters.filter((waiter) => !isOver(waiter));
    for (const waiter of waiters) if (isOver(waiter)) waiter.done();
  }

  checkInvariants(): void {
    assert(
      this.#waiting.length === 0 || this.#timerRuns || this.#underWay > 0,
      `${this.#waiting.length} changes wait, and nothing sends them`,
    );
    assert(
      this.#sent === 0 || this.#underWay > 0,
      `${this.#sent} changes were sent, and no BATCH is under way`,
    );
    assert(this.#sentCount - this.#endedCount === this.#underWay, `${this.#underWay} BATCHes are under way`);
    assert(this.#underWay > 0 || this.#waiters.length === 0, 'nothing is under way, and that is waited for');
    assert(this.#grantBytes >= 0 && this.#usedBytes >= 0, `a metadata grant of ${this.#grantBytes} bytes`);
    assert(
      this.size > 0 || this.#touched.size + this.#names.size + this.#born.size === 0,
      'an empty log changes something',
    );
    assert(this.size > 0 || this.#usedBytes === 0, `an empty log uses ${this.#usedBytes} bytes`);
    for (const fid of this.#bornWaiting)
      assert(this.#born.has(fid), `${fid} waits to be born, and is not in the log`);
    for (const fid of this.#contentsKept)
      assert(this.#bornWaiting.has(fid), `the grant for ${fid} is kept, and it does not wait`);
    for (const fid of this.#born.keys()) assert(this.#touched.has(fid), `${fid} is born, and not changed`);
  }
}
