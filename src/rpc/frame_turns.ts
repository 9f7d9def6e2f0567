/**
 * FrameTurns: which connection of a server is served next. The frames of a connection that floods the server must not hold up those
 * of the others.
 *
 * Connections belong to parties: all that were made with one key are one party. While more than one connection has had frames
 * lately,
 * - a party hands out frames for SLICE_MS in a turn of the event loop, at least one; the rest waits for the next turn, and is not
 *   read meanwhile. Between two turns the loop looks at all sockets. A connection that has just sent something comes before those
 *   of its party that had a slice already. So who sends one request after the other waits for a slice at most.
 * - the time that its frames take is noted for each connection and each party. One that has more than OVER_MS on its account rests
 *   until the time has passed it back, if somebody else who asks all the time has less. So what a flood takes is followed by as long
 *   a pause, in which the others have the server for themselves. That holds for a frame that takes milliseconds too: a handler cannot
 *   be interrupted. Most of the work on a bulk is done outside of turns: receiving it, its checksums, the end of its write or read.
 *   So each byte of a bulk counts as time too.
 * A connection that is alone hands out all that it has, for ALONE_MS at most in a turn.
 *
 * Invariants:
 * - The frames of one connection keep their order, and none is dropped.
 * - A seat is in one queue of its party exactly while it waits for a turn. While any seat waits, a turn or a timer is due.
 */

import { assert } from '../base/assert.js';
import type { Clock, Timer, Timers } from '../runtime/ports.js';

/** Shorter slices cost more than they give: answers leave, and wake their receiver, once in each. */
export const SLICE_MS = 0.2;
/** The same where the clock stands still while a handler runs. */
export const SLICE_FRAMES = 64;
const ALONE_MS = 2;
/** Who had a frame within this time counts as there. The time of long handlers does not count: nobody could send anything then. */
const ACTIVE_MS = 20;
/** Whoever asks less often than this is not much slower for a slice of others. */
const OFTEN_MS = 3;
const OVER_MS = 0.1;
/** What a byte of a bulk costs the thread outside of turns. Measured: 0.65 to 0.75 ms for a WRITE of 1 MiB, 0.4 to 0.5 ms for a READ. */
const RECEIVED_BYTE_MS = 0.7 / (1 << 20);
const SENT_BYTE_MS = 0.4 / (1 << 20);
/** Nobody rests for longer than for this. */
const OVER_MAX_MS = 250;
/** Timers are not more exact. */
const TIMER_MS = 1;
/** Of the time that passes, a resting account gets this much back: the others have two thirds, and what they lose by waiting. */
const BACK_SHARE = 0.5;
/** So many of those that were served last are compared. */
const COMPARED = 8;

/** What has frames to hand out. */
export interface Turntaker {
  /** Of all bulks that it has handed out. */
  readonly bulkBytes: number;
  /** Hands out the next frame. @returns false if there is none now, or the connection is paused or closed. */
  handOut(): boolean;
  /** It waited for a turn, and has had it. It may wait for the next one. */
  turned(): void;
}

class Account {
  /** Time used that has not passed back yet, at the time `atMs`. */
  #overMs = 0;
  #atMs = 0;
  /** The last two times, by the time that long handlers do not count in. Who shows that it lives now and then is seen by the first. */
  beforeMs = Number.NEGATIVE_INFINITY;
  servedMs = Number.NEGATIVE_INFINITY;

  overMs(nowMs: number): number {
    if (this.#overMs > 0 && nowMs > this.#atMs) {
      this.#overMs = Math.max(0, this.#overMs - (nowMs - this.#atMs) * BACK_SHARE);
    }
    this.#atMs = nowMs;
    return this.#overMs;
  }

  /** It has used this time, and `moreMs` outside of it. */
  charge(fromMs: number, toMs: number, moreMs: number): void {
    this.#overMs = Math.min(OVER_MAX_MS, this.overMs(fromMs) + toMs - fromMs + moreMs);
    this.#atMs = toMs;
  }
}

/** Accounts that are compared with each other: those of parties, or those of connections. */
class Accounts {
  readonly #latest: Account[] = [];
  #at = -1;

