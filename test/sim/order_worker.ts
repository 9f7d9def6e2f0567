/**
 * A process that makes one name after the other in a folder of its own: it writes a file under another name first, and then renames
 * it. Whatever becomes of its client, what is there at the end is a prefix of what it did: no number is missing below the last
 * one, and no file is short. What it has synced is there.
 */

import type { ClientNode } from './client_node.js';
import { O_CREAT, type OpenFile, type Process } from './file_calls.js';
import { Worker } from './worker.js';
import type { World } from './world.js';

const O_WRONLY = 1;

function contentOf(index: number): Buffer {
  // Some of them do not fit a BATCH.
  return Buffer.alloc(index % 7 === 0 ? 9000 : 10 + (index % 3000), 1 + (index % 255));
}

export class OrderWorker extends Worker {
  readonly base: string;
  readonly #count: number;
  /** Numbers below have been made. */
  #made = 0;
  /** Numbers below have been synced. */
  #synced = 0;

  constructor(world: World, node: ClientNode, name: string, count: number) {
    super(world, node, name);
    this.base = `/${name}`;
    this.#count = count;
  }

  protected override get hasClosedUnsynced(): boolean {
    return this.#synced < this.#made;
  }

  protected async work(): Promise<void> {
    await this.does(`mkdir ${this.base}`, () => this.process.mkdir(this.base));
    for (let index = 0; index < this.#count && !this.isStopping; index++) {
      await this.#make(index);
      if (this.rng.chance(0.2)) await this.think();
    }
  }

  async #make(index: number): Promise<void> {
    const tmp = `${this.base}/tmp`;
    let file: OpenFile | undefined;
    await this.does(`create ${tmp}`, async () => {
      file = await this.process.open(tmp, O_WRONLY | O_CREAT);
    });
    if (file === undefined) return;
    const made = file;
    await this.does(`write ${index}`, () => this.process.pwrite(made, 0, contentOf(index)));
    const syncs = this.rng.chance(0.05);
    if (syncs) await this.does(`fsync ${index}`, () => this.process.fsync(made));
    if (syncs) this.#synced = index;
    await this.does(`close ${index}`, () => this.process.close(made));
    await this.does(`rename to ${index}`, () => this.process.rename(tmp, `${this.base}/${index}`));
    this.#made = index + 1;
  }

  /** With a process on a fresh mount, when everybody else has left. @returns what is wrong. */
  async judge(process: Process): Promise<string | undefined> {
    const isWhole = this.state === 'done' && !this.isDisturbed && !this.mayHaveLostUntold;
    const names = await process.readdir(this.base).catch(() => undefined);
    if (names === undefined) return isWhole ? `${this.base} is gone` : undefined;
    // The last call of a client that was evicted may have taken effect in its next session, in which what came before is lost.
    const isCertain = (number: number): boolean => isWhole || number !== this.#made;
    const numbers = names
      .filter((name) => name !== 'tmp')
      .map(Number)
      .filter(isCertain);
    const last = Math.max(-1, ...numbers);
    if (last + 1 !== numbers.length)
      return `${this.base} holds ${names.join(' ')}: some are missing below ${last}`;
    const least = isWhole ? this.#made : this.#synced;
    if (numbers.length < least)
      return `${this.base} holds ${numbers.length} names, of ${least} that must be there`;
    if (!isWhole && this.world.dataErrors > 0) return undefined;
    for (const number of numbers) {
      const wrong = await this.#judgeFile(process, number);
      if (wrong !== undefined) return wrong;
    }
    return undefined;
  }

  async #judgeFile(process: Process, number: number): Promise<string | undefined> {
    const file = await process.open(`${this.base}/${number}`, 0);
    const got = await process.pread(file, 0, 20_000);
    await process.close(file);
    if (got.equals(contentOf(number))) return undefined;
    return `${this.base}/${number} has ${got.length} bytes, not those ${contentOf(number).length} that were written`;
  }
}
