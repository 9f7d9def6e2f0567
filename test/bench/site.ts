/**
 * The part of the machine that one peer has: a folder, loop devices of its own, and a cgroup for each of its sides. end() ends
 * everything that was started in it, in whatever state a failure left it.
 */

import { mkdirSync } from 'node:fs';
import { basename, join } from 'node:path';
import { mountAt } from '../../mount/mount_table.js';
import { Child, run, runOk } from '../fixtures/child.js';
import { removeFolder } from '../fixtures/devices.js';
import { attachLoop, type LoopDevice } from '../fixtures/loop_device.js';
import { until } from '../fixtures/until.js';
import type { Cgroup } from './cgroup.js';
import type { Side } from './row.js';

const MIB = 1 << 20;
/** Of one run of a workload, and of a command that prepares one. Beyond it something is stuck. */
const PATIENCE_MS = 600_000;
const FAILURE_CHARACTERS = 300;

export class Site {
  readonly folder: string;
  /** All devices of a peer together have so many bytes. */
  readonly deviceBytes: number;
  readonly sides: Readonly<Record<Side, Cgroup>>;
  readonly #group: Cgroup;
  readonly #loops: LoopDevice[] = [];

  constructor(folder: string, group: Cgroup, deviceBytes: number) {
    mkdirSync(folder, { mode: 0o755 });
    this.folder = folder;
    this.deviceBytes = deviceBytes;
    this.#group = group;
    const [server, client, application] = [
      group.part('server'),
      group.part('client'),
      group.part('application'),
    ];
    this.sides = { server, client, application };
  }

  path(name: string): string {
    return join(this.folder, name);
  }

  makeFolder(name: string, mode = 0o755): string {
    const path = this.path(name);
    mkdirSync(path, { recursive: true, mode });
    return path;
  }

  /** A device whose blocks are all there: the first write to a hole would cost the host's filesystem more than later ones. */
  device(name: string, bytes: number): Promise<string> {
    return this.#attach(name, (file) => {
      const amount = ['bs=4M', `count=${Math.floor(bytes / (4 * MIB))}`];
      return this.helper('dd', ['if=/dev/zero', `of=${file}`, ...amount, 'oflag=direct', 'status=none']);
    });
  }

  /** As device(), but of holes: for what is not compared with others. */
  sparseDevice(name: string, bytes: number): Promise<string> {
    return this.#attach(name, (file) => this.helper('truncate', ['-s', String(bytes), file]));
  }

  async #attach(name: string, make: (file: string) => Promise<unknown>): Promise<string> {
    const file = this.path(`${name}.img`);
    await make(file);
    const loop = await attachLoop(file);
    this.#loops.push(loop);
    return loop.path;
  }

  /** A command that is no part of a measurement. @returns its stdout. */
  helper(command: string, args: readonly string[], env: NodeJS.ProcessEnv = process.env): Promise<string> {
    return runOk(command, args, { env, timeoutMs: PATIENCE_MS });
  }

  /** A process that stays. */
  daemon(side: Side, command: string, args: readonly string[], env: NodeJS.ProcessEnv = process.env): Child {
    const [entered, all] = this.sides[side].command(command, args);
    return new Child(`${basename(this.folder)} ${side}`, entered, all, env);
  }

  /** A workload, to its end. @returns its stdout. @throws Error with the end of what it says. */
  async application(
    command: string,
    args: readonly string[],
    options: { readonly input?: string } = {},
  ): Promise<string> {
    const [entered, all] = this.sides.application.command(command, args);
    const done = await run(entered, all, { ...options, timeoutMs: PATIENCE_MS });
    if (done.code === 0) return done.stdout;
    const said = `${done.stdout}\n${done.stderr}`.trim().slice(-FAILURE_CHARACTERS);
    throw new Error(`${basename(command)} ended with ${done.signal ?? `status ${done.code}`}: ${said}`);
  }

  /** Until something is mounted there; the process that does it has not ended meanwhile. */
  async mounted(mountpoint: string, by: Child): Promise<void> {
    const told = (): string => `${by.name} mounts ${mountpoint}: ${by.tail()}`;
    await until(told, () => {
      if (by.exit !== undefined) throw new Error(`${by.name} ended before it had mounted: ${by.tail()}`);
      return mountAt(mountpoint) !== undefined;
    });
  }

  async umount(mountpoint: string): Promise<void> {
    await this.helper('umount', [mountpoint]);
  }

  /** @returns what had to be ended by force. */
  async end(): Promise<string[]> {
    // Servers and clients go first, so that no mount waits for an answer.
    await this.#group.end();
    // The kernel takes a device away when its mount goes, which removeFolder() sees to.
    for (const loop of this.#loops) loop.close();
    return await removeFolder(this.folder);
  }
}

/** Ends a daemon in order. @throws Error if it fails. */
export async function endDaemon(child: Child, signal: NodeJS.Signals = 'SIGTERM'): Promise<void> {
  child.kill(signal);
  await child.exited;
}
