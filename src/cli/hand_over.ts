/**
 * The process in charge of a mount hands it over to another one, which it starts itself: so the new process has the same
 * environment, limits, control group and log, whoever has asked for it.
 *
 * Until the new process says that it is in charge, this one is. After any failure before that it ends the new process, waits for
 * its end, and goes on as if nothing had happened. From then on it touches neither the mount nor the server.
 */

import { type ChildProcess, type StdioOptions, spawn } from 'node:child_process';
import type { Socket } from 'node:net';
import type { FuseMount, MountHandover } from '../../mount/fuse_mount.js';
import { packNegotiated } from '../../mount/negotiated.js';
import { FsError } from '../base/errno.js';
import { ROOT_FID } from '../base/ids.js';
import { logger } from '../base/log.js';
import { patiently } from '../base/wait.js';
import { type FsClient, SERVER_AWAY } from '../client/api.js';
import type { Runtime } from '../runtime/ports.js';
import type { Vfs } from '../vfs/vfs.js';
import { type KernelStateMessage, STATE_VERSIONS } from '../wire/mount_state.js';
import { installedVersion } from './installed.js';
import type { Keeper } from './keeper.js';
import { CHANNEL_FD, FUSE_FD, KEPT_FD, monotonicMs, TakeoverChannel } from './takeover_channel.js';

const log = logger('cli:takeover');

/** How long the new process may take to load its code. A loaded machine needs some seconds. */
const START_MS = 60_000;
/** How long it may take to connect to the server, and then to begin to read. */
const CONNECT_MS = 15_000;

/** Everything that serves one mount. */
export interface Serving {
  readonly runtime: Runtime;
  readonly client: FsClient;
  readonly kernel: FuseMount;
  readonly vfs: Vfs;
  /** Starts another client if this one dies. */
  readonly keeper: Keeper | undefined;
  /** The log file of a process in the background. */
  readonly logPath: string | undefined;
}

export interface Successor {
  /** The program, and the arguments that make it take this mount over. */
  readonly program: string;
  readonly args: readonly string[];
  /** How long calls may wait for the drain. */
  readonly patienceMs: number;
}

export interface HandedOver {
  readonly pid: number;
  readonly version: string;
  readonly versionBefore: string;
  /** From the moment at which the drain began until the new process was in charge. */
  readonly drainMs: number;
  /** How long calls that needed the server waited in this time. */
  readonly waitedMs: number;
  /** How long this mount read no requests. */
  readonly silentMs: number;
}

/** @throws FsError, CliError: why the mount stays with this process. */
export async function handOver(serving: Serving, successor: Successor): Promise<HandedOver> {
  const { handover, detached, mountpoint } = serving.kernel;
  if (detached !== undefined)
    throw new FsError('EBUSY', `${mountpoint} is detached (umount -l): it ends with the last open file`);
  if (handover === undefined) {
    const { driver } = serving.kernel;
    throw new FsError(
      'EOPNOTSUPP',
      `a mount with driver=${driver} cannot be taken over: unmount, and mount again`,
    );
  }
  const child = start(successor, handover, serving.keeper);
  const ended = new Promise<void>((resolve) => child.once('close', () => resolve()));
  // A child that cannot be started closes too.
  child.once('error', (error) => log('%O', error));
  const channel = new TakeoverChannel(child.stdio[CHANNEL_FD] as Socket);
  const attempt = new Attempt(serving, handover, channel);
  try {
    return await attempt.run(successor.patienceMs);
  } catch (thrown) {
    child.kill('SIGKILL');
    // It may read requests until it has ended.
    await ended;
    attempt.stay();
    throw thrown;
  } finally {
    channel.close();
    child.unref();
  }
}

