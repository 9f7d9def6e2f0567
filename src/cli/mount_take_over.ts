/** A client process that takes a mount over from the one that has started it (hand_over.ts). */

import { Socket } from 'node:net';
import type { Negotiated } from '../../mount/fuse_mount.js';
import { unpackNegotiated } from '../../mount/negotiated.js';
import { parseMountOptions } from '../../mount/options.js';
import { nativeBinding } from '../../native/binding.js';
import { logger } from '../base/log.js';
import { startClient } from '../client/client.js';
import { STATE_VERSIONS } from '../wire/mount_state.js';
import type { Source } from './common.js';
import { DescriptorStore } from './descriptor_store.js';
import { describeFailure } from './failure.js';
import { installedVersion } from './installed.js';
import { type Keeper, KeeperProcess } from './keeper.js';
import {
  goOnServing,
  learnRoot,
  prepare,
  serveMetricsAfter,
  tellKeeper,
  untilEnded,
} from './mount_client.js';
import { type Launch, type Mounted, serveMount } from './mount_serve.js';
import {
  CHANNEL_FD,
  FUSE_FD,
  KEPT_FD,
  monotonicMs,
  TakeoverChannel,
  type TakeoverWord,
} from './takeover_channel.js';

const log = logger('cli:mount');

/**
 * @returns when the mount has ended, or another process has taken it over.
 * @throws what has gone wrong. Until this process is in charge, the one before hears it, and stays in charge.
 */
export async function takeMountOver(source: Source, mountpoint: string, launch: Launch): Promise<void> {
  const { closeOnExec } = nativeBinding();
  for (const descriptor of [CHANNEL_FD, FUSE_FD]) closeOnExec(descriptor);
  const channel = new TakeoverChannel(new Socket({ fd: CHANNEL_FD, readable: true, writable: true }));
  let mounted: Mounted;
  let metrics: () => void;
  try {
    const options = parseMountOptions(launch.options, process.getuid?.() === 0);
    const parts = await prepare(source, mountpoint, options, { says: (line) => log('%s', line), launch });
    const { runtime, vfs } = parts;
    channel.say({
      word: 'hello',
      pid: process.pid,
      version: installedVersion(),
      stateVersions: STATE_VERSIONS,
      knowsStore: true,
    });
    const heard = await channel.hear('state');
    const { logPath } = heard;
    const state = await channel.hearState();
    const negotiated = unpackNegotiated(state.kernel);
    const keeper = keeperOf(heard, negotiated);
    vfs.takeOver(state.kernel);
    const client = await startClient(runtime, parts.clientOptions, {
      kind: 'handed over',
      state: state.client,
    });
    vfs.attach(client);
    channel.say({ word: 'ready' });
    await channel.hear('go');
    const { requests } = state.kernel;
    if (keeper !== undefined) tellKeeper(keeper, client, negotiated, launch, mountpoint, parts);
    const kernel = goOnServing(parts, mountpoint, options, FUSE_FD, { negotiated, requests });
    if (heard.shutSinceMs !== undefined)
      client.handover.paused(monotonicMs() - heard.shutSinceMs, requests.length);
    channel.say({ word: 'inCharge' });
    mounted = { ...parts, client, kernel, mountpoint, logPath, launch, keeper };
    metrics = () => serveMetricsAfter(parts, options);
  } catch (thrown) {
    channel.say({ word: 'failed', why: describeFailure(thrown).line });
    throw thrown;
  } finally {
    channel.close();
  }
  const running = await serveMount(mounted);
  learnRoot(mounted.client);
  metrics();
  await untilEnded(running, mounted.logPath);
}

function keeperOf(
  { hasKeeper, hasStore }: Extract<TakeoverWord, { readonly word: 'state' }>,
  negotiated: Negotiated,
): Keeper | undefined {
  if (hasKeeper === true) return KeeperProcess.at(KEPT_FD);
  return hasStore === true ? DescriptorStore.at(KEPT_FD, FUSE_FD, negotiated) : undefined;
}
