/**
 * What the signals that are pending for a caller may end: looks at it in /proc when the kernel sends an INTERRUPT.
 *
 * `fatal`: a signal that is about to kill the caller ends every call. A caught one reaches only what interrupts.ts lets it:
 * INT, TERM, QUIT and HUP, by which people end programs, more than the others.
 * `all`: any signal that is not blocked or ignored ends every call.
 */

import { readFileSync } from 'node:fs';
import type { InterruptPolicy, SignalReach } from '../src/fuse/handlers.js';

export type IntrMode = 'fatal' | 'all';

/** The sets of one thread, bit n-1 for signal n (proc(5), /proc/PID/status). */
export interface SignalSets {
  readonly pending: bigint;
  readonly sharedPending: bigint;
  readonly blocked: bigint;
  readonly ignored: bigint;
  readonly caught: bigint;
}

function setOf(...signals: readonly number[]): bigint {
  return signals.reduce((set, signal) => set | (1n << BigInt(signal - 1)), 0n);
}

const [HUP, INT, QUIT, KILL, TERM] = [1, 2, 3, 9, 15];
const [CHLD, CONT, STOP, TSTP, TTIN, TTOU, URG, WINCH] = [17, 18, 19, 20, 21, 22, 23, 28];

/** Numbers of x86, arm and most others; none of these five differs anywhere Linux runs. */
const ENDS_PROGRAMS = setOf(HUP, INT, QUIT, TERM);
/** Default action: nothing, stop or continue (signal(7)). Every other signal kills by default. */
const HARMLESS_BY_DEFAULT = setOf(CHLD, CONT, STOP, TSTP, TTIN, TTOU, URG, WINCH);
const KILL_ONLY = setOf(KILL);

export function parseSignalSets(status: string): SignalSets {
  const field = (name: string): bigint => {
    const match = new RegExp(`^${name}:\\s*([0-9a-f]+)$`, 'm').exec(status);
    if (match?.[1] === undefined) throw new Error(`no ${name} in /proc status`);
    return BigInt(`0x${match[1]}`);
  };
  return {
    pending: field('SigPnd'),
    sharedPending: field('ShdPnd'),
    blocked: field('SigBlk'),
    ignored: field('SigIgn'),
    caught: field('SigCgt'),
  };
}

/** What the pending signals may end. Stops count: a wait for a lock ends for them, and the kernel begins it again. */
export function judgeSignals(sets: SignalSets, mode: IntrMode): SignalReach {
  const pending = (sets.pending | sets.sharedPending) & ~sets.blocked & ~sets.ignored;
  if (pending === 0n) return 'nothing';
  if (killsTask(sets) || mode === 'all') return 'everyCall';
  return (pending & ENDS_PROGRAMS) !== 0n ? 'awayCalls' : 'lockWaits';
}

/** A signal that kills by default and is not caught is pending. */
function killsTask(sets: SignalSets): boolean {
  const pending = (sets.pending | sets.sharedPending) & ~sets.blocked & ~sets.ignored;
  return (pending & (KILL_ONLY | (~sets.caught & ~HARMLESS_BY_DEFAULT))) !== 0n;
}

/**
 * @param procFolder for tests.
 */
export function interruptPolicy(mode: IntrMode, procFolder = '/proc'): InterruptPolicy {
  // A caller of another pid namespace, or hidden from us: nobody can tell. It must be possible to kill it while the server
  // is away, and its timers must not disturb its calls while the server is there.
  const unseen = mode === 'all' ? 'everyCall' : 'awayCalls';
  return (pid) => {
    if (pid === 0) return unseen;
    let sets: SignalSets;
    try {
      sets = parseSignalSets(readFileSync(`${procFolder}/${pid}/status`, 'latin1'));
    } catch {
      return unseen;
    }
    const reach = judgeSignals(sets, mode);
    if (reach === 'nothing' || killsTask(sets)) return reach;
    // EINTR for the READ of a page fault becomes SIGBUS, which a task that handles its signal must not get.
    return isInPageFault(`${procFolder}/${pid}/syscall`) ? 'nothing' : reach;
  };
}

/** proc(5): a thread that is blocked but not in a system call shows -1. */
function isInPageFault(path: string): boolean {
  try {
    return readFileSync(path, 'latin1').startsWith('-1 ');
  } catch {
    // Not ours to trace: a system call is what it nearly always is.
    return false;
  }
}
