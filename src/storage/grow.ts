/**
 * Makes a target as large as its devices are: writes the sizes anew that mkfs wrote. Nothing moves.
 *
 * It writes the header of the data device first; nobody reads a size from it. Then it writes, in one transaction, the
 * superblock and the record of the group of blocks in which the device ended. The old record of that group may mark
 * blocks behind the old end as in use. If grow is interrupted in between, nothing that counts has changed. The database
 * takes the pages it needs from the new part of its device, so grow works on a full target too. Releases before this
 * one serve the grown target as if mkfs had made it so.
 */

import { FsError } from '../base/errno.js';
import type { BlockDevice, Runtime } from '../runtime/ports.js';
import type { Superblock, TargetDevices, WriteGuard } from './api.js';
import { BLOCK_BYTES } from './format/block_map.js';
import { bareKey, KEY, spaceGroupKey } from './format/keys.js';
import {
  encodeDataHeader,
  encodeSuperblock,
  FIRST_DATA_BLOCK,
  type SuperblockRecord,
  wholeBlocks,
} from './format/superblock.js';
import { checkFreePages } from './fsck/pages.js';
import { ExtentAllocator, GROUP_BLOCKS } from './meta/extent_allocator.js';
import { metaMedium } from './meta/lmdb_store.js';
import { applyFound, openLogged } from './meta/logged_database.js';
import { LMDB_PAGE_BYTES, readMeta } from './meta/meta_probe.js';
import { checkedRecords } from './meta/record_checksums.js';
import type { MetaDatabase } from './meta_medium.js';
import { guardedDevices } from './ownership/write_guard.js';
import { readSuperblock } from './target.js';

/** Same size as in mkfs: wipes what may lie at the end of a device (backup partition tables, RAID members). */
const WIPE_BYTES = 1 << 20;

export interface GrowOptions {
  /** Also grow a target that was not stopped cleanly. */
  readonly force: boolean;
  /** Claims the target; the guard says whether it is still ours. @throws FsError EBUSY if somebody else has it. */
  readonly claim: () => Promise<WriteGuard>;
}

export interface Sizes {
  readonly beforeBytes: number;
  readonly bytes: number;
}
export interface Grown {
  readonly superblock: Superblock;
  readonly meta: Sizes;
  readonly data: Sizes;
}

/**
 * The caller has opened the devices exclusively.
 * @throws FsError as openTarget; EBUSY: the target was not stopped cleanly, or somebody has it.
 */
export async function growTarget(
  runtime: Pick<Runtime, 'checksum' | 'timers'>,
  devices: TargetDevices,
  options: GrowOptions,
): Promise<Grown> {
  // Refuse a device that is no target before anything is written to it.
  await readSuperblock(runtime, devices);
  const guard = await options.claim();
  const before = await readSuperblock(runtime, devices);
  if (!before.clean && !options.force) {
    throw new FsError(
      'EBUSY',
      `${before.label} was not stopped cleanly: start its server and shut it down first; --force grows it as it is`,
    );
  }
  const { metaPath, metaSizeBytes } = devices;
  const dataSizeBytes = wholeBlocks(devices.data.sizeBytes);
  const grown: Grown = {
    superblock: before,
    meta: { beforeBytes: before.metaSizeBytes, bytes: metaSizeBytes },
    data: { beforeBytes: before.dataSizeBytes, bytes: dataSizeBytes },
  };
  if (metaSizeBytes === before.metaSizeBytes && dataSizeBytes === before.dataSizeBytes) return grown;
  const mine = guardedDevices(devices, guard);
  const medium = metaMedium(mine);
  if (devices.metaMedium === undefined) {
    const meta = await medium.withRawReader(async (read) => {
      await checkFreePages(read, metaPath, metaSizeBytes);
      return await readMeta(read, metaPath, metaSizeBytes);
    });
    // The database may have pages there already: lmdb knows the size of the device, not the formatted size.
    const used = LMDB_PAGE_BYTES * (1 + (meta?.lastPage ?? 0));
    const { start, end } = newEnd(Math.max(before.metaSizeBytes, used), metaSizeBytes);
    if (end > start) await medium.writeRaw([{ offset: start, bytes: Buffer.alloc(end - start) }]);
  }
  await growData(runtime, mine.data, before, { ...before, dataSizeBytes });
  const tree = medium.open();
  const logged = await openLogged(medium, tree, metaPath, before, runtime.checksum, {
    wanted: false,
    timers: runtime.timers,
    data: mine.data,
  }).catch(async (thrown: unknown) => {
    await tree.close();
    throw thrown;
  });
  let after = before;
  const db = checkedRecords(logged, runtime.checksum, before);
  try {
    const { featuresIncompat } = await applyFound(logged, before, runtime.checksum);
    after = { ...before, featuresIncompat, metaSizeBytes, dataSizeBytes };
    const group = lastGroup(db, before);
    await db.commit((writer) => {
      writer.put(bareKey(KEY.superblock), encodeSuperblock(after, runtime.checksum));
      if (group?.record !== undefined) writer.put(spaceGroupKey(group.number), group.record);
      else if (group !== undefined) writer.remove(spaceGroupKey(group.number));
    });
  } finally {
    await db.close();
  }
  return { ...grown, superblock: after };
}

/** The last bytes of the part that a device gained, at most WIPE_BYTES. */
function newEnd(before: number, now: number): { readonly start: number; readonly end: number } {
  return { start: Math.max(before, now - WIPE_BYTES), end: now };
}

async function growData(
  runtime: Pick<Runtime, 'checksum'>,
  data: BlockDevice,
  before: SuperblockRecord,
  after: SuperblockRecord,
): Promise<void> {
  if (before.dataSizeBytes === after.dataSizeBytes) return;
  const wiped = newEnd(before.dataSizeBytes, after.dataSizeBytes);
  if (wiped.end > wiped.start) await data.write(wiped.start, [Buffer.alloc(wiped.end - wiped.start)]);
  const header = { ...after, sizeBytes: after.dataSizeBytes };
  await data.write(0, [encodeDataHeader(header, runtime.checksum)]);
  await data.flush();
}

/** The record of the group in which the device ended, with the blocks behind that end not in use. */
function lastGroup(
  db: MetaDatabase,
  { dataSizeBytes }: SuperblockRecord,
): { readonly number: number; readonly record: Buffer | undefined } | undefined {
  const blocks = dataSizeBytes / BLOCK_BYTES;
  const number = Math.floor(blocks / GROUP_BLOCKS);
  const value = db.get(spaceGroupKey(number));
  if (value === undefined || blocks % GROUP_BLOCKS === 0) return undefined;
  // This allocator ends with the group. To the old one, blocks behind the end of the device were blocks in use.
  const space = new ExtentAllocator((number + 1) * GROUP_BLOCKS, FIRST_DATA_BLOCK);
  space.load(number, Buffer.from(value));
  for (let start = blocks; start < (number + 1) * GROUP_BLOCKS; start++) {
    if (space.isUsed(start)) space.markFreed({ start, count: 1 });
  }
  return { number, record: space.takeDirtyGroups().find(({ group }) => group === number)?.record };
}
