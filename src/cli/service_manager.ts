/**
 * What this process says to systemd, if it is one of a unit of Type=notify (mount/systemd): sd_notify(3). Nothing here fails,
 * because a service works without its manager; what could not be said is a line on stderr.
 */

import { execFile } from 'node:child_process';
import { nativeBinding } from '../../native/binding.js';
import { logger } from '../base/log.js';

const log = logger('cli:systemd');

/** Whether there is a manager that listens. */
export function hasManager(): boolean {
  return process.env.NOTIFY_SOCKET !== undefined;
}

/**
 * @param lines NAME=VALUE each.
 * @param descriptors up to two that the manager gets copies of.
 * @returns when the manager has it. Its own queue is in order.
 */
export async function tellManager(
  lines: readonly string[],
  descriptors: readonly number[] = [],
): Promise<void> {
  const socket = process.env.NOTIFY_SOCKET;
  if (socket === undefined) return;
  const [first = -1, second = -1] = descriptors;
  try {
    await nativeBinding().tellManager(socket, lines.join('\n'), first, second);
    log('told systemd: %s', lines.join(' '));
  } catch (thrown) {
    // systemd stops the unit if its start times out: the operator must find the reason in its log.
    const why = thrown instanceof Error ? thrown.message : String(thrown);
    process.stderr.write(`holdfast: cannot tell systemd: ${why}\n`);
  }
}

/** Says that another process goes on with the work of this one, which ends. */
export function announceSuccessor(pid: number): Promise<void> {
  return tellManager([`MAINPID=${pid}`]);
}

/** Says that this process is ready. A second one changes only the status line. @param status one line for people. */
export function announceReady(status: string): Promise<void> {
  return tellManager(['READY=1', `STATUS=${status}`]);
}

/**
 * For a command that systemd runs after the end of a unit's process: whether systemd keeps the mount for the next process.
 * @throws Error if systemd does not say.
 */
export async function isKeptFor(unit: string): Promise<boolean> {
  // Then there is no next process, and systemd drops what it has kept.
  if (process.env.SERVICE_RESULT === 'success') return false;
  return (await descriptorsKept(unit)) > 0;
}

function descriptorsKept(unit: string): Promise<number> {
  return new Promise((resolve, reject) => {
    const args = ['show', '--property=NFileDescriptorStore', '--value', unit];
    execFile('systemctl', args, (failure, text) => {
      const kept = /^\d+\n?$/.test(text) ? Number(text) : undefined;
      if (failure !== null) reject(failure);
      else if (kept === undefined) reject(new Error(`systemctl says of ${unit}: ${JSON.stringify(text)}`));
      else resolve(kept);
    });
  });
}
