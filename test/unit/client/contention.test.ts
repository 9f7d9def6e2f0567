/**
 * Two clients that want the same file all the time. Nobody may wait, with a lock in hand, for what waits in the target
 * for that lock: the one would be evicted for it (the lock timeout is short here), and its calls fail.
 */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { clientWorld, O_RDWR, O_TRUNC, type TestClient } from '../../worlds/client_world.js';

const ROUNDS = 60;
const SIZE = 300_000;

async function rounds(run: (round: number) => Promise<unknown>): Promise<void> {
  for (let round = 0; round < ROUNDS; round += 1) await run(round);
}

test('reads under PR and PW, called back together by truncates of another client, always come to an end', async (t) => {
  const world = await clientWorld(t, { lockTimeoutMs: 2000 });
  const [a, b] = [await world.client('a'), await world.client('b')];
  const made = await a.create('f');
  await a.write(made, 0, Buffer.alloc(SIZE, 'x'));
  await a.close(made);
  const one = async (client: TestClient): Promise<void> => {
    await rounds(async (round) => {
      // The lookup brings PR, the open or the read PW.
      const file = await client.open('f', O_RDWR);
      const reading = client.read(file, (round * 7000) % SIZE, 100_000);
      if (round % 3 === 0) await client.setattr(file.fid, { sizeBytes: SIZE - round * 1000 });
      await reading;
      await client.close(file);
    });
  };
  await Promise.all([one(a), one(b), one(a), one(b)]);
});

function writeAsUser(
  client: TestClient,
  file: { fid: TestFid; fh: TestFh },
  offset: number,
): Promise<number> {
  const options = { append: false, writeback: false, sync: false, killSuidgid: true };
  return Promise.resolve(client.fs.write(client.op, file.fh, file.fid, offset, Buffer.from('y'), options));
}
type TestFid = Parameters<TestClient['fs']['write']>[2];
type TestFh = NonNullable<Parameters<TestClient['fs']['write']>[1]>;

test('writes that take set-id bits away do not wait for a truncate of another client that waits for them', async (t) => {
  const world = await clientWorld(t, { lockTimeoutMs: 2000 });
  const [a, b] = [await world.client('a'), await world.client('b')];
  const file = await a.create('f');
  await Promise.all([
    rounds((round) => writeAsUser(a, file, round)),
    rounds((round) => b.setattr(file.fid, { sizeBytes: 1000 + round, mode: 0o4755 })),
  ]);
  await writeAsUser(a, file, 0);
  assert.equal((await b.lookup('f'))?.attr.mode, 0o100755);
});

test('truncates of two clients come to an end though the kernel drops no dirty page before its own is answered', async (t) => {
  const world = await clientWorld(t, { lockTimeoutMs: 2000 });
  const clients = [await world.client('a'), await world.client('b')];
  const made = await clients[0]?.create('f');
  assert.ok(made !== undefined);
  const one = async (client: TestClient): Promise<void> => {
    const file = await client.open('f', O_RDWR);
    let answered: Promise<unknown> = Promise.resolve();
    client.kernel.onDropPages = async () => {
      await answered;
    };
    await rounds(async (round) => {
      await client.write(file, round, 'mapped');
      answered = client.setattr(file.fid, { sizeBytes: 10_000 + round });
      await answered;
      await client.fs.setattr(client.op, file.fid, { mtime: 'now', killSuidgid: false });
      answered = client.open('f', O_RDWR | O_TRUNC).then((cut) => client.close(cut));
      await answered;
    });
  };
  await Promise.all(clients.map(one));
});

test('a write waits for a truncate of its own client without a lock that another client wants', async (t) => {
  const world = await clientWorld(t, { lockTimeoutMs: 2000 });
  const [a, b] = [await world.client('a'), await world.client('b')];
  const file = await a.create('f');
  await Promise.all([
    rounds((round) => a.setattr(file.fid, { sizeBytes: 5000 + round })),
    rounds((round) => a.write(file, round, 'z')),
    rounds((round) => b.setattr(file.fid, { sizeBytes: 1000 + round })),
  ]);
  const text = (await b.text(await b.open('f'))).slice(0, ROUNDS);
  assert.equal(text, 'z'.repeat(ROUNDS));
});
