/**
 * Multi-mount protection: at any time only one program has a target, whatever hosts can reach its devices.
 *
 * The holder of the target writes a heartbeat into block 1 of the data device. There are three rules. All times are
 * measured on monotonic clocks whose rates may differ by less than a tenth:
 *
 * - **Taking.** A program may claim the block in three cases: it says clean, or the process that wrote it is known to
 *   be gone, or it has not changed for the whole period that it names. The block names a claim window, the same for
 *   every program that sees it. A claimer must see that the block is free and complete its claim write within this
 *   window. The claim itself names the longest window, for those who see it: if it was too slow, so is the device. Then it waits a fifth longer than the window; after that its own claim must still be there. If several
 *   claim at once, the last one to write has the target: every other one wrote before, and finds a foreign claim
 *   (Fischer's algorithm). A claimer that was slower than the window may have overwritten a winner, so it begins anew:
 *   it treats its own claim as a foreign one, whose whole period must pass.
 * - **Holding.** A heartbeat confirms the holder from the moment *before* it was written, and for nine tenths of the
 *   period; other programs wait for the whole period. check() runs before every write to either device. If the
 *   confirmation is over, check() waits: it reads the block, which must still be the holder's own, and a new claim must
 *   succeed by the rule above. If the block is foreign, the holder has lost the target for good, and writes nothing any
 *   more.
 * - **Handing over.** A holder may give the target to a program that stands by and has told it the nonce that it will use. The
 *   last write of the holder then names this program as the holder. If the old holder was still confirmed when that write was
 *   done, nobody can have claimed the block before it, and the old holder says so to the new one. Only then does the new one
 *   take the target, without a claim. It is confirmed from its last look before that one: the write came after it. If it is not
 *   told, the block is a foreign one to it, whose whole period must pass.
 * - **A confirmed holder is the only one.** So if it meets a foreign claim, or a heartbeat of its predecessor, these
 *   are writes that came late, and their writers will notice by themselves. The holder writes over them. Any other
 *   foreign block means that somebody broke the rules (cloned machines, a manual write to the device), and the holder
 *   stops.
 *
 * What this cannot do: recall a write that the process gave to the kernel before its host or process stopped for a
 * while (docs/recovery/ownership.md, "What the block cannot do").
 */

import { assert } from '../../base/assert.js';
import { FsError } from '../../base/errno.js';
import { logger } from '../../base/log.js';
import { Deferred } from '../../base/wait.js';
import { type BlockDevice, type Runtime, sleep, type Timer } from '../../runtime/ports.js';
import type { WriteGuard } from '../api.js';
import { BLOCK_BYTES } from '../format/block_map.js';
import {
  decodeMultiMount,
  describeHolder,
  encodeMultiMount,
  MULTI_MOUNT_OFFSET,
  type MultiMountContent,
  type MultiMountRecord,
  type MultiMountState,
  type Owner,
} from './multi_mount_block.js';
import { MultiMountWatch, type Sighting } from './multi_mount_watch.js';

const log = logger('storage:multi-mount');

/**
 * Claim window if no block names one: from before the claimer reads the block until it has written the claim. A holder
 * names the window for its successors from the time that its heartbeats take, so that a takeover waits only as long as
 * the device is slow.
 */
const CLAIM_MS = 50;
const CLAIM_MIN_MS = 25;
const CLAIM_MAX_MS = 500;
const CLAIM_PER_BEAT = 4;
/** The window is at most this part of the period. */
const CLAIM_PER_PERIOD = 1 / 8;
/**
 * A claimer waits this many windows from its claim write until it reads the block again: longer than the window, by
 * more than clocks differ.
 */
const CLAIM_WAIT = 1.2;
/** Heartbeats in a period. */
const BEATS = 5;
/** Part of the period for which a heartbeat confirms the holder. */
const CONFIRMED = 0.9;
/** How often a standby looks: this delays every takeover. A look reads one block, directly. */
const STANDBY_POLL_MS = 10;
const POLL_MAX_MS = 100;

export type MultiMountRuntime = Pick<Runtime, 'clock' | 'timers' | 'rng' | 'checksum'>;

export interface MultiMountOptions {
  readonly owner: Owner;
  readonly state: Exclude<MultiMountState, 'clean'>;
  readonly periodMs: number;
  /** Whether that process certainly does not run any more. Only for processes of which this host can know it. */
  readonly isGone?: (owner: Owner) => boolean;
}

