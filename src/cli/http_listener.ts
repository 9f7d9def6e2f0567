/**
 * Where a process serves HTTP: its metrics, and its live page. A server and its successor on the same host have one address, so the
 * successor may have to wait until its predecessor has left it.
 *
 * What listens here does not keep the process: a mount ends when it has ended.
 */

import { lstatSync, rmSync } from 'node:fs';
import type { Server } from 'node:http';
import { connect } from 'node:net';
import { type Address, formatAddress, type Runtime, sleep } from '../runtime/ports.js';
import { CliError } from './failure.js';

/** What to do while another process has the address. */
export type BusyAddress =
  | { readonly is: 'failure' }
  /** The process before this one ends soon. */
  | { readonly is: 'waited for'; readonly limitMs: number }
  /** A standby: as long as the process before this one lives. Ends the wait by this signal. */
  | { readonly is: 'waited for long'; readonly signal: AbortSignal };

/** How often a process that goes on for another one looks whether that one has left the address: no event tells it. */
const AGAIN_MS = 50;

export interface Place {
  /** For messages: "metrics", "the live page". */
  readonly what: string;
  readonly address: Address;
  readonly busy: BusyAddress;
}

/**
 * @param server one that does not listen.
 * @returns whether it listens; false: the signal has ended the wait. @throws CliError if the address cannot be had.
 */
export async function listenHttp(
  { timers, clock }: Pick<Runtime, 'timers' | 'clock'>,
  server: Server,
  { what, address, busy }: Place,
): Promise<boolean> {
  const untilMs = busy.is === 'waited for' ? clock.nowMs() + busy.limitMs : Number.POSITIVE_INFINITY;
  server.on('connection', (socket) => socket.unref());
  server.unref();
  for (;;) {
    const error = await listen(server, address);
    if (error === undefined) {
      if (address.host.startsWith('/')) removeAtExit(address.host);
      return true;
    }
    if (error.code === 'EADDRINUSE' && (await isLeftBehind(address))) {
      rmSync(address.host, { force: true });
      continue;
    }
    if (error.code !== 'EADDRINUSE' || busy.is === 'failure' || clock.nowMs() >= untilMs) {
      throw new CliError(`cannot serve ${what} at ${formatAddress(address)}: ${error.message}`, 1, {
        cause: error,
      });
    }
    if (busy.is === 'waited for long' && busy.signal.aborted) return false;
    await sleep(timers, AGAIN_MS);
  }
}

/** Unless it is another process's by then. */
function removeAtExit(path: string): void {
  const { ino } = lstatSync(path);
  process.once('exit', () => {
    if (lstatSync(path, { throwIfNoEntry: false })?.ino === ino) rmSync(path, { force: true });
  });
}

function listen(server: Server, { host, port }: Address): Promise<NodeJS.ErrnoException | undefined> {
  return new Promise((resolve) => {
    const done = (error?: NodeJS.ErrnoException): void => {
      server.off('error', done);
      server.off('listening', listening);
      resolve(error);
    };
    const listening = (): void => done();
    server.once('error', done);
    server.once('listening', listening);
    if (host.startsWith('/')) server.listen(host);
    else server.listen(port, host);
  });
}

/** Whether this is a Unix socket at which nobody listens: its process was killed. */
function isLeftBehind({ host }: Address): Promise<boolean> {
  if (!host.startsWith('/')) return Promise.resolve(false);
  return new Promise((resolve) => {
    const socket = connect(host);
    socket.once('connect', () => {
      socket.destroy();
      resolve(false);
    });
    socket.once('error', ({ code }: NodeJS.ErrnoException) => resolve(code === 'ECONNREFUSED'));
  });
}
