/**
 * The meta device: an ordered map with durable transactions, in place of lmdb.
 *
 * A commit is durable as a whole when its promise resolves. When its program is killed before, it is there as a whole or
 * not at all, by chance. What get() returns is overwritten by the next call, as lmdb's is.
 *
 * Below the map are bytes, as the probe of a meta device reads them: two meta pages and one leaf with the superblock, made
 * up when somebody reads.
 */

import { FsError } from '../../src/base/errno.js';
import { nodeChecksum } from '../../src/runtime/node_checksum.js';
import { isOfEveryTransaction, KEY } from '../../src/storage/format/keys.js';
import { decodeSuperblock, type SuperblockRecord } from '../../src/storage/format/superblock.js';
import { emptyDatabase, LMDB_PAGE_BYTES } from '../../src/storage/meta/meta_probe.js';
import { withoutChecksum } from '../../src/storage/meta/record_checksums.js';
import type { MetaDatabase, MetaMedium, Writer } from '../../src/storage/meta_medium.js';
import { SimDisk } from './disk.js';
import type { Program } from './machine.js';
import type { SimRng } from './rng.js';
import type { Scheduler } from './scheduler.js';

const LEAF_PAGE = 2;
const P_LEAF = 0x02;

interface UnderWay {
  readonly program: Program;
  readonly changes: readonly Change[];
}

interface Change {
  readonly key: string;
  readonly value: Buffer | undefined;
}

export class SimMetaDisk {
  readonly sizeBytes: number;
  /** The bytes of the redo log, at their places on the device. */
  readonly log: SimDisk;
  readonly #scheduler: Scheduler;
  readonly #rng: SimRng;
  readonly #records: Map<string, Buffer>;
  /** Keys in order. */
  readonly #keys: string[];
  readonly #underWay = new Set<UnderWay>();
  #bytes = 0;
  latencyMs = 0.4;
  #slowChance = 0;
  #commitErrorChance = 0;
  /** Before a transaction is applied. */
  onCommit: (program: Program, get: (key: Buffer) => Buffer | undefined) => void = () => undefined;

  constructor(sizeBytes: number, scheduler: Scheduler, rng: SimRng, image?: SimMetaDisk) {
    this.sizeBytes = sizeBytes;
    this.log = new SimDisk('the redo log', sizeBytes, scheduler, rng, image?.log);
    this.#scheduler = scheduler;
    this.#rng = rng;
    this.#records = new Map(image?.records() ?? []);
    this.#keys = [...this.#records.keys()].sort();
    for (const [key, value] of this.#records) this.#bytes += key.length + value.length;
  }

  get slowChance(): number {
    return this.#slowChance;
  }
  set slowChance(chance: number) {
    this.#slowChance = chance;
    this.log.slowChance = chance;
  }
  /** How likely a commit fails, whether it goes to the log or to the tree. */
  get commitErrorChance(): number {
    return this.#commitErrorChance;
  }
  set commitErrorChance(chance: number) {
    this.#commitErrorChance = chance;
    this.log.writeErrorChance = chance;
  }

  records(): ReadonlyMap<string, Buffer> {
    return this.#records;
  }

  /** About as many as lmdb needs for these records. */
  get usedPages(): number {
    return 8 + Math.ceil((1.5 * this.#bytes) / LMDB_PAGE_BYTES);
  }

  /** As whoever starts next finds it. */
  superblock(): SuperblockRecord {
    const value = this.#records.get(String.fromCharCode(KEY.superblock));
    if (value === undefined) throw new Error('the meta device is not formatted');
    return decodeSuperblock(value, nodeChecksum, 'meta');
  }

  medium(program: Program): MetaMedium {
    return {
      open: () => this.#open(program),
      withRawReader: async (use) => {
        await this.#scheduler.sleep(this.latencyMs, program);
        const image = this.#image();
        return use(async (offset, target) => {
          target.fill(0);
          image.copy(
            target,
            0,
            Math.min(offset, image.length),
            Math.min(offset + target.length, image.length),
          );
        });
      },
      writeRaw: async (pieces) => {
        await this.#scheduler.sleep(this.latencyMs, program);
        if (!pieces.some(({ offset }) => offset === 0)) return;
        this.#records.clear();
        this.#keys.length = 0;
        this.#bytes = 0;
      },
      openLog: async () => {
        const device = this.log.openShared(program);
        return {
          read: async (offset, lengthBytes) => {
            const bytes = Buffer.alloc(lengthBytes);
            await device.read(offset, bytes);
            return bytes;
          },
          write: async (offset, bytes) => {
            // The caller uses its memory again at once.
            await device.write(offset, [Buffer.from(bytes)]);
            await device.flush();
          },
          close: () => device.close(),
        };
      },
    };
  }

  #open(program: Program): MetaDatabase {
    program.onEnd(() => {
      for (const commit of [...this.#underWay]) {
        if (commit.program !== program) continue;
        this.#underWay.delete(commit);
        if (this.#rng.chance(0.5)) this.#apply(program, commit.changes);
      }
    });
    let scratch = Buffer.alloc(4096);
    let committing: Promise<void> = Promise.resolve();
    let lastRecords = 0;
    return {
      get: (key) => {
        const value = this.#records.get(key.toString('latin1'));
        if (value === undefined) return undefined;
        if (value.length > scratch.length) scratch = Buffer.alloc(2 * value.length);
        value.copy(scratch);
        return scratch.subarray(0, value.length);
      },
      prefetch: () => undefined,
      range: (start, end, limit = Number.POSITIVE_INFINITY) => this.#range(start, end, limit),
      commit: (write) => {
        const changes = collect(write);
        committing = this.#commit(program, changes).then(() => {
          lastRecords = changes.filter(({ key }) => !isOfEveryTransaction(Buffer.from(key, 'latin1'))).length;
        });
        return committing;
      },
      carriesBytes: 0,
      use: () => ({
        usedPages: this.usedPages,
        lastPage: 0,
        lastRecords,
        waitingRecords: 0,
        waitingBytes: 0,
      }),
      close: async () => {
        await committing.catch(() => undefined);
      },
    };
  }

  #range(start: Buffer, end: Buffer, limit: number): { key: Buffer; value: Buffer }[] {
    const keys = this.#keys;
    const last = end.toString('latin1');
    const found: { key: Buffer; value: Buffer }[] = [];
    for (let at = lowerBound(keys, start.toString('latin1')); found.length < limit; at++) {
      const key = keys[at];
      if (key === undefined || key >= last) break;
      const value = this.#records.get(key);
      if (value !== undefined) found.push({ key: Buffer.from(key, 'latin1'), value: Buffer.from(value) });
    }
    return found;
  }

  async #commit(program: Program, changes: readonly Change[]): Promise<void> {
    const commit: UnderWay = { program, changes };
    this.#underWay.add(commit);
    const slow = this.slowChance > 0 && this.#rng.chance(this.slowChance) ? 100 : 1;
    const delayMs = this.latencyMs * (0.5 + this.#rng.fraction()) * slow;
    const fails = this.commitErrorChance > 0 && this.#rng.chance(this.commitErrorChance);
    // It goes on even while the program is stopped (docs/recovery/ownership.md, "What the block cannot do").
    this.#scheduler.after(delayMs, () => {
      if (this.#underWay.delete(commit) && !fails) this.#apply(program, changes);
    });
    await this.#scheduler.sleep(delayMs, program);
    if (fails) throw new FsError('EIO', 'commit on the meta device failed: input/output error');
  }

