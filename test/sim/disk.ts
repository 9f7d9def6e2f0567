/**
 * A block device that servers share: what is durable, what only its volatile cache holds, and what is under way.
 *
 * - A write reads the caller's memory when it ends, not when it begins: memory that is changed too early is stored so.
 * - A loss of power keeps, loses or tears each block that was not flushed, by chance; torn means that some of its sectors
 *   are new. Writes under way end in any of these ways when their program is killed, too.
 * - One program at a time has it open on a machine (O_EXCL); another machine may open it beside: only the multi-mount block
 *   keeps them apart, and `onWrite` is where a checker looks.
 */

import { FsError } from '../../src/base/errno.js';
import type { BlockDevice } from '../../src/runtime/ports.js';
import type { HowEnded, Program } from './machine.js';
import type { SimRng } from './rng.js';
import type { Scheduler } from './scheduler.js';

const BLOCK_BYTES = 4096;
const SECTOR_BYTES = 512;
const ZEROS = Buffer.alloc(BLOCK_BYTES);

interface UnderWay {
  readonly program: Program;
  readonly apply: (tear: boolean) => void;
}

export class SimDisk {
  readonly name: string;
  readonly sizeBytes: number;
  readonly #scheduler: Scheduler;
  readonly #rng: SimRng;
  readonly #durable: Map<number, Buffer>;
  /** Written since the last flush. */
  readonly #cache = new Map<number, Buffer>();
  /** Of these, those that were written past the kernel's cache. */
  readonly #direct = new Set<number>();
  readonly #underWay = new Set<UnderWay>();
  readonly #holders = new Set<Program>();
  /** Usual time of one request. */
  latencyMs = 0.08;
  /** How likely a request takes a hundred times as long. */
  slowChance = 0;
  /** How likely a request fails with EIO. */
  readErrorChance = 0;
  writeErrorChance = 0;
  /** Of a flush: then the kernel forgets what it could not write, as far as chance wants. */
  flushErrorChance = 0;
  /** Reads and writes that failed. */
  errors = 0;
  onWrite: (program: Program, offset: number, lengthBytes: number) => void = () => undefined;

  constructor(name: string, sizeBytes: number, scheduler: Scheduler, rng: SimRng, image?: SimDisk) {
    this.name = name;
    this.sizeBytes = sizeBytes;
    this.#scheduler = scheduler;
    this.#rng = rng;
    this.#durable = new Map(image?.contents() ?? []);
  }

