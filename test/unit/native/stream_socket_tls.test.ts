/** TLS by the addon: records as they come and as they must not come, ends, pauses, and uses that make no sense. */

import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { closeSync } from 'node:fs';
import { createConnection, createServer } from 'node:net';
import { type TestContext, test } from 'node:test';
import { nativeBinding, type TlsContext } from '../../../native/binding.js';
import type { Address } from '../../../src/runtime/ports.js';
import { KEY, overTls, takingKeys, WITH_KEY } from '../../fixtures/carriers.js';
import { connected, type End, listening, pair } from '../../fixtures/connection_ends.js';
import { connectedWith, eachTls, secured } from '../../fixtures/tls_peers.js';
import { type Crafting, crafting, TYPE } from '../../fixtures/tls_records.js';
import { until } from '../../fixtures/until.js';
import { SimRng } from '../../sim/rng.js';

const { StreamSocket, TlsContext: Context, socketPair } = nativeBinding();
const MIB = 1 << 20;

const RENEW = Buffer.from([24, 0, 0, 1, 0]);
const ASK_RENEW = Buffer.from([24, 0, 0, 1, 1]);
const TICKET = Buffer.from([4, 0, 0, 1, 0]);
const HELLO = Buffer.from('hello');

interface Crafted {
  readonly peer: Crafting;
  readonly server: End;
}

/** A server of ours whose client makes its own records. */
async function crafted(t: TestContext): Promise<Crafted> {
  const { listener, accepted } = await secured(t);
  const peer = await crafting(t, listener.address);
  await until('it is accepted', () => accepted.length === 1);
  return { peer, server: accepted[0] as End };
}

function times<T>(count: number, make: () => T): T[] {
  return Array.from({ length: count }, make);
}

test('records that may come are taken: padded, empty, with new keys, cut into bytes', async (t) => {
  const { peer, server } = await crafted(t);
  const padded = peer.seal(Buffer.concat([HELLO, Uint8Array.of(TYPE.data), Buffer.alloc(1000)]));
  const empty = Buffer.concat(times(31, () => peer.record(TYPE.data, Buffer.alloc(0))));
  const cancelled = peer.record(TYPE.alert, Uint8Array.of(1, 90));
  const data = peer.record(TYPE.data, HELLO);
  peer.raw.write(Buffer.concat([padded, empty, cancelled, data]));
  await server.has(10);
  peer.raw.write(peer.record(TYPE.handshake, ASK_RENEW));
  peer.renew();
  const last = peer.record(TYPE.data, HELLO);
  for (const byte of last) {
    peer.raw.write(Uint8Array.of(byte));
    await new Promise(setImmediate);
  }
  assert.equal((await server.has(15)).toString(), 'hellohellohello');
  for (let count = 2; count <= 8; count += 1) {
    peer.raw.write(peer.record(TYPE.handshake, RENEW));
    peer.renew();
  }
  peer.raw.write(peer.record(TYPE.data, HELLO));
  await server.has(20);
  // It was asked for a new key, and takes one before it writes again.
  await server.write(Buffer.from('one'), Buffer.from('two'));
  await until('the answer', () => peer.received().length >= 2);
  const answer = peer.received().map(({ type, content }) => [type, content.toString('latin1')]);
  assert.deepEqual(answer, [
    [TYPE.handshake, RENEW.toString('latin1')],
    [TYPE.data, 'onetwo'],
  ]);
  server.connection.end();
  await until('the end', () => peer.received().length >= 3);
  assert.deepEqual(peer.received()[2], { type: TYPE.alert, content: Buffer.from([1, 0]) });
});