function start(
  { program, args }: Successor,
  { descriptor }: MountHandover,
  keeper: Keeper | undefined,
): ChildProcess {
  const stdio: StdioOptions = ['ignore', 'inherit', 'inherit'];
  stdio[CHANNEL_FD] = 'pipe';
  stdio[FUSE_FD] = descriptor;
  stdio[KEPT_FD] = keeper?.inherited ?? 'ignore';
  return spawn(program, [...args], {
    detached: true,
    cwd: '/',
    stdio,
  });
}

class Attempt {
  readonly #serving: Serving;
  readonly #handover: MountHandover;
  readonly #channel: TakeoverChannel;
  #begun = false;
  /** systemd keeps nothing for a process of an older version. */
  #forgotten = false;
  /** The new process may have read requests. */
  #mayRead = false;

  constructor(serving: Serving, handover: MountHandover, channel: TakeoverChannel) {
    this.#serving = serving;
    this.#handover = handover;
    this.#channel = channel;
  }

  async run(patienceMs: number): Promise<HandedOver> {
    const { runtime, client, keeper, logPath } = this.#serving;
    const { nowMs } = runtime.clock;
    const channel = this.#channel;
    const hello = await this.#within(START_MS, 'to start', () => channel.hear('hello'));
    const { pid, version, stateVersions } = hello;
    const stateVersion = STATE_VERSIONS.filter((known) => stateVersions.includes(known)).at(-1);
    if (stateVersion === undefined) {
      throw new FsError('EPROTO', `version ${version} cannot take a mount over from ${installedVersion()}`);
    }
    // Before anything waits: a request that waits for the server would keep this process from finding out.
    if (client.awayMs(ROOT_FID) > 0) throw new FsError('EAGAIN', SERVER_AWAY);
    const beganMs = nowMs();
    this.#begun = true;
    await this.#within(patienceMs, 'to drain (--patience); the mount stays as it was', async (patience) => {
      await this.#handover.keepRequests(patience);
      await client.handover.leave(patience);
      await this.#handover.quiet(patience);
    });
    const silentSinceMs = nowMs();
    const isStored = keeper?.kind === 'store';
    const hasStore = isStored && hello.knowsStore === true;
    if (isStored && !hasStore) {
      this.#forgotten = true;
      await keeper.forget();
    }
    channel.say({
      word: 'state',
      stateVersion,
      logPath,
      hasKeeper: keeper?.kind === 'process',
      hasStore,
      shutSinceMs: monotonicMs() - client.awayMs(ROOT_FID),
    });
    channel.sayState({ client: client.handover.state(), kernel: this.#kernelState() });
    await this.#within(CONNECT_MS, 'to connect', () => channel.hear('ready'));
    this.#mayRead = true;
    channel.say({ word: 'go' });
    await this.#within(CONNECT_MS, 'to begin', () => channel.hear('inCharge'));
    const nowIs = nowMs();
    return {
      pid,
      version,
      versionBefore: installedVersion(),
      drainMs: nowIs - beganMs,
      waitedMs: client.awayMs(ROOT_FID),
      silentMs: nowIs - silentSinceMs,
    };
  }

  /** The mount stays with this process. */
  stay(): void {
    if (!this.#begun) return;
    // It never fails (service_manager.ts).
    if (this.#forgotten) void this.#serving.keeper?.keep();
    this.#handover.stay(this.#mayRead);
    this.#serving.client.handover.stay(this.#mayRead);
  }

  #kernelState(): KernelStateMessage {
    const requests = this.#handover.requests();
    return { ...packNegotiated(this.#handover.negotiated()), requests, ...this.#serving.vfs.state() };
  }

  /** @throws FsError ETIMEDOUT; what the work throws. */
  async #within<T>(ms: number, what: string, work: (patience: AbortSignal) => Promise<T>): Promise<T> {
    const abort = new AbortController();
    const timer = this.#serving.runtime.timers.after(ms, () => {
      abort.abort(new FsError('ETIMEDOUT', `it took longer than ${ms / 1000} s ${what}`));
    });
    try {
      return await patiently(work(abort.signal), abort.signal);
    } finally {
      timer.cancel();
    }
  }
}
