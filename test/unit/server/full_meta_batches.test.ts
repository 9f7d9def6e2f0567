/**
 * Metadata grants on a meta device that others fill: who has a grant finds the room for all of it, who has none asks the
 * server. The pages are those of lmdb, and with it time is real.
 */

import assert from 'node:assert/strict';
import { statSync } from 'node:fs';
import { test } from 'node:test';
import { FsError } from '../../../src/base/errno.js';
import type { Fid } from '../../../src/base/ids.js';
import { Batch, operationCost } from '../../../src/wire/batch.js';
import { Sync, Write } from '../../../src/wire/data.js';
import { WANT_ATTR, WANT_OWN } from '../../../src/wire/meta.js';
import type { RequestOf } from '../../../src/wire/operation.js';
import { FEATURES_ALL } from '../../../src/wire/session.js';
import { MIB } from '../../fixtures/storage_target.js';
import { nameOf, type RawClient, type ServerWorld, serverWorld } from '../../worlds/server_world.js';

const META_BYTES = 16 * MIB;
const SMALL = { meta: 'lmdb', metaBytes: META_BYTES, dataBytes: 64 * MIB } as const;
const TIME = { sec: 1, nsec: 0 };
const CONTENT_BYTES = 4032;
const NAME_BYTES = 200;
/** Of a file with its content. */
const FILE_COST = operationCost(NAME_BYTES, 0) + operationCost(0, CONTENT_BYTES);

type Operations = RequestOf<typeof Batch>['operations'];

async function batching(
  world: ServerWorld,
  name: string,
): Promise<{ client: RawClient; grantBytes: number }> {
  const client = world.client(name);
  client.features = FEATURES_ALL;
  const { metaGrantBytes = 0 } = await client.connect();
  await client.activate();
  return { client, grantBytes: metaGrantBytes };
}

/** Creates and writes as any client does, until the server refuses ten times in a row, whatever is committed. */
async function fill(client: RawClient, prefix = 'first'): Promise<number> {
  let made = 0;
  for (let refused = 0; refused < 10; ) {
    try {
      const name = `${prefix}-${made}-${'n'.repeat(NAME_BYTES)}`.slice(0, NAME_BYTES);
      const { fid } = (await client.create(name)).attr;
      made += 1;
      const bulk = [Buffer.alloc(CONTENT_BYTES, 1)];
      await client.call(Write, { fid, offset: 0, mtime: TIME, grantUsed: 0 }, { bulk });
      refused = 0;
    } catch (error) {
      assert.ok(error instanceof FsError && error.code === 'ENOSPC', String(error));
      refused += 1;
      await client.call(Sync, {});
    }
  }
  return made;
}

function filesOf(client: RawClient, parent: Fid, first: number, count: number): Operations {
  const who = { umask: 0, uid: 0, gid: 0, exclusive: true, want: 0, time: TIME };
  return Array.from({ length: count }, (_, index) => {
    const name = nameOf(`${first + index}-${'b'.repeat(NAME_BYTES)}`.slice(0, NAME_BYTES));
    const fid = client.newFid();
    return [
      { create: { parent, name, fid, mode: 0o100644, ...who } },
      { content: { fid, mtime: TIME, lengthBytes: CONTENT_BYTES } },
    ];
  }).flat();
}

test('what is promised to a client is there when others have filled the meta device', async (t) => {
  const world = await serverWorld(t, SMALL);
  const server = await world.server();
  const { client: a, grantBytes } = await batching(world, 'a');
  const most = Math.floor(grantBytes / FILE_COST);
  assert.ok(most >= 10, `a grant of ${grantBytes} bytes is ${most} files`);
  const { attr } = await a.create('owned', { mode: 0o040755, want: WANT_ATTR | WANT_OWN });
  const b = await world.connected('b');
  assert.ok((await fill(b)) > 500);
  const late = await batching(world, 'late');
  assert.equal(late.grantBytes, 0, 'nothing is left to promise');
  let paused = 0;
  for (let made = 0; made < most; ) {
    const count = made < 10 ? 1 : Math.min(5, most - made);
    const operations = filesOf(a, attr.fid, made, count);
    const bulk = [Buffer.alloc(count * CONTENT_BYTES, 'b')];
    const { grantBytes: more } = await a.call(Batch, { operations, grantUsed: count * FILE_COST }, { bulk });
    assert.equal(more, 0, 'the grant is not filled up');
    if ([...(server.target?.exports ?? [])].some(({ name, link }) => name === 'a' && link?.paused))
      paused += 1;
    made += count;
  }
  assert.ok(paused > 0, 'the next batch waits for room');
  await a.call(Sync, {});
  const store = server.target?.store;
  assert.equal(store?.dirents(attr.fid, 0, 10_000).length, most);
  assert.deepEqual([a.evictions, server.failure], [[], undefined]);
  assert.ok(
    (await fill(b, 'again')) > 0,
    'the batches took nothing from the reserve: others find a little room again',
  );
  server.target?.checkInvariants();
  assert.ok(statSync(world.target.devices.metaPath).size <= META_BYTES, 'no commit went past the end');
});

test('a batch that its client has not paid is refused when its room is promised to others', async (t) => {
  const world = await serverWorld(t, SMALL);
  await world.server();
  const { client: a } = await batching(world, 'a');
  const { attr } = await a.create('owned', { mode: 0o040755, want: WANT_ATTR | WANT_OWN });
  assert.ok((await fill(await world.connected('b'))) > 500);
  const bulk = [Buffer.alloc(CONTENT_BYTES)];
  a.call(Batch, { operations: filesOf(a, attr.fid, 0, 1), grantUsed: 0 }, { bulk }).catch(() => undefined);
  const reason = await world.time.until('the eviction', () => a.evictions[0]);
  assert.match(reason, /ENOSPC.*not paid/);
  assert.deepEqual(world.last.target?.store.dirents(attr.fid, 0, 10), []);
});
