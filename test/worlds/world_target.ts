/** The targets of unit worlds: in virtual time, their records in the simulator's ordered map; or in lmdb, in real time. */

import type { TestContext } from 'node:test';
import type { TargetDevices } from '../../src/storage/api.js';
import { MemoryDevice } from '../fixtures/memory_device.js';
import {
  AnyTarget,
  DATA_BYTES,
  formatted,
  META_BYTES,
  type TargetSizes,
  testRuntime,
  testTarget,
} from '../fixtures/storage_target.js';
import type { SimMetaDisk } from '../sim/meta_disk.js';
import { realTime } from './real_time.js';
import { VirtualTime, type WorldTime } from './virtual_time.js';

/** Of one request to the data device, as the simulator has it. */
const DEVICE_MS = 0.08;

export class VirtualTarget extends AnyTarget {
  readonly time: VirtualTime;
  #meta: SimMetaDisk;

  constructor(time: VirtualTime, metaBytes: number, dataBytes: number) {
    const { disk, metaMedium } = time.metaDisk(metaBytes);
    const data = new MemoryDevice(dataBytes, 'memory', () => time.sleep(DEVICE_MS));
    const { clock, timers } = time;
    const devices = { metaPath: 'meta', metaSizeBytes: metaBytes, metaMedium, runtimeDir: 'none', data };
    super({ ...testRuntime(), clock, timers }, devices);
    this.time = time;
    this.#meta = disk;
  }

  protected override copiedMeta(): Omit<TargetDevices, 'data'> {
    const { disk, metaMedium } = this.time.metaDisk(this.#meta.sizeBytes, this.#meta);
    this.#meta = disk;
    return { ...this.devices, metaMedium };
  }
}

/** A formatted target, gone when the test is over. */
export async function virtualTarget(t: TestContext, sizes: TargetSizes = {}): Promise<VirtualTarget> {
  const { metaBytes = META_BYTES, dataBytes = DATA_BYTES } = sizes;
  return await formatted(t, new VirtualTarget(new VirtualTime(), metaBytes, dataBytes));
}

export interface WorldOptions extends TargetSizes {
  /** For tests of what only a real database does, with the reason. Its commits take real time, so all time is real. */
  readonly meta?: 'lmdb';
}

export async function worldTarget(
  t: TestContext,
  { meta, ...sizes }: WorldOptions,
): Promise<{ readonly target: AnyTarget; readonly time: WorldTime }> {
  if (meta === 'lmdb') return { target: await testTarget(t, sizes), time: realTime() };
  const target = await virtualTarget(t, sizes);
  return { target, time: target.time };
}
