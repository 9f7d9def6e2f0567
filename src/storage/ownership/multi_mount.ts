/**
 * Multi-mount protection: one program at a time has a target, whatever hosts can reach its devices.
 *
 * Who has it writes a heartbeat into block 1 of the data device. Three rules, all measured on monotonic clocks that may
 * differ in rate by less than a tenth:
 *
 * - **Taking.** The block may be claimed when it says clean, when the process that wrote it is known to be gone, or when
 *   it has not changed for the whole period that it names. Between seeing that and having written the own claim lies at
 *   most the claim window that the block names, the same for all who see it; then a fifth more than that passes; then
 *   the own claim must still be there. Of several who claim at once the last one to write has it: any other one wrote
 *   before, and finds a foreign claim (Fischer's algorithm). Who was slower than the window may have written over a
 *   winner, and begins anew: its own claim counts as a foreign one, whose whole period must pass.
 * - **Holding.** A heartbeat confirms the holder from the moment *before* it was written, and for nine tenths of the
 *   period; others wait for the whole. check() stands before every write to either device: past that it waits until the
 *   block was read and is still the holder's own, and a claim of it went through as above. If the block is foreign, the
 *   target is lost, for good, and nothing is written any more.
 * - **A holder that is confirmed is the only one there can be.** So if it meets a foreign claim, or a heartbeat of the
 *   one it took over from, those are writes that came late; their writers find out by themselves. It writes over them.
 *   Anything else foreign means that the rules were broken (cloned machines, a hand on the device), and it stops.
 *
 * What this cannot do: recall a write that was handed to the kernel before its host or process stood still
 * (docs/RECOVERY.md, "What the block cannot do").
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
 * Claim window where no block names one: from before the block is read until the claim is written. A holder names it for
 * its successors from how long its heartbeats take, so that a takeover waits no longer than the device is slow.
 */
const CLAIM_MS = 50;
const CLAIM_MIN_MS = 25;
const CLAIM_MAX_MS = 500;
const CLAIM_PER_BEAT = 4;
/** And at most this part of the period. */
const CLAIM_PER_PERIOD = 1 / 8;
/** From then until the claim is looked at: longer than the window, by more than clocks differ. */
const CLAIM_WAIT = 1.2;
/** Heartbeats in a period. */
const BEATS = 5;
/** Part of the period for which a heartbeat confirms. */
const CONFIRMED = 0.9;
/** How often who stands by looks: a part of every pause. One block, read directly. */
const STANDBY_POLL_MS = 10;
const POLL_MAX_MS = 100;

export type MultiMountRuntime = Pick<Runtime, 'clock' | 'timers' | 'rng' | 'checksum'>;

export interface MultiMountOptions {
  readonly owner: Owner;
  readonly state: Exclude<MultiMountState, 'clean'>;
  readonly periodMs: number;
  /** Whether that process certainly runs no more. Only where it can be known: on this host. */
  readonly isGone?: (owner: Owner) => boolean;
}

interface Claim {
  readonly nonce: string;
  readonly sinceSec: number;
  /** Before it was written, and when that was done. */
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
  /** As the block names it that we claim, or wrote. */
  #claimMs = CLAIM_MS;
  /** A heartbeat from before its look to its end; longer ones are forgotten slowly. */
  #beatMs = 0;
  /** Who had the target before, if it was taken from him without his doing. */
  #predecessor: string | undefined;
  /** Before the last confirmed heartbeat was written. */
  #confirmedMs = Number.NEGATIVE_INFINITY;
  /** A confirmed holder is one for so long. */
  #limitMs: number;
  /** When a heartbeat had been written that took too long: what it was written over is not known. */
  #lateMs: number | undefined;
  #failure: FsError | undefined;
  #timer: Timer | undefined;
  #renewing: Promise<void> | undefined;
  /** Accesses to the block follow each other. */
  #last: Promise<unknown> = Promise.resolve();

  /** @param device the target's data device, or another opening of it: only direct calls are made. */
  constructor(runtime: MultiMountRuntime, device: BlockDevice, options: MultiMountOptions) {
    this.#runtime = runtime;
    this.#device = device;
    this.#options = options;
    this.#watch = new MultiMountWatch(runtime, options.isGone);
    this.#limitMs = options.periodMs * CONFIRMED;
  }

  /** Why nothing may be written any more, once that is so. */
  get failure(): FsError | undefined {
    return this.#failure;
  }

  /** Whether something may be written at this moment. */
  get isConfirmed(): boolean {
    return this.#runtime.clock.nowMs() - this.#confirmedMs < this.#limitMs;
  }

  /** One look at the block. What is silent is known from earlier looks. */
  async look(): Promise<Sighting> {
    const issuedMs = this.#runtime.clock.nowMs();
    return this.#watch.found(await this.#read(), issuedMs);
  }

