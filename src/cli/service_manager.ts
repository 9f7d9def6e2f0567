/**
 * Tells systemd that this process is ready, if it is a unit of Type=notify (mount/systemd).
 *
 * NOTIFY_SOCKET is a datagram socket, which Node cannot open, so this file runs systemd-notify(1): one short process at the
 * start, and none if no unit asks for it.
 */

import { execFile } from 'node:child_process';
import { logger } from '../base/log.js';

const log = logger('cli:systemd');

/** Says that another process goes on with the work of this one, which ends. Never fails: systemd may be older than that. */
export function announceSuccessor(pid: number): Promise<void> {
  if (process.env.NOTIFY_SOCKET === undefined) return Promise.resolve();
  return new Promise((done) => {
    execFile('systemd-notify', [`MAINPID=${pid}`], (failure) => {
      if (failure !== null)
        process.stderr.write(`holdfast: cannot tell systemd: ${failure.message.trim()}\n`);
      done();
    });
  });
}

/** Says that this process is ready. A second call changes only the status line. @param status one line for people. */
export function announceReady(status: string): void {
  if (process.env.NOTIFY_SOCKET === undefined) return;
  execFile('systemd-notify', ['--ready', `--status=${status}`], (failure) => {
    // systemd stops the unit when its start times out: the operator must find the reason in its log.
    if (failure !== null) process.stderr.write(`holdfast: cannot tell systemd: ${failure.message.trim()}\n`);
    else log('told systemd: %s', status);
  });
}
