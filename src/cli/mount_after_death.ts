/**
 * A client process that goes on with a mount whose client has died. What was open is lost; everything else goes on as soon as a
 * server takes this client.
 */

import type { Negotiated } from '../../mount/fuse_mount.js';
import { mountAt } from '../../mount/mount_table.js';
import { canAskAgain, unpackNegotiated } from '../../mount/negotiated.js';
import { parseMountOptions } from '../../mount/options.js';
import { isMounted, unmountPath } from '../../mount/unmount.js';
import { nativeBinding } from '../../native/binding.js';
import type { FsClient } from '../client/api.js';
import { startClient } from '../client/client.js';
import { formatAddress, type Runtime } from '../runtime/ports.js';
import type { Source } from './common.js';
import { mountLogPath } from './control.js';
import { DescriptorStore, type Stored } from './descriptor_store.js';
import { dieBy, EndedBySignal } from './end_signals.js';
import { takenFromKeeper } from './fuse_descriptors.js';
import { KEEPER_FD, type Keeper, KeeperProcess, ORPHAN_FUSE_FD } from './keeper.js';
import {
  goOnServing,
  learnRoot,
  type Prepared,
  prepare,
  serveMetricsAfter,
  tellKeeper,
  untilEnded,
} from './mount_client.js';
import { type Launch, serveMount } from './mount_serve.js';
import { readSeed, type Seed } from './seed_memory.js';
import { announceReady } from './service_manager.js';

/** How often a process that waits for a server looks whether its mount is still there. */
const LOOK_MS = 1000;

/** What is left of the process before. */
interface Remains {
  readonly keeper: Keeper;
  /** What this process is to read. */
  readonly fuse: number;
  readonly seed: Seed;
  readonly negotiated: Negotiated;
  /** The log file of a process in the background. */
  readonly logPath: string | undefined;
}

/** A keeper of ours has started this process (keeper.ts). @returns when the mount has ended. */
export async function goOnForKeeper(source: Source, mountpoint: string, launch: Launch): Promise<void> {
  const { closeOnExec } = nativeBinding();
  for (const descriptor of [KEEPER_FD, ORPHAN_FUSE_FD]) closeOnExec(descriptor);
  const keeper = KeeperProcess.at(KEEPER_FD);
  const seed = await keeper.seed();
  const negotiated = unpackNegotiated(seed.negotiated);
  const fuse = takenFromKeeper(ORPHAN_FUSE_FD, negotiated);
  const logPath = mountLogPath(mountpoint);
  await goOnAfterDeath(source, mountpoint, launch, { keeper, fuse, seed, negotiated, logPath });
}

/** systemd has started this process, and has kept the mount (descriptor_store.ts). @returns when the mount has ended. */
export async function goOnFromStore(
  source: Source,
  mountpoint: string,
  launch: Launch,
  stored: Stored,
): Promise<void> {
  const { memory } = stored;
  const seed = readSeed(memory);
  const negotiated = unpackNegotiated(seed.negotiated);
  const fuse = takenFromKeeper(stored.fuse, negotiated);
  const keeper = DescriptorStore.at(memory, fuse, negotiated);
  const from = `${source.addresses.map(formatAddress).join(',')} on ${mountpoint}`;
  process.stderr.write(`holdfast: the client process of ${mountpoint} has died; this one goes on\n`);
  const remains = { keeper, fuse, seed, negotiated, logPath: undefined };
  let told: Promise<void> = Promise.resolve();
  await goOnAfterDeath(source, mountpoint, launch, remains, {
    // The mount is there, and its calls wait as they do for a server that is away: no time limit of systemd's may end that.
    waits: () => {
      told = announceReady(`goes on with ${from}`);
    },
    serves: () => void told.then(() => announceReady(`mounted ${from}`)),
  });
}

async function goOnAfterDeath(
  source: Source,
  mountpoint: string,
  launch: Launch,
  { keeper, fuse, seed, negotiated, logPath }: Remains,
  manager?: { waits(): void; serves(): void },
): Promise<void> {
  const options = parseMountOptions(launch.options, process.getuid?.() === 0);
  const says = (line: string): void => void process.stderr.write(`holdfast: ${line}\n`);
  const parts = await prepare(source, mountpoint, { ...options, retry: true }, { says, launch });
  manager?.waits();
  const { runtime, vfs, notices } = parts;
  const watch = endWithMount(runtime, mountpoint);
  vfs.takeOver({ nodes: Buffer.alloc(0), lockOwners: [] });
  const client = await connect(parts, seed, mountpoint, keeper);
  vfs.attach(client);
  watch.cancel();
  // Before the first request: if this process dies too, the next one must use none of its numbers for handles.
  tellKeeper(keeper, client, negotiated, launch, mountpoint, parts);
  const kernel = goOnServing(parts, mountpoint, options, fuse, { negotiated, requests: [] });
  // Nothing keeps names true that the dead client has handed out.
  await vfs.kernelCache.dropNames();
  // What it had read and not answered. If the kernel cannot ask again, it has ended that (fuse_descriptors.ts).
  kernel.handover?.stay(canAskAgain(negotiated));
  notices.say('client-died', `the client process of ${mountpoint} has died; files that were open answer EIO`);
  const running = await serveMount({ ...parts, client, kernel, mountpoint, logPath, launch, keeper });
  learnRoot(client);
  serveMetricsAfter(parts, options);
  manager?.serves();
  await untilEnded(running, logPath);
}

/** A signal ends the mount while this process waits for a server: it has nothing to write, and could not unmount in order. */
async function connect(
  { runtime, clientOptions }: Prepared,
  seed: Seed,
  mountpoint: string,
  keeper: Keeper,
): Promise<FsClient> {
  try {
    return await startClient(runtime, clientOptions, { kind: 'dead', client: seed.client });
  } catch (thrown) {
    if (!(thrown instanceof EndedBySignal)) throw thrown;
    await keeper.forget();
    if (isMounted(mountpoint)) unmountPath(mountpoint, 'detach');
    process.stderr.write(`holdfast: ${thrown.message}\n`);
    dieBy(thrown);
    throw thrown;
  }
}

/** Without a server this process reads nothing from the kernel, and would not hear that the mount is gone. */
function endWithMount({ timers }: Runtime, mountpoint: string): { cancel(): void } {
  const device = mountAt(mountpoint)?.device;
  let timer: { cancel(): void };
  const look = (): void => {
    if (mountAt(mountpoint)?.device !== device) process.exit(0);
    timer = timers.after(LOOK_MS, look);
  };
  look();
  return { cancel: () => timer.cancel() };
}