  /**
   * Looks until the target may be claimed.
   * @returns undefined when the signal aborted.
   * @throws FsError EBUSY, if not standing by, as soon as whoever has it is seen to be alive.
   */
  async untilFree(standBy: boolean, signal?: AbortSignal): Promise<Sighting | undefined> {
    const pollMs = standBy ? STANDBY_POLL_MS : Math.min(POLL_MAX_MS, this.#options.periodMs / 50);
    while (signal?.aborted !== true) {
      const sighting = await this.look();
      if (sighting.free) return sighting;
      if (!standBy && sighting.alive) throw this.refusal(sighting.record);
      await sleep(this.#runtime.timers, pollMs);
    }
    return undefined;
  }

  /** For who does not stand by: has the target, or throws. @throws FsError EBUSY with one line: who, since when, what to do. */
  async take(): Promise<void> {
    for (;;) {
      await this.untilFree(false);
      if ((await this.claim()) && (await this.confirm())) return;
    }
  }

  /** One line for who meets somebody that is alive. */
  refusal(record: MultiMountRecord | undefined): FsError {
    if (record === undefined) return new FsError('EBUSY', `${this.#device.path} is in use by another host`);
    const remedy =
      record.state === 'active'
        ? "stop it first ('holdfast shutdown'); a server with --standby waits for that"
        : 'wait until it is done';
    return new FsError('EBUSY', `${this.#device.path} is in use: ${describeHolder(record)}; ${remedy}`);
  }

  /**
   * Writes a claim, directly after the block was seen to be free. Nothing is ours before confirm() says so.
   * @returns false when somebody came first, or this took too long: look again.
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
    // Shorter than his: if his last heartbeat comes late, he waits for his period to see whether somebody minds.
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

  /** @returns whether the claim held: the target is ours, and the heartbeat goes on. False: look again. */
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
    this.#state = 'held';
    this.#confirmedMs = claim.issuedMs;
    await this.#alone(() => this.#beat());
    if (this.#failure !== undefined) throw this.#failure;
    this.#schedule();
    return true;
  }

  check(): Promise<void> | undefined {
    return this.isConfirmed ? undefined : this.#renew();
  }

  /**
   * Gives the target back, if it is ours: nobody writes for this instance any more, and the next one need not wait.
   * @throws FsError EIO; the target is given up in any case.
   */
  async release(): Promise<void> {
    try {
      if (this.#state !== 'held') return;
      await this.check();
      await this.#alone(async () => {
        // Afresh: if the clean mark is late, it has a whole period before somebody may have the target whom it denies.
        await this.#beat();
        if (this.isConfirmed) await this.#write('clean', false);
      });
    } finally {
      this.abandon();
    }
  }

  /** Ends the heartbeat without a word: the next one waits until the period is over. */
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
      // A device error: the next heartbeat tries again, and check() stops the writers if that lasts.
      log('heartbeat on %s: %O', this.#device.path, thrown);
    }
    if (this.#state === 'held') this.#schedule();
  }

  /** By a holder that is confirmed; if it is no more when it comes to writing, check() deals with that. */
  async #beat(): Promise<void> {
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
    const atMostMs = Math.min(CLAIM_MAX_MS, this.#options.periodMs * CLAIM_PER_PERIOD);
    this.#claimMs = Math.ceil(Math.max(CLAIM_MIN_MS, Math.min(atMostMs, this.#beatMs * CLAIM_PER_BEAT)));
    await this.#write(this.#options.state, false);
    const doneMs = clock.nowMs();
    this.#beatMs = Math.max(doneMs - beganMs, this.#beatMs * 0.9);
    if (doneMs < untilMs) this.#confirmedMs = issuedMs;
    else this.#lateMs = doneMs;
  }

  /** A holder that is not confirmed any more claims anew what it still finds to be its own, or has lost it. */
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
        // A successor whose block that late write hit would have written over it meanwhile.
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

  /** undefined: the block is ours as we wrote it. */
  #foreign(bytes: Buffer): { readonly content: MultiMountContent } | undefined {
    const content = decodeMultiMount(bytes, this.#runtime.checksum);
    return this.#isOwn(content) ? undefined : { content };
  }

  async #read(): Promise<Buffer> {
    const bytes = Buffer.alloc(BLOCK_BYTES);
    await this.#device.readDirect(MULTI_MOUNT_OFFSET, bytes);
    return bytes;
  }

  async #write(state: MultiMountState, claim: boolean): Promise<Buffer> {
    assert(this.#claim !== undefined, 'only who claimed the target writes its block');
    const { nonce, sinceSec } = this.#claim;
    const { periodMs, owner } = this.#options;
    this.#sequence += 1;
    const bytes = encodeMultiMount(
      { state, claim, nonce, sequence: this.#sequence, periodMs, claimMs: this.#claimMs, sinceSec, owner },
      this.#runtime.checksum,
    );
    await this.#device.writeDirect(MULTI_MOUNT_OFFSET, bytes);
    return bytes;
  }

  #alone<T>(work: () => Promise<T>): Promise<T> {
    const done = this.#last.then(work);
    // Whoever asked for it gets the failure; the next one only waits for its end.
    this.#last = done.catch(() => undefined);
    return done;
  }
}