/** Whom a holder gives the target to. */
export interface Successor {
  readonly nonce: string;
  readonly owner: Owner;
  readonly periodMs: number;
}

interface Claim {
  readonly nonce: string;
  readonly sinceSec: number;
  /** When the claim write began, and when it was done. */
  readonly issuedMs: number;
  readonly doneMs: number;
}

export class MultiMount implements WriteGuard {
  readonly #lost = new Deferred<FsError>();
  readonly lost = this.#lost.promise;
  readonly #runtime: MultiMountRuntime;
  readonly #device: BlockDevice;
  readonly #options: MultiMountOptions;
  #state: 'looking' | 'claimed' | 'held' | 'lost' | 'over' = 'looking';
  readonly #watch: MultiMountWatch;
  #claim: Claim | undefined;
  #sequence = 0;
  /** The claim window that the block names which we claim, or wrote; a claim names the longest one. */
  #claimMs = CLAIM_MS;
  /** Time that a heartbeat takes, from before its read to the end of its write; longer times fade slowly. */
  #beatMs = 0;
  /** The nonce that a holder may hand the target over to. */
  #ownNonce: string | undefined;
  /** The holder has said that it handed the target over to that nonce. */
  #given = false;
  #told = new Deferred<void>();
  /** Nonce of the holder that our looks found last. */
  #holder: string | undefined;
  /** When our last look began that found the block of somebody else. */
  #foreignMs: number | undefined;
  /** Nonce of the holder before us, if it did not give the target back itself. */
  #predecessor: string | undefined;
  /** The moment before the last confirmed heartbeat was written. */
  #confirmedMs = Number.NEGATIVE_INFINITY;
  /** A heartbeat confirms the holder for this time. */
  #limitMs: number;
  /** When a heartbeat ended that took too long: we do not know whose block it wrote over. */
  #lateMs: number | undefined;
  #failure: FsError | undefined;
  #timer: Timer | undefined;
  #renewing: Promise<void> | undefined;
  /** Accesses to the block run one after the other. */
  #last: Promise<unknown> = Promise.resolve();

  /** @param device the target's data device, or another opening of it; this class only makes direct calls. */
  constructor(runtime: MultiMountRuntime, device: BlockDevice, options: MultiMountOptions) {
    this.#runtime = runtime;
    this.#device = device;
    this.#options = options;
    this.#watch = new MultiMountWatch(runtime, options.isGone);
    this.#limitMs = options.periodMs * CONFIRMED;
  }

  /** Why nothing may be written any more; undefined while that is not so. */
  get failure(): FsError | undefined {
    return this.#failure;
  }

  /** Whether this program may write at this moment. */
  get isConfirmed(): boolean {
    return this.#runtime.clock.nowMs() - this.#confirmedMs < this.#limitMs;
  }

