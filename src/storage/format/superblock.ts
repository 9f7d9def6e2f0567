/**
 * The superblock record (meta device) and the header of the data device (block 0). Both carry magic, version and a
 * CRC-32C, and both hold the UUIDs and sizes. So the server recognizes a foreign, swapped, truncated or damaged device
 * before it does anything with it.
 */

import { FsError } from '../../base/errno.js';
import type { TargetUuid } from '../../base/ids.js';
import type { Checksum } from '../../runtime/ports.js';
import type { Superblock, TargetDevices } from '../api.js';
import { BLOCK_BYTES } from './block_map.js';
import { getU64, putU64, uuidBytes, uuidFromBytes } from './records.js';

export const FORMAT_VERSION = 1;
/** Records may have a checksum (record_checksums.ts), and inodes a digest of their content. */
export const FEATURE_CHECKSUMS = 1;
/** All records have a checksum: a record without one is damaged. Only with FEATURE_CHECKSUMS. */
export const FEATURE_ALL_CHECKSUMS = 2;
/** There is a redo log, and it may have changes that the database has not. Set while a server serves the target. */
export const FEATURE_REDO_LOG = 4;
/** The access table has entries: a release that does not know it would let everybody in whom it keeps out. */
export const FEATURE_ACCESS = 8;
/** Incompatible feature bits this build knows. */
export const FEATURES_KNOWN = FEATURE_CHECKSUMS | FEATURE_ALL_CHECKSUMS | FEATURE_REDO_LOG | FEATURE_ACCESS;
/**
 * Blocks of the data device that never hold file data: 0 is the header, 1 is kept for the multi-mount-protection block,
 * the rest is reserved for later use.
 */
export const FIRST_DATA_BLOCK = 16;
export const META_MIN_BYTES = 16 << 20;
export const DATA_MIN_BYTES = 16 << 20;
export const LABEL_MAX = 32;

const SUPERBLOCK_MAGIC = Buffer.from('HFsuper1', 'latin1');
const DATA_MAGIC = Buffer.from('HFdata01', 'latin1');

/** The superblock with the fields that only this room needs. */
export interface SuperblockRecord extends Superblock {
  readonly metaSizeBytes: number;
  readonly dataSizeBytes: number;
}

export function crc32c(checksum: Checksum, bytes: Uint8Array): number {
  return checksum.crc32cBlocks(bytes, Math.max(1, bytes.length))[0] ?? 0;
}

/**
 * superblock, 176 bytes: 0 magic, 8 u32 format version, 12 u32 incompatible features, 16 filesystem UUID, 32 target
 * UUID, 48 u32 target index, 52 u32 instance, 56 u8 clean, 64 u64 meta bytes, 72 u64 data bytes, 80 u8 length and
 * label (at most 32), 113 u8 length and software version (at most 58), 172 u32 CRC-32C of all before it.
 */
const SUPERBLOCK_BYTES = 176;
const SOFTWARE_VERSION_MAX = 58;

export function encodeSuperblock(superblock: SuperblockRecord, checksum: Checksum): Buffer {
  const value = Buffer.alloc(SUPERBLOCK_BYTES);
  const label = Buffer.from(superblock.label, 'utf8');
  const version = Buffer.from(superblock.softwareVersion, 'utf8');
  if (label.length > LABEL_MAX) throw new FsError('EINVAL', `the label is longer than ${LABEL_MAX} bytes`);
  if (version.length > SOFTWARE_VERSION_MAX) throw new FsError('EINVAL', 'the software version is too long');
  value.set(SUPERBLOCK_MAGIC, 0);
  value.writeUInt32LE(superblock.formatVersion, 8);
  value.writeUInt32LE(superblock.featuresIncompat, 12);
  value.set(uuidBytes(superblock.filesystemUuid), 16);
  value.set(uuidBytes(superblock.targetUuid), 32);
  value.writeUInt32LE(superblock.targetIndex, 48);
  value.writeUInt32LE(superblock.instance, 52);
  value[56] = superblock.clean ? 1 : 0;
  putU64(value, superblock.metaSizeBytes, 64);
  putU64(value, superblock.dataSizeBytes, 72);
  value[80] = label.length;
  value.set(label, 81);
  value[113] = version.length;
  value.set(version, 114);
  value.writeUInt32LE(crc32c(checksum, value.subarray(0, SUPERBLOCK_BYTES - 4)), SUPERBLOCK_BYTES - 4);
  return value;
}

/**
 * @param device path, for the message. @throws FsError EIO if damaged, EPROTO if of another format or with unknown
 *   features.
 */
