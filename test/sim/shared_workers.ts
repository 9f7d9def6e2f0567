/**
 * Workers that share files across clients, and the histories that judge what they saw.
 *
 * Registers: slots of one file, each read and written as a whole. A read must not return a value that was overwritten
 * before the read began, nor one that nobody wrote, nor go back behind what an earlier read returned.
 * Sections: a counter under flock. One process at a time is in the section, and what it reads is what the last one wrote.
 * Appends: records at the end of one file. Each is there once, whole, those of one writer in its order.
 */

import { O_APPEND, O_EXCL } from '../../src/base/attr.js';
import type { ClientNode } from './client_node.js';
import { O_CREAT, type OpenFile } from './file_calls.js';
import { Worker } from './worker.js';
import type { World } from './world.js';

const O_RDONLY = 0;
const O_WRONLY = 1;
const O_RDWR = 2;
export const SLOT_BYTES = 64;
export const SLOTS = 6;
export const RECORD_BYTES = 32;

interface Written {
  readonly value: string;
  /** undefined: the zeros that were there first. */
  readonly worker: Worker | undefined;
  readonly beganMs: number;
  /** Infinity while it is under way. */
  endedMs: number;
}

/** What a client had not written when it was disturbed may be there or not, now and later. */
function isUnsure({ worker }: Written): boolean {
  return worker?.isDisturbed === true;
}

export class Register {
  readonly #writes: Written[] = [{ value: '', worker: undefined, beganMs: -1, endedMs: -1 }];
  /** What reads have returned, and when they ended. */
  readonly #seen: { readonly write: Written; readonly endedMs: number }[] = [];

  begins(worker: Worker, value: string, nowMs: number): Written {
    const write = { value, worker, beganMs: nowMs, endedMs: Number.POSITIVE_INFINITY };
    this.#writes.push(write);
    return write;
  }

  /** @returns what is wrong with this read. */
  read(value: string, beganMs: number, endedMs: number): string | undefined {
    const write = this.#writes.find((one) => one.value === value);
    if (write === undefined) return `nobody wrote ${JSON.stringify(value)}`;
    const shown = value || 'the first value';
    if (write.beganMs > endedMs) return `${shown} was read before it was written`;
    for (const later of this.#writes) {
      if (isUnsure(later) || isUnsure(write) || later.endedMs >= beganMs) continue;
      if (write.endedMs < later.beganMs) {
        return `${shown} was read, but ${later.value} had replaced it ${beganMs - later.endedMs} ms before`;
      }
    }
    for (const seen of this.#seen) {
      if (isUnsure(seen.write) || isUnsure(write)) continue;
      if (seen.endedMs < beganMs && write.endedMs < seen.write.beganMs) {
        return `${shown} was read after ${seen.write.value} had been`;
      }
    }
    this.#seen.push({ write, endedMs });
    return undefined;
  }
}

export class RegisterWorker extends Worker {
  protected override readonly sharesData = true;
  readonly #registers: readonly Register[];
  readonly #count: number;

  constructor(world: World, node: ClientNode, name: string, registers: readonly Register[], count: number) {
    super(world, node, name);
    this.#registers = registers;
    this.#count = count;
  }

  protected async work(): Promise<void> {
    const writer = await this.process.open('/registers', O_RDWR | O_CREAT);
    const reader = await this.process.open('/registers', O_RDONLY);
    for (let index = 0; index < this.#count && !this.isStopping; index++) {
      const slot = this.rng.below(SLOTS);
      if (this.rng.chance(0.4)) await this.#write(writer, slot, `${this.name}.${index}`);
      else await this.#read(this.rng.chance(0.5) ? reader : writer, slot);
      if (this.rng.chance(0.05)) await this.does('fsync registers', () => this.process.fsync(writer));
      await this.think();
    }
    await this.process.close(reader);
    await this.process.close(writer);
  }

  async #write(file: OpenFile, slot: number, value: string): Promise<void> {
    const register = this.#registers[slot];
    if (register === undefined) return;
    const data = Buffer.alloc(SLOT_BYTES);
    data.write(value);
    const write = register.begins(this, value, this.world.scheduler.nowMs);
    await this.does(`write slot ${slot} = ${value}`, async () => {
      await this.process.pwrite(file, slot * SLOT_BYTES, data);
      write.endedMs = this.world.scheduler.nowMs;
    });
  }

  async #read(file: OpenFile, slot: number): Promise<void> {
    const beganMs = this.world.scheduler.nowMs;
    await this.does(`read slot ${slot}`, async () => {
      const data = await this.process.pread(file, slot * SLOT_BYTES, SLOT_BYTES);
      const value = data.toString('latin1').replace(/\0+$/, '');
      const bad = this.#registers[slot]?.read(value, beganMs, this.world.scheduler.nowMs);
      if (bad !== undefined) this.wrong(`slot ${slot}: ${bad}`);
    });
  }
}

/** The counter that sections guard. */
export class Section {
  /** Who is in it. */
  holder: SectionWorker | undefined;
  /** What the next must read; undefined after a holder was disturbed: it may have written or not. */
  value: number | undefined = 0;
  /** Who wrote it last. */
  writer: SectionWorker | undefined;
  entered = 0;
}

export class SectionWorker extends Worker {
  protected override readonly sharesData = true;
  readonly #section: Section;
  readonly #count: number;

  constructor(world: World, node: ClientNode, name: string, section: Section, count: number) {
    super(world, node, name);
    this.#section = section;
    this.#count = count;
  }