  #apply(program: Program, changes: readonly Change[]): void {
    const byKey = new Map(changes.map(({ key, value }) => [key, value]));
    this.onCommit(program, (key) => {
      const value = byKey.get(key.toString('latin1'));
      return value === undefined ? undefined : withoutChecksum(value);
    });
    for (const [key, value] of byKey) {
      const old = this.#records.get(key);
      if (old !== undefined) this.#bytes -= key.length + old.length;
      if ((old === undefined) !== (value === undefined)) {
        const at = lowerBound(this.#keys, key);
        if (value === undefined) this.#keys.splice(at, 1);
        else this.#keys.splice(at, 0, key);
      }
      if (value === undefined) {
        this.#records.delete(key);
      } else {
        // Copied when it is applied: who changes a value before its commit is over stores what it made of it.
        this.#records.set(key, Buffer.from(value));
        this.#bytes += key.length + value.length;
      }
    }
  }

  /** Pages that hold the superblock where lmdb would have it; none when there is no database. */
  #image(): Buffer {
    const superblock = this.#records.get(String.fromCharCode(KEY.superblock));
    if (superblock === undefined) return Buffer.alloc(0);
    const metas = emptyDatabase(this.sizeBytes);
    for (const at of [0, LMDB_PAGE_BYTES]) {
      metas.writeUInt16LE(1, at + 96 + 6); // depth of the main tree
      metas.writeBigUInt64LE(1n, at + 96 + 16); // leaf pages
      metas.writeBigUInt64LE(1n, at + 96 + 32); // entries
      metas.writeBigUInt64LE(BigInt(LEAF_PAGE), at + 96 + 40);
      metas.writeBigUInt64LE(BigInt(LEAF_PAGE), at + 144);
    }
    const leaf = Buffer.alloc(LMDB_PAGE_BYTES);
    const nodeAt = 64;
    leaf.writeBigUInt64LE(BigInt(LEAF_PAGE), 0);
    leaf.writeUInt16LE(P_LEAF, 18);
    leaf.writeUInt16LE(2, 20); // lower: one node offset
    leaf.writeUInt16LE(nodeAt, 22); // upper
    leaf.writeUInt16LE(nodeAt, 24);
    const node = 24 + nodeAt;
    leaf.writeUInt32LE(superblock.length, node);
    leaf.writeUInt16LE(0, node + 4);
    leaf.writeUInt16LE(1, node + 6);
    leaf[node + 8] = KEY.superblock;
    superblock.copy(leaf, node + 9);
    return Buffer.concat([metas, leaf]);
  }
}

function collect(write: (writer: Writer) => void): Change[] {
  const changes: Change[] = [];
  write({
    put: (key, value) => changes.push({ key: key.toString('latin1'), value }),
    remove: (key) => changes.push({ key: key.toString('latin1'), value: undefined }),
  });
  return changes;
}

function lowerBound(keys: readonly string[], key: string): number {
  let low = 0;
  let high = keys.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if ((keys[middle] ?? '') < key) low = middle + 1;
    else high = middle;
  }
  return low;
}
