/**
 * A cgroup (version 2) of a benchmark's processes. It counts the processor time of all that ever ran in it, those that have
 * ended too, in microseconds, and it can end all that run in it, however they were started. It needs no controller.
 */

import { mkdirSync, readFileSync, rmdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { mountTable } from '../../mount/mount_table.js';
import { CliError } from '../../src/cli/failure.js';
import { until } from '../fixtures/until.js';

export class Cgroup {
  readonly path: string;
  readonly #parts = new Set<Cgroup>();
  readonly #parent: Cgroup | undefined;

  private constructor(path: string, parent?: Cgroup) {
    mkdirSync(path);
    this.path = path;
    this.#parent = parent;
  }

  /** @throws CliError if the machine has no hierarchy of version 2 in which this process may make a group. */
  static top(name: string): Cgroup {
    const root = mountTable().find(({ type }) => type === 'cgroup2')?.mountpoint;
    if (root === undefined) {
      throw new CliError('no cgroup v2 is mounted here: mount -t cgroup2 none /sys/fs/cgroup/unified');
    }
    try {
      return new Cgroup(join(root, name));
    } catch (thrown) {
      throw new CliError(`cannot make a cgroup in ${root}: ${(thrown as Error).message}`, 1, {
        cause: thrown,
      });
    }
  }

  part(name: string): Cgroup {
    const part = new Cgroup(join(this.path, name), this);
    this.#parts.add(part);
    return part;
  }

  /** Processor time so far, parts included, in microseconds. */
  usageUs(): number {
    const text = readFileSync(join(this.path, 'cpu.stat'), 'utf8');
    return Number(/^usage_usec (\d+)$/m.exec(text)?.[1]);
  }

  /** The processes that run in it now; those of its parts are not among them. */
  pids(): number[] {
    const text = readFileSync(join(this.path, 'cgroup.procs'), 'utf8');
    return text.split('\n').filter(Boolean).map(Number);
  }

  /** The command that runs this one in the group. Signals reach it: the shell execs it. */
  command(command: string, args: readonly string[]): readonly [string, readonly string[]] {
    const enter = 'echo $$ > "$0" && exec "$@"';
    return ['sh', ['-c', enter, join(this.path, 'cgroup.procs'), command, ...args]];
  }

  /** Ends every process of the group and of its parts. */
  async kill(): Promise<void> {
    writeFileSync(join(this.path, 'cgroup.kill'), '1');
    const events = join(this.path, 'cgroup.events');
    await until(`no process is left in ${this.path}`, () =>
      readFileSync(events, 'utf8').includes('populated 0'),
    );
  }

  async end(): Promise<void> {
    await this.kill();
    for (const part of this.#parts) await part.end();
    rmdirSync(this.path);
    if (this.#parent !== undefined) this.#parent.#parts.delete(this);
  }
}
