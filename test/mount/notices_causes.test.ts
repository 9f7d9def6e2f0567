/**
 * The lines about damage, failed devices, descriptors and lost locks, each from its real cause: they are written, limited,
 * and counted by status and metrics.
 */

import assert from 'node:assert/strict';
import {
  closeSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import test from 'node:test';
import type { NoticeKind } from '../../src/base/notices.js';
import { LOCK, O } from '../fixtures/agent.js';
import { type Child, runOk } from '../fixtures/child.js';
import { type Cluster, prepareCluster, startCluster } from '../fixtures/cluster.js';
import { MIB, makeDevices } from '../fixtures/devices.js';
import { freePort } from '../fixtures/failover_pair.js';
import { loopsUnder } from '../fixtures/leftovers.js';
import { until } from '../fixtures/until.js';

const SMALL = { metaBytes: 32 * MIB, dataBytes: 64 * MIB, damages: true };
const TIME = '\\d{4}-\\d\\d-\\d\\dT\\d\\d:\\d\\d:\\d\\d\\.\\d{3}Z';
/** More than three periods of the limit show. */
const BURST = 16;

interface Counting {
  readonly notices?: readonly { readonly kind: string; readonly count: number }[] | undefined;
}
function countOf({ notices = [] }: Counting, kind: NoticeKind): number {
  return notices.find((one) => one.kind === kind)?.count ?? 0;
}

/** @param text of the whole line behind its time. @returns the lines, of which there are fewer than were counted. */
function limited(child: Child, text: string, count: number): string[] {
  const pattern = new RegExp(`^${TIME} holdfast: ${text}( \\(\\d+ more of this kind were not shown\\))?$`);
  const lines = child.stderr.filter((line) => pattern.test(line));
  assert.ok(count >= BURST && lines.length >= 5 && lines.length < count, `${count}: ${lines.join('\n')}`);
  assert.match(lines[5] ?? '1 more', /\d+ more/, 'a line after the fifth says how many are missing');
  return lines;
}

async function metric(port: number, kind: string): Promise<number> {
  const text = await (await fetch(`http://127.0.0.1:${port}/metrics`)).text();
  return Number(new RegExp(`^holdfast_notices_total\\{kind="${kind}"\\} (\\d+)$`, 'm').exec(text)?.[1]);
}

async function failsWithEio(call: () => Promise<unknown>): Promise<void> {
  for (let done = 0; done < BURST; done++) await assert.rejects(call(), { code: 'EIO' });
}

test('a block that was changed on the device is told with its inode, block and device offset', async (t) => {
  const port = await freePort();
  const serveArgs = ['--metrics', `127.0.0.1:${port}`];
  const cluster = await startCluster(t, { ...SMALL, mounts: 2, serveArgs });
  const [writer, reader] = [cluster.agent(0), cluster.agent(1)];
  const content = 'what is looked for on the device '.repeat(500);
  await writer.writeFile('f', content);
  const written = await writer.open('f', O.RDWR);
  await writer.fsync(written);
  const { data } = cluster.devices;
  const offset = readFileSync(data).indexOf(content.slice(0, 4096), 0, 'latin1');
  assert.ok(offset > 0 && offset % 4096 === 0, `${offset}`);
  const file = openSync(data, 'r+');
  writeSync(file, 'X', offset + 100);
  closeSync(file);
  const fd = await reader.open('f', O.RDONLY);
  await failsWithEio(() => reader.pread(fd, 0, 4096));
  const { ino } = await reader.fstat(fd);
  const count = countOf(await cluster.status(), 'checksum-wrong');
  const text = `checksum wrong: fid ${ino}, block 0, device offset ${offset} of /dev/loop\\d+`;
  limited(cluster.server.child, text, count);
  assert.equal(await metric(port, 'checksum-wrong'), count);
});

test('reads and writes that the data device fails are told with device and offset', async (t) => {
  const cluster = prepareCluster(t, SMALL);
  // A device that fails: its file is cut short behind its back, and the filesystem below it has no room.
  const small = join(cluster.folder, 'small');
  mkdirSync(small);
  await runOk('mount', ['-t', 'tmpfs', '-o', 'size=70m', 'tmpfs', small]);
  const { data } = makeDevices(small, '', MIB, SMALL.dataBytes);
  rmSync(cluster.devices.data);
  symlinkSync(data, cluster.devices.data);
  rmSync(join(small, 'meta.img'));
  await cluster.cliOk(['mkfs', ...cluster.deviceArgs]);
  await cluster.serve();
  for (let count = 2; count > 0; count--) await cluster.addMount();
  const [writer, reader] = [cluster.agent(0), cluster.agent(1)];
  await writer.writeFile('f', 'x'.repeat(64 << 10));
  const written = await writer.open('f', O.RDWR);
  await writer.fsync(written);

  truncateSync(data, 64 << 10);
  fillUp(join(small, 'filler'));
  const failed = (what: string): string =>
    `${what} of /dev/loop\\d+ at \\d+ failed: E[A-Z]+: [a-z/ ]+, [a-z]+`;
  const first = async (what: string): Promise<unknown> =>
    cluster.server.child.line(new RegExp(`^${TIME} holdfast: ${failed(what)}$`));
  const more = await writer.open('g', O.CREAT | O.RDWR);
  // The write is told of it too if it is still being made when the device fails.
  const write = writer.write(more, 'y'.repeat(8192));
  await assert.rejects(
    write.then(() => writer.fsync(more)),
    { code: 'EIO' },
  );
  await first('write');
  const fd = await reader.open('f', O.RDONLY);
  await failsWithEio(() => reader.pread(fd, 0, 4096));
  await first('read');
  limited(cluster.server.child, failed('(read|write)'), countOf(await cluster.status(), 'device-failed'));

  rmSync(join(small, 'filler'));
  truncateSync(data, SMALL.dataBytes);
  for (const agent of [writer, reader]) await agent.dies('SIGKILL');
  await endWith(cluster, small);
});

function fillUp(path: string): void {
  const file = openSync(path, 'w');
  const bytes = Buffer.alloc(4096, 1);
  try {
    for (;;) writeSync(file, bytes);
  } catch (thrown) {
    assert.equal((thrown as NodeJS.ErrnoException).code, 'ENOSPC');
  } finally {
    closeSync(file);
  }
}

/** Before the filesystem that holds the data device can go. */
async function endWith(cluster: Cluster, below: string): Promise<void> {
  for (const mount of cluster.mounts) await cluster.umount(mount);
  await cluster.shutdown();
  await until('the devices are released', () => loopsUnder(cluster.folder).length === 0);
  await runOk('umount', [below]);
}

/**
 * Takes away the descriptors that a process does not use yet, and will take away those of its connections when they end.
 * @returns what gives them back.
 */
async function withoutDescriptors({ pid }: Child): Promise<() => Promise<unknown>> {
  const limits = readFileSync(`/proc/${pid}/limits`, 'utf8');
  const [, soft, hard] = /^Max open files\s+(\d+)\s+(\d+)/m.exec(limits) ?? [];
  const used = new Set(readdirSync(`/proc/${pid}/fd`).map(Number));
  const isSocket = (fd: number): boolean => readlinkSync(`/proc/${pid}/fd/${fd}`).startsWith('socket:');
  // Behind the standard streams, which are sockets here.
  let end = 3;
  while (used.has(end) && !isSocket(end)) end++;
  const limit = (text: string): Promise<unknown> => runOk('prlimit', ['--pid', `${pid}`, `--nofile=${text}`]);
  await limit(`${end}:${hard}`);
  return () => limit(`${soft}:${hard}`);
}

test('a server and a mount that run out of descriptors tell it, and go on when there are some', async (t) => {
  const cluster = await startCluster(t, SMALL);
  const [mount] = cluster.mounts;
  assert.ok(mount !== undefined);
  const giveServer = await withoutDescriptors(cluster.server.child);
  const server = new RegExp(`^${TIME} holdfast: out of file descriptors \\(EMFILE\\): connections to 127`);
  await cluster.server.child.line(server);
  await giveServer();
  assert.ok(countOf(await cluster.status(), 'out-of-descriptors') >= 1);

  const giveMount = await withoutDescriptors(mount.child);
  await cluster.crash(async () => {
    const here = cluster.address.replace('.', '\\.');
    const text = `out of file descriptors \\(EMFILE\\): no connection to ${here}`;
    await mount.child.line(new RegExp(`^${TIME} holdfast: ${text}`));
    await giveMount();
  });
  await cluster.agent().writeFile('f', 'goes on');
  assert.ok(countOf(await cluster.mountStatus(), 'out-of-descriptors') >= 1);
});

test('a client whose locks were given to others while it was silent tells which are lost', async (t) => {
  const cluster = await startCluster(t, { ...SMALL, mounts: 2 });
  const [silent] = cluster.mounts;
  assert.ok(silent !== undefined);
  const [holder, other] = [cluster.agent(0), cluster.agent(1)];
  const held = await holder.open('f', O.CREAT | O.RDWR);
  await holder.flock(held, LOCK.EX);
  for (let start = 0; start < 2 * BURST; start += 2) {
    await holder.lock(held, { type: 'write', how: 'set', start, length: 1 });
  }
  const { ino } = await holder.fstat(held);
  silent.child.kill('SIGSTOP');
  await cluster.shutdownEvicting(1);
  await cluster.serve();
  const wanted = await other.open('f', O.RDWR);
  await other.flock(wanted, LOCK.EX);
  silent.child.kill('SIGCONT');
  await silent.child.line(/ evicted: /);
  await assert.rejects(holder.pread(held, 0, 1), { code: 'EIO' });
  const count = countOf(await cluster.mountStatus(silent), 'lock-lost');
  assert.equal(count, BURST + 1);
  limited(silent.child, `a (flock|posix) lock of process ${holder.pid} on inode ${ino} is lost`, count);
});
