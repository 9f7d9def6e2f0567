/**
 * Content against checksums: reads every written block of every file, and compares it with its checksum. It reads runs
 * in batches of a few megabytes, in the order of the device, and compares one batch while it reads the next.
 */

import { FsError } from '../../base/errno.js';
import type { Fid } from '../../base/ids.js';
import type { BlockDevice } from '../../runtime/ports.js';
import { BLOCK_BYTES, MAP_BLOCKS } from '../format/block_map.js';
import { fidKey, KEY, readU64 } from '../format/keys.js';
import { getU64, isInodeLength } from '../format/records.js';
import type { InodeIndex } from './inodes.js';
import { FidCursor, type FsckContext } from './scan.js';
import { checkBlockMap } from './space.js';

/** A batch ends when it has at least this many blocks or runs; it exceeds them by at most one block map. */
const BATCH_BLOCKS = 1024;
const BATCH_RUNS = 256;

interface Run {
  readonly fid: Fid;
  /** Block number in the file. */
  readonly block: number;
  readonly place: number;
  readonly crcs: Uint32Array;
  /** Size of the file; undefined if its record cannot be read. */
  readonly sizeBytes: number | undefined;
}

interface Batch {
  readonly runs: readonly Run[];
  readonly blocks: number;
}

export async function checkBlocks(
  context: FsckContext,
  index: InodeIndex,
  totalBlocks: number,
  device: BlockDevice,
): Promise<void> {
  context.progress('blocks', 0);
  const batches = new Batches(context, index, totalBlocks);
  const check = new ContentCheck(context, device);
  const bytes = (BATCH_BLOCKS + MAP_BLOCKS) * BLOCK_BYTES;
  const slabs = [Buffer.allocUnsafeSlow(bytes), Buffer.allocUnsafeSlow(bytes)];
  let batch = batches.next();
  let slab = slabs[0] ?? Buffer.alloc(0);
  let reading = check.read(batch, slab);
  while (batch.blocks > 0) {
    await reading;
    const next = batches.next();
    const other = (slab === slabs[0] ? slabs[1] : slabs[0]) ?? Buffer.alloc(0);
    reading = check.read(next, other);
    // The next turn of the loop awaits it; until then a rejection must not count as unhandled.
    reading.catch(() => undefined);
    check.compare(batch, slab);
    context.counts.checksums += batch.blocks;
    context.progress('blocks', context.counts.checksums);
    batch = next;
    slab = other;
  }
  await reading;
}

/** Yields the runs of all files that exist, in FID order; within a batch they are in the order of the device. */
class Batches {
  readonly #context: FsckContext;
  readonly #index: InodeIndex;
  readonly #totalBlocks: number;
  readonly #blockMaps: FidCursor;

  constructor(context: FsckContext, index: InodeIndex, totalBlocks: number) {
    this.#context = context;
    this.#index = index;
    this.#totalBlocks = totalBlocks;
    this.#blockMaps = new FidCursor(context, KEY.blockMap);
  }

  next(): Batch {
    const runs: Run[] = [];
    let blocks = 0;
    while (blocks < BATCH_BLOCKS && runs.length < BATCH_RUNS) {
      const record = this.#blockMaps.next();
      if (record === undefined) break;
      const { key, value } = record;
      const fid = readU64(key, 1) as Fid;
      if (this.#index.find(fid) < 0) continue;
      const start = readU64(key, 9) * MAP_BLOCKS;
      const sizeBytes = this.#sizeOf(fid);
      checkBlockMap(value, this.#totalBlocks, ({ first, count, place, written, crcAt }) => {
        if (!written) return;
        const crcs = Uint32Array.from({ length: count }, (_, at) => value.readUInt32LE(crcAt + 4 * at));
        runs.push({ fid, block: start + first, place, crcs, sizeBytes });
        blocks += count;
      });
    }
    return { runs: runs.sort((a, b) => a.place - b.place), blocks };
  }

  #sizeOf(fid: Fid): number | undefined {
    const value = this.#context.db.get(fidKey(KEY.inode, fid));
    return value === undefined || !isInodeLength(value.length) ? undefined : getU64(value, 24);
  }
}

