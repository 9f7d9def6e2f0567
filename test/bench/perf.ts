/** System calls of each side, counted by perf(1) through its cgroup. perf slows what it counts, so no time is measured with it. */

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { relative } from 'node:path';
import type { Duplex } from 'node:stream';
import { mountTable } from '../../mount/mount_table.js';
import { within } from '../fixtures/until.js';
import type { Cgroup } from './cgroup.js';
import { hasCommand } from './peer.js';
import { SIDES, type Side } from './row.js';

const EVENT = 'raw_syscalls:sys_enter';
const TRACEPOINT = '/sys/kernel/tracing/events/raw_syscalls/sys_enter';

/** Why system calls cannot be counted here; undefined: they can. */
export function cannotCount(): string | undefined {
  if (!hasCommand('perf')) return 'perf is not installed: apt-get install linux-perf';
  if (!existsSync(TRACEPOINT)) return `the kernel has no ${TRACEPOINT}`;
  return undefined;
}

/** @param csv what `perf stat -x,` prints: COUNT,UNIT,EVENT,CGROUP,... @returns the count of each group, 0 without one. */
export function countsOf(csv: string, groups: readonly string[]): number[] {
  const counts = new Map<string, number>();
  for (const line of csv.split('\n')) {
    const [count = '', , event, group = ''] = line.split(',');
    // A group in which nothing ran is <not counted>.
    if (event === EVENT) counts.set(group, Number.isNaN(Number(count)) ? 0 : Number(count));
  }
  return groups.map((group) => {
    const count = counts.get(group);
    if (count === undefined) throw new Error(`perf has not counted ${group}: ${csv.slice(0, 500)}`);
    return count;
  });
}

/** @returns system calls of one operation of `run`. */
export async function countSystemCalls(
  sides: Readonly<Record<Side, Cgroup>>,
  run: () => Promise<{ readonly operations: number }>,
): Promise<Readonly<Record<Side, number>>> {
  const root = mountTable().find(({ type }) => type === 'cgroup2')?.mountpoint ?? '/';
  const groups = SIDES.map((side) => relative(root, sides[side].path));
  const args = ['stat', '-x,', '-a', '-e', EVENT, '--for-each-cgroup', groups.join(','), '-D', '-1'];
  const perf = spawn('perf', [...args, '--control', 'fd:3,4'], {
    stdio: ['ignore', 'ignore', 'pipe', 'pipe', 'pipe'],
    detached: true,
  });
  const ended = once(perf, 'close');
  const text: Buffer[] = [];
  perf.stderr?.on('data', (chunk: Buffer) => text.push(chunk));
  const [control, answers] = [perf.stdio[3] as Duplex, perf.stdio[4] as Duplex];
  const said = (): string => Buffer.concat(text).toString();
  const tell = async (word: string): Promise<void> => {
    const answer = once(answers, 'data');
    control.write(`${word}\n`);
    const died = ended.then((): never => {
      throw new Error(`perf has ended: ${said()}`);
    });
    await within(() => `perf does "${word}": ${said()}`, Promise.race([answer, died]));
  };
  try {
    await tell('enable');
    const { operations } = await run();
    await tell('disable');
    perf.kill('SIGINT');
    await ended;
    const [server = 0, client = 0, application = 0] = countsOf(said(), groups).map(
      (count) => count / Math.max(1, operations),
    );
    return { server, client, application };
  } finally {
    if (perf.exitCode === null && perf.signalCode === null) perf.kill('SIGKILL');
    await ended;
  }
}
