/** A lock server with a clock that stands still until told, and a record of what it called back. For dlm tests. */

import { FsError } from '../../src/base/errno.js';
import type { ClientUuid, Fid, LockHandle } from '../../src/base/ids.js';
import type { LockOffset } from '../../src/base/lock_offset.js';
import type { HeldLock, LockSpec, Mode } from '../../src/dlm/api.js';
import { LockServer } from '../../src/dlm/lock_server.js';
import type { Clock, Timers } from '../../src/runtime/ports.js';
import type { FlockRangeMessage } from '../../src/wire/lock.js';

export const A = 'client-a' as ClientUuid;
export const B = 'client-b' as ClientUuid;
export const C = 'client-c' as ClientUuid;

export const fid = (number: number): Fid => number as Fid;

/** Time passes when advance() is called; soon() runs when turn() is called. */
export class ManualTime implements Clock, Timers {
  #nowMs = 0;
  #timers: { readonly at: number; readonly fn: () => void }[] = [];
  #soon: (() => void)[] = [];

  nowMs(): number {
    return this.#nowMs;
  }
  wall(): { sec: number; nsec: number } {
    return { sec: 0, nsec: 0 };
  }
  after(ms: number, fn: () => void): { cancel(): void } {
    const timer = { at: this.#nowMs + ms, fn };
    this.#timers.push(timer);
    return {
      cancel: () => {
        this.#timers = this.#timers.filter((other) => other !== timer);
      },
    };
  }
  soon(fn: () => void): void {
    this.#soon.push(fn);
  }

  get pending(): number {
    return this.#timers.length;
  }

  advance(ms: number): void {
    const end = this.#nowMs + ms;
    for (;;) {
      const next = this.#timers.filter((timer) => timer.at <= end).sort((a, b) => a.at - b.at)[0];
      if (next === undefined) break;
      this.#nowMs = Math.max(this.#nowMs, next.at);
      this.#timers = this.#timers.filter((timer) => timer !== next);
      next.fn();
    }
    this.#nowMs = end;
  }

  /** The process is stopped for so long; then what has come due in that time runs. */
  standStill(ms: number): void {
    this.#nowMs += ms;
    this.advance(0);
  }

  /** Microtasks, then soon(), until nothing is left of either. */
  async turn(): Promise<void> {
    do {
      for (let i = 0; i < 20; i++) await Promise.resolve();
      for (const fn of this.#soon.splice(0)) fn();
    } while (this.#soon.length > 0);
    for (let i = 0; i < 20; i++) await Promise.resolve();
  }
}

export interface World {
  readonly server: LockServer;
  readonly time: ManualTime;
  /** What was called back since the last look, as text: 'bast A inode 5 PR'. */
  told(): string[];
  readonly basts: HeldLock[];
}

export function startWorld(
  options: {
    lockTimeoutMs?: number;
    onBast?: (lock: HeldLock) => void;
    /** Hears at once what told() says later. */
    onTold?: (text: string) => void;
    firstHandle?: number;
    maxCacheLocks?: number;
    maxAllLocks?: number;
    limitOf?: (client: ClientUuid) => number | undefined;
  } = {},
): World {
  const time = new ManualTime();
  let said: string[] = [];
  const basts: HeldLock[] = [];
  const say = (text: string): void => {
    said.push(text);
    options.onTold?.(text);
  };
  const server: LockServer = new LockServer({
    timers: time,
    clock: time,
    limits: time,
    lockTimeoutMs: options.lockTimeoutMs ?? 1000,
    ...(options.firstHandle === undefined ? {} : { firstHandle: options.firstHandle }),
    maxCacheLocks: options.maxCacheLocks,
    maxAllLocks: options.maxAllLocks,
    limitOf: options.limitOf,
    callbacks: {
      bast(lock) {
        say(`bast ${lock.client} ${lock.type} ${lock.fid} ${lock.mode}`);
        basts.push(lock);
        options.onBast?.(lock);
      },
      cast(client, handle, errno) {
        say(`cast ${client} ${handle}${errno === undefined ? '' : ` errno ${errno}`}`);
      },
      expired(client, lock) {
        say(`expired ${client} ${lock.type} ${lock.fid} ${lock.mode}`);
      },
      commit() {
        say('commit');
      },
    },
  });
  return {
    server,
    time,
    basts,
    told: () => {
      const all = said;
      said = [];
      return all;
    },
  };
}

export const EMPTY = { resources: 0, clients: 0, deadlines: 0, flockFiles: 0, uncommitted: 0 };

export function inode(number: number, mode: Mode, bits = 3): LockSpec {
  return { type: 'inode', fid: fid(number), mode, bits };
}
export function data(number: number, mode: Mode): LockSpec {
  return { type: 'data', fid: fid(number), mode, bits: 0 };
}
export function active(mode: Mode): LockSpec {
  return { type: 'active', fid: 0, mode, bits: 0 };
}

export function range(
  kind: FlockRangeMessage['kind'],
  owner: string,
  start: LockOffset,
  end: LockOffset | undefined,
  exclusive: boolean,
  pid = 1,
): FlockRangeMessage {
  return { kind, owner, pid, exclusive, start, ...(end === undefined ? {} : { end }) };
}

/** A value that must be there at once. */
export function now<T>(value: T | Promise<T>): T {
  if (value instanceof Promise) throw new Error('had to wait');
  return value;
}

/** What became of something that may have to wait. */
export class Outcome<T> {
  value: T | undefined = undefined;
  error: FsError | undefined = undefined;
  state: 'waiting' | 'done' | 'failed' = 'waiting';
  constructor(value: T | Promise<T>) {
    if (!(value instanceof Promise)) {
      this.value = value;
      this.state = 'done';
      return;
    }
    value.then(
      (result) => {
        this.value = result;
        this.state = 'done';
      },
      (error) => {
        if (!(error instanceof FsError)) throw error;
        this.error = error;
        this.state = 'failed';
      },
    );
  }
}

export function handleOf(outcome: Outcome<LockHandle>): LockHandle {
  if (outcome.value === undefined) throw new Error(`no handle: ${outcome.state}`);
  return outcome.value;
}