/** Records that end the connection, what the server says of them, and the alert that the client gets. */
const WRONG: readonly [name: string, make: (peer: Crafting) => Buffer, says: RegExp, alert: number][] = [
  ['one bit of it is another', (peer) => flipped(peer.record(TYPE.data, HELLO)), /bad record mac/, 20],
  ['it is not encrypted', () => Buffer.from([TYPE.alert, 3, 3, 0, 2, 1, 0]), /wrong version/, 10],
  [
    'its version is another',
    () => Buffer.from([TYPE.data, 2, 3, 0, 40, ...Array(40).fill(0)]),
    /wrong version/,
    10,
  ],
  ['it is too long', () => Buffer.from([TYPE.data, 3, 3, 0x41, 1]), /length too long/, 22],
  ['it is too short', () => Buffer.from([TYPE.data, 3, 3, 0, 16]), /length too short/, 50],
  ['it has no type', (peer) => peer.seal(Buffer.alloc(100)), /bad record type/, 10],
  ['its type is unknown', (peer) => peer.record(99, HELLO), /unexpected record/, 10],
  [
    'its content is too long',
    (peer) => peer.record(TYPE.data, Buffer.alloc((16 << 10) + 1)),
    /data length too long/,
    22,
  ],
  [
    '33 are empty',
    (peer) => Buffer.concat(times(33, () => peer.record(TYPE.data, Buffer.alloc(0)))),
    /too small/,
    10,
  ],
  ['an alert has three bytes', (peer) => peer.record(TYPE.alert, Buffer.alloc(3)), /invalid alert/, 50],
  [
    'it is a ClientHello',
    (peer) => peer.record(TYPE.handshake, Buffer.from([1, 0, 0, 1, 0])),
    /unexpected message/,
    10,
  ],
  ['it is a ticket', (peer) => peer.record(TYPE.handshake, TICKET), /unexpected message/, 10],
  ['half a message', (peer) => peer.record(TYPE.handshake, RENEW.subarray(0, 4)), /unexpected message/, 10],
  [
    'more behind a KeyUpdate',
    (peer) => peer.record(TYPE.handshake, Buffer.concat([RENEW, RENEW])),
    /unexpected message/,
    10,
  ],
  [
    'the ninth new key at once',
    (peer) =>
      Buffer.concat(
        times(9, () => {
          const update = peer.record(TYPE.handshake, RENEW);
          peer.renew();
          return update;
        }),
      ),
    /too many key updates/,
    10,
  ],
];

function flipped(record: Buffer): Buffer {
  const at = record.length - 20;
  record[at] = (record[at] as number) ^ 1;
  return record;
}

test('records that may not come end the connection, behind the data before them, and the peer is told', async (t) => {
  for (const [name, make, says, alert] of WRONG) {
    const { peer, server } = await crafted(t);
    const before = peer.record(TYPE.data, HELLO);
    peer.raw.write(Buffer.concat([before, make(peer)]));
    const error = await server.end();
    assert.deepEqual([server.log, server.receivedBytes], [['data', 'closed EPROTO'], HELLO.length], name);
    assert.match(error?.message ?? '', says, name);
    await until('an alert', () => peer.received().length > 0);
    assert.deepEqual(peer.received(), [{ type: TYPE.alert, content: Buffer.from([2, alert]) }], name);
  }
});

test('an alert of the peer is told by its name', async (t) => {
  const { peer, server } = await crafted(t);
  peer.raw.write(peer.record(TYPE.alert, Uint8Array.of(2, 49)));
  const error = await server.end();
  assert.match(error?.message ?? '', /the peer broke TLS: .*alert access denied/);
});

test('a stream that was cut is told from one that has ended', async (t) => {
  const cut = await crafted(t);
  cut.peer.raw.end(cut.peer.record(TYPE.data, HELLO));
  const error = (await cut.server.end()) as NodeJS.ErrnoException | undefined;
  assert.deepEqual(
    [error?.code, error?.message, cut.server.log],
    ['ECONNRESET', "the peer's stream was cut", ['data', 'closed ECONNRESET']],
  );
  const half = await crafted(t);
  half.peer.raw.end(half.peer.record(TYPE.data, Buffer.alloc(1000)).subarray(0, 900));
  await half.server.end();
  assert.deepEqual(half.server.log, ['closed ECONNRESET']);
  const whole = await crafted(t);
  whole.peer.raw.end(
    Buffer.concat([whole.peer.record(TYPE.data, HELLO), whole.peer.record(TYPE.alert, Uint8Array.of(1, 0))]),
  );
  assert.equal(await whole.server.end(), undefined);
  assert.deepEqual(whole.server.log, ['data', 'closed']);
});

test('what was read before a pause comes after it, though nothing more arrives', async (t) => {
  const { peer, server } = await crafted(t);
  const { connection } = server;
  const memory = times(1000, () => Buffer.alloc(1));
  server.space = () => memory.pop() ?? Buffer.alloc(16 << 10);
  server.onData = () => connection.pause();
  peer.raw.write(Buffer.concat(times(5, () => peer.record(TYPE.data, HELLO))));
  for (let count = 1; count <= 25; count += 1) {
    await server.has(count);
    const { length } = server.log;
    await new Promise(setImmediate);
    await new Promise(setImmediate);
    assert.equal(server.log.length, length, 'it was paused');
    connection.resume();
    assert.equal(server.log.length, length, 'resume() has called data()');
  }
  // Both changes of mind.
  server.onData = () => undefined;
  connection.resume();
  connection.pause();
  peer.raw.write(peer.record(TYPE.data, HELLO));
  connection.resume();
  assert.equal((await server.has(30)).toString(), 'hello'.repeat(6));
});

