/**
 * What the scripts of the lock server may say. A lock is `inode 5 PR`, `inode 5 PR bits 1`, `data 5 PW` or `active PR`. The
 * clients are A, B and C; a BAST is to be answered within 100 ms.
 *
 *   A enqueues LOCK | A tries LOCK | A gives up LOCK | A cancels LOCK | A cancels LOCK again
 *   A takes LOCK, LOCK for NAME | server takes LOCK for NAME | NAME ends | NAME is given up
 *   A changes LOCK as 7 | committed 7 | A reconnects | A gives up its waits | A is gone | 50 ms pass
 *   who holds TYPE | what is left
 *
 * What comes of it: `grant A LOCK`, `refused`, `NAME runs`, `A LOCK: ERRNO`, `NAME: ERRNO`, `bast A LOCK`, `expired A LOCK`,
 * `commit`; these three name no bits.
 */

import { FsError } from '../../src/base/errno.js';
import type { ClientUuid, LockHandle, Transno } from '../../src/base/ids.js';
import type { LockSpec, Mode, ResourceType } from '../../src/dlm/api.js';
import type { Teller } from '../fixtures/script.js';
import { A, active, B, C, data, inode, startWorld, type World } from './dlm_world.js';

const CLIENTS: Readonly<Record<string, ClientUuid>> = { A, B, C };
const LOCK_TIMEOUT_MS = 100;

function specOf(text: string): LockSpec {
  const [, type = '', fid = '', mode = '', bits] =
    /^(inode|data|active)(?: (\d+))? (PR|PW|EX)(?: bits (\d+))?$/.exec(text) ?? [];
  if (type === 'inode')
    return inode(Number(fid), mode as Mode, bits === undefined ? undefined : Number(bits));
  if (type === 'data') return data(Number(fid), mode as Mode);
  if (type === 'active') return active(mode as Mode);
  throw new Error(`no such lock: ${text}`);
}

/** As a script names clients and locks. */
function named(told: string): string {
  return told
    .replace(/client-([abc])/, (_, letter: string) => letter.toUpperCase())
    .replace('active 0', 'active');
}

class Story {
  readonly #world: World;
  #came: string[] = [];
  /** By client and lock, as the script names them. */
  readonly #handles = new Map<string, LockHandle[]>();
  readonly #cancelled = new Map<string, LockHandle>();
  /** Of what may wait: an enqueue or an operation. */
  readonly #aborts = new Map<string, AbortController>();
  readonly #releases = new Map<string, () => void>();

