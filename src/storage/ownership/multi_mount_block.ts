/**
 * The multi-mount block as bytes: block 1 of the data device, which says who has the target. The rules are in
 * multi_mount.ts; the table is in docs/ONDISK.md.
 *
 * A block of zeros, or without the magic, means that nobody ever claimed the target: it was formatted before the block
 * was used, or the device is not ours.
 */

import type { Checksum } from '../../runtime/ports.js';
import { BLOCK_BYTES } from '../format/block_map.js';
import { getU64, putU64, uuidFromBytes } from '../format/records.js';
import { crc32c } from '../format/superblock.js';

/** Where the block lies on the data device; it is BLOCK_BYTES long. */
export const MULTI_MOUNT_OFFSET = BLOCK_BYTES;

const MAGIC = Buffer.from('HFmulti1', 'latin1');
const HOST_MAX = 64;
const SYSTEM_MAX = 127;
const PERIOD_MIN_MS = 100;
const PERIOD_MAX_MS = 3_600_000;

/** clean: nobody has the target. Numbers on disk: docs/ONDISK.md. */
export type MultiMountState = 'clean' | 'active' | 'mkfs' | 'fsck' | 'grow';
const NUMBER_OF: Readonly<Record<MultiMountState, number>> = {
  clean: 1,
  active: 2,
  mkfs: 3,
  fsck: 4,
  grow: 5,
};
const STATE_OF = new Map(
  Object.entries(NUMBER_OF).map(([name, number]) => [number, name as MultiMountState]),
);

/** The process that has the target, as it describes itself. */
export interface Owner {
  readonly host: string;
  readonly pid: number;
  /**
   * Equal only for processes that see each other by pid: names the running kernel and its process namespace. '' means
   * unknown.
   */
  readonly system: string;
  /** Distinguishes a process from a later one with the same pid. */
  readonly startedTicks: number;
}

export interface MultiMountRecord {
  /** 'other': a state that a later version knows. Its writer has the target. */
  readonly state: MultiMountState | 'other';
  /** The writer wrote the block to get the target, and has not confirmed it yet. */
  readonly claim: boolean;
  /** Nonce of the instance that wrote the block. */
  readonly nonce: string;
  /** Grows with every write of the block. */
  readonly sequence: number;
  readonly periodMs: number;
  /**
   * A claimer must complete its claim write within this time, then wait a fifth longer before it trusts the claim. The
   * writer of the block measured its device for it.
   */
  readonly claimMs: number;
  /** Time of day when the instance claimed the target. */
  readonly sinceSec: number;
  readonly owner: Owner;
}

export type MultiMountContent =
  | { readonly kind: 'none' }
  /** Has our magic but is not whole: somebody is writing it, or it is damaged. */
  | { readonly kind: 'damaged' }
  | { readonly kind: 'record'; readonly record: MultiMountRecord };

/**
 * 0 magic, 8 u32 state, 12 u32 period in ms, 16 nonce, 32 u64 sequence, 40 u64 since (seconds), 48 u32 pid, 52 u8 claim,
 * 54 u16 claim window in ms, 56 u64 process start, 64 u8 length and host name (at most 64), 129 u8 length and system (at most 127), 4092 u32
 * CRC-32C of all before it.
 */
export function encodeMultiMount(record: MultiMountRecord, checksum: Checksum): Buffer {
  const block = Buffer.alloc(BLOCK_BYTES);
  block.set(MAGIC, 0);
  block.writeUInt32LE(record.state === 'other' ? 0 : NUMBER_OF[record.state], 8);
  block.writeUInt32LE(record.periodMs, 12);
  block.set(Buffer.from(record.nonce.replaceAll('-', ''), 'hex'), 16);
  putU64(block, record.sequence, 32);
  putU64(block, record.sinceSec, 40);
  block.writeUInt32LE(record.owner.pid, 48);
  block[52] = record.claim ? 1 : 0;
  block.writeUInt16LE(record.claimMs, 54);
  putU64(block, record.owner.startedTicks, 56);
  putText(block, 64, record.owner.host, HOST_MAX);
  putText(block, 129, record.owner.system, SYSTEM_MAX);
  block.writeUInt32LE(crc32c(checksum, block.subarray(0, BLOCK_BYTES - 4)), BLOCK_BYTES - 4);
  return block;
}

export function decodeMultiMount(block: Buffer, checksum: Checksum): MultiMountContent {
  if (!block.subarray(0, 8).equals(MAGIC)) return { kind: 'none' };
  const periodMs = block.readUInt32LE(12);
  const claimMs = block.readUInt16LE(54);
  if (
    crc32c(checksum, block.subarray(0, BLOCK_BYTES - 4)) !== block.readUInt32LE(BLOCK_BYTES - 4) ||
    periodMs < PERIOD_MIN_MS ||
    periodMs > PERIOD_MAX_MS ||
    claimMs === 0
  ) {
    return { kind: 'damaged' };
  }
  const record: MultiMountRecord = {
    state: STATE_OF.get(block.readUInt32LE(8)) ?? 'other',
    claim: block[52] === 1,
    nonce: uuidFromBytes(block.subarray(16, 32)),
    sequence: getU64(block, 32),
    periodMs,
    claimMs,
    sinceSec: getU64(block, 40),
    owner: {
      host: text(block, 64),
      pid: block.readUInt32LE(48),
      system: text(block, 129),
      startedTicks: getU64(block, 56),
    },
  };
  return { kind: 'record', record };
}

function putText(block: Buffer, at: number, value: string, maxBytes: number): void {
  const bytes = Buffer.from(value, 'utf8').subarray(0, maxBytes);
  block[at] = bytes.length;
  block.set(bytes, at + 1);
}
function text(block: Buffer, at: number): string {
  return block.toString('utf8', at + 1, at + 1 + (block[at] ?? 0));
}

const WHAT: Readonly<Record<MultiMountRecord['state'], string>> = {
  clean: 'nobody',
  active: 'a server',
  mkfs: 'holdfast mkfs',
  fsck: 'holdfast fsck',
  grow: 'holdfast grow',
  other: 'a newer version',
};
const TIME = new Intl.DateTimeFormat('sv-SE', { timeZone: 'UTC', dateStyle: 'short', timeStyle: 'medium' });

/**
 * Says for people who has the target, since when: "a server on a.example (pid 7) has it since 2026-01-02 03:04:05 UTC".
 */
export function describeHolder(record: MultiMountRecord): string {
  const { host, pid } = record.owner;
  const where = host === '' ? 'an unnamed host' : host;
  // 8.64e15 ms is the last moment that a date can represent.
  const since = record.sinceSec <= 8.64e12 ? TIME.format(record.sinceSec * 1000) : 'the end of time';
  return `${WHAT[record.state]} on ${where} (pid ${pid}) has it since ${since} UTC`;
}
