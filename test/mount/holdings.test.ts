/** holdfast status --locks and --opens, of a server and of a mount: who holds what, and who waits for it. */

import assert from 'node:assert/strict';
import { join } from 'node:path';
import test from 'node:test';
import type { HoldingsReply } from '../../src/wire/admin.js';
import { LOCK, O } from '../fixtures/agent.js';
import { runOk } from '../fixtures/child.js';
import { type Cluster, startCluster } from '../fixtures/cluster.js';
import { until } from '../fixtures/until.js';

async function listed(cluster: Cluster, what: string, list: '--locks' | '--opens', limit = 100) {
  const text = await cluster.cliOk(['status', what, list, '--json', '--limit', String(limit)]);
  return JSON.parse(text) as HoldingsReply;
}

test('a program that waits for a lock comes first, then who holds it', async (t) => {
  const cluster = await startCluster(t, { mounts: 2 });
  const [holder, waiter] = [cluster.agent(0), cluster.agent(1)];
  const dirs = cluster.mounts.map(({ dir }) => dir);
  await holder.writeFile('f', 'x');
  const [held, wanted] = [await holder.open('f', O.RDWR), await waiter.open('f', O.RDWR)];
  const { ino } = await holder.fstat(held);
  await holder.flock(held, LOCK.EX);
  const waiting = waiter.flock(wanted, LOCK.EX);
  const first = await until('the lock waits on the server', async () => {
    const { holdings } = await listed(cluster, cluster.admin, '--locks');
    return holdings[0]?.waits === true ? holdings : undefined;
  });
  const [asks, has] = first;
  assert.deepEqual(
    [asks?.fid, asks?.kind, asks?.mode, asks?.client?.endsWith(dirs[1] ?? '?')],
    [ino, 'flock', 'exclusive', true],
  );
  assert.deepEqual(
    [has?.fid, has?.kind, has?.waits, has?.waiters, has?.client?.endsWith(dirs[0] ?? '?')],
    [ino, 'flock', false, 1, true],
  );
  const own = await listed(cluster, dirs[1] ?? '', '--locks');
  assert.deepEqual([own.holdings[0]?.fid, own.holdings[0]?.waits], [ino, true]);

  const shown = await cluster.cliOk(['status', cluster.admin, '--locks', '--limit', '1']);
  assert.match(
    shown,
    /^INODE +KIND +MODE +FOR +STATE +CLIENT +NAME\n\d+ +flock +exclusive +[\d.]+ s +waits +\S+ +-\nand \d+ more/,
  );
  // A client tells the server of files that it has opened by itself when another one needs its lock.
  await runOk('chmod', ['600', join(dirs[0] ?? '', 'f')]);
  await until('the server knows the file as open', async () => {
    const { holdings } = await listed(cluster, cluster.admin, '--opens');
    return holdings.some(
      ({ fid, mode, kind, client }) =>
        fid === ino && mode === 'read write' && kind === 'file' && client?.endsWith(dirs[1] ?? '?') === true,
    );
  });
  await holder.flock(held, LOCK.UN);
  await waiting;
});

test('a mount knows the names of what is open while it knows the directory', async (t) => {
  const cluster = await startCluster(t);
  const agent = cluster.agent(0);
  await agent.mkdir('d');
  await agent.writeFile('d/größe', 'x');
  await agent.open('d/größe', O.RDONLY);
  const { holdings } = await listed(cluster, cluster.mounts[0]?.dir ?? '', '--opens');
  assert.deepEqual(
    holdings.map(({ name, kind, mode }) => [name, kind, mode]).filter(([, kind]) => kind === 'file'),
    [['größe', 'file', 'read']],
  );
});

test('a list needs one place, and one kind', async (t) => {
  const cluster = await startCluster(t, { mounts: 0 });
  const failed = async (...args: string[]): Promise<string> => {
    const done = await cluster.cli(['status', ...args]);
    assert.notEqual(done.code, 0);
    return done.stderr;
  };
  assert.match(await failed('--locks'), /^holdfast: --locks needs a mount point or a server$/);
  assert.match(await failed('/', '--opens'), /^holdfast: \/ is neither/);
  assert.match(await failed(cluster.admin, '--locks', '--opens'), /cannot be used with option/);
});
