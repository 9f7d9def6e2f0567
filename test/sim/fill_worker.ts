/**
 * A process that fills the filesystem and empties it again. What it was told is written (by write(2) and fsync) is there,
 * ENOSPC changes nothing that was there before, and removing always works.
 */

import { O_TRUNC } from '../../src/base/attr.js';
import type { ClientNode } from './client_node.js';
import { O_CREAT, type OpenFile } from './file_calls.js';
import { SystemError } from './system_error.js';
import { Worker } from './worker.js';
import type { World } from './world.js';

const O_RDONLY = 0;
const O_RDWR = 2;
const CHUNK_BYTES = 256 << 10;
const FILES_MAX = 6;
const CHUNKS_MAX = 24;

interface Filled {
  readonly path: string;
  readonly byte: number;
  /** Bytes that fsync promised. */
  readonly synced: number;
}

export class FillWorker extends Worker {
  readonly #count: number;
  readonly #files: Filled[] = [];
  /** Times that there was no space: the run was about that. */
  refusals = 0;

  constructor(world: World, node: ClientNode, name: string, count: number) {
    super(world, node, name);
    this.#count = count;
  }

  protected async work(): Promise<void> {
    for (let index = 0; index < this.#count && !this.isStopping; index++) {
      if (this.#files.length === FILES_MAX || (this.#files.length > 0 && this.rng.chance(0.3))) {
        await this.#check();
      } else {
        await this.#fill(`/${this.name}.${index}`);
      }
      await this.think();
    }
    while (this.#files.length > 0) await this.#check();
  }

  async #fill(path: string): Promise<void> {
    const byte = this.rng.between(1, 255);
    let file: OpenFile;
    try {
      file = await this.does(`open ${path}`, () => this.process.open(path, O_CREAT | O_RDWR | O_TRUNC));
    } catch (error) {
      return this.#noSpace(error);
    }
    const chunk = Buffer.alloc(CHUNK_BYTES, byte);
    const chunks = this.rng.between(1, CHUNKS_MAX);
    let synced = 0;
    try {
      for (let index = 0; index < chunks; index++) {
        await this.does(`fill ${path} ${index}`, () => this.process.pwrite(file, index * CHUNK_BYTES, chunk));
      }
      await this.does(`fsync ${path}`, () => this.process.fsync(file));
      synced = chunks * CHUNK_BYTES;
    } catch (error) {
      this.#noSpace(error);
    }
    this.#files.push({ path, byte, synced });
    try {
      await this.does(`close ${path}`, () => this.process.close(file));
    } catch (error) {
      this.#noSpace(error);
    }
  }

  /** Looks at one file and removes it. */
  async #check(): Promise<void> {
    const [filled] = this.#files.splice(this.rng.below(this.#files.length), 1);
    if (filled === undefined) return;
    const { path, byte, synced } = filled;
    const expected = Buffer.alloc(CHUNK_BYTES, byte);
    await this.does(`check ${path}`, async () => {
      // Mostly in large requests; page by page it takes thirty times as many.
      const file = await this.process.open(path, this.rng.chance(0.2) ? O_RDONLY : O_RDWR);
      for (let at = 0; at < synced; at += CHUNK_BYTES) {
        const content = await this.process.pread(file, at, CHUNK_BYTES);
        this.expect(content.equals(expected), () => `${path} at ${at} is not what was synced`);
      }
      await this.process.close(file);
    });
    await this.does(`unlink ${path}`, () => this.process.unlink(path));
  }

  #noSpace(error: unknown): void {
    if (!(error instanceof SystemError) || error.code !== 'ENOSPC') throw error;
    this.refusals += 1;
  }
}