  /** As a reader sees it now. Blocks never change once they are there. */
  contents(): Map<number, Buffer> {
    return new Map([...this.#durable, ...this.#cache]);
  }

  /** @throws FsError EBUSY when a program of this machine has it open. */
  open(program: Program): BlockDevice {
    for (const holder of this.#holders) {
      if (holder.alive && holder.machine === program.machine) {
        throw new FsError('EBUSY', `${this.name} is in use by another program`);
      }
    }
    this.#holders.add(program);
    return { ...this.openShared(program), close: async () => void this.#holders.delete(program) };
  }

  /** Beside whoever has it. */
  openShared(program: Program): BlockDevice {
    program.onEnd((how) => this.#programEnded(program, how));
    return {
      path: this.name,
      sizeBytes: this.sizeBytes,
      read: (offset, target) => this.#read(program, offset, target),
      write: (offset, chunks) => this.#write(program, offset, chunks, false),
      readOnce: (offset, target) => this.#read(program, offset, target),
      memory: (lengthBytes) => Buffer.alloc(lengthBytes),
      readDirect: (offset, target) => this.#read(program, offset, target),
      writeDirect: (offset, bytes) => this.#write(program, offset, [bytes], true),
      flush: () => this.#flush(program),
      discard: async () => undefined,
      close: async () => undefined,
    };
  }

  #programEnded(program: Program, how: HowEnded): void {
    this.#holders.delete(program);
    for (const write of [...this.#underWay]) {
      if (write.program !== program) continue;
      this.#underWay.delete(write);
      const fate = this.#rng.below(3);
      if (fate > 0) write.apply(fate === 2);
    }
    if (how === 'power') this.#lose(() => true);
  }

  /** Of what is not durable, these blocks are gone, as far as chance wants. */
  #lose(which: (block: number) => boolean): void {
    for (const [block, content] of [...this.#cache]) {
      if (!which(block)) continue;
      this.#cache.delete(block);
      const fate = this.#rng.below(3);
      if (fate === 1) this.#durable.set(block, content);
      else if (fate === 2) this.#durable.set(block, this.#torn(this.#durable.get(block) ?? ZEROS, content));
    }
  }

  #torn(old: Buffer, content: Buffer): Buffer {
    const torn = Buffer.from(old);
    for (let at = 0; at < BLOCK_BYTES; at += SECTOR_BYTES) {
      if (this.#rng.chance(0.5)) content.copy(torn, at, at, at + SECTOR_BYTES);
    }
    return torn;
  }

  #delayMs(): number {
    const slow = this.slowChance > 0 && this.#rng.chance(this.slowChance) ? 100 : 1;
    return this.latencyMs * (0.5 + this.#rng.fraction()) * slow;
  }

  #check(offset: number, length: number): void {
    if (offset + length > this.sizeBytes) throw new FsError('EIO', `past the end of ${this.name}`);
  }

  async #read(program: Program, offset: number, target: Uint8Array): Promise<void> {
    await this.#scheduler.sleep(this.#delayMs(), program);
    this.#check(offset, target.length);
    if (this.readErrorChance > 0 && this.#rng.chance(this.readErrorChance)) {
      this.errors += 1;
      throw new FsError('EIO', `read error on ${this.name}`);
    }
    for (let at = 0; at < target.length; ) {
      const { block, start, end } = blockPart(offset + at, target.length - at);
      const content = this.#cache.get(block) ?? this.#durable.get(block) ?? ZEROS;
      target.set(content.subarray(start, end), at);
      at += end - start;
    }
  }

  async #write(
    program: Program,
    offset: number,
    chunks: readonly Uint8Array[],
    isDirect: boolean,
  ): Promise<void> {
    const length = chunks.reduce((sum, chunk) => sum + chunk.length, 0);
    this.#check(offset, length);
    this.onWrite(program, offset, length);
    const fails = this.writeErrorChance > 0 && this.#rng.chance(this.writeErrorChance);
    const write: UnderWay = {
      program,
      apply: (tear) => this.#put(offset, Buffer.concat(chunks), tear, isDirect),
    };
    this.#underWay.add(write);
    const delayMs = this.#delayMs();
    // The device goes on with it even while the program is stopped.
    this.#scheduler.after(delayMs, () => {
      // Of one that fails, any part may be there.
      if (this.#underWay.delete(write) && (!fails || this.#rng.chance(0.5))) write.apply(fails);
    });
    await this.#scheduler.sleep(delayMs, program);
    if (fails) this.errors += 1;
    if (fails) throw new FsError('EIO', `write error on ${this.name}`);
  }

  /** @param bytes nobody changes any more. */
  #put(offset: number, bytes: Buffer, tear: boolean, isDirect: boolean): void {
    for (let at = 0; at < bytes.length; ) {
      const { block, start, end } = blockPart(offset + at, bytes.length - at);
      const old = this.#cache.get(block) ?? this.#durable.get(block) ?? ZEROS;
      let content = bytes.subarray(at, at + end - start);
      if (content.length < BLOCK_BYTES) {
        content = Buffer.from(old);
        bytes.copy(content, start, at, at + end - start);
      }
      if (isDirect) this.#direct.add(block);
      else this.#direct.delete(block);
      if (!tear || this.#rng.chance(0.5)) this.#cache.set(block, tear ? this.#torn(old, content) : content);
      at += end - start;
    }
  }

  async #flush(program: Program): Promise<void> {
    // What was written before this began is durable when it ends; later writes may be or not.
    const written = [...this.#cache];
    await this.#scheduler.sleep(this.#delayMs() * 3, program);
    if (this.flushErrorChance > 0 && this.#rng.chance(this.flushErrorChance)) {
      this.#lose((block) => !this.#direct.has(block));
      throw new FsError('EIO', `flush error on ${this.name}`);
    }
    for (const [block, content] of written) {
      this.#durable.set(block, content);
      if (this.#cache.get(block) === content) this.#cache.delete(block);
    }
  }
}

function blockPart(offset: number, length: number): { block: number; start: number; end: number } {
  const block = Math.floor(offset / BLOCK_BYTES);
  const start = offset - block * BLOCK_BYTES;
  return { block, start, end: Math.min(BLOCK_BYTES, start + length) };
}