test('a connection that is closed from within data() gets nothing more of what was read', async (t) => {
  const { peer, server } = await crafted(t);
  server.onData = () => server.connection.destroy();
  server.space = () => Buffer.alloc(20);
  peer.raw.write(Buffer.concat(times(50, () => peer.record(TYPE.data, HELLO))));
  await server.end();
  assert.deepEqual(server.log, ['data', 'closed']);
});

eachTls('64 MiB each way, in odd chunks, with pauses at both ends', async (t) => {
  const { listener, accepted } = await secured(t);
  const client = await connectedWith(t, listener.address, WITH_KEY);
  await until('it is accepted', () => accepted.length === 1);
  const rng = new SimRng(4711);
  const ends = [client, accepted[0] as End];
  const pool = Buffer.from(new Uint32Array(MIB).map(() => rng.u32()).buffer);
  const hashes = ends.map(() => ({ sent: createHash('sha256'), got: createHash('sha256') }));
  const bytes = ends.map(() => 0);
  for (const [at, end] of ends.entries()) {
    // It would keep a copy of all.
    end.data = (chunk) => {
      hashes[at]?.got.update(chunk);
      bytes[at] = (bytes[at] as number) + chunk.length;
      if (!rng.chance(0.02)) return;
      end.connection.pause();
      setImmediate(() => end.connection.resume());
    };
  }
  await Promise.all(
    ends.map(async (end, at) => {
      for (let left = 64 * MIB; left > 0; ) {
        const chunks = times(rng.between(1, 30), () => {
          const length = Math.min(left, rng.chance(0.1) ? rng.between(0, 2 * MIB) : rng.between(0, 3000));
          left -= length;
          const start = rng.below(pool.length - length + 1);
          return pool.subarray(start, start + length);
        });
        for (const chunk of chunks) hashes[at]?.sent.update(chunk);
        if (end.connection.write(chunks)) continue;
        await new Promise<void>((resolve) => {
          end.onDrain = resolve;
        });
      }
    }),
  );
  await until('all is there', () => bytes.every((count) => count === 64 * MIB));
  const [there, back] = hashes.map(({ sent, got }) => [sent.digest('hex'), got.digest('hex')] as const);
  assert.deepEqual([there?.[0], back?.[0]], [back?.[1], there?.[1]]);
  client.connection.end();
  assert.deepEqual([await client.end(), await ends[1]?.end()], [undefined, undefined]);
});

/** Passes a connection on byte by byte, both ways. */
async function byteByByte(t: TestContext, to: Address): Promise<Address> {
  const relay = createServer((near) => {
    const far = createConnection({ ...to, noDelay: true });
    near.setNoDelay(true);
    for (const [from, onto] of [
      [near, far],
      [far, near],
    ] as const) {
      from.on('data', (chunk: Buffer) => {
        for (const byte of chunk) onto.write(Uint8Array.of(byte));
      });
      from.on('end', () => onto.end());
      from.on('error', () => undefined);
      t.after(() => from.destroy());
    }
  });
  relay.listen(0, '127.0.0.1');
  await once(relay, 'listening');
  t.after(() => relay.close());
  return { host: '127.0.0.1', port: (relay.address() as { port: number }).port };
}

eachTls('a handshake and everything behind it may come byte by byte', async (t) => {
  const { listener, accepted } = await secured(t);
  const client = await connectedWith(t, await byteByByte(t, listener.address), WITH_KEY);
  await until('it is accepted', () => accepted.length === 1);
  await client.write(Buffer.alloc(2000, 'a'), Buffer.alloc(500, 'b'));
  const server = accepted[0] as End;
  assert.equal((await server.has(2500)).toString(), 'a'.repeat(2000) + 'b'.repeat(500));
  await server.write(HELLO);
  assert.equal((await client.has(5)).toString(), 'hello');
  client.connection.end();
  assert.deepEqual([await client.end(), await server.end()], [undefined, undefined]);
});

