/**
 * Makes a target on two devices: looks at what they hold, wipes their starts and ends, then writes the data header, and
 * last the database with the superblock and the root directory. So an interrupted mkfs leaves no target.
 */

import { S_IFDIR } from '../base/attr.js';
import { FsError } from '../base/errno.js';
import { FIRST_OBJECT, ROOT_FID, TARGET_INDEX_MAX, type TargetUuid, type Transno } from '../base/ids.js';
import type { Runtime } from '../runtime/ports.js';
import type { Inode, Superblock, TargetDevices } from './api.js';
import { BLOCK_BYTES } from './format/block_map.js';
import { bareKey, fidKey, KEY } from './format/keys.js';
import { COUNTERS_BYTES, encodeCounters, encodedInode } from './format/records.js';
import { knownSignature, SIGNATURE_BYTES } from './format/signatures.js';
import {
  DATA_MIN_BYTES,
  decodeDataHeader,
  encodeDataHeader,
  encodeSuperblock,
  FEATURE_ALL_CHECKSUMS,
  FEATURE_CHECKSUMS,
  FORMAT_VERSION,
  isDataHeader,
  META_MIN_BYTES,
  type SuperblockRecord,
} from './format/superblock.js';
import { metaMedium } from './meta/lmdb_store.js';
import { emptyDatabase, probeSuperblock } from './meta/meta_probe.js';
import { checkedRecords } from './meta/record_checksums.js';
import type { ReadAt } from './meta_medium.js';
import type { MultiMount } from './ownership/multi_mount.js';
import { MULTI_MOUNT_OFFSET } from './ownership/multi_mount_block.js';
import { guardedDevices } from './ownership/write_guard.js';

/** mkfs wipes this many bytes at the start and at the end of a device (backup partition tables, RAID members). */
const WIPE_BYTES = 1 << 20;

export interface FormatOptions {
  readonly label: string;
  readonly force: boolean;
  readonly targetIndex?: number | undefined;
  /** False: releases without record checksums can serve the target too. */
  readonly recordChecksums?: boolean | undefined;
  /**
   * Has the data device while mkfs works; mkfs releases it when it is done, the caller after a failure. Absent: the
   * caller knows that nobody else uses the devices.
   */
  readonly multiMount?: MultiMount | undefined;
}

export interface Formatted {
  readonly superblock: Superblock;
  /** One line for each thing that `force` destroyed. */
  readonly destroyed: readonly string[];
}

/**
 * @throws FsError EEXIST without force if a device holds something; EBUSY if the target is in use, even with force;
 *   EINVAL if a device is too small or the label is bad.
 */
export async function formatTarget(
  runtime: Pick<Runtime, 'clock' | 'rng' | 'checksum'>,
  devices: TargetDevices,
  options: FormatOptions,
): Promise<Formatted> {
  const targetIndex = options.targetIndex ?? 0;
  if (targetIndex > TARGET_INDEX_MAX)
    throw new FsError('EINVAL', `the target index is above ${TARGET_INDEX_MAX}`);
  checkSize('meta', devices.metaPath, devices.metaSizeBytes, META_MIN_BYTES);
  checkSize('data', devices.data.path, devices.data.sizeBytes, DATA_MIN_BYTES);
  const superblock: SuperblockRecord = {
    formatVersion: FORMAT_VERSION,
    featuresIncompat: options.recordChecksums === false ? 0 : FEATURE_CHECKSUMS | FEATURE_ALL_CHECKSUMS,
    filesystemUuid: runtime.rng.uuid(),
    targetUuid: runtime.rng.uuid() as TargetUuid,
    targetIndex,
    label: options.label,
    softwareVersion: '',
    instance: 0,
    clean: true,
    metaSizeBytes: devices.metaSizeBytes,
    dataSizeBytes: Math.floor(devices.data.sizeBytes / BLOCK_BYTES) * BLOCK_BYTES,
  };
  // Encode first, so that mkfs refuses a bad label before it wipes anything.
  const value = encodeSuperblock(superblock, runtime.checksum);
  const destroyed = await contents(runtime, devices);
  if (destroyed.length > 0 && !options.force) {
    throw new FsError('EEXIST', `${destroyed.join('; ')}: nothing was changed, --force destroys it`);
  }
  const { multiMount } = options;
  if (multiMount === undefined) {
    await devices.data.write(MULTI_MOUNT_OFFSET, [Buffer.alloc(BLOCK_BYTES)]);
    await write(runtime, devices, superblock, value);
  } else {
    await multiMount.take();
    await write(runtime, guardedDevices(devices, multiMount), superblock, value);
    await multiMount.release();
  }
  return { superblock, destroyed };
}

/** Everything but the multi-mount block, which is in use by now. */
async function write(
  runtime: Pick<Runtime, 'clock' | 'checksum'>,
  devices: TargetDevices,
  superblock: SuperblockRecord,
  value: Buffer,
): Promise<void> {
  const { data } = devices;
  await metaMedium(devices).writeRaw(edges(devices.metaSizeBytes));
  for (const { offset, bytes } of aroundMultiMount(edges(data.sizeBytes))) await data.write(offset, [bytes]);
  const header = { ...superblock, sizeBytes: superblock.dataSizeBytes };
  await data.write(0, [encodeDataHeader(header, runtime.checksum)]);
  await data.flush();
  await writeDatabase(runtime, devices, superblock, value);
}

