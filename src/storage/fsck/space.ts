/**
 * Blocks of the data device. Every block that a block map names must be on the device, behind the reserved blocks, and
 * must have no other owner; the free-space bitmaps must say the same. Fsck remembers only one bit for each block.
 */

import type { Fid } from '../../base/ids.js';
import { MAP_BLOCKS } from '../format/block_map.js';
import { KEY, readU64, spaceGroupKey } from '../format/keys.js';
import { getU64 } from '../format/records.js';
import { FIRST_DATA_BLOCK } from '../format/superblock.js';
import { GROUP_BLOCKS } from '../meta/extent_allocator.js';
import { type FsckContext, isSoundKey, reportKey, scanType } from './scan.js';

const GROUP_WORDS = GROUP_BLOCKS / 32;
const ALL = 0xffff_ffff;
const RECORD_BYTES = 4 + 4 * GROUP_WORDS;
const VERSION = 1;
const KIND_BITMAP = 0;
const KIND_FULL = 1;
const MAP_HEADER = 4;
const RUN_BYTES = 12;
/** Most blocks with several owners whose owners fsck finds out. */
const SHARED_MAX = 100_000;

/** A run of blocks of a block map. */
export interface BlockRun {
  /** Index within the block map. */
  readonly first: number;
  readonly count: number;
  /** Device block. */
  readonly place: number;
  readonly written: boolean;
  /** Where in the record the checksums of the run's blocks begin. */
  readonly crcAt: number;
}

/**
 * Reads a block map record run by run.
 * @returns what is wrong with the record, as the end of a line; `visit` got the runs before the fault.
 */
export function checkBlockMap(
  value: Buffer,
  totalBlocks: number,
  visit: (run: BlockRun) => void,
): string | undefined {
  if (value.length < MAP_HEADER || value.readUInt16LE(0) !== VERSION) return 'is damaged';
  const runs = value.readUInt16LE(2);
  let crcAt = MAP_HEADER + runs * RUN_BYTES;
  if (runs === 0 || value.length < crcAt) return 'is damaged';
  let end = 0;
  for (let at = MAP_HEADER; at < MAP_HEADER + runs * RUN_BYTES; at += RUN_BYTES) {
    const first = value[at] ?? 0;
    const count = (value[at + 1] ?? 0) + 1;
    const flags = value.readUInt16LE(at + 2);
    const place = getU64(value, at + 4);
    if (flags > 1 || first < end || first + count > MAP_BLOCKS) return 'is damaged';
    if (place < FIRST_DATA_BLOCK || place + count > totalBlocks) {
      return `names the device blocks ${place} to ${place + count - 1}, which hold no files`;
    }
    end = first + count;
    const written = flags === 0;
    if (written && value.length < crcAt + 4 * count) return 'is damaged';
    visit({ first, count, place, written, crcAt });
    if (written) crcAt += 4 * count;
  }
  return crcAt === value.length ? undefined : 'is damaged';
}

export class BlockOwners {
  readonly totalBlocks: number;
  readonly #owned: Uint32Array;
  readonly #groups: number;
  readonly shared = new Set<number>();
  /** A block map could not be read, so fsck does not know its blocks. */
  uncertain = false;
  blocks = 0;

  constructor(totalBlocks: number) {
    this.totalBlocks = totalBlocks;
    this.#groups = Math.ceil(totalBlocks / GROUP_BLOCKS);
    this.#owned = new Uint32Array(this.#groups * GROUP_WORDS);
  }

  get groups(): number {
    return this.#groups;
  }

  /** Claims blocks for an owner. They must lie on the device, see checkBlockMap. */
  claim(start: number, count: number): void {
    for (let block = start; block < start + count; block++) {
      const word = block >>> 5;
      const bit = 1 << (block & 31);
      const before = this.#owned[word] ?? 0;
      if ((before & bit) !== 0) {
        if (this.shared.size < SHARED_MAX) this.shared.add(block);
        continue;
      }
      this.#owned[word] = before | bit;
      this.blocks++;
    }
  }

  owned(group: number): Uint32Array {
    return this.#owned.slice(group * GROUP_WORDS, (group + 1) * GROUP_WORDS);
  }
  /** Blocks of a group that are never handed out: they count as in use, whatever the record says. */
  reserved(group: number): Uint32Array {
    const words = new Uint32Array(GROUP_WORDS);
    const base = group * GROUP_BLOCKS;
    for (let block = base; block < FIRST_DATA_BLOCK; block++) setBit(words, block - base);
    for (let block = Math.max(base, this.totalBlocks); block < base + GROUP_BLOCKS; block++) {
      setBit(words, block - base);
    }
    return words;
  }
}

function setBit(words: Uint32Array, bit: number): void {
  words[bit >>> 5] = (words[bit >>> 5] ?? 0) | (1 << (bit & 31));
}