test('a small message is one record', async (t) => {
  const { peer, server } = await crafted(t);
  await server.write(
    ...'header and body'.split(' ').map((word) => Buffer.from(word)),
    Buffer.alloc(5000, 'x'),
  );
  await until('it is there', () => peer.received().length > 0);
  assert.deepEqual(
    peer.received().map(({ content }) => content.length),
    [13 + 5000],
  );
});

test('errors that others have left in OpenSSL do no harm', async (t) => {
  const { client, server } = await pair(t, overTls(takingKeys(), WITH_KEY));
  const { createPrivateKey } = await import('node:crypto');
  for (let count = 1; count <= 3; count += 1) {
    assert.throws(() => createPrivateKey('no key'));
    await client.write(HELLO);
    await server.has(5 * count);
  }
});

test('a worker that ends with handshakes and connections leaves nothing behind', async (t) => {
  const { Worker } = await import('node:worker_threads');
  const { listener } = await listening(t, overTls(takingKeys(), WITH_KEY));
  const worker = new Worker(
    `import { workerData, parentPort } from 'node:worker_threads';
     const { overTls, takingKeys, WITH_KEY } = await import(workerData.carriers);
     const nothing = { data() {}, drain() {}, closed() {} };
     const ready = new Promise(() => undefined);
     const transport = overTls(takingKeys(), WITH_KEY);
     await transport.listen({ host: '127.0.0.1', port: 0 }, () => nothing);
     await transport.connect(workerData.address, () => nothing, { timeoutMs: 60000 });
     for (let count = 0; count < 5; count += 1) void transport.connect(workerData.address, () => nothing, { timeoutMs: 60000 });
     parentPort.postMessage('there');`,
    {
      eval: true,
      execArgv: ['--input-type=module'],
      workerData: {
        address: listener.address,
        carriers: new URL('../../fixtures/carriers.js', import.meta.url).href,
      },
    },
  );
  await once(worker, 'message');
  await worker.terminate();
  const client = await connected(t, overTls(takingKeys(), WITH_KEY), listener);
  await client.write(HELLO);
});

test('what makes no sense is refused', (t) => {
  assert.ok(Context !== undefined);
  const Any = Context as unknown as new (...args: unknown[]) => TlsContext;
  const wrong: readonly (readonly unknown[])[] = [
    [],
    [1],
    [true, 'text'],
    [true, Buffer.alloc(0)],
    [true, Buffer.alloc(2 << 20)],
    [false, undefined, undefined, undefined, 7],
    [false, undefined, undefined, undefined, 'a\0b'],
    [false, undefined, undefined, undefined, 'a', Buffer.alloc(300)],
  ];
  for (const args of wrong) assert.throws(() => new Any(...args));
  assert.throws(() => (Context as unknown as () => void)(), TypeError);
  for (const files of [[HELLO], [HELLO, HELLO, HELLO]]) {
    assert.throws(() => new Any(true, ...files), /no start line/i);
  }
  const [one, two] = socketPair();
  t.after(() => [one, two].forEach(closeSync));
  const call = (): void => undefined;
  const made = (): InstanceType<typeof StreamSocket> => {
    const socket = new StreamSocket(one, [Buffer.alloc(10)], call, call, call);
    t.after(() => socket.close());
    return socket;
  };
  const context = new Any(false, undefined, undefined, undefined, 'a', KEY);
  const first = Buffer.alloc(0);
  const start = (socket: object, ...args: unknown[]): void =>
    (socket as { startTls: (...args: unknown[]) => void }).startTls(...args);
  for (const args of [
    [],
    [{}],
    [1],
    [context],
    [context, first],
    [context, first, call],
    [context, 'x', call, call],
  ]) {
    assert.throws(() => start(made(), ...args), TypeError);
  }
  assert.throws(() => start(made(), Object.create(context), first, call, call), TypeError);
  assert.throws(() => start(made(), made(), first, call, call), TypeError);
  assert.throws(() => start(made(), context, Buffer.alloc(1 << 20), call, call), RangeError);
  const socket = made();
  start(socket, context, first, call, call);
  assert.throws(() => start(socket, context, first, call, call), { code: 'EISCONN' });
  assert.ok(socket.write([HELLO]) < 0, 'it writes before it is secure');
  const reading = made();
  reading.resume();
  assert.throws(() => start(reading, context, first, call, call), { code: 'EISCONN' });
  const closed = made();
  closed.close();
  assert.throws(() => start(closed, context, first, call, call), { code: 'EISCONN' });
});