  served(account: Account, servedMs: number): void {
    account.beforeMs = account.servedMs;
    account.servedMs = servedMs;
    if (this.#latest[this.#at] === account) return;
    this.#at = (this.#at + 1) % COMPARED;
    this.#latest[this.#at] = account;
  }

  hasOthers(account: Account, sinceMs: number): boolean {
    for (const other of this.#latest) if (other !== account && other.servedMs >= sinceMs) return true;
    return false;
  }

  /**
   * How long the account has to rest; 0: it may go on.
   * @param servingMs the time now, without that of long handlers.
   */
  restMs(account: Account, nowMs: number, servingMs: number): number {
    const overMs = account.overMs(nowMs);
    if (overMs <= OVER_MS) return 0;
    const oftenMs = Math.max(OFTEN_MS, 2 * overMs);
    for (const other of this.#latest) {
      const { beforeMs, servedMs } = other;
      const asks = servedMs >= servingMs - oftenMs && beforeMs >= servedMs - oftenMs;
      if (asks && other !== account && other.overMs(nowMs) < overMs) return overMs / BACK_SHARE;
    }
    return 0;
  }
}

class Party {
  readonly name: string;
  readonly account = new Account();
  /** Used of the slice of this turn. */
  usedMs = 0;
  frames = 0;
  seats = 0;
  /** Seats that wait: those that have just got something, those that had a slice and have more, and those that rest. */
  readonly fresh = new Set<Seat>();
  readonly again = new Set<Seat>();
  readonly resting = new Set<Seat>();

  constructor(name: string) {
    this.name = name;
  }

  get waiting(): number {
    return this.fresh.size + this.again.size + this.resting.size;
  }

  get isUsedUp(): boolean {
    return this.usedMs >= SLICE_MS || this.frames >= SLICE_FRAMES;
  }

  take(seat: Seat): void {
    this.fresh.delete(seat);
    this.again.delete(seat);
    this.resting.delete(seat);
    seat.waits = false;
  }

  rest(seat: Seat): void {
    this.fresh.delete(seat);
    this.again.delete(seat);
    this.resting.add(seat);
  }
}

/** The place of one connection. */
export class Seat {
  readonly #turns: FrameTurns;
  readonly taker: Turntaker;
  readonly account = new Account();
  /** Changed by FrameTurns only, as what follows. */
  party: Party;
  waits = false;
  /** In which turn it was served last. */
  turn = -1;

  constructor(turns: FrameTurns, taker: Turntaker, party: Party) {
    this.#turns = turns;
    this.taker = taker;
    this.party = party;
  }

  /** There may be frames. Hands out some of them at once if that is fair; if not all, it waits now. */
  ready(): void {
    this.#turns.ready(this);
  }

  /** A large answer is sent outside of its turns: that counts like its turns. */
  sends(bytes: number, send: () => void): void {
    this.#turns.sends(this, bytes, send);
  }

  /** Whose connection it is. */
  join(party: string): void {
    this.#turns.join(this, party);
  }

  leave(): void {
    this.#turns.leave(this);
  }
}

export class FrameTurns {
  readonly #clock: Pick<Clock, 'nowMs'>;
  readonly #timers: Timers;
  readonly #parties = new Map<string, Party>();
  readonly #ofParties = new Accounts();
  readonly #ofSeats = new Accounts();
  /** Parties with seats that wait, in the order of their turns. */
  readonly #waiting = new Set<Party>();
  /** Parties that have used up their slice of this turn. */
  readonly #usedUp = new Set<Party>();
  #turn = 0;
  /** Time that handlers took beyond slices. */
  #longMs = 0;
  /** Until when the time is on the accounts of those who used it. */
  #chargedMs = 0;
  #isSoon = false;
  #timer: Timer | undefined;

  constructor(runtime: { readonly clock: Pick<Clock, 'nowMs'>; readonly timers: Timers }) {
    this.#clock = runtime.clock;
    this.#timers = runtime.timers;
  }

  /** Connections with frames that wait for a turn, for metrics. */
  get waiting(): number {
    let seats = 0;
    for (const { waiting } of this.#waiting) seats += waiting;
    return seats;
  }

  /** @param party the same for all connections that share a slice. */
  seat(taker: Turntaker, party: string): Seat {
    const seat = new Seat(this, taker, this.#party(party));
    seat.party.seats += 1;
    return seat;
  }

  join(seat: Seat, name: string): void {
    if (seat.party.name === name) return;
    const { waits } = seat;
    this.leave(seat);
    seat.party = this.#party(name);
    seat.party.seats += 1;
    if (waits) this.#queue(seat);
  }

  leave(seat: Seat): void {
    const { party } = seat;
    this.#take(seat);
    party.seats -= 1;
    if (party.seats > 0) return;
    this.#parties.delete(party.name);
    this.#usedUp.delete(party);
  }

  sends(seat: Seat, bytes: number, send: () => void): void {
    const fromMs = this.#clock.nowMs();
    send();
    const nowMs = this.#clock.nowMs();
    const isShared = this.#ofSeats.hasOthers(seat.account, nowMs - this.#longMs - ACTIVE_MS);
    this.#charge(seat, fromMs, nowMs, isShared ? bytes * SENT_BYTE_MS : 0);
  }

  ready(seat: Seat): void {
    if (seat.waits) return;
    const nowMs = this.#clock.nowMs();
    const sinceMs = nowMs - this.#longMs - ACTIVE_MS;
    if (this.#isAlone(seat, sinceMs)) {
      this.#serve(seat, nowMs, ALONE_MS, Number.POSITIVE_INFINITY);
    } else if (this.#mayBegin(seat, sinceMs) && this.#restMs(seat, nowMs) === 0) {
      this.#slice(seat, nowMs);
    } else {
      this.#queue(seat);
    }
  }

  #party(name: string): Party {
    let party = this.#parties.get(name);
    if (party === undefined) {
      party = new Party(name);
      this.#parties.set(name, party);
    }
    return party;
  }

  /** @param seat does not wait itself. */
  #isAlone({ account }: Seat, sinceMs: number): boolean {
    return this.#waiting.size === 0 && !this.#ofSeats.hasOthers(account, sinceMs);
  }

  /**
   * Whether something is left of its slice in this turn. If there is one party only, each connection has a slice, as long as the
   * turn does not become long.
   */
  #mayBegin(seat: Seat, sinceMs: number): boolean {
    const { party } = seat;
    if (party.fresh.size > 0) return false;
    if (!party.isUsedUp) return true;
    if (seat.turn === this.#turn || party.usedMs >= ALONE_MS) return false;
    for (const other of this.#waiting) if (other !== party) return false;
    return !this.#ofParties.hasOthers(party.account, sinceMs);
  }

  #restMs({ account, party }: Seat, nowMs: number): number {
    const servingMs = nowMs - this.#longMs;
    const ofParty = this.#ofParties.restMs(party.account, nowMs, servingMs);
    return Math.max(ofParty, this.#ofSeats.restMs(account, nowMs, servingMs));
  }

  /** Serves it while others are there. @returns the time after it. */
  #slice(seat: Seat, beganMs: number): number {
    const { party } = seat;
    const isNew = party.isUsedUp;
    const leftMs = isNew ? SLICE_MS : SLICE_MS - party.usedMs;
    const nowMs = this.#serve(seat, beganMs, leftMs, isNew ? SLICE_FRAMES : SLICE_FRAMES - party.frames);
    if (party.isUsedUp && party.seats > 0) {
      this.#usedUp.add(party);
      this.#soon();
    }
    return nowMs;
  }

  /** Hands out at least one frame, if there is one. @returns the time after it. */
  #serve(seat: Seat, beganMs: number, limitMs: number, limitFrames: number): number {
    const { party, taker } = seat;
    const isShared = limitFrames !== Number.POSITIVE_INFINITY;
    const { bulkBytes } = taker;
    seat.turn = this.#turn;
    let nowMs = beganMs;
    let moreMs = 0;
    let frames = 0;
    let isMore = true;
    while (isMore && nowMs - beganMs + moreMs < limitMs && frames < limitFrames) {
      isMore = taker.handOut();
      frames += 1;
      nowMs = this.#clock.nowMs();
      if (isShared) moreMs = (taker.bulkBytes - bulkBytes) * RECEIVED_BYTE_MS;
    }
    const tookMs = nowMs - beganMs;
    if (tookMs > SLICE_MS) this.#longMs += tookMs - SLICE_MS;
    this.#ofSeats.served(seat.account, nowMs - this.#longMs);
    this.#ofParties.served(party.account, nowMs - this.#longMs);
    if (isShared) {
      party.usedMs += tookMs + moreMs;
      party.frames += frames;
      this.#charge(seat, beganMs, nowMs, moreMs);
      // The answers leave at the end of the turn, and that takes time too.
      queueMicrotask(() => {
        const leftMs = this.#clock.nowMs();
        this.#charge(seat, Math.max(nowMs, this.#chargedMs), leftMs);
      });
      // Others that rest may have less on their accounts now.
      if (this.#timer !== undefined && seat.account.overMs(nowMs) > OVER_MS) this.#soon();
    }
    if (isMore) this.#queue(seat, true);
    return nowMs;
  }

  #charge({ account, party }: Seat, fromMs: number, toMs: number, moreMs = 0): void {
    this.#chargedMs = toMs;
    account.charge(fromMs, toMs, moreMs);
    party.account.charge(fromMs, toMs, moreMs);
  }

  #queue(seat: Seat, hadSlice = false): void {
    const { party } = seat;
    seat.waits = true;
    (hadSlice ? party.again : party.fresh).add(seat);
    this.#waiting.add(party);
    this.#soon();
  }

