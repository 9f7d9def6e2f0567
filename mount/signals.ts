/**
 * Which signals end a blocked request: looks at the caller in /proc when the kernel sends an INTERRUPT.
 *
 * `fatal`: the caller is about to die of the signal, or it is one of those by which people end programs, even if caught. A
 * program that merely handles SIGCHLD, SIGWINCH or SIGUSR1 must not see EINTR from stat(): SA_RESTART does not help it.
 * `all`: any signal that is not blocked or ignored.
 */

import { readFileSync } from 'node:fs';
import type { InterruptPolicy } from '../src/fuse/handlers.js';

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

const [HUP, INT, QUIT, KILL, ALRM, TERM] = [1, 2, 3, 9, 14, 15];
const [CHLD, CONT, STOP, TSTP, TTIN, TTOU, URG, WINCH] = [17, 18, 19, 20, 21, 22, 23, 28];

/** Numbers of x86, arm and most others; none of these six differs anywhere Linux runs. */
const ENDS_PROGRAMS = setOf(HUP, INT, QUIT, KILL, ALRM, TERM);
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

export type Verdict = 'dies' | 'caught' | 'none';

/** What the pending signals will do: kill the task, reach a handler that counts (see the modes), or nothing to us. */
export function judgeSignals(sets: SignalSets, mode: IntrMode): Verdict {
  const pending = (sets.pending | sets.sharedPending) & ~sets.blocked & ~sets.ignored;
  if ((pending & (KILL_ONLY | (~sets.caught & ~HARMLESS_BY_DEFAULT))) !== 0n) return 'dies';
  const counts = mode === 'all' ? pending : pending & ENDS_PROGRAMS;
  return counts !== 0n ? 'caught' : 'none';
}

/**
 * @param procFolder for tests.
 */
export function interruptPolicy(mode: IntrMode, procFolder = '/proc'): InterruptPolicy {
  return (pid) => {
    // A caller of another pid namespace, or hidden from us: nobody can tell, and it must be possible to kill it.
    if (pid === 0) return true;
    let sets: SignalSets;
    try {
      sets = parseSignalSets(readFileSync(`${procFolder}/${pid}/status`, 'latin1'));
    } catch {
      return true;
    }
    const verdict = judgeSignals(sets, mode);
    // EINTR for the READ of a page fault becomes SIGBUS, which a task that handles its signal must not get.
    return verdict === 'dies' || (verdict === 'caught' && !isInPageFault(`${procFolder}/${pid}/syscall`));
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