  protected async work(): Promise<void> {
    const section = this.#section;
    const file = await this.process.open('/counter', O_RDWR | O_CREAT);
    for (let index = 0; index < this.#count && !this.isStopping; index++) {
      const byRange = this.rng.chance(0.5);
      // Both kinds, in the same order: neither sees the other's.
      await this.does('flock', () => this.process.flock(file, 'exclusive'));
      if (byRange) await this.does('fcntl', () => this.process.fcntl(file, 'exclusive', 0, undefined));
      this.#enter();
      const value = Number(
        (await this.does('read counter', () => this.process.pread(file, 0, 16))).toString(),
      );
      this.#holds();
      // What a client had not written when it was thrown out is lost.
      const isSure = section.writer?.isDisturbed !== true;
      if (isSure && section.value !== undefined && section.value !== value) {
        this.wrong(`the counter is ${value}, not ${section.value}`);
      }
      section.value = undefined;
      const next = String(value + 1).padStart(16);
      await this.does(`write counter ${value + 1}`, () => this.process.pwrite(file, 0, Buffer.from(next)));
      this.#holds();
      section.value = value + 1;
      section.writer = this;
      section.holder = undefined;
      section.entered += 1;
      if (byRange) await this.does('unlock', () => this.process.fcntl(file, 'unlock', 0, undefined));
      await this.does('unlock', () => this.process.flock(file, 'unlock'));
      await this.think();
    }
    await this.process.close(file);
  }

  #enter(): void {
    const { holder } = this.#section;
    if (holder !== undefined && !holder.isDisturbed)
      this.wrong(`is in the section, and so is ${holder.name}`);
    if (holder !== undefined) this.#section.value = undefined;
    this.#section.holder = this;
  }

  /** Somebody else may be in the section by now if this one's client was thrown out. */
  #holds(): void {
    if (this.#section.holder !== this) this.wrong('was thrown out of the section');
  }
}

export class Appends {
  readonly acknowledged = new Map<string, { readonly worker: Worker; count: number }>();
}

export class AppendWorker extends Worker {
  protected override readonly sharesData = true;
  readonly #appends: Appends;
  readonly #count: number;

  constructor(world: World, node: ClientNode, name: string, appends: Appends, count: number) {
    super(world, node, name);
    this.#appends = appends;
    this.#count = count;
  }

  protected async work(): Promise<void> {
    const mine = { worker: this, count: 0 };
    this.#appends.acknowledged.set(this.name, mine);
    const file = await this.process.open('/appends', O_WRONLY | O_APPEND | O_CREAT);
    for (let index = 0; index < this.#count && !this.isStopping; index++) {
      const record = Buffer.from(`${this.name}:${index}`.padEnd(RECORD_BYTES - 1, '.').concat('\n'));
      await this.does(`append ${index}`, () => this.process.pwrite(file, 0, record));
      mine.count = index + 1;
      if (this.rng.chance(0.1)) await this.does('fsync appends', () => this.process.fsync(file));
      await this.think();
    }
    await this.process.close(file);
  }
}

/** @param content of the file that all appended to. @returns what is wrong with it. */
export function judgeAppends(content: Buffer, appends: Appends): string | undefined {
  const next = new Map<string, number>();
  for (let at = 0; at < content.length; at += RECORD_BYTES) {
    const text = content.toString('latin1', at, at + RECORD_BYTES);
    const match = /^(\w+):(\d+)\.*\n$/.exec(text);
    if (match === null) {
      const isLost = [...appends.acknowledged.values()].some(({ worker }) => worker.isDisturbed);
      // What an evicted client had not written leaves a hole where others went on behind it.
      if (isLost && /^\0+$/.test(text)) continue;
      return `at ${at}: ${JSON.stringify(text)}`;
    }
    const [, name = '', number = ''] = match;
    const known = appends.acknowledged.get(name);
    if (known === undefined) return `a record of ${name}, which wrote none`;
    const expected = next.get(name) ?? 0;
    const isExact = !known.worker.isDisturbed;
    if (Number(number) !== expected && (isExact || Number(number) < expected)) {
      return `${name}:${number} at ${at}, not ${expected}`;
    }
    next.set(name, Number(number) + 1);
  }
  for (const [name, { worker, count }] of appends.acknowledged) {
    const there = next.get(name) ?? 0;
    if (!worker.isDisturbed && there !== count) return `${there} records of ${name}, not ${count}`;
  }
  return undefined;
}

/** A file that only one can make: open(O_EXCL) as a lock across clients. */
export class ExclusiveWorker extends Worker {
  readonly #holders: Set<ExclusiveWorker>;
  readonly #count: number;

  constructor(world: World, node: ClientNode, name: string, holders: Set<ExclusiveWorker>, count: number) {
    super(world, node, name);
    this.#holders = holders;
    this.#count = count;
  }

  protected async work(): Promise<void> {
    for (let index = 0; index < this.#count && !this.isStopping; index++) {
      let file: OpenFile | undefined;
      const errno = await this.does('make the only one', () =>
        this.errno(async () => {
          file = await this.process.open('/only', O_RDWR | O_CREAT | O_EXCL);
        }),
      );
      if (errno === 'EEXIST') {
        await this.think();
        continue;
      }
      if (file === undefined) {
        this.wrong(`open(O_EXCL): ${errno}`);
        return;
      }
      for (const other of this.#holders) {
        if (!other.isDisturbed) this.wrong(`made a file that ${other.name} had made`);
      }
      this.#holders.clear();
      this.#holders.add(this);
      const made = file;
      await this.think();
      this.#holders.delete(this);
      await this.does('remove the only one', () => this.process.unlink('/only'));
      await this.process.close(made);
    }
  }
}
