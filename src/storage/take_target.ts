/**
 * How a server gets its target: the multi-mount block is free, the devices are free, the version gate agrees, the claim
 * holds.
 *
 * The steps have this order so that a refused server has changed nothing. The server reads afresh what another host
 * wrote: it drops the devices' caches when it sees that the block is free, and its claim succeeds only if nobody had
 * the target since. A target that is handed over is this server's at once: if the version gate refuses it then, the server
 * gives it back.
 */

import { FsError } from '../base/errno.js';
import { type Runtime, sleep } from '../runtime/ports.js';
import type { Superblock, TargetDevices, TargetStore } from './api.js';
import type { MultiMount } from './ownership/multi_mount.js';
import type { Owner } from './ownership/multi_mount_block.js';
import type { Sighting } from './ownership/multi_mount_watch.js';
import { openTarget, readSuperblock, type StorageRuntime } from './target.js';

/** How often a standby tries to open devices that a process of its own host has not closed yet. */
const OPEN_POLL_MS = 5;

/** Both devices, opened exclusively on this host. */
export interface ExclusiveDevices extends TargetDevices {
  /** Drops this host's caches of the devices: another host may have overwritten what they hold. */
  dropCaches(): Promise<void>;
  close(): Promise<void>;
}

export interface TakeOptions<Devices extends ExclusiveDevices> {
  readonly multiMount: MultiMount;
  /** @throws FsError EBUSY while a process of this host has the devices. */
  readonly open: () => Promise<Devices>;
  /** Throws if this program must not serve a target with this superblock. Nothing has been changed then. */
  readonly judge: (superblock: Superblock) => void;
  readonly standBy: boolean;
  /** As in StoreOptions. */
  readonly redoLog?: boolean | undefined;
  /** Ends the wait of a standby. */
  readonly signal: AbortSignal;
  /** A standby sees that another program has the target than a look before. */
  readonly holderChanged?: ((owner: Owner) => void) | undefined;
  /** Called with the reason why the target can be taken, before the server takes it. */
  readonly taking?: (sighting: Sighting & { readonly free: true }) => void;
}

export interface TakenTarget<Devices extends ExclusiveDevices> {
  readonly devices: Devices;
  /** begin() has not been called. The store writes only while the target is ours. */
  readonly store: TargetStore;
}

type TakeRuntime = StorageRuntime & Pick<Runtime, 'rng'>;

/**
 * @returns undefined if the signal aborted.
 * @throws FsError EBUSY, without standBy, if somebody else has the target: the message says who, since when, and what
 *   to do. Other errors as openTarget.
 */
export async function takeTarget<Devices extends ExclusiveDevices>(
  runtime: TakeRuntime,
  options: TakeOptions<Devices>,
): Promise<TakenTarget<Devices> | undefined> {
  return options.standBy ? await takeWhenFree(runtime, options) : await takeNow(runtime, options);
}

async function takeNow<Devices extends ExclusiveDevices>(
  runtime: TakeRuntime,
  options: TakeOptions<Devices>,
): Promise<TakenTarget<Devices> | undefined> {
  const devices = await options.open();
  try {
    // Refuse a device that is no target as such, whatever block 1 says.
    await readSuperblock(runtime, devices);
    for (;;) {
      const sighting = await options.multiMount.untilFree(false, options.signal);
      const store = sighting && (await tryTake(runtime, options, devices, sighting));
      if (store !== undefined) return { devices, store };
      if (sighting !== undefined) continue;
      await devices.close();
      return undefined;
    }
  } catch (thrown) {
    await devices.close();
    throw thrown;
  }
}

async function takeWhenFree<Devices extends ExclusiveDevices>(
  runtime: TakeRuntime,
  options: TakeOptions<Devices>,
): Promise<TakenTarget<Devices> | undefined> {
  for (;;) {
    const sighting = await options.multiMount.untilFree(true, options.signal, options.holderChanged);
    if (sighting === undefined) return undefined;
    const devices = await unlessBusy(options.open());
    if (devices === undefined) {
      await sleep(runtime.timers, OPEN_POLL_MS);
      continue;
    }
    try {
      const store = await tryTake(runtime, options, devices, sighting);
      if (store !== undefined) return { devices, store };
    } catch (thrown) {
      await devices.close();
      throw thrown;
    }
    await devices.close();
  }
}

async function unlessBusy<T>(opening: Promise<T>): Promise<T | undefined> {
  try {
    return await opening;
  } catch (thrown) {
    if (thrown instanceof FsError && thrown.code === 'EBUSY') return undefined;
    throw thrown;
  }
}

/** Takes a target that was handed over. The server before had the same devices of this kernel: what they have cached is true. */
async function takeHanded<Devices extends ExclusiveDevices>(
  runtime: TakeRuntime,
  { multiMount, judge, redoLog }: TakeOptions<Devices>,
  devices: Devices,
): Promise<TargetStore | undefined> {
  if (!(await multiMount.adopt())) return undefined;
  try {
    judge(await readSuperblock(runtime, devices));
    return await openTarget(runtime, devices, { guard: multiMount, redoLog });
  } catch (thrown) {
    await multiMount.release();
    throw thrown;
  }
}

/** @returns undefined if somebody else was faster. */
async function tryTake<Devices extends ExclusiveDevices>(
  runtime: TakeRuntime,
  options: TakeOptions<Devices>,
  devices: Devices,
  sighting: Sighting,
): Promise<TargetStore | undefined> {
  const { multiMount, redoLog } = options;
  if (sighting.free && sighting.why === 'handed over') {
    options.taking?.(sighting);
    return await takeHanded(runtime, options, devices);
  }
  await devices.dropCaches();
  options.judge(await readSuperblock(runtime, devices));
  if (sighting.free) options.taking?.(sighting);
  if (!(await multiMount.claim())) return undefined;
  // Opening only reads, so it need not wait for the claim to hold.
  const opening = openTarget(runtime, devices, { guard: multiMount, redoLog });
  const closed = opening.then(
    (store) => () => store.close(),
    // If the target is ours, `await opening` below throws this error. If not, the error does not concern us.
    () => async () => undefined,
  );
  let held = false;
  try {
    held = await multiMount.confirm();
  } finally {
    if (!held) await (await closed)();
  }
  if (!held) return undefined;
  try {
    return await opening;
  } catch (thrown) {
    await multiMount.release();
    throw thrown;
  }
}
