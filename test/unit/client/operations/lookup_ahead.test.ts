/** Names that come before anybody asks for them: when that is done, when it is not, and that what comes is true. */

import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import { type Fid, ROOT_FID } from '../../../../src/base/ids.js';
import {
  type ClientWorld,
  clientWorld,
  O_RDONLY,
  O_RDWR,
  type TestClient,
} from '../../../worlds/client_world.js';

interface Setting {
  readonly world: ClientWorld;
  readonly b: TestClient;
  readonly d: Fid;
  readonly names: readonly string[];
}

async function setting(t: TestContext, files: number, content = 'content'): Promise<Setting> {
  const world = await clientWorld(t);
  const a = await world.client('a');
  const d = await a.mkdir('d');
  const names = Array.from({ length: files }, (_, at) => `f${at}`);
  for (const name of names) {
    const file = await a.create(name, O_RDWR, d);
    await a.write(file, 0, `${content} of ${name}`);
    await a.close(file);
  }
  await a.unmount();
  return { world, b: await world.client('b'), d, names };
}

async function requests({ servers }: ClientWorld, run: () => Promise<unknown>): Promise<number> {
  const { counted } = servers.runtime;
  const before = counted.get('holdfast_server_requests_total') ?? 0;
  await run();
  return (counted.get('holdfast_server_requests_total') ?? 0) - before;
}

async function text(client: TestClient, name: string, d: Fid): Promise<string> {
  const file = await client.open(name, O_RDONLY, d);
  const found = await client.text(file);
  await client.close(file);
  return found;
}

test('after three lookups the rest of a large directory comes 512 names at a time', async (t) => {
  const { world, b, d, names } = await setting(t, 1200);
  const count = await requests(world, async () => {
    for (const name of names)
      assert.equal((await b.lookup(name, d))?.attr.sizeBytes, `content of ${name}`.length);
  });
  assert.equal(count, 2 + 3);
  assert.equal(await requests(world, () => b.lookup('none', d)), 0, 'the directory is known as a whole');
  b.check();
});

test('a program that looks up few of many names makes the client read ahead once, not for each of them', async (t) => {
  const { world, b, d } = await setting(t, 3000);
  const count = await requests(world, async () => {
    for (let at = 0; at < 40; at++) await b.lookup(`f${600 + ((at * 761) % 2400)}`, d);
  });
  assert.ok(count <= 42, `${count} requests for 40 names`);
});

test('contents come along only where small files are read, and are true whoever writes them', async (t) => {
  const { world, b, d, names } = await setting(t, 100);
  for (const name of names.slice(0, 50)) assert.equal(await text(b, name, d), `content of ${name}`);
  const c = await world.client('c');
  const file = await c.open('f70', O_RDWR, d);
  await c.write(file, 0, 'CHANGED');
  assert.equal(await text(b, 'f70', d), 'CHANGED of f70');
  await c.write(file, 0, 'AGAIN..');
  await c.close(file);
  assert.equal(await text(b, 'f70', d), 'AGAIN.. of f70');
  for (const name of names.slice(80)) assert.equal(await text(b, name, d), `content of ${name}`);
  b.check();
});

test('a file that is being written elsewhere, an empty one and a large one are read as ever', async (t) => {
  const { world, b, d, names } = await setting(t, 20);
  const c = await world.client('c');
  const open = await c.create('open', O_RDWR, d);
  await c.write(open, 0, 'dirty');
  await c.close(await c.create('empty', O_RDWR, d));
  const large = await c.create('large', O_RDWR, d);
  await c.write(large, 0, 'x'.repeat(10_000));
  for (const name of names) assert.equal(await text(b, name, d), `content of ${name}`);
  assert.deepEqual(
    [await text(b, 'open', d), await text(b, 'empty', d), (await text(b, 'large', d)).length],
    ['dirty', '', 10_000],
  );
  await c.write(open, 5, ', and more');
  assert.equal(await text(b, 'open', d), 'dirty, and more');
});

test('names that others make and remove meanwhile are there, or not', async (t) => {
  const { world, b, d, names } = await setting(t, 700);
  const c = await world.client('c');
  for (const [at, name] of names.entries()) {
    if (at % 50 === 0) await c.unlink(name, d);
    if (at % 70 === 0) await c.create(`new${at}`, O_RDWR, d);
    assert.equal((await b.lookup(name, d)) === undefined, at % 50 === 0, name);
    if (at % 70 === 0) assert.ok((await b.lookup(`new${at}`, d)) !== undefined);
  }
  assert.equal(await b.lookup('f', ROOT_FID), undefined);
  b.check();
});
