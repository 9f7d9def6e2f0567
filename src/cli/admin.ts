/** A connection for the admin commands: status, shutdown, evict, access. A connection carries one call or several. */

import { FsError } from '../base/errno.js';
import type { ClientUuid } from '../base/ids.js';
import type { Frame, RequesterApi } from '../rpc/api.js';
import { FrameLink } from '../rpc/link.js';
import { Requester } from '../rpc/requester.js';
import { nodeRuntime } from '../runtime/node_runtime.js';
import { type Address, formatAddress } from '../runtime/ports.js';
import { KIND, PROTOCOL_MAX, PROTOCOL_MIN } from '../wire/header.js';
import { Connect, FEATURES_ALL } from '../wire/session.js';
import { proverOf } from './credentials.js';
import { CliError } from './failure.js';
import { installedVersion } from './installed.js';
import { localServers } from './local_servers.js';

export interface AdminConnection {
  readonly requester: RequesterApi;
  /** Resolves when the connection is gone, whichever side ended it. */
  readonly closed: Promise<void>;
  close(): void;
}

export interface AdminOptions {
  /** A key file; undefined: the one in the usual place, if there is one. */
  readonly key?: string | undefined;
  readonly timeoutMs?: number;
  readonly onNotice?: (frame: Frame) => void;
}

const TIMEOUT_MS = 5000;

/** @throws CliError if no program answers at the address, or one that is no Holdfast server. */
export async function connectAdmin(
  address: Address,
  { key, timeoutMs = TIMEOUT_MS, onNotice = () => {} }: AdminOptions = {},
): Promise<AdminConnection> {
  const prover = proverOf(key === undefined ? { by: 'default' } : { by: 'key', path: key });
  const runtime = nodeRuntime();
  const requester = new Requester();
  let link: FrameLink | undefined;
  let markClosed: () => void = () => {};
  const closed = new Promise<void>((resolve) => {
    markClosed = resolve;
  });
  try {
    await runtime.transport.connect(
      address,
      (connection) => {
        link = new FrameLink(connection, { connCount: 1 }, () => ({
          frame: (frame) => {
            if (frame.header.kind === KIND.reply) requester.reply(frame);
            else onNotice(frame);
          },
          closed: () => {
            requester.detach();
            requester.failAll(new FsError('ENOTCONN', `${formatAddress(address)} closed the connection`));
            markClosed();
          },
        }));
        return link;
      },
      { timeoutMs, credentials: prover.credentials() },
    );
  } catch (cause) {
    // The server is there, and does not take what we have shown.
    if (cause instanceof FsError && cause.code === 'EACCES') throw new CliError(cause.message, 1, { cause });
    throw new CliError(
      `no Holdfast server answers at ${formatAddress(address)} (${(cause as Error).message}); is it running, and is the address right?${served()}`,
      1,
      { cause },
    );
  }
  if (link === undefined) throw new CliError(`connection to ${formatAddress(address)} did not open`);
  const opened = link;
  requester.attach(opened, { resend: false });
  const late = runtime.timers.after(timeoutMs, () => {
    requester.failAll(new FsError('ETIMEDOUT', `no answer within ${timeoutMs / 1000} s`));
  });
  try {
    await requester.call(Connect, {
      uuid: runtime.rng.uuid() as ClientUuid,
      name: 'admin',
      protocolMin: PROTOCOL_MIN,
      protocolMax: PROTOCOL_MAX,
      features: FEATURES_ALL,
      softwareVersion: installedVersion(),
      connCount: 1,
      role: 'admin',
    });
  } catch (cause) {
    opened.destroy();
    throw notServed(address, cause as Error);
  } finally {
    late.cancel();
  }
  return { requester, closed, close: () => opened.end() };
}

/** For whom has mistaken a label, or meant the server of this host. */
function served(): string {
  const labels = localServers().map(({ label }) => label);
  return labels.length === 0 ? '' : ` This host serves ${labels.join(', ')}.`;
}

function notServed(address: Address, cause: Error): CliError {
  const at = formatAddress(address);
  const isRefusal = cause instanceof FsError && (cause.code === 'EACCES' || cause.code === 'EPROTO');
  const what = isRefusal
    ? `the server at ${at} refuses`
    : `the program that listens at ${at} does not answer as a Holdfast server`;
  return new CliError(`${what}: ${cause.message}`, 1, { cause });
}