class ContentCheck {
  readonly #context: FsckContext;
  readonly #device: BlockDevice;
  readonly #unread = new Set<Run>();

  constructor(context: FsckContext, device: BlockDevice) {
    this.#context = context;
    this.#device = device;
  }

  /** Reads the runs one behind the other into the slab; neighbours on the device in one read. */
  async read({ runs }: Batch, slab: Buffer): Promise<void> {
    const reads: Promise<void>[] = [];
    let at = 0;
    for (let index = 0; index < runs.length; ) {
      const together: Run[] = [];
      let end: number | undefined;
      let length = 0;
      for (let run = runs[index]; run !== undefined && (end ?? run.place) === run.place; run = runs[index]) {
        together.push(run);
        length += run.crcs.length;
        end = run.place + run.crcs.length;
        index++;
      }
      const part = slab.subarray(at * BLOCK_BYTES, (at + length) * BLOCK_BYTES);
      at += length;
      reads.push(this.#readTogether(together, part));
    }
    await Promise.all(reads);
  }

  async #readTogether(runs: readonly Run[], target: Buffer): Promise<void> {
    const [first] = runs;
    if (first === undefined) return;
    try {
      await this.#device.read(first.place * BLOCK_BYTES, target);
    } catch (thrown) {
      if (!(thrown instanceof FsError)) throw thrown;
      for (const run of runs) await this.#readSingly(run);
    }
  }

  /** The device failed somewhere in the run: reads each block by itself to find out where. */
  async #readSingly(run: Run): Promise<void> {
    this.#unread.add(run);
    const block = Buffer.alloc(BLOCK_BYTES);
    for (const [at, crc] of run.crcs.entries()) {
      try {
        await this.#device.read((run.place + at) * BLOCK_BYTES, block);
      } catch (thrown) {
        if (!(thrown instanceof FsError)) throw thrown;
        this.#report(run, at, at + 1, 'cannot be read');
        continue;
      }
      if (this.#context.runtime.checksum.crc32cBlocks(block, BLOCK_BYTES)[0] !== crc) {
        this.#report(run, at, at + 1, 'does not match its checksum');
      }
    }
  }

  compare({ runs }: Batch, slab: Buffer): void {
    let from = 0;
    for (const run of runs) {
      const end = from + run.crcs.length * BLOCK_BYTES;
      if (!this.#unread.delete(run)) this.#compareRun(run, slab.subarray(from, end));
      from = end;
    }
  }

  #compareRun(run: Run, content: Buffer): void {
    const { crcs, block, sizeBytes } = run;
    const found = this.#context.runtime.checksum.crc32cBlocks(content, BLOCK_BYTES);
    for (let at = 0; at < crcs.length; ) {
      let end = at;
      while (end < crcs.length && found[end] !== crcs[end]) end++;
      if (end > at) this.#report(run, at, end, 'does not match its checksum');
      at = end + 1;
    }
    // Behind the end of the file there must be zeros: an operation that makes the file longer relies on them.
    const tail = sizeBytes === undefined ? 0 : sizeBytes % BLOCK_BYTES;
    const last = sizeBytes === undefined ? -1 : Math.floor(sizeBytes / BLOCK_BYTES) - block;
    if (tail === 0 || last < 0 || last >= crcs.length || found[last] !== crcs[last]) return;
    if (content.subarray(last * BLOCK_BYTES + tail, (last + 1) * BLOCK_BYTES).some((byte) => byte !== 0)) {
      const text = `inode ${run.fid} has something other than zeros behind its end at ${sizeBytes}`;
      this.#context.findings.add({ kind: 'content', fid: run.fid, text });
    }
  }

  #report({ fid, block, place }: Run, from: number, end: number, what: string): void {
    const one = end === from + 1;
    const blocks = one ? `block ${block + from}` : `blocks ${block + from} to ${block + end - 1}`;
    const where = `byte ${(place + from) * BLOCK_BYTES} of the data device`;
    const fault = one
      ? what
      : what.replace('does', 'do').replace('its', 'their').replace('checksum', 'checksums');
    this.#context.findings.add({
      kind: 'checksum',
      fid,
      text: `of inode ${fid}, ${blocks} (at ${where}) ${fault}`,
    });
  }
}
