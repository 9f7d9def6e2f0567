/**
 * This process as the multi-mount block names it, and whether another one that was named there is gone.
 *
 * A process that ran on this host needs no period of silence to be known dead, so a server that was killed can be started
 * again at once. "This host" is meant strictly: the same host name, the same boot of the same kernel, the same process
 * namespace. A process that is gone has closed its devices, and the exclusive opening of them stands besides.
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
 * A number for the boot and the process namespace that this process's pids are of; undefined: not known. 48 bits of a hash:
 * that two hosts of a filesystem get the same one happens once in 10^14.
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
    // Without /proc nobody is known to be gone, and every takeover waits.
    log('no name for this system: %O', thrown);
    return '';
  }
}

/** False whenever it cannot be known. */
export function isGone(owner: Owner): boolean {
  const here = thisProcess();
  if (here.system === '' || owner.system !== here.system || owner.host !== here.host) return false;
  try {
    process.kill(owner.pid, 0);
  } catch (thrown) {
    // EPERM: it is there, and somebody else's.
    if ((thrown as NodeJS.ErrnoException).code === 'ESRCH') return true;
  }
  const stat = statOf(owner.pid);
  if (stat === undefined) return false;
  return stat.startedTicks !== owner.startedTicks || stat.ended;
}

interface Stat {
  readonly startedTicks: number;
  /** A zombie, and the last of its threads: its descriptors are closed. */
  readonly ended: boolean;
}

/** undefined: cannot be read. */
function statOf(pid: number): Stat | undefined {
  try {
    // The second field is the program's name in parentheses, whatever that contains.
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
