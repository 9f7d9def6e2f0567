/**
 * Tells systemd how far this process is, when it is a unit of Type=notify (mount/systemd).
 *
 * NOTIFY_SOCKET is a datagram socket, which Node cannot open, so systemd-notify(1) does it: one short process at the
 * start, and none at all where no unit asks for it.
 */

import { execFile } from 'node:child_process';
import { logger } from '../base/log.js';

const log = logger('cli:systemd');

/** This process is ready. May be said again: the status line changes, the rest stays. @param status one line for people. */
export function announceReady(status: string): void {
  if (process.env.NOTIFY_SOCKET === undefined) return;
  execFile('systemd-notify', ['--ready', `--status=${status}`], (failure) => {
    // The unit would be stopped when its start times out: whoever reads its log must find why.
    if (failure !== null) process.stderr.write(`holdfast: cannot tell systemd: ${failure.message.trim()}\n`);
    else log('told systemd: %s', status);
  });
}