function checkSize(which: string, path: string, sizeBytes: number, minBytes: number): void {
  if (sizeBytes >= minBytes) return;
  throw new FsError(
    'EINVAL',
    `the ${which} device ${path} is too small: ${sizeBytes} bytes, at least ${minBytes >> 20} MiB are needed`,
  );
}

function edges(sizeBytes: number): Piece[] {
  const bytes = Buffer.alloc(WIPE_BYTES);
  return [
    { offset: 0, bytes },
    { offset: sizeBytes - WIPE_BYTES, bytes },
  ];
}

interface Piece {
  readonly offset: number;
  readonly bytes: Buffer;
}

function aroundMultiMount(pieces: readonly Piece[]): Piece[] {
  const end = MULTI_MOUNT_OFFSET + BLOCK_BYTES;
  return pieces.flatMap(({ offset, bytes }) =>
    offset > 0
      ? [{ offset, bytes }]
      : [
          { offset: 0, bytes: bytes.subarray(0, MULTI_MOUNT_OFFSET) },
          { offset: end, bytes: bytes.subarray(end) },
        ],
  );
}

/** What the devices hold: one line for each device that holds something. */
async function contents(runtime: Pick<Runtime, 'checksum'>, devices: TargetDevices): Promise<string[]> {
  const { data } = devices;
  return [
    ...(await metaMedium(devices).withRawReader((read) =>
      contentsOf(runtime, read, devices.metaPath, devices.metaSizeBytes),
    )),
    ...(await contentsOf(runtime, (offset, target) => data.read(offset, target), data.path, data.sizeBytes)),
  ];
}

async function contentsOf(
  runtime: Pick<Runtime, 'checksum'>,
  read: ReadAt,
  path: string,
  sizeBytes: number,
): Promise<string[]> {
  const start = Buffer.alloc(SIGNATURE_BYTES);
  await read(0, start);
  const holdfast = isDataHeader(start)
    ? dataDeviceText(runtime, start, path)
    : await metaDeviceText(runtime, read, path, sizeBytes);
  const found = holdfast ?? knownSignature(start);
  return found === undefined ? [] : [`${path} holds ${found}`];
}

function dataDeviceText(runtime: Pick<Runtime, 'checksum'>, start: Buffer, path: string): string {
  try {
    const header = decodeDataHeader(start.subarray(0, BLOCK_BYTES), runtime.checksum, path);
    return `the data of Holdfast target ${header.targetUuid}`;
  } catch {
    return 'the data of a Holdfast target (damaged header)';
  }
}

async function metaDeviceText(
  runtime: Pick<Runtime, 'checksum'>,
  read: ReadAt,
  path: string,
  sizeBytes: number,
): Promise<string | undefined> {
  try {
    const superblock = await probeSuperblock(read, path, sizeBytes, runtime.checksum);
    return superblock && `the metadata of Holdfast target ${superblock.label} (${superblock.targetUuid})`;
  } catch (thrown) {
    return `a database that cannot be read (${(thrown as Error).message})`;
  }
}

async function writeDatabase(
  runtime: Pick<Runtime, 'clock' | 'checksum'>,
  devices: TargetDevices,
  superblock: SuperblockRecord,
  value: Buffer,
): Promise<void> {
  const root = superblock.targetIndex === 0 ? rootDirectory(runtime) : undefined;
  const counters = Buffer.alloc(COUNTERS_BYTES);
  encodeCounters(
    {
      lastTransno: 0 as Transno,
      nextObject: FIRST_OBJECT,
      nextCookie: 1,
      inodes: root === undefined ? 0 : 1,
    },
    counters,
  );
  const medium = metaMedium(devices);
  await medium.writeRaw([{ offset: 0, bytes: emptyDatabase(devices.metaSizeBytes) }]);
  const db = checkedRecords(medium.open(), runtime.checksum, superblock);
  try {
    await db.commit((writer) => {
      writer.put(bareKey(KEY.superblock), value);
      writer.put(bareKey(KEY.counters), counters);
      if (root === undefined) return;
      writer.put(fidKey(KEY.inode, root.fid), encodedInode(root));
    });
  } finally {
    await db.close();
  }
}

function rootDirectory(runtime: Pick<Runtime, 'clock'>): Inode {
  const now = runtime.clock.wall();
  return {
    fid: ROOT_FID,
    mode: S_IFDIR | 0o755,
    nlink: 2,
    uid: 0,
    gid: 0,
    rdev: 0,
    sizeBytes: 0,
    blocks: 0,
    atime: now,
    mtime: now,
    ctime: now,
    btime: now,
    noXattrs: true,
    parent: ROOT_FID,
    digest: undefined,
  };
}