  constructor() {
    this.#world = startWorld({
      lockTimeoutMs: LOCK_TIMEOUT_MS,
      onTold: (text) => this.#came.push(named(text)),
    });
  }

  async tell(event: string): Promise<readonly string[]> {
    this.#came = [];
    for (const [form, happen] of this.#forms) {
      const match = form.exec(event);
      if (match === null) continue;
      happen(...match.slice(1));
      await this.#world.time.turn();
      this.#world.server.checkInvariants();
      return this.#came;
    }
    throw new Error('no such event; test/worlds/dlm_script.ts says which there are');
  }

  readonly #forms: readonly (readonly [RegExp, (...words: string[]) => void])[] = [
    [/^([ABC]) enqueues (.*)$/, (who = '', lock = '') => this.#enqueue(who, lock)],
    [/^([ABC]) tries (.*)$/, (who = '', lock = '') => this.#try(who, lock)],
    [/^([ABC]) cancels (.*?)( again)?$/, (who = '', lock = '', again) => this.#cancel(who, lock, again)],
    [
      /^([ABC]|server) takes (.*) for (.*)$/,
      (who = '', locks = '', name = '') => this.#take(who, locks, name),
    ],
    [/^([ABC]) changes (.*) as (\d+)$/, (who = '', lock = '', transno) => this.#change(who, lock, transno)],
    [/^([ABC]) reconnects$/, (who = '') => this.#server.resend(clientOf(who))],
    [/^([ABC]) gives up its waits$/, (who = '') => this.#server.abandonWaits(clientOf(who))],
    [/^([ABC]) gives up (.*)$/, (who, lock) => found(this.#aborts, `${who} ${lock}`).abort()],
    [/^([ABC]) is gone$/, (who = '') => this.#server.dropClient(clientOf(who))],
    [/^(.*) is given up$/, (name = '') => found(this.#aborts, name).abort()],
    [/^(.*) ends$/, (name = '') => found(this.#releases, name)()],
    [/^committed (\d+)$/, (transno) => this.#server.committed(Number(transno) as Transno)],
    [/^(\d+) ms pass$/, (ms) => this.#world.time.advance(Number(ms))],
    [/^who holds (\w+)$/, (type) => this.#holders(type as ResourceType)],
    [/^what is left$/, () => this.#left()],
  ];

  get #server(): World['server'] {
    return this.#world.server;
  }

  /** Calls done() as soon as there is a value, and notes the errno if there is none. */
  #waitFor<T>(name: string, start: (signal: AbortSignal) => T | Promise<T>, done: (value: T) => void): void {
    const abort = new AbortController();
    this.#aborts.set(name, abort);
    const failed = (error: unknown): void => {
      if (!(error instanceof FsError)) throw error;
      this.#came.push(`${name}: ${error.code}`);
    };
    let value: T | Promise<T>;
    try {
      value = start(abort.signal);
    } catch (error) {
      failed(error);
      return;
    }
    if (value instanceof Promise) value.then(done, failed);
    else done(value);
  }

  #enqueue(who: string, lock: string): void {
    const start = (signal: AbortSignal) => this.#server.enqueue(clientOf(who), specOf(lock), signal);
    this.#waitFor<LockHandle>(`${who} ${lock}`, start, (handle) => this.#granted(who, lock, handle));
  }

  #try(who: string, lock: string): void {
    const handle = this.#server.tryEnqueue(clientOf(who), specOf(lock));
    if (handle === undefined) this.#came.push('refused');
    else this.#granted(who, lock, handle);
  }

  #granted(who: string, lock: string, handle: LockHandle): void {
    const name = `${who} ${lock}`;
    this.#handles.set(name, [...(this.#handles.get(name) ?? []), handle]);
    this.#came.push(`grant ${name}`);
  }

  #cancel(who: string, lock: string, again: string | undefined): void {
    const name = `${who} ${lock}`;
    const handle = again === undefined ? found(this.#handles, name).shift() : found(this.#cancelled, name);
    if (handle === undefined) throw new Error(`${who} has no such lock`);
    this.#cancelled.set(name, handle);
    this.#server.cancel(clientOf(who), [handle]);
  }

  #take(who: string, locks: string, name: string): void {
    const client = who === 'server' ? undefined : clientOf(who);
    const specs = locks.split(', ').map(specOf);
    const start = (signal: AbortSignal) => this.#server.acquire(client, specs, signal);
    this.#waitFor<() => void>(name, start, (release) => {
      this.#releases.set(name, release);
      this.#came.push(`${name} runs`);
    });
  }

  /** An operation that changes it, from its locks to its reply. */
  #change(who: string, lock: string, transno: string | undefined): void {
    const release = this.#server.acquire(clientOf(who), [specOf(lock)]);
    if (release instanceof Promise) throw new Error('had to wait');
    this.#server.changed(clientOf(who), specOf(lock), Number(transno) as Transno);
    release();
  }

  #holders(type: ResourceType): void {
    this.#came.push(...this.#server.holders(type).map((client) => named(client)));
  }

  #left(): void {
    for (const [what, count] of Object.entries({ ...this.#server.size, timers: this.#world.time.pending })) {
      if (count > 0) this.#came.push(`${count} ${what}`);
    }
  }
}

function clientOf(who: string): ClientUuid {
  return found(new Map(Object.entries(CLIENTS)), who);
}

function found<T>(map: ReadonlyMap<string, T>, name: string): T {
  const value = map.get(name);
  if (value === undefined) throw new Error(`there is no ${name}`);
  return value;
}

/** For storiesOf() of test/fixtures/script.ts. */
export function tellDlm(): Teller {
  const story = new Story();
  return (event) => story.tell(event);
}
