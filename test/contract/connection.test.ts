/** What every Transport's connections keep to, whatever carries their bytes. */

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { readdir } from 'node:fs/promises';
import { after, type TestContext, test } from 'node:test';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { FsError } from '../../src/base/errno.js';
import { StreamConnection } from '../../src/runtime/node_stream.js';
import { tcpTransport } from '../../src/runtime/node_tcp.js';
import type { Connection, Transport } from '../../src/runtime/ports.js';
import { carriers } from '../fixtures/carriers.js';
import { connected, End, listening, pair, withBare, writeUntilBehind } from '../fixtures/connection_ends.js';
import { until } from '../fixtures/until.js';
import { SimRng } from '../sim/rng.js';

const MIB = 1 << 20;
const SEED = 20_261;

setFlagsFromString('--expose-gc');
const collectGarbage = runInNewContext('gc') as () => void;

const { all: CARRIERS, remove } = carriers();
after(remove);

function randomBytes(rng: SimRng, lengthBytes: number): Buffer {
  const words = new Uint32Array(Math.ceil(lengthBytes / 4)).map(() => rng.u32());
  return Buffer.from(words.buffer, 0, lengthBytes);
}

/** Cuts bytes into chunks of any length; some are empty. */
function cut(rng: SimRng, bytes: Buffer): Buffer[] {
  const chunks: Buffer[] = [];
  const most = 2 ** rng.between(Math.max(0, Math.log2(bytes.length) - 12), 20);
  for (let at = 0; at < bytes.length; ) {
    const length = rng.chance(0.1) ? 0 : rng.between(1, most);
    chunks.push(bytes.subarray(at, at + length));
    at += length;
  }
  return chunks;
}

/** Writes in several calls, and waits for drain() when it is told to. */
async function writeAll(rng: SimRng, end: End, bytes: Buffer): Promise<void> {
  const chunks = cut(rng, bytes);
  for (let at = 0; at < chunks.length; ) {
    const some = chunks.slice(at, at + rng.between(1, 40));
    at += some.length;
    if (end.connection.write(some)) continue;
    await new Promise<void>((resolve) => {
      end.onDrain = resolve;
    });
  }
}

/** Bytes go to a connection's peer and back: whatever was ready on any other connection before has been seen. */
async function roundTrips(t: TestContext, transport: Transport): Promise<void> {
  const { client, server } = await pair(t, transport);
  server.onData = (chunk) => void server.connection.write([chunk]);
  for (let count = 1; count <= 3; count += 1) {
    client.connection.write([Buffer.from('x')]);
    await client.has(count);
  }
}

/** Counts the objects that were collected. */
function collected(): { readonly watch: (object: object) => void; readonly count: () => number } {
  let count = 0;
  const registry = new FinalizationRegistry(() => {
    count += 1;
  });
  return {
    watch: (object) => registry.register(object, undefined),
    count: () => {
      collectGarbage();
      return count;
    },
  };
}