/** Reports blocks that have several owners, with their owners. */
export async function checkShared(context: FsckContext, owners: BlockOwners): Promise<void> {
  if (owners.shared.size === 0) return;
  const holders = new Map<number, Set<Fid>>();
  await scanType(context, KEY.blockMap, ({ key, value }) => {
    if (!isSoundKey(key)) return;
    const fid = readU64(key, 1) as Fid;
    checkBlockMap(value, owners.totalBlocks, ({ place, count }) => {
      for (let block = place; block < place + count; block++) {
        if (!owners.shared.has(block)) continue;
        const fids = holders.get(block) ?? new Set();
        holders.set(block, fids.add(fid));
      }
    });
  });
  const blocks = [...owners.shared].sort((a, b) => a - b);
  for (let at = 0; at < blocks.length; ) {
    const start = blocks[at] ?? 0;
    const names = [...(holders.get(start) ?? [])].join(' and inode ');
    let end = start + 1;
    // A run of blocks with the same owners is one finding.
    for (at++; blocks[at] === end && [...(holders.get(end) ?? [])].join(' and inode ') === names; at++) end++;
    const what = end === start + 1 ? `block ${start}` : `blocks ${start} to ${end - 1}`;
    const twice = names.includes(' ') ? `belong to inode ${names}` : `belong twice to inode ${names}`;
    context.findings.add({
      kind: 'shared-block',
      text: `of the data device, ${what} ${end === start + 1 ? twice.replace('belong', 'belongs') : twice}`,
    });
  }
}

/** Compares the free-space records with the owners. */
export async function checkSpace(context: FsckContext, owners: BlockOwners): Promise<void> {
  const { findings } = context;
  let next = 0;
  const missing = (until: number): void => {
    for (; next < until; next++) compareGroup(context, owners, next, undefined);
  };
  await scanType(context, KEY.spaceGroup, (record) => {
    if (!isSoundKey(record.key)) {
      reportKey(findings, record);
      return;
    }
    const group = record.key.readUInt32BE(1);
    if (group >= owners.groups) {
      findings.add({
        kind: 'space',
        text: `there is a free-space record of group ${group}, but the data device has ${owners.groups}`,
        repair: { stage: 'space', done: 'removed', apply: (tx) => tx.remove(spaceGroupKey(group)) },
      });
      return;
    }
    missing(group);
    next = group + 1;
    compareGroup(context, owners, group, record.value);
  });
  missing(owners.groups);
}

function compareGroup(
  { findings }: FsckContext,
  owners: BlockOwners,
  group: number,
  record: Buffer | undefined,
): void {
  const said = record === undefined ? new Uint32Array(GROUP_WORDS) : decodeGroup(record);
  const reserved = owners.reserved(group);
  const expected = owners.owned(group).map((word, at) => word | (reserved[at] ?? 0));
  // Blocks of an unreadable block map must not be handed out: then fsck calls no block free.
  const used = expected.map((word, at) => (owners.uncertain ? word | (said?.[at] ?? ALL) : word));
  const wrong = said === undefined ? ['its record is damaged'] : differences(said, reserved, used, group);
  if (wrong.length === 0) return;
  findings.add({
    kind: said === undefined ? 'damaged-record' : 'space',
    text: `free space, group ${group}: ${wrong.join('; ')}`,
    repair: {
      stage: 'space',
      done: 'written anew',
      apply: (tx) => {
        const value = encodeGroup(used);
        if (value === undefined) tx.remove(spaceGroupKey(group));
        else tx.put(spaceGroupKey(group), value);
      },
    },
  });
}

function differences(said: Uint32Array, reserved: Uint32Array, used: Uint32Array, group: number): string[] {
  const unmarked = bitsOf(used, (word, at) => word & ~((said[at] ?? 0) | (reserved[at] ?? 0)));
  const leaked = bitsOf(said, (word, at) => word & ~(used[at] ?? 0));
  const first = (bits: readonly number[]): number => group * GROUP_BLOCKS + (bits[0] ?? 0);
  const wrong: string[] = [];
  if (unmarked.length > 0) {
    wrong.push(`${unmarked.length} blocks in use are marked as free, from block ${first(unmarked)} on`);
  }
  if (leaked.length > 0) {
    wrong.push(
      `${leaked.length} blocks that nothing uses are marked as in use, from block ${first(leaked)} on`,
    );
  }
  return wrong;
}

function bitsOf(words: Uint32Array, pick: (word: number, at: number) => number): number[] {
  const bits: number[] = [];
  words.forEach((word, at) => {
    for (let left = pick(word, at) >>> 0; left !== 0; left = (left & (left - 1)) >>> 0) {
      bits.push(32 * at + 31 - Math.clz32(left & -left));
    }
  });
  return bits;
}

function decodeGroup(record: Buffer): Uint32Array | undefined {
  if (record.length < 2 || record[0] !== VERSION) return undefined;
  if (record[1] === KIND_FULL && record.length === 2) return new Uint32Array(GROUP_WORDS).fill(ALL);
  if (record[1] !== KIND_BITMAP || record.length !== RECORD_BYTES) return undefined;
  return Uint32Array.from({ length: GROUP_WORDS }, (_, at) => record.readUInt32LE(4 + 4 * at));
}

/** The record as the allocator writes it; undefined: no record. */
function encodeGroup(words: Uint32Array): Buffer | undefined {
  if (words.every((word) => word === 0)) return undefined;
  if (words.every((word) => word === ALL)) return Buffer.from([VERSION, KIND_FULL]);
  const record = Buffer.alloc(RECORD_BYTES);
  record[0] = VERSION;
  record[1] = KIND_BITMAP;
  words.forEach((word, at) => {
    record.writeUInt32LE(word, 4 + 4 * at);
  });
  return record;
}
