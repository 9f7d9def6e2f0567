import assert from 'node:assert/strict';
import { test } from 'node:test';
import { FsError } from '../../../src/base/errno.js';
import { tcpTransport } from '../../../src/runtime/node_tcp.js';
import type { Connection, ConnectionEvents, Listener, Origin } from '../../../src/runtime/ports.js';
import { asRoot, listenAsNobody, NOBODY } from '../../fixtures/nobody.js';
import { until } from '../../fixtures/until.js';

const transport = tcpTransport('addon');

interface Peer {
  readonly connection: Connection;
  readonly events: {
    data: (chunk: Buffer) => void;
    drain: () => void;
    closed: (error?: Error) => void;
  };
  readonly closed: Promise<Error | undefined>;
}

function peer(connection: Connection): Peer & { readonly receiver: ConnectionEvents } {
  let close: (error?: Error) => void = () => {};
  const closed = new Promise<Error | undefined>((resolve) => {
    close = resolve;
  });
  const events: Peer['events'] = { data: () => {}, drain: () => {}, closed: () => {} };
  return {
    connection,
    events,
    closed,
    receiver: {
      data: (chunk) => events.data(chunk),
      drain: () => events.drain(),
      closed: (error) => {
        events.closed(error);
        close(error);
      },
    },
  };
}

async function pair(): Promise<{
  readonly server: Peer;
  readonly client: Peer;
  readonly listener: Listener;
}> {
  let accepted: (peer: Peer) => void = () => {};
  const server = new Promise<Peer>((resolve) => {
    accepted = resolve;
  });
  const listener = await transport.listen({ host: '127.0.0.1', port: 0 }, (connection) => {
    const made = peer(connection);
    accepted(made);
    return made.receiver;
  });
  let client: Peer | undefined;
  await transport.connect(
    listener.address,
    (connection) => {
      const made = peer(connection);
      client = made;
      return made.receiver;
    },
    { timeoutMs: 5000 },
  );
  if (client === undefined) throw new Error('connect did not open');
  return { server: await server, client, listener };
}

/** Collects until so many bytes are there. */
function receive(from: Peer, lengthBytes: number): Promise<Buffer> {
  const chunks: Buffer[] = [];
  let have = 0;
  return new Promise((resolve, reject) => {
    from.events.data = (chunk) => {
      chunks.push(chunk);
      have += chunk.length;
      if (have >= lengthBytes) resolve(Buffer.concat(chunks));
    };
    void from.closed.then(() => reject(new Error(`closed after ${have} bytes`)));
  });
}

async function failure(promise: Promise<unknown>): Promise<FsError> {
  try {
    await promise;
  } catch (error) {
    assert.ok(error instanceof FsError, String(error));
    return error;
  }
  throw new Error('it succeeded');
}

test('chunks arrive in order and in whole, both ways', async () => {
  const { server, client, listener } = await pair();
  const sent = Buffer.alloc(3_000_000, 'abcdefg');
  const there = receive(server, sent.length);
  client.connection.write([sent.subarray(0, 10), sent.subarray(10, 2_000_000), sent.subarray(2_000_000)]);
  assert.ok(sent.equals(await there));
  const back = receive(client, 5);
  server.connection.write([Buffer.from('hello')]);
  assert.equal((await back).toString(), 'hello');
  client.connection.end();
  assert.deepEqual([await server.closed, await client.closed], [undefined, undefined]);
  await listener.close();
});

test('a received chunk is never written to again', async () => {
  const { server, client, listener } = await pair();
  const kept: { readonly chunk: Buffer; readonly copy: Buffer }[] = [];
  let have = 0;
  const all = new Promise<void>((resolve) => {
    server.events.data = (chunk) => {
      kept.push({ chunk, copy: Buffer.from(chunk) });
      have += chunk.length;
      if (have === 200 * 1000) resolve();
    };
  });
  for (let i = 0; i < 200; i += 1) client.connection.write([Buffer.alloc(1000, i)]);
  await all;
  assert.ok(kept.every(({ chunk, copy }) => chunk.equals(copy)));
  client.connection.destroy();
  await server.closed;
  await listener.close();
});

test('write says when the peer is behind, and drain when it has caught up', async () => {
  const { server, client, listener } = await pair();
  server.connection.pause();
  let written = 0;
  const chunk = Buffer.alloc(1 << 20);
  while (client.connection.write([chunk])) written += chunk.length;
  written += chunk.length;
  assert.ok(client.connection.bufferedBytes > 0);
  const drained = new Promise<void>((resolve) => {
    client.events.drain = resolve;
  });
  const all = receive(server, written);
  server.connection.resume();
  await drained;
  assert.equal(client.connection.bufferedBytes, 0);
  assert.equal((await all).length, written);
  client.connection.destroy();
  await server.closed;
  await listener.close();
});

