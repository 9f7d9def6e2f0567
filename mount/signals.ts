/**
 * Decides which calls a caller's pending signals may end. Reads them in /proc when the kernel sends an INTERRUPT.
 *
 * `fatal`: a signal that is about to kill the caller ends every call. A caught signal ends only the calls that
 * interrupts.ts allows: more of them for INT, TERM, QUIT and HUP, with which people end programs. `all`: any signal
 * that is not blocked or ignored ends every call, except page faults and the calls that nothing ends (FLUSH, RELEASE, unlock).
 */

import { readFileSync } from 'node:fs';
import type { InterruptPolicy, SignalReach } from '../src/fuse/handlers.js';

export type IntrMode = 'fatal' | 'all';

/** The signal sets of one thread: bit n-1 is signal n (proc(5), /proc/PID/status). */
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

/** Signal numbers of x86, arm and most others. HUP, INT, QUIT, KILL and TERM are the same wherever Linux runs. */
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

/** What the pending signals may end. Stop signals count too: they end a wait for a lock, and the kernel begins it again. */
export function judgeSignals(sets: SignalSets, mode: IntrMode): SignalReach {
  const pending = (sets.pending | sets.sharedPending) & ~sets.blocked & ~sets.ignored;
  if (pending === 0n) return 'nothing';
  if (killsTask(sets) || mode === 'all') return 'everyCall';
  return (pending & ENDS_PROGRAMS) !== 0n ? 'awayCalls' : 'lockWaits';
}

/** Whether a signal is pending that kills by default and is not caught. */
function killsTask(sets: SignalSets): boolean {
  const pending = (sets.pending | sets.sharedPending) & ~sets.blocked & ~sets.ignored;
  return (pending & (KILL_ONLY | (~sets.caught & ~HARMLESS_BY_DEFAULT))) !== 0n;
}

/**
 * @param procFolder for tests.
 */
export function interruptPolicy(mode: IntrMode, procFolder = '/proc'): InterruptPolicy {
  // The caller is in another pid namespace, or hidden from us, so we cannot know its signals. A user must be able to
  // kill it while the server is away, and its timers must not disturb its calls while the server is there.
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
    // If the READ of a page fault gets EINTR, the task gets SIGBUS. A task that handles its signal must not get that.
    return isInPageFault(`${procFolder}/${pid}/syscall`) ? 'nothing' : reach;
  };
}

/** proc(5): the file begins with -1 if the thread is blocked but not in a system call. */
function isInPageFault(path: string): boolean {
  try {
    return readFileSync(path, 'latin1').startsWith('-1 ');
  } catch {
    // We may not trace this thread. It is nearly always in a system call.
    return false;
  }
}
