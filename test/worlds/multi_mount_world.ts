/**
 * Hosts that share one device, each with its own clock, in virtual time: for the multi-mount block.
 *
 * A host can stand still: what it gave to the device still happens there, but it learns nothing and its timers wait,
 * while its clock goes on. Its accesses take as long as the test says, before and after they take effect.
 */

import type { BlockDevice, Clock, Rng, Timers } from '../../src/runtime/ports.js';
import { MultiMount, type MultiMountOptions } from '../../src/storage/ownership/multi_mount.js';
import { decodeMultiMount, MULTI_MOUNT_OFFSET } from '../../src/storage/ownership/multi_mount_block.js';
import { tableChecksum } from '../fixtures/memory_device.js';

const DEVICE_BYTES = 64 << 10;

interface Event {
  readonly atMs: number;
  readonly fn: () => void;
}

export class World {
  nowMs = 0;
  readonly content = Buffer.alloc(DEVICE_BYTES);
  readonly hosts: Host[] = [];
  /** Of all hosts, in order: 'a active 3'. */
  readonly writes: string[] = [];
  #events: Event[] = [];
  #u32: number;

  constructor(seed = 1) {
    this.#u32 = seed;
  }

  host(name: string, options: { readonly rate?: number } = {}): Host {
    const host = new Host(this, name, options.rate ?? 1);
    this.hosts.push(host);
    return host;
  }

  at(atMs: number, fn: () => void): { cancel(): void } {
    const event = { atMs, fn };
    this.#events.push(event);
    return {
      cancel: () => {
        this.#events = this.#events.filter((other) => other !== event);
      },
    };
  }

  /** Lets that much time pass. @param each looks at the hosts whenever something has happened. */
  async pass(ms: number, each: () => void = () => undefined): Promise<void> {
    const endMs = this.nowMs + ms;
    for (;;) {
      await settle();
      each();
      const next = this.#events
        .filter((event) => event.atMs <= endMs)
        .reduce<Event | undefined>(
          (first, event) => (first && first.atMs <= event.atMs ? first : event),
          undefined,
        );
      if (next === undefined) break;
      this.nowMs = Math.max(this.nowMs, next.atMs);
      this.#events = this.#events.filter((event) => event !== next);
      next.fn();
    }
    this.nowMs = endMs;
  }

  /** The promise's outcome, with all the time that it takes. */
  async outcome<T>(promise: Promise<T>, limitMs = 60_000): Promise<T | string> {
    let done: { readonly value: T | string } | undefined;
    promise.then(
      (value) => {
        done = { value };
      },
      (error: Error) => {
        done = { value: `${error.message}` };
      },
    );
    for (const endMs = this.nowMs + limitMs; done === undefined && this.nowMs < endMs; ) await this.pass(1);
    return done === undefined ? 'nothing' : (done as { value: T | string }).value;
  }

  /** A linear congruential generator: the run is replayed from its seed. */
  random(below: number): number {
    this.#u32 = (Math.imul(this.#u32, 1_664_525) + 1_013_904_223) >>> 0;
    return Math.floor((this.#u32 / 2 ** 32) * below);
  }

  block(): ReturnType<typeof decodeMultiMount> {
    return decodeMultiMount(
      this.content.subarray(MULTI_MOUNT_OFFSET, MULTI_MOUNT_OFFSET + 4096),
      tableChecksum,
    );
  }
}

/** Everything that follows from promises alone has happened. */
async function settle(): Promise<void> {
  for (let turn = 0; turn < 60; turn++) await Promise.resolve();
}

let uuids = 0;

export class Host {
  readonly #world: World;
  readonly name: string;
  readonly #rate: number;
  /** Milliseconds before and after an access takes effect. A release is the write of the clean mark. */
  delays: (kind: 'read' | 'write' | 'release') => readonly [before: number, after: number] = () => [0, 0];
  failing: Error | undefined;
  #stopped = false;
  /** What happened while it stood still. */
  #missed: (() => void)[] = [];

  constructor(world: World, name: string, rate: number) {
    this.#world = world;
    this.name = name;
    this.#rate = rate;
  }

  get runs(): boolean {
    return !this.#stopped;
  }
  stop(): void {
    this.#stopped = true;
  }
  resume(): void {
    this.#stopped = false;
    for (const fn of this.#missed.splice(0)) fn();
  }

  instance(options: Partial<MultiMountOptions> = {}): MultiMount {
    const owner = { host: this.name, pid: this.#world.hosts.indexOf(this) + 1, system: '', startedTicks: 0 };
    const runtime = { clock: this.#clock, timers: this.#timers, rng: this.#rng, checksum: tableChecksum };
    return new MultiMount(runtime, this.#device, { owner, state: 'active', periodMs: 1000, ...options });
  }

  readonly #clock: Clock = {
    nowMs: () => this.#world.nowMs * this.#rate,
    wall: () => ({ sec: 1_767_323_045 + Math.floor(this.#world.nowMs / 1000), nsec: 0 }),
  };
  readonly #timers: Timers = {
    after: (ms, fn) => this.#world.at(this.#world.nowMs + ms / this.#rate, () => this.#run(fn)),
    soon: (fn) => void this.#timers.after(0, fn),
  };
  readonly #rng: Rng = {
    u32: () => 0,
    uuid: () => `00000000-0000-4000-8000-${(++uuids).toString(16).padStart(12, '0')}`,
  };

  #run(fn: () => void): void {
    if (this.#stopped) this.#missed.push(fn);
    else fn();
  }

  /** Takes effect although the host stands still by then; that is the point. */
  #access(kind: 'read' | 'write' | 'release', effect: () => void): Promise<void> {
    const [beforeMs, afterMs] = this.delays(kind);
    const { failing } = this;
    return new Promise((resolve, reject) => {
      this.#world.at(this.#world.nowMs + beforeMs, () => {
        if (failing === undefined) effect();
        this.#world.at(this.#world.nowMs + afterMs, () =>
          this.#run(() => (failing === undefined ? resolve() : reject(failing))),
        );
      });
    });
  }

  readonly #device: BlockDevice = {
    path: 'shared',
    sizeBytes: DEVICE_BYTES,
    readDirect: (offset, target) =>
      this.#access('read', () => {
        target.set(this.#world.content.subarray(offset, offset + target.length));
      }),
    writeDirect: (offset, bytes) => {
      const copy = Buffer.from(bytes);
      const content = decodeMultiMount(copy, tableChecksum);
      const release = content.kind === 'record' && content.record.state === 'clean';
      return this.#access(release ? 'release' : 'write', () => {
        this.#world.content.set(copy, offset);
        const block = this.#world.block();
        if (block.kind !== 'record') throw new Error('only whole records are written');
        const { state, claim, sequence } = block.record;
        this.#world.writes.push(`${this.name} ${claim ? 'claims' : state} ${sequence}`);
      });
    },
    readOnce: () => Promise.reject(new Error('only direct calls see what other hosts write')),
    memory: (lengthBytes) => Buffer.alloc(lengthBytes),
    read: () => Promise.reject(new Error('only direct calls see what other hosts write')),
    write: () => Promise.reject(new Error('only direct calls are seen by other hosts')),
    flush: () => Promise.resolve(),
    discard: () => Promise.resolve(),
    close: () => Promise.resolve(),
  };
}
