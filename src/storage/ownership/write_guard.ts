/**
 * Asks a guard before every write to the devices of a target. While all is well this costs one look at the clock.
 * multi_mount.ts decides who has the target; this file only asks it.
 */

import type { BlockDevice } from '../../runtime/ports.js';
import type { TargetDevices, WriteGuard } from '../api.js';
import { metaMedium } from '../meta/lmdb_store.js';
import type { LogDevice, MetaDatabase, MetaMedium } from '../meta_medium.js';

/** Calls `write` once the guard allows it, in the same turn if it can. */
function guarded(guard: WriteGuard, write: () => Promise<void>): Promise<void> {
  const wait = guard.check();
  return wait === undefined ? write() : wait.then(write);
}

/** The same devices, with a guard before every write to them. */
export function guardedDevices(devices: TargetDevices, guard: WriteGuard): TargetDevices {
  return {
    metaPath: devices.metaPath,
    metaSizeBytes: devices.metaSizeBytes,
    runtimeDir: devices.runtimeDir,
    data: guardedDevice(devices.data, guard),
    metaMedium: guardedMedium(metaMedium(devices), guard),
  };
}

function guardedDevice(device: BlockDevice, guard: WriteGuard): BlockDevice {
  return {
    path: device.path,
    sizeBytes: device.sizeBytes,
    read: (offset, target) => device.read(offset, target),
    readOnce: (offset, target) => device.readOnce(offset, target),
    memory: (lengthBytes) => device.memory(lengthBytes),
    readDirect: (offset, target) => device.readDirect(offset, target),
    write: (offset, chunks) => guarded(guard, () => device.write(offset, chunks)),
    writeDirect: (offset, bytes) => guarded(guard, () => device.writeDirect(offset, bytes)),
    // A flush may bring earlier writes to the device only now, so it asks too.
    flush: () => guarded(guard, () => device.flush()),
    discard: (offset, lengthBytes) => guarded(guard, () => device.discard(offset, lengthBytes)),
    close: () => device.close(),
  };
}

function guardedDatabase(db: MetaDatabase, guard: WriteGuard): MetaDatabase {
  return {
    get: (key) => db.get(key),
    prefetch: (keys) => db.prefetch(keys),
    range: (start, end, limit) => db.range(start, end, limit),
    commit: (write, options) => guarded(guard, () => db.commit(write, options)),
    carriesBytes: db.carriesBytes,
    use: () => db.use(),
    close: () => db.close(),
  };
}

function guardedLog(device: LogDevice, guard: WriteGuard): LogDevice {
  return {
    read: (offset, lengthBytes) => device.read(offset, lengthBytes),
    write: (offset, bytes) => guarded(guard, () => device.write(offset, bytes)),
    close: () => device.close(),
  };
}

function guardedMedium(medium: MetaMedium, guard: WriteGuard): MetaMedium {
  return {
    open: (...options) => guardedDatabase(medium.open(...options), guard),
    withRawReader: (use) => medium.withRawReader(use),
    writeRaw: (pieces) => guarded(guard, () => medium.writeRaw(pieces)),
    openLog: async () => guardedLog(await medium.openLog(), guard),
  };
}