  #take(seat: Seat): void {
    const { party } = seat;
    party.take(seat);
    if (party.waiting === 0) this.#waiting.delete(party);
  }

  #soon(): void {
    if (this.#isSoon) return;
    this.#isSoon = true;
    this.#timers.soon(() => this.#next());
  }

  /** The next turn: each party that waits has a slice. */
  #next(): void {
    this.#isSoon = false;
    this.#timer?.cancel();
    this.#timer = undefined;
    this.#turn += 1;
    for (const party of this.#usedUp) {
      party.usedMs = 0;
      party.frames = 0;
    }
    this.#usedUp.clear();
    let restMs = Number.POSITIVE_INFINITY;
    for (const party of [...this.#waiting]) restMs = Math.min(restMs, this.#turnOf(party));
    if (this.#isSoon || this.#waiting.size === 0) return;
    if (restMs === 0) this.#soon();
    // Not in turns of the loop: a process that never sleeps has to wait for a processor when others of its machine want one.
    else this.#timer = this.#timers.after(Math.max(TIMER_MS, restMs), () => this.#next());
  }

  /** @returns how long to wait until it may go on; Infinity: it has nothing more. */
  #turnOf(party: Party): number {
    for (const seat of party.resting) party.again.add(seat);
    party.resting.clear();
    // One of those that had a slice before gets its turn, however many come new.
    let [owed] = party.again;
    let restMs = Number.POSITIVE_INFINITY;
    while (party.fresh.size + party.again.size > 0) {
      const nowMs = this.#clock.nowMs();
      const ofPartyMs = this.#ofParties.restMs(party.account, nowMs, nowMs - this.#longMs);
      if (ofPartyMs > 0) return ofPartyMs;
      const [fresh] = party.fresh;
      const [again] = party.again;
      const seat = party.isUsedUp ? owed : (fresh ?? again);
      if (seat === undefined || !seat.waits || seat.turn === this.#turn) return 0;
      const ofSeatMs = this.#ofSeats.restMs(seat.account, nowMs, nowMs - this.#longMs);
      if (ofSeatMs > 0) {
        restMs = Math.min(restMs, ofSeatMs);
        party.rest(seat);
        if (seat === owed) [owed] = party.again;
        continue;
      }
      if (seat === owed) owed = undefined;
      this.#take(seat);
      if (this.#isAlone(seat, nowMs - this.#longMs - ACTIVE_MS))
        this.#serve(seat, nowMs, ALONE_MS, Number.POSITIVE_INFINITY);
      else this.#slice(seat, nowMs);
      seat.taker.turned();
    }
    return restMs;
  }

  checkInvariants(): void {
    for (const party of this.#waiting) {
      assert(party.waiting > 0, `party ${party.name} waits for a turn, and has no frames`);
      assert(this.#isSoon || this.#timer !== undefined, 'frames wait, and no turn is due');
    }
    for (const party of this.#parties.values()) {
      assert(party.seats > 0, `party ${party.name} is empty`);
      assert(party.waiting > 0 === this.#waiting.has(party), `frames of ${party.name} wait for no turn`);
    }
  }
}
