/**
 * One run of the bench on this machine: its folder, its cgroup, the C program, and the sites of its peers. Whatever ends the
 * run, end() leaves no mount, loop device, process, cgroup or file. A signal makes the running workload fail, so that the
 * run ends by the same way.
 */

import { mkdtempSync, readdirSync, rmSync, statfsSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { packageRoot } from '../../native/binding.js';
import { CliError } from '../../src/cli/failure.js';
import { runOk } from '../fixtures/child.js';
import { Cgroup } from './cgroup.js';
import { watchLoad } from './load.js';
import { Site } from './site.js';
import { Sources } from './sources.js';

const GIB = 2 ** 30;
/** Left on the disk of the temporary folder, beside the devices. */
const SPARE_BYTES = 2 * GIB;
const SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;
const BY_SIGNAL: Readonly<Record<string, number>> = { SIGINT: 130, SIGTERM: 143, SIGHUP: 129 };

export class BenchSession {
  readonly folder: string;
  readonly tool: string;
  readonly sources: Sources;
  readonly #group: Cgroup;
  readonly #sites: Site[] = [];
  #signal: NodeJS.Signals | undefined;
  readonly #onSignal = (signal: NodeJS.Signals): void => {
    this.#signal = signal;
    // A second signal finds nothing more to do: what was started is being ended.
    for (const site of this.#sites) void site.sides.application.kill().catch(() => undefined);
  };

  private constructor(folder: string, group: Cgroup, part: number) {
    this.folder = folder;
    this.#group = group;
    this.tool = join(folder, 'syscalls');
    this.sources = new Sources(join(folder, 'sources'), part);
    for (const signal of SIGNALS) process.on(signal, this.#onSignal);
  }

  /** @param part of the usual work (Sizes). @throws CliError if the machine cannot do it. */
  static async open(part: number): Promise<BenchSession> {
    if (process.getuid?.() !== 0) throw new CliError('the bench mounts filesystems: run it as root');
    const group = Cgroup.top(`holdfast-bench-${process.pid}`);
    // Peers run as other users too, who must get through to their mounts.
    const folder = mkdtempSync(join(tmpdir(), 'holdfast-bench-'));
    await runOk('chmod', ['755', folder]);
    const session = new BenchSession(folder, group, part);
    try {
      const work = join(packageRoot(), 'test', 'bench', 'work');
      const sources = readdirSync(work).filter((name) => name.endsWith('.c'));
      await runOk('cc', ['-O2', '-o', session.tool, ...sources.map((name) => join(work, name))]);
    } catch (thrown) {
      await session.end();
      throw thrown;
    }
    return session;
  }

  /** @throws CliError if the disk has no room for devices of so many bytes. */
  needRoom(bytes: number): void {
    const { bavail, bsize } = statfsSync(this.folder);
    if (bavail * bsize >= bytes + SPARE_BYTES) return;
    const need = Math.ceil((bytes + SPARE_BYTES) / GIB);
    throw new CliError(`${tmpdir()} has no ${need} GiB for the devices: name fewer peers, or another TMPDIR`);
  }

  site(name: string, deviceBytes: number): Site {
    const site = new Site(join(this.folder, name), this.#group.part(name), deviceBytes);
    this.#sites.push(site);
    return site;
  }

  /** @throws CliError when the user has ended the bench. */
  check(): void {
    if (this.#signal !== undefined) throw new CliError(`ended by ${this.#signal}`, BY_SIGNAL[this.#signal]);
  }

  load(): () => number {
    return watchLoad(() => this.#group.usageUs());
  }

  /** @returns what had to be ended by force. */
  async end(): Promise<string[]> {
    const forced: string[] = [];
    const failures: unknown[] = [];
    const attempt = async (step: () => unknown): Promise<void> => {
      try {
        await step();
      } catch (thrown) {
        failures.push(thrown);
      }
    };
    for (const site of this.#sites) await attempt(async () => forced.push(...(await site.end())));
    await attempt(() => this.#group.end());
    await attempt(() => rmSync(this.folder, { recursive: true, force: true }));
    for (const signal of SIGNALS) process.removeListener(signal, this.#onSignal);
    if (failures.length > 0) throw new AggregateError(failures, `not all was ended: ${failures.join('; ')}`);
    return forced;
  }
}
