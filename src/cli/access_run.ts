/** What the commands of `holdfast access` do. */

import { closeSync, fsyncSync, openSync, rmSync, writeSync } from 'node:fs';
import type { AddressRange } from '../base/address_range.js';
import type { RequesterApi } from '../rpc/api.js';
import type { Address } from '../runtime/ports.js';
import {
  AccessAdd,
  type AccessEntryMessage,
  AccessList,
  AccessRemove,
  AccessRotate,
  type NewKeyMessage,
} from '../wire/admin.js';
import { connectAdmin } from './admin.js';
import { CliError, plain } from './failure.js';
import { formatKey, keyPathOf } from './key_file.js';
import { onlyServer } from './local_servers.js';

export interface Where {
  /** undefined: the only one of this host. */
  readonly server?: Address;
  readonly key?: string;
}

export interface AddOptions extends Where {
  readonly readOnly?: boolean;
  /** False: root of the client is root on the files. */
  readonly rootSquash: boolean;
  readonly admin?: boolean;
  readonly cert?: boolean;
  readonly from?: readonly AddressRange[];
  readonly output?: string;
  readonly maxClients?: number;
  readonly maxLocks?: number;
  readonly maxOpens?: number;
  readonly maxRequests?: number;
  readonly maxWaiting?: number;
}

export interface RotateOptions extends Where {
  /** Milliseconds. */
  readonly grace: number;
  readonly output?: string;
}

export async function addAccess(name: string, options: AddOptions): Promise<void> {
  const { maxClients: clients, maxLocks: locks, maxOpens: opens } = options;
  const { maxRequests: requestsPerSecond, maxWaiting: waitingBytes } = options;
  const wish = {
    name,
    kind: options.cert === true ? 'certificate' : 'key',
    readOnly: options.readOnly === true,
    squashRoot: options.rootSquash,
    admin: options.admin === true,
    from: (options.from ?? []).map(({ text }) => text),
    limits: { clients, locks, opens, requestsPerSecond, waitingBytes },
  } as const;
  const isKey = options.cert !== true;
  const key = await asking(options, (requester) =>
    delivering(
      isKey ? options.output : undefined,
      name,
      async () => (await requester.call(AccessAdd, wish)).reply.key,
    ),
  );
  if (key === undefined)
    process.stderr.write(`holdfast: whoever has a certificate for ${name} may connect\n`);
}

export async function rotateAccess(name: string, options: RotateOptions): Promise<void> {
  const { grace: graceMs } = options;
  await asking(options, (requester) =>
    delivering(
      options.output,
      name,
      async () => (await requester.call(AccessRotate, { name, graceMs })).reply.key,
    ),
  );
  const until =
    graceMs === 0 ? 'does not work any more' : `works until ${new Date(Date.now() + graceMs).toISOString()}`;
  process.stderr.write(`holdfast: the key that ${name} had before ${until}\n`);
}

export async function removeAccess(name: string, options: Where): Promise<void> {
  const { reply } = await asking(options, (requester) => requester.call(AccessRemove, { name }));
  const clients = reply.evicted === 1 ? 'its client was' : `its ${reply.evicted} clients were`;
  process.stdout.write(`holdfast: ${name} may not connect any more; ${clients} evicted\n`);
}

export async function listAccess(options: Where & { readonly json?: boolean }): Promise<void> {
  const entries = await asking(options, async (requester) => {
    const found: AccessEntryMessage[] = [];
    for (let more = true; more; ) {
      const { reply } = await requester.call(AccessList, { after: found.at(-1)?.name });
      found.push(...reply.entries);
      more = reply.more === true;
    }
    return found;
  });
  if (options.json === true) process.stdout.write(`${JSON.stringify({ entries })}\n`);
  else process.stdout.write(`${table(entries)}\n`);
}

async function asking<T>({ server, key }: Where, ask: (requester: RequesterApi) => Promise<T>): Promise<T> {
  const admin = await connectAdmin(server ?? onlyServer(), { key });
  try {
    return await ask(admin.requester);
  } catch (thrown) {
    throw plain(thrown);
  } finally {
    admin.close();
  }
}

/**
 * Has a key made, and writes it where the user wants it. The file is there before the key is made: one that could not be written
 * would be lost.
 */
async function delivering(
  path: string | undefined,
  name: string,
  make: () => Promise<NewKeyMessage | undefined>,
): Promise<NewKeyMessage | undefined> {
  if (path === undefined) {
    const key = await make();
    if (key === undefined) return undefined;
    process.stdout.write(textOf(name, key));
    process.stderr.write(
      `holdfast: put this on the client as ${keyPathOf(key.label)} (mode 0600); it is not shown again\n`,
    );
    return key;
  }
  const fd = newFile(path);
  let isWritten = false;
  try {
    const key = await make();
    if (key === undefined) return undefined;
    writeSync(fd, textOf(name, key));
    fsyncSync(fd);
    isWritten = true;
    process.stderr.write(
      `holdfast: the key of ${name} is in ${path}; on the client it belongs to ${keyPathOf(key.label)}\n`,
    );
    return key;
  } finally {
    closeSync(fd);
    if (!isWritten) rmSync(path, { force: true });
  }
}

function newFile(path: string): number {
  try {
    return openSync(path, 'wx', 0o600);
  } catch (cause) {
    throw new CliError(`the key file ${path} cannot be made: ${(cause as Error).message}`, 1, { cause });
  }
}

function textOf(name: string, { id, secret, label, targetUuid }: NewKeyMessage): string {
  return formatKey({ name, id, label, targetUuid, secret: Buffer.from(secret) });
}

function table(entries: readonly AccessEntryMessage[]): string {
  if (entries.length === 0) return "nobody may connect over the network; root of the server's host may";
  return entries.flatMap(lines).join('\n');
}

function lines(entry: AccessEntryMessage): string[] {
  const { name, kind, keys, readOnly, squashRoot, admin, from, limits, clients, throttledMs } = entry;
  const words = [
    readOnly ? 'read-only' : 'read-write',
    squashRoot ? 'root is nobody' : 'root is root',
    ...(admin ? ['administrator'] : []),
    from.length === 0 ? 'from everywhere' : `from ${from.join(', ')}`,
    ...Object.entries(limits).map(([what, value]) => `${LIMIT_WORDS[what] ?? what} ${value}`),
    `${clients} mounted`,
    ...(throttledMs === undefined ? [] : [`throttled for ${(throttledMs / 1000).toFixed(1)} s in all`]),
  ];
  const own = `${name}  ${kind}  ${words.join(', ')}`;
  return [own, ...keys.map((key) => `  key ${key.id}, made ${when(key.createdMs)}${until(key.untilMs)}`)];
}

const LIMIT_WORDS: Readonly<Record<string, string>> = {
  clients: 'at most clients',
  locks: 'locks',
  opens: 'open files',
  requestsPerSecond: 'requests a second',
  waitingBytes: 'waiting bytes',
};

function when(ms: number): string {
  return new Date(ms).toISOString();
}

function until(ms: number | undefined): string {
  if (ms === undefined) return '';
  return ms <= Date.now() ? `, ran out ${when(ms)}` : `, works until ${when(ms)}`;
}
