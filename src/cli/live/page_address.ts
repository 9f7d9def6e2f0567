/** Where a live page is served, as the user names it, and by which names browsers may ask for it. */

import { isIP } from 'node:net';
import { InvalidArgumentError } from 'commander';
import { parseMetricsAddress } from '../../base/metrics_address.js';
import type { Address } from '../../runtime/ports.js';

/** HOST:PORT, or PORT of loopback. @throws InvalidArgumentError (usage, exit status 2). */
export function parsePageAddress(text: string): Address {
  const address = parseMetricsAddress(text);
  if (address === undefined || address.host.startsWith('/'))
    throw new InvalidArgumentError(`"${text}" is not HOST:PORT or PORT.`);
  // Whatever /etc/hosts says of this name, nobody else shall reach it.
  return address.host === 'localhost' ? { ...address, host: '127.0.0.1' } : address;
}

/** Only this machine reaches it. */
export function isLoopback(host: string): boolean {
  return /^127\.\d+\.\d+\.\d+$/.test(host) || host === '::1';
}

/** @returns why the page cannot be served so; undefined: it can. */
export function wrongPageOptions(http: Address | undefined, keyFile: string | undefined): string | undefined {
  if (http === undefined) return keyFile === undefined ? undefined : '--http-key is for --http';
  if (keyFile !== undefined || isLoopback(http.host)) return undefined;
  return (
    `--http at ${http.host}, which other hosts reach, needs --http-key FILE: a file with a secret, mode 0600; ` +
    '(umask 077; openssl rand -hex 24 > FILE) makes one'
  );
}

/**
 * Whether a browser that sends this Host header may have a page that asks for no key. A site on the network can let a name of its own
 * lead to 127.0.0.1, and then read what a page there shows (DNS rebinding); it cannot do so for an IP address or for localhost.
 */
export function isSafeHost(header: string | undefined): boolean {
  const [, v6, name] = /^(?:\[([0-9a-fA-F:.]+)\]|([^:[\]]+))(?::\d{1,5})?$/.exec(header ?? '') ?? [];
  if (v6 !== undefined) return isIP(v6) === 6;
  return name !== undefined && (name.toLowerCase() === 'localhost' || isIP(name) === 4);
}