  /** Looks at the block once. Only earlier looks can show that it is silent. */
  async look(): Promise<Sighting> {
    const issuedMs = this.#runtime.clock.nowMs();
    const sighting = this.#watch.found(await this.#read(), issuedMs);
    const { record } = sighting;
    if (record?.state !== 'active' || record.nonce !== this.#ownNonce) this.#foreignMs = issuedMs;
    else if (this.#given) return { free: true, why: 'handed over', record };
    return sighting;
  }

  /** What a program that stands by tells the holder. It must have looked at the block before. */
  get successor(): Successor {
    assert(this.#foreignMs !== undefined, 'a program looks at the block before it asks for the target');
    this.#ownNonce ??= this.#runtime.rng.uuid();
    return { nonce: this.#ownNonce, owner: this.#options.owner, periodMs: this.#options.periodMs };
  }

  /** The holder has said that its last write names this program, and came in time. */
  given(): void {
    this.#given = true;
    this.#told.resolve();
  }

  /**
   * Looks until the target may be claimed.
   * @param holderChanged is called when a look finds a holder, or another one than the looks before.
   * @returns undefined if the signal aborted.
   * @throws FsError EBUSY, without standBy, as soon as the holder is seen to be alive.
   */
  async untilFree(
    standBy: boolean,
    signal?: AbortSignal,
    holderChanged?: (owner: Owner) => void,
  ): Promise<Sighting | undefined> {
    const pollMs = standBy ? STANDBY_POLL_MS : Math.min(POLL_MAX_MS, this.#options.periodMs / 50);
    while (signal?.aborted !== true) {
      const sighting = await this.look();
      if (sighting.free) return sighting;
      if (!standBy && sighting.alive) throw this.refusal(sighting.record);
      const { record } = sighting;
      if (
        record !== undefined &&
        ![this.#holder, this.#ownNonce, this.#claim?.nonce].includes(record.nonce)
      ) {
        this.#holder = record.nonce;
        holderChanged?.(record.owner);
      }
      await Promise.race([sleep(this.#runtime.timers, pollMs), this.#told.promise]);
      this.#told = new Deferred();
    }
    return undefined;
  }

  /** Takes the target without standing by. @throws FsError EBUSY with one line: who has it, since when, what to do. */
  async take(): Promise<void> {
    for (;;) {
      await this.untilFree(false);
      if ((await this.claim()) && (await this.confirm())) return;
    }
  }

  /** The error, one line, for a program that meets a living holder. */
  refusal(record: MultiMountRecord | undefined): FsError {
    if (record === undefined) return new FsError('EBUSY', `${this.#device.path} is in use by another host`);
    const remedy =
      record.state === 'active'
        ? "stop it first ('holdfast shutdown'); a server with --standby waits for that"
        : 'wait until it is done';
    return new FsError('EBUSY', `${this.#device.path} is in use: ${describeHolder(record)}; ${remedy}`);
  }

  /**
   * Writes a claim, directly after a look found the block free. The target is not ours before confirm() says so.
   * @returns false if somebody came first, or the claim took too long: look again.
   */
  async claim(): Promise<boolean> {
    const { clock, rng } = this.#runtime;
    const free = this.#watch.last;
    assert(this.#state === 'looking' && free !== undefined, 'a claim comes after a look');
    const beganMs = clock.nowMs();
    const bytes = await this.#read();
    if (!bytes.equals(free.bytes)) {
      this.#watch.changed(bytes);
      return false;
    }
    const before = free.content.kind === 'record' ? free.content.record : undefined;
    const taken = before !== undefined && before.state !== 'clean' ? before : undefined;
    this.#predecessor = taken?.nonce;
    // At most the predecessor's period: if its last heartbeat arrives late, it waits for this period to see whether a
    // holder writes over it.
    this.#limitMs = Math.min(this.#options.periodMs, taken?.periodMs ?? Number.POSITIVE_INFINITY) * CONFIRMED;
    this.#sequence = before?.sequence ?? 0;
    this.#claimMs = before?.claimMs ?? CLAIM_MS;
    const issuedMs = clock.nowMs();
    const claim = { nonce: rng.uuid(), sinceSec: clock.wall().sec, issuedMs };
    this.#claim = { ...claim, doneMs: issuedMs };
    const written = await this.#write(this.#options.state, true);
    const doneMs = clock.nowMs();
    if (doneMs - beganMs > this.#claimMs) {
      log('claim of %s took %d ms: looks again', this.#device.path, doneMs - beganMs);
      this.#watch.startOver(written);
      return false;
    }
    this.#claim = { ...claim, doneMs };
    this.#state = 'claimed';
    return true;
  }

  /** @returns whether the claim held: then the target is ours, and the heartbeat goes on. False: look again. */
  async confirm(): Promise<boolean> {
    const { clock, timers } = this.#runtime;
    const claim = this.#claim;
    assert(this.#state === 'claimed' && claim !== undefined, 'a claim is confirmed once');
    const restMs = this.#claimMs * CLAIM_WAIT - (clock.nowMs() - claim.doneMs);
    if (restMs > 0) await sleep(timers, restMs);
    const bytes = await this.#read();
    if (this.#foreign(bytes) !== undefined) {
      this.#state = 'looking';
      this.#watch.changed(bytes);
      return false;
    }
    this.#confirmedMs = claim.issuedMs;
    await this.#holds();
    return true;
  }

  async #holds(): Promise<void> {
    this.#state = 'held';
    await this.#alone(() => this.#beat());
    if (this.#failure !== undefined) throw this.#failure;
    this.#schedule();
  }

  /**
   * Takes the target that its holder has handed over, directly after a look found that.
   * @returns false if somebody has written the block since: look again.
   */
  async adopt(): Promise<boolean> {
    const fromMs = this.#foreignMs;
    assert(this.#state === 'looking' && fromMs !== undefined && this.#given, 'it was handed over');
    const bytes = await this.#read();
    const content = decodeMultiMount(bytes, this.#runtime.checksum);
    if (content.kind !== 'record' || content.record.nonce !== this.#ownNonce) {
      this.#watch.changed(bytes);
      return false;
    }
    const { nonce, sinceSec, sequence, claimMs } = content.record;
    this.#claim = { nonce, sinceSec, issuedMs: fromMs, doneMs: fromMs };
    this.#sequence = sequence;
    this.#claimMs = claimMs;
    this.#confirmedMs = fromMs;
    await this.#holds();
    return true;
  }

  check(): Promise<void> | undefined {
    return this.isConfirmed ? undefined : this.#renew();
  }

  /**
   * Gives the target back, if it is ours: this instance writes nothing any more, and the next one need not wait.
   * @throws FsError EIO; this instance gives up the target in any case.
   */
  async release(): Promise<void> {
    await this.#giveUp(() => this.#write('clean', false));
  }

  /**
   * Gives the target, if it is ours, to a program that stands by. This instance writes nothing any more.
   * @returns whether that program may take it, and is to be told. False: nobody can take it before a period has passed.
   * @throws FsError EIO; this instance gives up the target in any case.
   */
  async handOver({ nonce, owner, periodMs }: Successor): Promise<boolean> {
    let inTime = false;
    await this.#giveUp(async () => {
      const sinceSec = this.#runtime.clock.wall().sec;
      await this.#put({ state: this.#options.state, claim: false, nonce, sinceSec, owner, periodMs });
      inTime = this.isConfirmed;
    });
    return inTime;
  }

  async #giveUp(lastWrite: () => Promise<unknown>): Promise<void> {
    try {
      if (this.#state !== 'held') return;
      await this.check();
      await this.#alone(async () => {
        // Heartbeat first. A late last write would deny a successor; after a fresh heartbeat the write has a whole
        // period before there can be one.
        try {
          await this.#beat();
          if (this.isConfirmed) await lastWrite();
        } finally {
          // Before the next access begins: the caller closes the device.
          this.abandon();
        }
      });
    } finally {
      this.abandon();
    }
  }

  /** Ends the heartbeat without a clean mark: the next program waits until the period is over. */
  abandon(): void {
    this.#timer?.cancel();
    if (this.#state !== 'lost') this.#state = 'over';
    this.#confirmedMs = Number.NEGATIVE_INFINITY;
    this.#failure ??= new FsError('EIO', `${this.#device.path} was given back`);
  }

  #schedule(): void {
    const ms = this.#limitMs / CONFIRMED / BEATS;
    this.#timer = this.#runtime.timers.after(ms, () => void this.#tick(), true);
  }

  /** Never rejects. */
  async #tick(): Promise<void> {
    try {
      await (this.isConfirmed ? this.#alone(() => this.#beat()) : this.#renew());
    } catch (thrown) {
      // A device error: the next heartbeat tries again. If the error lasts, check() stops the writers.
      log('heartbeat on %s: %O', this.#device.path, thrown);
    }
    if (this.#state === 'held') this.#schedule();
  }

  /**
   * The heartbeat of a confirmed holder. If the confirmation ends before the write, the holder does not write; check()
   * deals with that.
   */
  async #beat(): Promise<void> {
    if (this.#state !== 'held') return;
    const { clock } = this.#runtime;
    const beganMs = clock.nowMs();
    const found = this.#foreign(await this.#read());
    const issuedMs = clock.nowMs();
    const untilMs = this.#confirmedMs + this.#limitMs;
    if (this.#state !== 'held' || issuedMs >= untilMs) return;
    if (found !== undefined) {
      const { content } = found;
      const late =
        content.kind === 'record' && (content.record.claim || content.record.nonce === this.#predecessor);
      if (!late) {
        this.#lose(content);
        return;
      }
      log('%s: writes over a late %o', this.#device.path, content);
    }
    const likelyMs = Math.min(this.#longestClaimMs, this.#beatMs * CLAIM_PER_BEAT);
    this.#claimMs = Math.ceil(Math.max(CLAIM_MIN_MS, likelyMs));
    await this.#write(this.#options.state, false);
    const doneMs = clock.nowMs();
    this.#beatMs = Math.max(doneMs - beganMs, this.#beatMs * 0.9);
    if (doneMs < untilMs) this.#confirmedMs = issuedMs;
    else this.#lateMs = doneMs;
  }

  /**
   * For a holder that is not confirmed any more: it claims the block anew if it finds its own block there. Otherwise it
   * has lost the target.
   */
  #renew(): Promise<void> {
    this.#renewing ??= this.#alone(() => this.#claimAgain()).finally(() => {
      this.#renewing = undefined;
    });
    return this.#renewing;
  }

  async #claimAgain(): Promise<void> {
    const { clock, timers } = this.#runtime;
    while (!this.isConfirmed) {
      if (this.#failure !== undefined) throw this.#failure;
      assert(this.#state === 'held', 'only who has a target writes to it');
      const beganMs = clock.nowMs();
      this.#claimMs = this.#ownOrLost(await this.#read()).claimMs;
      if (this.#lateMs !== undefined && beganMs - this.#lateMs < this.#options.periodMs) {
        // Wait for a period: if the late write hit a successor's block, the successor writes over ours in this time.
        await sleep(timers, this.#options.periodMs / BEATS / 2);
        continue;
      }
      const issuedMs = clock.nowMs();
      await this.#write(this.#options.state, true);
      const doneMs = clock.nowMs();
      if (doneMs - beganMs > this.#claimMs) {
        this.#lateMs = doneMs;
        continue;
      }
      await sleep(timers, this.#claimMs * CLAIM_WAIT);
      this.#ownOrLost(await this.#read());
      this.#lateMs = undefined;
      this.#confirmedMs = issuedMs;
      log('%s: still ours after a silence', this.#device.path);
    }
  }

  #ownOrLost(bytes: Buffer): MultiMountRecord {
    const content = decodeMultiMount(bytes, this.#runtime.checksum);
    if (this.#isOwn(content)) return content.record;
    throw this.#lose(content);
  }

  #lose(content: MultiMountContent): FsError {
    this.#timer?.cancel();
    this.#state = 'lost';
    this.#confirmedMs = Number.NEGATIVE_INFINITY;
    const who =
      content.kind === 'record'
        ? describeHolder(content.record)
        : `its multi-mount block is ${content.kind === 'none' ? 'wiped' : 'damaged'}`;
    this.#failure = new FsError(
      'EIO',
      `${this.#device.path} was lost after a silence, nothing was written since: ${who}`,
    );
    log('%s', this.#failure.message);
    this.#lost.resolve(this.#failure);
    return this.#failure;
  }

  #isOwn(content: MultiMountContent): content is Extract<MultiMountContent, { kind: 'record' }> {
    return content.kind === 'record' && content.record.nonce === this.#claim?.nonce;
  }

  /** @returns undefined if the block is ours. */
  #foreign(bytes: Buffer): { readonly content: MultiMountContent } | undefined {
    const content = decodeMultiMount(bytes, this.#runtime.checksum);
    return this.#isOwn(content) ? undefined : { content };
  }

  async #read(): Promise<Buffer> {
    const bytes = Buffer.alloc(BLOCK_BYTES);
    await this.#device.readDirect(MULTI_MOUNT_OFFSET, bytes);
    return bytes;
  }

  #write(state: MultiMountState, claim: boolean): Promise<Buffer> {
    assert(this.#claim !== undefined, 'only who has the target, or claims it, writes its block');
    const { nonce, sinceSec } = this.#claim;
    const { periodMs, owner } = this.#options;
    return this.#put({ state, claim, nonce, sinceSec, owner, periodMs });
  }

  get #longestClaimMs(): number {
    return Math.ceil(
      Math.max(CLAIM_MIN_MS, Math.min(CLAIM_MAX_MS, this.#options.periodMs * CLAIM_PER_PERIOD)),
    );
  }

  async #put(record: Omit<MultiMountRecord, 'sequence' | 'claimMs'>): Promise<Buffer> {
    this.#sequence += 1;
    const claimMs = record.claim ? this.#longestClaimMs : this.#claimMs;
    const bytes = encodeMultiMount({ ...record, sequence: this.#sequence, claimMs }, this.#runtime.checksum);
    await this.#device.writeDirect(MULTI_MOUNT_OFFSET, bytes);
    return bytes;
  }

  #alone<T>(work: () => Promise<T>): Promise<T> {
    const done = this.#last.then(work);
    // The caller of `work` gets the failure; the next access only waits for the end.
    this.#last = done.catch(() => undefined);
    return done;
  }
}
