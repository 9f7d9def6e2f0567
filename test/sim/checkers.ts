/**
 * What must hold at every moment, watched from below: on the devices and in the servers.
 *
 * - One writer: what is written to a device comes from the program that last made itself the serving one.
 * - Locks: see watchLocks.
 * - Transnos grow: each transaction's is above the one before it, and an instance's are above those of all before it.
 */

import type { LockSpec } from '../../src/dlm/api.js';
import { modesConflict } from '../../src/dlm/modes.js';
import { BLOCK_BYTES } from '../../src/storage/format/block_map.js';
import { bareKey, KEY } from '../../src/storage/format/keys.js';
import { decodeCounters } from '../../src/storage/format/records.js';
import { FEATURE_REDO_LOG } from '../../src/storage/format/superblock.js';
import { LMDB_PAGE_BYTES } from '../../src/storage/meta/meta_probe.js';
import type { Program } from './machine.js';
import type { World } from './world.js';

/** Offset of the clean mark and of the instance in a superblock record. docs/ONDISK.md. */
const CLEAN_AT = 56;
const INSTANCE_AT = 52;
/** The multi-mount block is written by whoever wants to become the writer. */
const MULTI_MOUNT_BLOCK = 1;

/** How often the locks of all clients are compared, in virtual time. */
const LOCKS_EVERY_MS = 20;

/**
 * No two clients hold cache locks that conflict, whatever either has been told: a server grants a lock when the one before
 * it was given back. Clients that were evicted and do not know it yet are left out.
 */
export async function watchLocks(world: World, isOver: () => boolean): Promise<void> {
  while (!isOver()) {
    await world.sleep(LOCKS_EVERY_MS);
    const held = new Map<string, { readonly name: string; readonly lock: LockSpec }[]>();
    for (const client of world.clients) {
      if (!client.isMounted || client.disturbances(client.mountNumber) > 0) continue;
      for (const lock of client.client.heldLocks()) {
        const key = `${lock.type} ${lock.fid}`;
        const others = held.get(key) ?? [];
        for (const other of others) {
          if (other.name === client.name || !conflict(lock, other.lock)) continue;
          world.violated(`${other.name} holds ${shown(other.lock)}, and ${client.name} ${shown(lock)}`);
        }
        others.push({ name: client.name, lock });
        held.set(key, others);
      }
    }
  }
}

function conflict(a: LockSpec, b: LockSpec): boolean {
  return modesConflict(a.mode, b.mode) && (a.type !== 'inode' || (a.bits & b.bits) !== 0);
}

function shown({ type, fid, mode, bits }: LockSpec): string {
  return `${type} ${fid} ${mode} ${bits}`;
}

export function watchTarget(world: World): void {
  let writer: Program | undefined;
  const served = new WeakSet<Program>();
  // Devices to begin with may have been served before.
  let { instance } = world.disks.meta.superblock();
  let lastTransno = 0;
  const isWriter = (program: Program, what: string): void => {
    if (program === writer) return;
    world.violated(`${what} by ${program.machine.name}, which does not serve (instance ${instance} does)`);
  };
  world.disks.meta.onCommit = (program, get) => {
    const superblock = get(bareKey(KEY.superblock));
    if (superblock !== undefined) {
      const begun = superblock.readUInt32LE(INSTANCE_AT);
      if (superblock[CLEAN_AT] === 0 && begun !== instance) {
        if (begun !== instance + 1) world.violated(`instance ${begun} follows ${instance}`);
        instance = begun;
        writer = program;
        served.add(program);
      }
    }
    isWriter(program, 'a commit');
    const { usedPages, sizeBytes } = world.disks.meta;
    if (usedPages * LMDB_PAGE_BYTES > sizeBytes) world.violated('the meta device holds more than it can');
    const counters = get(bareKey(KEY.counters));
    if (counters === undefined) return;
    const transno = decodeCounters(counters).lastTransno;
    if (transno < lastTransno) world.violated(`transno ${transno} is committed after ${lastTransno}`);
    lastTransno = transno;
  };
  world.disks.data.onWrite = (program, offset, lengthBytes) => {
    const first = Math.floor(offset / BLOCK_BYTES);
    if (first === MULTI_MOUNT_BLOCK && lengthBytes <= BLOCK_BYTES) return;
    // Before it says that it serves, a server restores content from the log of the one before, which must not write any more.
    const { clean, featuresIncompat } = world.disks.meta.superblock();
    if (!clean && (featuresIncompat & FEATURE_REDO_LOG) !== 0 && !served.has(program)) writer = program;
    isWriter(program, 'a write');
  };
  world.disks.meta.log.onWrite = (program) => isWriter(program, 'a write to the log');
}
