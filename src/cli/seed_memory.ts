/**
 * The seed of a mount's next client in memory that outlives the process: a file without a name (memfd), which systemd keeps.
 *
 * There are two slots, and a write replaces the older one. So a process that dies while it writes leaves the other slot whole, and
 * nobody has used yet what it was about to say. The numbers of the writes go on in a process that takes the mount over.
 *
 *     slot     u32 CRC-32C of what follows, u32 length of the text, u64 number of the write, the text: JSON
 *
 * Numbers are little-endian.
 */

import { readSync, writeSync } from 'node:fs';
import type { NegotiatedNumbers } from '../../mount/negotiated.js';
import { nativeBinding } from '../../native/binding.js';
import { FsError } from '../base/errno.js';
import type { OrphanedClient } from '../client/api.js';

/** What a client leaves to the one that comes after its death. */
export interface Seed {
  readonly client: OrphanedClient;
  readonly negotiated: NegotiatedNumbers;
}

/** Which mount it is. */
export interface SeedMount {
  /** Absolute, without symbolic links. */
  readonly mountpoint: string;
  /** st_dev of its files as MAJOR:MINOR: a later mount at the same place has another one. */
  readonly device: string;
  /** The source, as words of the command line. */
  readonly source: string;
}

export interface StoredSeed extends Seed, SeedMount {
  readonly version: typeof VERSION;
}

const VERSION = 1;
const SLOT_BYTES = 64 << 10;
const HEAD_BYTES = 16;
const SLOTS = [0, 1] as const;

interface Slot {
  readonly write: bigint;
  readonly text: string;
}

/** @param memory descriptor of the file. */
export function writeSeed(memory: number, seed: Seed & SeedMount): void {
  const write = newest(memory).write + 1n;
  const { mountpoint, device, source, client, negotiated } = seed;
  const text = Buffer.from(
    JSON.stringify({ version: VERSION, mountpoint, device, source, client, negotiated } satisfies StoredSeed),
  );
  if (text.length > SLOT_BYTES - HEAD_BYTES)
    throw new FsError('E2BIG', 'the seed of the next client is too long');
  const head = Buffer.alloc(HEAD_BYTES);
  head.writeUInt32LE(text.length, 4);
  head.writeBigUInt64LE(write, 8);
  const bytes = Buffer.concat([head, text]);
  bytes.writeUInt32LE(checksumOf(bytes), 0);
  writeSync(memory, bytes, 0, bytes.length, SLOT_BYTES * Number(write % BigInt(SLOTS.length)));
}

/** @throws FsError EPROTO if no slot is whole, or another version of Holdfast wrote something that this one does not know. */
export function readSeed(memory: number): StoredSeed {
  const { write, text } = newest(memory);
  if (write === 0n) throw new FsError('EPROTO', 'the memory of the client before has no whole seed');
  const seed = JSON.parse(text) as { readonly version?: unknown };
  if (seed.version !== VERSION) {
    throw new FsError(
      'EPROTO',
      `the seed of the client before has version ${String(seed.version)}, not ${VERSION}`,
    );
  }
  return seed as StoredSeed;
}

/** Its number is 0 if nothing was written. */
function newest(memory: number): Slot {
  return SLOTS.map((at) => slotAt(memory, at * SLOT_BYTES)).reduce((one, other) =>
    other.write > one.write ? other : one,
  );
}

function slotAt(memory: number, offset: number): Slot {
  const nothing = { write: 0n, text: '' };
  const bytes = Buffer.alloc(SLOT_BYTES);
  const got = readSync(memory, bytes, 0, SLOT_BYTES, offset);
  if (got < HEAD_BYTES) return nothing;
  const end = HEAD_BYTES + bytes.readUInt32LE(4);
  if (end > got || bytes.readUInt32LE(0) !== checksumOf(bytes.subarray(0, end))) return nothing;
  return { write: bytes.readBigUInt64LE(8), text: bytes.toString('utf8', HEAD_BYTES, end) };
}

function checksumOf(slot: Buffer): number {
  const covered = slot.subarray(4);
  const [sum = 0] = nativeBinding().crc32cBlocks(covered, covered.length);
  return sum;
}