test('end delivers what was written although the peer goes on sending', async () => {
  const { server, client, listener } = await pair();
  let stop = false;
  const flood = (): void => {
    if (!stop && client.connection.write([Buffer.alloc(65536)])) setImmediate(flood);
  };
  client.events.drain = flood;
  flood();
  const last = receive(client, 9);
  server.connection.write([Buffer.from('last word')]);
  server.connection.end();
  assert.equal((await last).toString(), 'last word');
  stop = true;
  await Promise.all([client.closed, server.closed]);
  await listener.close();
});

test('destroy reports its error once and drops what was unsent', async () => {
  const { server, client, listener } = await pair();
  const why = new FsError('EPROTO', 'bad frame');
  server.connection.destroy(why);
  server.connection.write([Buffer.from('x')]);
  server.connection.end();
  assert.equal(await server.closed, why);
  await client.closed;
  await listener.close();
});

test('a port in use, a foreign address and a host that is none are told apart', async () => {
  const { listener, client } = await pair();
  const accept = (): ConnectionEvents => ({ data() {}, drain() {}, closed() {} });
  const busy = await failure(transport.listen(listener.address, accept));
  assert.equal(busy.code, 'EBUSY');
  assert.match(
    busy.message,
    /^port \d+ on 127\.0\.0\.1 is in use by another program; choose another with --listen/,
  );
  const codes = [];
  for (const host of ['192.0.2.1', 'no-such-host.invalid']) {
    codes.push((await failure(transport.listen({ host, port: 1234 }, accept))).code);
  }
  codes.push((await failure(transport.listen({ host: '127.0.0.1', port: 70_000 }, accept))).code);
  assert.deepEqual(codes, ['EINVAL', 'EINVAL', 'EINVAL']);
  client.connection.destroy();
  await listener.close();
});

test('the port of a closed listener is free at once, and its connections stay', async () => {
  const { server, client, listener } = await pair();
  await listener.close();
  const again = await transport.listen(listener.address, (connection) => peer(connection).receiver);
  const there = receive(server, 2);
  client.connection.write([Buffer.from('hi')]);
  assert.equal((await there).toString(), 'hi');
  client.connection.end();
  await server.closed;
  await again.close();
});

test('connect fails with its reason: refused, unknown host, cancelled, no answer', async () => {
  const { listener, client } = await pair();
  client.connection.destroy();
  await listener.close();
  const open = (connection: Connection): ConnectionEvents => peer(connection).receiver;
  const refused = await failure(transport.connect(listener.address, open, { timeoutMs: 5000 }));
  const unknown = await failure(
    transport.connect({ host: 'no-such-host.invalid', port: 1 }, open, { timeoutMs: 5000 }),
  );
  const aborter = new AbortController();
  const cancelled = failure(
    transport.connect(listener.address, open, { timeoutMs: 5000, signal: aborter.signal }),
  );
  aborter.abort();
  const before = await failure(
    transport.connect(listener.address, open, { timeoutMs: 5000, signal: aborter.signal }),
  );
  assert.deepEqual(
    [refused.code, unknown.code, (await cancelled).code, before.code],
    ['ECONNREFUSED', 'ENXIO', 'ECANCELED', 'ECANCELED'],
  );
});

test('connections leave from privileged source ports, several to one server, and know that they stay on this host', async () => {
  const origins: Origin[] = [];
  const listener = await transport.listen({ host: '127.0.0.1', port: 0 }, (connection) => {
    origins.push(connection.origin);
    return peer(connection).receiver;
  });
  const made: Connection[] = [];
  for (let count = 0; count < 20; count += 1) {
    const { address } = listener;
    made.push(await transport.connect(address, (one) => peer(one).receiver, { timeoutMs: 5000 }));
  }
  await until('all are accepted', () => origins.length === made.length);
  for (const connection of made) connection.destroy();
  await listener.close();
  assert.deepEqual(
    origins.map(({ port, sameHost }) => port < 1024 && sameHost),
    origins.map(() => true),
  );
});

test('without TLS a client believes no other user of its host who has taken the port', asRoot, async (t) => {
  for (const [listens, connects] of [
    ['127.0.0.1', '127.0.0.1'],
    ['0.0.0.0', '127.0.0.1'],
    ['::', '127.0.0.1'],
    ['::', '::1'],
  ] as const) {
    const port = await listenAsNobody(t, listens);
    const open = (): ConnectionEvents => assert.fail('it is connected');
    const refusal = await failure(transport.connect({ host: connects, port }, open, { timeoutMs: 5000 }));
    assert.equal(refusal.code, 'ECONNREFUSED');
    assert.match(refusal.message, new RegExp(`^user ${NOBODY} listens at `));
  }
});
