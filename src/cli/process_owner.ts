/**
 * How the multi-mount block names this process, and whether another process that it names is gone.
 *
 * If the other process ran on this host, we need no period of silence to know that it is dead. So an operator can start a
 * killed server again at once. "This host" is strict: the same host name, the same boot of the same kernel, the same process
 * namespace. A process that is gone has closed its devices, and the exclusive open of the devices protects them besides.
 */

import { createHash } from 'node:crypto';
import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { hostname } from 'node:os';
import { logger } from '../base/log.js';
import type { Owner } from '../storage/ownership/multi_mount_block.js';

const log = logger('cli:owner');

export function thisProcess(): Owner {
  return {
    host: hostname(),
    pid: process.pid,
    system: systemName(),
    startedTicks: statOf(process.pid)?.startedTicks ?? 0,
  };
}

/**
 * A number for the boot and the process namespace of this process's pids; undefined: not known. It is 48 bits of a hash: two
 * hosts of a filesystem get the same number once in 10^14.
 */
export function hostNumber(): number | undefined {
  const name = systemName();
  return name === '' ? undefined : createHash('sha256').update(name).digest().readUIntBE(0, 6);
}

function systemName(): string {
  try {
    const boot = readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim();
    return `${boot} ${readlinkSync('/proc/self/ns/pid')}`;
  } catch (thrown) {
    // Without /proc we never know that a process is gone, and every takeover waits.
    log('no name for this system: %O', thrown);
    return '';
  }
}

/** @returns whether the process certainly ran on another host, or in another boot of this one. */
export function isElsewhere(owner: Owner): boolean {
  const here = thisProcess();
  if (owner.host !== here.host) return true;
  const [[boot], [bootHere]] = [owner.system.split(' '), here.system.split(' ')];
  return boot !== '' && bootHere !== '' && boot !== bootHere;
}

/** @returns whether the process is gone; false if we cannot know it. */
export function isGone(owner: Owner): boolean {
  const here = thisProcess();
  if (here.system === '' || owner.system !== here.system || owner.host !== here.host) return false;
  try {
    process.kill(owner.pid, 0);
  } catch (thrown) {
    // EPERM: the process is there, and belongs to another user.
    if ((thrown as NodeJS.ErrnoException).code === 'ESRCH') return true;
  }
  const stat = statOf(owner.pid);
  if (stat === undefined) return false;
  return stat.startedTicks !== owner.startedTicks || stat.ended;
}

interface Stat {
  readonly startedTicks: number;
  /** The process is a zombie and its last thread has ended: its descriptors are closed. */
  readonly ended: boolean;
}

/** @returns undefined if it cannot read the file. */
function statOf(pid: number): Stat | undefined {
  try {
    // The second field is the program's name in parentheses. The name may contain parentheses too.
    const text = readFileSync(`/proc/${pid}/stat`, 'utf8');
    const fields = text.slice(text.lastIndexOf(')') + 2).split(' ');
    const zombie = fields[0] === 'Z' || fields[0] === 'X';
    return {
      startedTicks: Number(fields[19]),
      ended: zombie && readdirSync(`/proc/${pid}/task`).length <= 1,
    };
  } catch (thrown) {
    log('cannot look at process %d: %O', pid, thrown);
    return undefined;
  }
}
