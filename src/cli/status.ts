/**
 * holdfast status: shows a server, a mount (MOUNTPOINT), or every server and mount of this machine.
 * docs/OPERATIONS.md has the shapes of --json, which later versions only extend.
 */

import { type Command, Option } from 'commander';
import { printable } from '../base/printable.js';
import type { ClientStatus } from '../client/api.js';
import type { Address } from '../runtime/ports.js';
import type { EarlierEvictionMessage, RecoveryStatusMessage, StatusReply } from '../wire/admin.js';
import { keyOption, parseCount, parseServer } from './common.js';
import { describeFailure } from './failure.js';
import { formatBytes } from './format.js';

const WATCH_MS = 500;
/** The most evictions of an earlier instance that the text shows; --json has all that the target keeps. */
const EARLIER_SHOWN_MAX = 16;

export function registerStatus(program: Command): void {
  program
    .command('status')
    .description('show a server, a mount, or all servers and mounts of this machine')
    .argument('[what]', 'LABEL of a filesystem that this host serves, HOST:PORT of a server, or MOUNTPOINT')
    .option('--json', 'one JSON object, of a documented and stable shape')
    .addOption(
      new Option('--locks', 'who holds and waits for locks; those that wait first').conflicts('opens'),
    )
    .option('--opens', 'who has which files open')
    .option(
      '--limit <number>',
      'with --locks or --opens: show so many at most',
      (text: string) => parseCount(text, 1000),
      100,
    )
    .option('--watch', 'show it again twice a second, until interrupted')
    .addOption(keyOption())
    .action(async (what: string | undefined, options: StatusOptions) => {
      const { nodeRuntime } = await import('../runtime/node_runtime.js');
      const { sleep } = await import('../runtime/ports.js');
      for (;;) {
        const text = await render(what, options);
        if (options.watch === true && process.stdout.isTTY && options.json !== true)
          process.stdout.write('\x1b[2J\x1b[H');
        process.stdout.write(`${text}\n`);
        if (options.watch !== true) return;
        await sleep(nodeRuntime().timers, WATCH_MS);
      }
    });
}

interface StatusOptions {
  readonly json?: boolean;
  readonly watch?: boolean;
  readonly key?: string;
  readonly locks?: boolean;
  readonly opens?: boolean;
  readonly limit: number;
}

async function render(what: string | undefined, options: StatusOptions): Promise<string> {
  const { json, key } = options;
  if (options.locks === true || options.opens === true) {
    const { holdingsText } = await import('./holdings.js');
    return holdingsText(what, options.locks === true ? 'locks' : 'opens', options);
  }
  const { namesServer } = await import('./metrics_source.js');
  if (what === undefined) return await everything(json === true);
  if (namesServer(what)) {
    const status = await serverStatus(parseServer(what), key);
    return json ? JSON.stringify(status) : serverText(status);
  }
  const status = await mountStatus(what);
  return json ? JSON.stringify(status) : mountText(status);
}

async function everything(json: boolean): Promise<string> {
  const servers = await allServers();
  const mounts = await allMounts();
  if (json) return JSON.stringify({ mounts, servers });
  const texts = [...servers.map(serverText), ...mounts.map(mountText)];
  return texts.length === 0 ? 'no servers and no mounts of Holdfast on this machine' : texts.join('\n');
}

/** Those that answer: the socket of one that is gone may still be there. */
async function allServers(): Promise<StatusReply[]> {
  const { localServers } = await import('./local_servers.js');
  const found: StatusReply[] = [];
  for (const { address } of localServers()) {
    const status = await serverStatus(address).catch(() => undefined);
    if (status !== undefined) found.push(status);
  }
  return found;
}

async function serverStatus(address: Address, key?: string): Promise<StatusReply> {
  const { connectAdmin } = await import('./admin.js');
  const { readStatus } = await import('./server_status.js');
  const admin = await connectAdmin(address, { key });
  try {
    return await readStatus(admin.requester);
  } finally {
    admin.close();
  }
}

async function mountStatus(path: string): Promise<ClientStatus> {
  const { askControl, mountpointPath } = await import('./control.js');
  const answer = await askControl(mountpointPath(path), { command: 'status' });
  if (answer === undefined) {
    const { nobodyServes } = await import('./control.js');
    throw nobodyServes(path);
  }
  return answer.data as ClientStatus;
}

async function allMounts(): Promise<ClientStatus[]> {
  const { listMounts } = await import('../../mount/unmount.js');
  const found: ClientStatus[] = [];
  for (const mountpoint of listMounts()) {
    const { askControl } = await import('./control.js');
    try {
      const answer = await askControl(mountpoint, { command: 'status' });
      if (answer !== undefined) found.push(answer.data as ClientStatus);
    } catch (thrown) {
      // The others are shown all the same.
      process.stderr.write(`holdfast: ${describeFailure(thrown).line}\n`);
    }
  }
  return found;
}