for (const carrier of CARRIERS) {
  const { name, transport, isAddon, reset } = carrier;
  test(`connection over ${name}`, async (t) => {
    await t.test('is over what this suite is about', async (t) => {
      const { client, server } = await pair(t, transport);
      const over = [client, server].map(({ connection }) => connection instanceof StreamConnection);
      assert.deepEqual(over, [isAddon, isAddon]);
    });

    await t.test('brings any bytes in any chunks, both ways at once', async (t) => {
      const rng = new SimRng(SEED);
      for (const most of [1, 100, 16 << 10, (16 << 10) + 1, 300_000, 8 * MIB]) {
        const { client, server } = await pair(t, transport);
        const there = randomBytes(rng, most);
        const back = randomBytes(rng, rng.between(1, most));
        await Promise.all([writeAll(rng, client, there), writeAll(rng, server, back)]);
        assert.ok((await server.has(there.length)).equals(there), `${most} bytes there`);
        assert.ok((await client.has(back.length)).equals(back), `${back.length} bytes back`);
        client.connection.end();
        assert.deepEqual([await client.end(), await server.end()], [undefined, undefined]);
      }
    });

    await t.test('receives into memory of the receiver', async (t) => {
      const given: Buffer[] = [];
      const rng = new SimRng(SEED);
      const { client, server } = await pair(t, transport, {
        client: (end) => {
          end.space = () => {
            const memory = Buffer.alloc(rng.between(1, 40_000));
            given.push(memory);
            return memory;
          };
        },
      });
      const bytes = randomBytes(rng, MIB);
      await writeAll(rng, server, bytes);
      assert.ok((await client.has(MIB)).equals(bytes));
      // A transport need not ask for memory, so a chunk may be in other memory, but not elsewhere in this.
      const theirs = client.chunks.filter(({ chunk }) => given.some(({ buffer }) => buffer === chunk.buffer));
      assert.ok(theirs.length > 0, 'no chunk is in memory of the receiver');
      assert.equal(new Set(theirs.map(({ chunk }) => chunk.buffer)).size, theirs.length);
      assert.ok(theirs.every(({ chunk }) => chunk.byteOffset === 0));
    });

    await t.test('loses nothing of what was there when it was accepted or made', async (t) => {
      const { listener, accepted } = await listening(t, transport);
      const greeting = randomBytes(new SimRng(SEED), 100_000);
      const { address, close } = await carrier.serve((socket) => socket.end(greeting));
      t.after(close);
      for (let count = 1; count <= 20; count += 1) {
        const made = await connected(t, transport, { address });
        assert.ok((await made.has(greeting.length)).equals(greeting));
        assert.equal(await made.end(), undefined);
        const client = await connected(t, transport, listener);
        client.connection.write([greeting]);
        client.connection.end();
        await until('it is accepted', () => accepted.length === count);
        const server = accepted[count - 1] as End;
        assert.ok((await server.has(greeting.length)).equals(greeting));
        assert.equal(await server.end(), undefined);
      }
    });

    await t.test('hands nothing out while it is paused, from before it starts', async (t) => {
      const { client, server } = await pair(t, transport, { server: ({ connection }) => connection.pause() });
      await client.write(Buffer.from('one'));
      await roundTrips(t, transport);
      assert.deepEqual(server.log, []);
      server.onData = () => server.connection.pause();
      server.connection.resume();
      await server.has(3);
      await client.write(Buffer.from('two'));
      await roundTrips(t, transport);
      assert.deepEqual(server.log, ['data']);
      client.connection.end();
      await roundTrips(t, transport);
      assert.deepEqual(server.log, ['data']);
      server.onData = () => undefined;
      server.connection.resume();
      assert.equal((await server.has(6)).toString(), 'onetwo');
      assert.equal(await server.end(), undefined);
    });

    await t.test('says when the peer is behind, and when everything has left', async (t) => {
      const { client, server } = await pair(t, transport, { server: ({ connection }) => connection.pause() });
      const chunk = randomBytes(new SimRng(SEED), MIB);
      const written = writeUntilBehind(client, chunk);
      const waiting = client.connection.bufferedBytes;
      assert.ok(waiting > 2 * MIB && waiting <= written, `${waiting} of ${written} bytes wait`);
      const order: string[] = [];
      for (const name of ['first', 'second']) client.connection.write([chunk], () => order.push(name));
      client.onDrain = () => order.push(`drain ${client.connection.bufferedBytes}`);
      await roundTrips(t, transport);
      assert.equal(order.length, 0);
      server.connection.resume();
      const all = await server.has(written + 2 * MIB);
      await until('drain', () => client.log.includes('drain'));
      // drain() and the last of these have no order.
      assert.deepEqual(
        [order.filter((what) => !what.startsWith('drain')), order.filter((what) => what.startsWith('drain'))],
        [['first', 'second'], ['drain 0']],
      );
      for (let at = 0; at < all.length; at += MIB) assert.ok(all.subarray(at, at + MIB).equals(chunk));
      await client.write(chunk);
      assert.deepEqual(client.log, ['drain']);
    });

    await t.test('end sends everything, although much is unread and more comes', async (t) => {
      const { client, server } = await pair(t, transport, { server: ({ connection }) => connection.pause() });
      writeUntilBehind(client, Buffer.alloc(65_536));
      const last = randomBytes(new SimRng(SEED), 6 * MIB);
      server.connection.write([last]);
      server.connection.end();
      server.connection.write([Buffer.from('too late')]);
      assert.ok((await client.has(last.length)).equals(last));
      assert.deepEqual([await client.end(), await server.end()], [undefined, undefined]);
      assert.equal(client.receivedBytes, last.length);
      assert.deepEqual(server.log, ['closed']);
    });

    await t.test('end waits a while for a peer that does not end', async (t) => {
      const { end, bare } = await withBare(t, carrier);
      end.connection.end();
      await once(bare.resume(), 'end');
      bare.write('still here');
      assert.equal(await end.end(), undefined);
      assert.deepEqual(end.log, ['closed']);
    });

    await t.test('a peer that has ended its side gets what was written before', async (t) => {
      const { end, bare } = await withBare(t, carrier);
      bare.pause();
      const written = writeUntilBehind(end, Buffer.alloc(100_000, 'x'));
      bare.end('the end');
      await end.has(7);
      await roundTrips(t, transport);
      let got = 0;
      bare.on('data', (chunk: Buffer) => {
        got += chunk.length;
      });
      await once(bare.resume(), 'end');
      assert.equal(await end.end(), undefined);
      assert.equal(got, written);
    });

    await t.test('destroy drops what is unsent, and tells its error once and last', async (t) => {
      const { client, server } = await pair(t, transport, { server: ({ connection }) => connection.pause() });
      writeUntilBehind(client, Buffer.alloc(MIB));
      let sent = false;
      client.connection.write([Buffer.alloc(MIB)], () => {
        sent = true;
      });
      const why = new FsError('EPROTO', 'bad frame');
      client.connection.destroy(why);
      client.connection.destroy(new Error('another'));
      assert.deepEqual(client.log, []);
      assert.equal(await client.end(), why);
      client.connection.write([Buffer.alloc(10)], () => {
        sent = true;
      });
      client.connection.resume();
      client.connection.pause();
      client.connection.end();
      server.connection.resume();
      await server.end();
      await roundTrips(t, transport);
      assert.deepEqual([client.log, sent, client.connection.bufferedBytes], [['closed EPROTO'], false, 0]);
    });

    await t.test('destroy from within data ends it at once', async (t) => {
      const { client, server } = await pair(t, transport);
      server.onData = () => server.connection.destroy();
      client.connection.write([Buffer.alloc(MIB)]);
      await server.end();
      assert.deepEqual(server.log, ['data', 'closed']);
      await client.end();
    });

    await t.test('a reset by the peer is told', { skip: reset === undefined }, async (t) => {
      const { end, bare } = await withBare(t, carrier);
      reset?.(bare);
      await end.end();
      assert.deepEqual(end.log, ['closed ECONNRESET']);
    });

    await t.test('a reset is told while much waits to be sent', { skip: reset === undefined }, async (t) => {
      const { end, bare } = await withBare(t, carrier);
      bare.pause();
      end.connection.pause();
      writeUntilBehind(end, Buffer.alloc(MIB));
      reset?.(bare);
      await end.end();
      assert.match(end.log.join(), /^closed (ECONNRESET|EPIPE)$/);
    });

    await t.test('thousands of chunks in one write, sent at once and late', async (t) => {
      const rng = new SimRng(SEED);
      const { client, server } = await pair(t, transport);
      const bytes = randomBytes(rng, 3 * MIB);
      const chunks: Buffer[] = [];
      for (let at = 0; at < bytes.length; at += 512) chunks.push(bytes.subarray(at, at + 512));
      client.connection.write(chunks.slice(0, 1500));
      server.connection.pause();
      const before = 1500 * 512;
      const filler = Buffer.alloc(MIB);
      const written = writeUntilBehind(client, filler);
      client.connection.write(chunks.slice(1500));
      server.connection.resume();
      const all = await server.has(bytes.length + written);
      assert.ok(all.subarray(0, before).equals(bytes.subarray(0, before)));
      assert.ok(all.subarray(before + written).equals(bytes.subarray(before)));
    });

    await t.test('many connections at once keep apart', async (t) => {
      const { listener, accepted } = await listening(t, transport, (end) => {
        end.onData = (chunk) => void end.connection.write([Buffer.from(chunk)]);
      });
      const clients = await Promise.all(Array.from({ length: 150 }, () => connected(t, transport, listener)));
      const rng = new SimRng(SEED);
      const sent = clients.map(() => randomBytes(rng, rng.between(1, 100_000)));
      for (const [at, { connection }] of clients.entries()) connection.write([sent[at] as Buffer]);
      for (const [at, client] of clients.entries()) {
        const bytes = sent[at] as Buffer;
        assert.ok((await client.has(bytes.length)).equals(bytes));
        client.connection.end();
      }
      for (const end of [...clients, ...accepted]) assert.equal(await end.end(), undefined);
      assert.equal(accepted.length, clients.length);
    });

    await t.test('keeps no memory of what it has sent or dropped', async (t) => {
      const { watch, count } = collected();
      const { client, server } = await pair(t, transport, { server: ({ connection }) => connection.pause() });
      const write = (): void => {
        for (let chunks = 0; chunks < 20; chunks += 1) {
          const chunk = Buffer.allocUnsafeSlow(MIB);
          watch(chunk.buffer);
          client.connection.write([chunk]);
        }
      };
      write();
      server.connection.resume();
      await server.has(20 * MIB);
      server.chunks.length = 0;
      await until('what was sent is collected', () => count() === 20);
      server.connection.pause();
      write();
      client.connection.destroy();
      await client.end();
      await until('what was dropped is collected', () => count() === 40);
    });

    await t.test('is collected when it has closed', async () => {
      const { watch, count } = collected();
      const once = async (): Promise<void> => {
        let server: Connection | undefined;
        const listener = await transport.listen({ host: '127.0.0.1', port: 0 }, (connection) => {
          watch(connection);
          server = connection;
          return new End(connection);
        });
        const ends: End[] = [];
        const open = (connection: Connection): End => {
          const end = new End(connection);
          watch(connection);
          ends.push(end);
          return end;
        };
        await transport.connect(listener.address, open, { timeoutMs: 5000 });
        await until('it is accepted', () => server !== undefined);
        const [client] = ends as [End];
        client.connection.write([Buffer.from('hello')]);
        client.connection.end();
        await client.end();
        await listener.close();
      };
      for (let round = 0; round < 3; round += 1) await once();
      await until('all are collected', () => count() === 6);
    });
  });
}

test('a socket that has closed is one descriptor less', async (t) => {
  const transport = tcpTransport('addon');
  const descriptors = async (): Promise<number> => (await readdir('/proc/self/fd')).length;
  const { listener } = await listening(t, transport);
  const first = await connected(t, transport, listener);
  const before = await descriptors();
  const second = await connected(t, transport, listener);
  await until('both ends of it are there', async () => (await descriptors()) === before + 2);
  second.connection.end();
  await second.end();
  await until('both ends of it are gone', async () => (await descriptors()) === before);
  first.connection.destroy();
});