export function decodeSuperblock(source: Uint8Array, checksum: Checksum, device: string): SuperblockRecord {
  const value = Buffer.from(source);
  const magic = value.subarray(0, 8);
  if (value.length >= 16 && magic.equals(SUPERBLOCK_MAGIC) && value.readUInt32LE(8) !== FORMAT_VERSION) {
    throw new FsError(
      'EPROTO',
      `${device} has format version ${value.readUInt32LE(8)}; this software reads ${FORMAT_VERSION}: use a matching release`,
    );
  }
  if (
    value.length !== SUPERBLOCK_BYTES ||
    !magic.equals(SUPERBLOCK_MAGIC) ||
    crc32c(checksum, value.subarray(0, SUPERBLOCK_BYTES - 4)) !== value.readUInt32LE(SUPERBLOCK_BYTES - 4)
  ) {
    throw new FsError('EIO', `the superblock on ${device} is damaged`);
  }
  const superblock: SuperblockRecord = {
    formatVersion: value.readUInt32LE(8),
    featuresIncompat: value.readUInt32LE(12),
    filesystemUuid: uuidFromBytes(value.subarray(16, 32)),
    targetUuid: uuidFromBytes(value.subarray(32, 48)) as TargetUuid,
    targetIndex: value.readUInt32LE(48),
    instance: value.readUInt32LE(52),
    clean: value[56] === 1,
    metaSizeBytes: getU64(value, 64),
    dataSizeBytes: getU64(value, 72),
    label: value.toString('utf8', 81, 81 + (value[80] ?? 0)),
    softwareVersion: value.toString('utf8', 114, 114 + (value[113] ?? 0)),
  };
  const unknown = superblock.featuresIncompat & ~FEATURES_KNOWN;
  if (unknown !== 0) {
    throw new FsError(
      'EPROTO',
      `${device} uses features this software does not know (bits 0x${(unknown >>> 0).toString(16)}): use a newer release`,
    );
  }
  return superblock;
}

/** What a target still has after a controlled shutdown. */
export function lastingFeatures({ featuresIncompat }: Pick<Superblock, 'featuresIncompat'>): number {
  return featuresIncompat & ~FEATURE_REDO_LOG;
}

/** These feature bits, with one of them set or cleared. */
export function withFeature(features: number, feature: number, isSet: boolean): number {
  return isSet ? features | feature : features & ~feature;
}

export function wholeBlocks(bytes: number): number {
  return Math.floor(bytes / BLOCK_BYTES) * BLOCK_BYTES;
}

/** Bytes of each device that the target does not use because the device became larger. */
export function unusedBytes(
  devices: Pick<TargetDevices, 'metaSizeBytes' | 'data'>,
  { metaSizeBytes, dataSizeBytes }: SuperblockRecord,
): { readonly meta: number; readonly data: number } {
  return {
    meta: Math.max(0, devices.metaSizeBytes - metaSizeBytes),
    data: Math.max(0, wholeBlocks(devices.data.sizeBytes) - dataSizeBytes),
  };
}

export interface DataHeader {
  readonly filesystemUuid: string;
  readonly targetUuid: TargetUuid;
  readonly sizeBytes: number;
}

/**
 * data header, one block: 0 magic, 8 u32 format version, 16 filesystem UUID, 32 target UUID, 48 u64 device bytes,
 * 4092 u32 CRC-32C of all before it.
 */
export function encodeDataHeader(header: DataHeader, checksum: Checksum): Buffer {
  const block = Buffer.alloc(BLOCK_BYTES);
  block.set(DATA_MAGIC, 0);
  block.writeUInt32LE(FORMAT_VERSION, 8);
  block.set(uuidBytes(header.filesystemUuid), 16);
  block.set(uuidBytes(header.targetUuid), 32);
  putU64(block, header.sizeBytes, 48);
  block.writeUInt32LE(crc32c(checksum, block.subarray(0, BLOCK_BYTES - 4)), BLOCK_BYTES - 4);
  return block;
}

export function isDataHeader(block: Buffer): boolean {
  return block.subarray(0, 8).equals(DATA_MAGIC);
}

/** @throws FsError as decodeSuperblock; ENODEV if the block is not a Holdfast data header. */
export function decodeDataHeader(block: Buffer, checksum: Checksum, device: string): DataHeader {
  if (!isDataHeader(block)) {
    throw new FsError('ENODEV', `${device} is not a Holdfast data device; holdfast mkfs makes one`);
  }
  if (crc32c(checksum, block.subarray(0, BLOCK_BYTES - 4)) !== block.readUInt32LE(BLOCK_BYTES - 4)) {
    throw new FsError('EIO', `the header of the data device ${device} is damaged`);
  }
  if (block.readUInt32LE(8) !== FORMAT_VERSION) {
    throw new FsError(
      'EPROTO',
      `${device} has format version ${block.readUInt32LE(8)}; this software reads ${FORMAT_VERSION}: use a matching release`,
    );
  }
  return {
    filesystemUuid: uuidFromBytes(block.subarray(16, 32)),
    targetUuid: uuidFromBytes(block.subarray(32, 48)) as TargetUuid,
    sizeBytes: getU64(block, 48),
  };
}