function serverText(status: StatusReply): string {
  const used = (status.blocks - status.blocksFree) * status.blockBytes;
  const own = [
    `target   ${status.label} (${status.targetUuid})`,
    `state    ${status.state}, version ${status.softwareVersion}, instance ${status.instance}, up ${(status.uptimeMs / 1000).toFixed(1)} s`,
  ];
  if (status.brief === true)
    return [...own, 'clients  shown to administrators only'].map(printable).join('\n');
  const lines = [
    ...own,
    `space    ${formatBytes(used)} of ${formatBytes(status.blocks * status.blockBytes)} used, ${status.inodes} inodes, ${status.orphans} orphans`,
    `commits  ${status.lastTransno - status.lastCommitted} operations executed and not yet committed`,
    `clients  ${status.clients.length}`,
  ];
  for (const [device, bytes = 0] of [
    ['metadata', status.metaUnusedBytes],
    ['data', status.dataUnusedBytes],
  ] as const) {
    if (bytes > 0)
      lines.push(`         ${formatBytes(bytes)} of the ${device} device are not used; run holdfast grow`);
  }
  if (status.plainFrom !== undefined)
    lines.push(`TLS      off for ${status.plainFrom.join(', ')}: root of those hosts is root on the files`);
  if (status.recovery !== undefined) lines.push(recoveryLine(status.recovery));
  for (const client of status.clients) {
    lines.push(
      `  ${client.name}  ${client.state}  version ${client.softwareVersion}  ${client.opens} opens  ${client.locks} locks  ` +
        `${formatBytes(client.dirtyBytes)} dirty  ${client.rpcsInFlight} RPCs  ${client.access ?? '-'}  ${client.uuid}${throttled(client)}`,
    );
  }
  for (const gone of status.evicted) lines.push(`  evicted: ${gone.name} (${gone.uuid}): ${gone.reason}`);
  lines.push(...earlierLines(status.evictedBefore ?? []));
  lines.push(...noticeLines(status.notices));
  return lines.map(printable).join('\n');
}

/** Evictions by the last instance that evicted a client: after an upgrade the operator looks at the server after it. */
function earlierLines(evictions: readonly EarlierEvictionMessage[]): string[] {
  const last = evictions.at(-1)?.instance;
  const ofLast = evictions.filter(({ instance }) => instance === last);
  const lines = ofLast.slice(-EARLIER_SHOWN_MAX).map(({ name, uuid, reason, instance, atMs, had }) => {
    const lost =
      had === undefined
        ? ''
        : ` (it had ${had.opens} opens, ${had.locks} locks, ${formatBytes(had.dirtyBytes)} dirty)`;
    return `  evicted by instance ${instance}, ${new Date(atMs).toISOString()}: ${name} (${uuid}): ${reason}${lost}`;
  });
  const more = ofLast.length - lines.length;
  return more > 0 ? [...lines, `  and ${more} more (--json)`] : lines;
}

function noticeLines(notices: StatusReply['notices']): string[] {
  if (notices === undefined || notices.length === 0) return [];
  return [`notices  ${notices.map(({ kind, count }) => `${kind} ${count}`).join(', ')}`];
}

function recoveryLine(recovery: RecoveryStatusMessage): string {
  const { clients, waitedFor, away, replayed, queued, tookMs, leftMs } = recovery;
  const seconds = (ms: number): string => `${(ms / 1000).toFixed(1)} s`;
  if (!recovery.open) {
    return `recovery took ${seconds(tookMs)}: ${clients} clients, ${replayed} operations replayed`;
  }
  return (
    `recovery waits for ${waitedFor} of ${clients} clients (${away} not back), ${replayed} operations replayed, ` +
    `${queued} queued, ${seconds(leftMs)} left`
  );
}

function throttled({ throttledMs }: StatusReply['clients'][number]): string {
  return throttledMs === undefined ? '' : `  throttled (has waited ${(throttledMs / 1000).toFixed(1)} s)`;
}

/** @param target of a mount that may run an older version, which does not have these fields. */
function recoveryLines(target: Partial<ClientStatus['targets'][number]>): string[] {
  const { replayList, lostAppLocks = 0, evictions = [] } = target;
  const lines: string[] = [];
  if (replayList !== undefined) {
    const bulk = formatBytes(replayList.bulkBytes);
    lines.push(
      `         ${replayList.operations} operations not yet known to be durable, with ${bulk} of data`,
    );
  }
  if (lostAppLocks > 0)
    lines.push(`         ${lostAppLocks} application locks were lost with a crash of the server`);
  for (const { reason, lostBytes, uncommitted } of evictions) {
    const lost = [
      ...(lostBytes > 0 ? [`; ${formatBytes(lostBytes)} not yet written were lost`] : []),
      ...(uncommitted > 0 ? [`; ${uncommitted} operations may be lost`] : []),
    ];
    lines.push(`         was evicted: ${reason}${lost.join('')}`);
  }
  return lines;
}

/** A mount that runs an older version does not say it. */
function pidOf({ pid }: ClientStatus): string {
  return pid === undefined ? '' : `, pid ${pid}`;
}

function mountText(status: ClientStatus): string {
  const lines = [
    `mount    ${status.mountpoint ?? '-'}, version ${status.softwareVersion}, client ${status.uuid}${pidOf(status)}`,
  ];
  if (status.log !== undefined) lines.push(`log      ${status.log}`);
  for (const target of status.targets) {
    lines.push(
      `target   ${target.label} at ${target.address}: ${target.importState}, gate ${target.gate}, ` +
        `server version ${target.serverVersion}, instance ${target.instance}`,
      `         ${target.parked} parked, ${target.rpcsInFlight} RPCs, ${formatBytes(target.dirtyBytes)} dirty, ` +
        `${target.locks} locks, ${target.opens} opens, ${target.appLocks} application locks`,
      ...recoveryLines(target),
    );
  }
  const { limitBytes, pageBytes, attrs, names } = status.cache;
  lines.push(
    `cache    ${formatBytes(pageBytes)} of ${formatBytes(limitBytes)} pages, ${attrs} attributes, ${names} names`,
  );
  lines.push(...noticeLines(status.notices));
  return lines.map(printable).join('\n');
}
