/** The load that is not ours, from /proc: what all processes took, less the bench and the kernel's threads (which work for it). */

import { readdirSync, readFileSync } from 'node:fs';
import { cpus } from 'node:os';
import { othersShare } from './runner.js';

const TICK_US = 10_000;
/** proc_pid_stat(5), field flags: the process is a thread of the kernel. */
const PF_KTHREAD = 0x00200000;

/** Microseconds that the processors were busy, and that a hypervisor took from them. */
function busyUs(): number {
  const [user = 0, nice = 0, system = 0, , , , , steal = 0] = (
    /^cpu +(.*)$/m.exec(readFileSync('/proc/stat', 'utf8'))?.[1] ?? ''
  )
    .split(' ')
    .map(Number);
  return (user + nice + system + steal) * TICK_US;
}

interface Process {
  readonly pid: number;
  readonly parent: number;
  readonly isKernel: boolean;
  readonly ticks: number;
  /** Of its children that have ended, and of theirs. */
  readonly endedTicks: number;
}

function processes(): Process[] {
  const found: Process[] = [];
  for (const pid of readdirSync('/proc')) {
    if (!/^\d+$/.test(pid)) continue;
    let stat: string;
    try {
      stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
    } catch (thrown) {
      const { code } = thrown as NodeJS.ErrnoException;
      if (code === 'ENOENT' || code === 'ESRCH') continue; // has ended meanwhile
      throw thrown;
    }
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    found.push({
      pid: Number(pid),
      parent: Number(fields[1]),
      isKernel: (Number(fields[6]) & PF_KTHREAD) !== 0,
      ticks: Number(fields[11]) + Number(fields[12]),
      endedTicks: Number(fields[13]) + Number(fields[14]),
    });
  }
  return found;
}

function kernelUs(): number {
  return processes().reduce((sum, { isKernel, ticks }) => sum + (isKernel ? ticks : 0), 0) * TICK_US;
}

/** What the processes that this one has started took, those that have ended too. */
export function descendantsUs(): number {
  const all = processes();
  const ours = new Set([process.pid]);
  let ticks = 0;
  // A child can have a lower id than its parent: ids are used again.
  for (let before = 0; before < ours.size; ) {
    before = ours.size;
    for (const { pid, parent } of all) if (ours.has(parent)) ours.add(pid);
  }
  for (const one of all) {
    if (!ours.has(one.pid)) continue;
    ticks += one.endedTicks + (one.pid === process.pid ? 0 : one.ticks);
  }
  return ticks * TICK_US;
}

/** @param startedUs processor time of all that the bench has started, in microseconds. */
export function watchLoad(startedUs: () => number): () => number {
  const now = (): { busy: number; bench: number; kernel: number; at: number } => {
    const own = process.cpuUsage();
    const bench = startedUs() + own.user + own.system;
    return { busy: busyUs(), bench, kernel: kernelUs(), at: performance.now() };
  };
  const before = now();
  return () => {
    const after = now();
    return othersShare({
      busyUs: after.busy - before.busy,
      benchUs: after.bench - before.bench,
      kernelUs: after.kernel - before.kernel,
      elapsedUs: (after.at - before.at) * 1000,
      processors: cpus().length,
    });
  };
}
