/** Recovery of many clients at once. */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ROOT_FID } from '../../../src/base/ids.js';
import { Sync } from '../../../src/wire/data.js';
import type { RawClient } from '../../worlds/server_world.js';
import { serverWorld } from '../../worlds/server_world.js';

const MIB = 1 << 20;
const CLIENTS = 100;
const OPENS = 100;
/** Twice what the issue allows for recovery: here the clients run in the same process. Time that others use does not count. */
const PROCESSOR_MS = 4000;

test('100 clients with 10,000 open files, none of them durable, recover within two seconds', async (t) => {
  const world = await serverWorld(t, { metaBytes: 128 * MIB });
  await world.server();
  const clients: RawClient[] = [];
  for (let index = 0; index < CLIENTS; index += 1) clients.push(await world.replaying(`c${index}`));
  const homes = await Promise.all(clients.map(async (c) => (await c.mkdir(c.name)).attr.fid));
  await clients[0]?.call(Sync, {});
  world.hold();
  const opens = await Promise.all(
    clients.map(async (c, index) => {
      const files = [];
      for (let count = 0; count < OPENS; count += 1) {
        const fh = c.newFh();
        const { attr } = await c.create(`${count}`, { parent: homes[index] ?? ROOT_FID, fh, flags: 2 });
        files.push({ fid: attr.fid, fh, flags: 2 });
      }
      return files;
    }),
  );
  await world.crash();
  const before = process.cpuUsage();
  const next = await world.server();
  const recovered = await Promise.all(
    clients.map((c, index) => {
      const locks = (opens[index] ?? []).map(({ fid }) => ({ fid, type: 'data', mode: 'PW' }) as const);
      return c.comeBack(opens[index], locks);
    }),
  );
  const { user, system } = process.cpuUsage(before);
  const status = next.status();
  const sum = (of: (one: (typeof recovered)[number]) => number): number =>
    recovered.reduce((total, one) => total + of(one), 0);
  assert.deepEqual(
    {
      replayed: sum(({ replays }) => replays.filter((errno) => errno === 0).length),
      locks: sum(({ locks }) => locks.filter((handle) => handle > 0).length),
      lost: sum(({ lost }) => lost.length),
      opens: status.clients.reduce((total, { opens: count }) => total + count, 0),
      evicted: status.evicted,
      waitedFor: status.recovery?.waitedFor,
    },
    { replayed: 10_000, locks: 10_000, lost: 0, opens: 10_000, evicted: [], waitedFor: 0 },
  );
  assert.ok((user + system) / 1000 < PROCESSOR_MS, `${(user + system) / 1000} ms of processor time`);
});
