/**
 * The Unix sockets of the servers of this host, by which commands and mounts of root reach them without an address: LABEL.sock in
 * the runtime folder.
 */

import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import type { Address } from '../runtime/ports.js';
import { CliError } from './failure.js';
import { runtimeDir } from './installed.js';

const SUFFIX = '.sock';

/** Labels may have any character: what a file name cannot have, or a reader would take for a path, is escaped. */
export function localAddress(label: string): Address {
  return { host: join(runtimeDir(), `${encodeURIComponent(label)}${SUFFIX}`), port: 0 };
}

export interface LocalServer {
  readonly label: string;
  readonly address: Address;
}

/** Those whose sockets are there; the server of one may be gone. */
export function localServers(): LocalServer[] {
  return readdirSync(runtimeDir())
    .filter((name) => name.endsWith(SUFFIX))
    .map((name) => decodeURIComponent(name.slice(0, -SUFFIX.length)))
    .map((label) => ({ label, address: localAddress(label) }));
}

export function isServedHere(label: string): boolean {
  return existsSync(localAddress(label).host);
}

/** The server that a command means which names none. @throws CliError if there is none, or more than one. */
export function onlyServer(): Address {
  const servers = localServers();
  const [only, ...others] = servers;
  if (only === undefined) {
    throw new CliError('no Holdfast server runs on this host; name one: HOST:PORT');
  }
  if (others.length === 0) return only.address;
  const labels = servers.map(({ label }) => label).join(', ');
  throw new CliError(`several servers run on this host (${labels}); name the one that you mean`);
}
