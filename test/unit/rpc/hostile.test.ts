/**
 * A service behind a real port against peers that mean harm or are broken. In every case a well-behaved client, the
 * witness, goes on meanwhile and is answered.
 */

import assert from 'node:assert/strict';
import { EventEmitter, once } from 'node:events';
import { createConnection, type Socket } from 'node:net';
import { type TestContext, test } from 'node:test';
import { ByteBudget } from '../../../src/base/budget.js';
import { FsError } from '../../../src/base/errno.js';
import type { ClientUuid, Fid, Transno, Xid } from '../../../src/base/ids.js';
import { FrameReader } from '../../../src/rpc/frame_reader.js';
import { FrameLink } from '../../../src/rpc/link.js';
import { PartyBudgets } from '../../../src/rpc/party_budgets.js';
import { startPinger } from '../../../src/rpc/pinger.js';
import { Requester } from '../../../src/rpc/requester.js';
import { Service } from '../../../src/rpc/service.js';
import { nodeTimers } from '../../../src/runtime/node_clock.js';
import { tcpTransport } from '../../../src/runtime/node_tcp.js';
import type { Address } from '../../../src/runtime/ports.js';
import { Read, Write } from '../../../src/wire/data.js';
import { BODY_MAX, BULK_MAX, encodeHeader, type Header, KIND } from '../../../src/wire/header.js';
import { Lookup } from '../../../src/wire/meta.js';
import { negotiate, ownAbilities } from '../../../src/wire/negotiate.js';
import { ErrorReply } from '../../../src/wire/operation.js';
import { decode, encode } from '../../../src/wire/schema.js';
import { Connect, Ping } from '../../../src/wire/session.js';

const LOOK_MS = 40;

const transport = tcpTransport('addon');

interface Server {
  readonly address: Address;
  /** Why each connection that was lost was lost. */
  readonly lost: (Error | undefined)[];
  /** Resolves when so many were lost. The peer may see the end of a connection before the server has told of it. */
  whenLost(count: number): Promise<void>;
  readonly links: Set<FrameLink>;
  /** Highest number of bytes that waited for one peer. */
  peakOutputBytes: number;
}

async function serve(t: TestContext): Promise<Server> {
  const service = new Service<Server>({ bulkBudget: new PartyBudgets(new ByteBudget('bulks', 64 << 20)) });
  const data = Buffer.alloc(1 << 20, 'd');
  service.on(Ping, () => ({ reply: {} }));
  service.on(Lookup, () => ({ reply: { locks: [] } }));
  service.on(Read, (server, { length }) => {
    for (const link of server.links) {
      server.peakOutputBytes = Math.max(server.peakOutputBytes, link.bufferedBytes);
    }
    return { reply: { sizeBytes: data.length }, bulk: [data.subarray(0, length)] };
  });
  service.on(Write, (_server, _request, { bulk }) => ({ reply: { blocks: 0, grantBytes: bulk.length } }));
  service.on(Connect, (_server, request) => {
    const own = ownAbilities('0.1.0');
    const negotiated = negotiate(request, own);
    if (!negotiated.agreed) throw new FsError('EPROTO', negotiated.refusal);
    const { protocol, features } = negotiated;
    return { reply: { outcome: 'new', protocol, features, softwareVersion: own.softwareVersion } };
  });
  const lost: (Error | undefined)[] = [];
  const losses = new EventEmitter();
  const links = new Set<FrameLink>();
  const listener = await transport.listen({ host: '127.0.0.1', port: 0 }, (connection) => {
    const limits = { outputLimitBytes: 32 << 20, outputPauseBytes: 4 << 20 };
    return new FrameLink(connection, limits, (link) => {
      const pinger = startPinger(
        { timers: nodeTimers },
        {
          link,
          intervalMs: LOOK_MS,
          dead: () => link.destroy(new FsError('ETIMEDOUT', 'no sign of life')),
        },
      );
      links.add(link);
      return {
        frame: (frame) => {
          if (frame.header.kind === KIND.reply) return;
          service.dispatch(server, link, frame, { lastCommitted: () => 0 as Transno });
        },
        closed: (error) => {
          pinger.stop();
          links.delete(link);
          lost.push(error);
          losses.emit('lost');
        },
      };
    });
  });
  t.after(async () => {
    for (const link of links) link.destroy();
    await listener.close();
  });
  const whenLost = async (count: number): Promise<void> => {
    while (lost.length < count) await once(losses, 'lost');
  };
  const server: Server = { address: listener.address, lost, whenLost, links, peakOutputBytes: 0 };
  return server;
}

interface Witness {
  /** Ends it. @returns how many of its calls were answered. */
  stop(): Promise<number>;
}

/** Calls one after the other until stopped; any failure is thrown by stop(). */
async function witness(server: Server): Promise<Witness> {
  const requester = new Requester();
  let link: FrameLink | undefined;
  await transport.connect(
    server.address,
    (connection) => {
      link = new FrameLink(connection, {}, () => ({
        frame: (frame) => requester.reply(frame),
        closed: () => requester.failAll(new FsError('ENOTCONN', 'the witness lost its connection')),
      }));
      requester.attach(link, { resend: true });
      return link;
    },
    { timeoutMs: 5000 },
  );
  let stopped = false;
  let answered = 0;
  const run = async (): Promise<void> => {
    while (!stopped) {
      await requester.call(Ping, {});
      const { bulk } = await requester.call(Read, { fid: 1 as Fid, offset: 0, length: 5000 });
      assert.equal(bulk.length, 5000);
      answered += 1;
      // Leaves the loop to the others: both sides and the hostile peer share it.
      await new Promise((resolve) => setImmediate(resolve));
    }
  };
  const running = run();
  return {
    stop: async () => {
      stopped = true;
      await running;
      link?.destroy();
      return answered;
    },
  };
}

async function scenario(t: TestContext, hostile: (server: Server) => Promise<void>): Promise<void> {
  const server = await serve(t);
  const good = await witness(server);
  try {
    await hostile(server);
  } catch (error) {
    await good.stop();
    throw error;
  }
  const answered = await good.stop();
  assert.ok(answered > 0, 'the witness was answered meanwhile');
}

async function raw(t: TestContext, server: Server): Promise<Socket> {
  const socket = createConnection({ host: server.address.host, port: server.address.port });
  socket.on('error', () => {}); // resets are what these tests provoke
  t.after(() => socket.destroy());
  await once(socket, 'connect');
  return socket;
}

function requestBytes(opcode: number, body: Uint8Array, change: Partial<Header> = {}): Buffer {
  const header: Header = {
    version: 1,
    kind: KIND.request,
    opcode,
    flags: 0,
    errno: 0,
    xid: 1 as Xid,
    ackXidOrCommitted: 0,
    transno: 0 as Transno,
    connCount: 0,
    bodyLength: body.length,
    bulkLength: 0,
    ...change,
  };
  return Buffer.concat([encodeHeader(header), body]);
}

/** Closed by the server, whether in order or by a reset. */
async function closedByServer(socket: Socket): Promise<void> {
  socket.resume();
  if (!socket.closed) await new Promise<void>((resolve) => socket.once('close', () => resolve()));
}

/** The next replies that a raw socket gets: errno and text. */
function replies(socket: Socket, count: number): Promise<string[]> {
  const reader = new FrameReader();
  const got: string[] = [];
  return new Promise((resolve, reject) => {
    socket.once('close', () => reject(new Error(`closed after ${got.join('; ')}`)));
    socket.on('data', (chunk: Buffer) => {
      reader.push(Buffer.from(chunk));
      for (let frame = reader.next(); frame !== undefined; frame = reader.next()) {
        const { errno } = frame.header;
        got.push(errno === 0 ? 'ok' : `${errno} ${decode(ErrorReply, frame.body).text}`);
      }
      if (got.length >= count) resolve(got);
    });
  });
}

/** A fixed sequence of bytes without a pattern (xorshift). */
function noise(lengthBytes: number): Buffer {
  const bytes = Buffer.alloc(lengthBytes);
  let state = 0x9e3779b9;
  for (let i = 0; i < lengthBytes; i += 1) {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    bytes[i] = state;
  }
  return bytes;
}

test('random bytes close their connection only', async (t) => {
  await scenario(t, async (server) => {
    for (let round = 0; round < 10; round += 1) {
      const socket = await raw(t, server);
      socket.write(noise(1000 + round).subarray(round));
      await closedByServer(socket);
    }
    await server.whenLost(10);
    const reasons = server.lost.map((error) => (error instanceof FsError ? error.code : String(error)));
    assert.deepEqual(reasons, Array(10).fill('EPROTO'));
  });
});

test('absurd lengths are refused before memory is taken for them', async (t) => {
  await scenario(t, async (server) => {
    const before = process.memoryUsage();
    for (const change of [
      { bodyLength: 0xffff_ffff },
      { bulkLength: 0xffff_ffff },
      { bodyLength: BODY_MAX + 1 },
    ]) {
      const socket = await raw(t, server);
      socket.write(requestBytes(Ping.opcode, Buffer.from([0x90]), change));
      await closedByServer(socket);
    }
    const body = Buffer.concat([Buffer.from([0x93, 1, 0xdb]), Buffer.alloc(4, 0xff)]);
    const socket = await raw(t, server);
    socket.write(requestBytes(Lookup.opcode, body));
    assert.deepEqual(await replies(socket, 1), ['71 LookupRequest: the message ends early']);
    const after = process.memoryUsage();
    assert.ok(after.arrayBuffers - before.arrayBuffers < 64 << 20);
    await server.whenLost(3);
    assert.deepEqual(
      server.lost.map((error) => error instanceof FsError && error.code),
      ['EPROTO', 'EPROTO', 'EPROTO'],
    );
  });
});

test('a peer that sends byte by byte is served, one that stops in the middle of a frame is let go', async (t) => {
  await scenario(t, async (server) => {
    const slow = await raw(t, server);
    slow.setNoDelay(true);
    const answered = replies(slow, 1);
    for (const byte of requestBytes(Ping.opcode, Buffer.from([0x90]))) {
      slow.write(Buffer.from([byte]));
      await new Promise((resolve) => setImmediate(resolve));
    }
    assert.deepEqual(await answered, ['ok']);
    slow.end();
    await server.whenLost(1);
    const stuck = await raw(t, server);
    stuck.write(requestBytes(Write.opcode, Buffer.alloc(0), { bulkLength: BULK_MAX, bodyLength: 100 }));
    await closedByServer(stuck);
    await server.whenLost(2);
    assert.match(String(server.lost.at(-1)), /no sign of life/);
  });
});

test('a peer that stops reading is not read any more, then let go, and memory stays bounded', async (t) => {
  await scenario(t, async (server) => {
    const socket = await raw(t, server);
    socket.pause();
    const read = requestBytes(
      Read.opcode,
      encode(Read.request, { fid: 1 as Fid, offset: 0, length: 1 << 20 }),
    );
    for (let i = 0; i < 500; i += 1) socket.write(read);
    await server.whenLost(1);
    assert.match(String(server.lost[0]), /no sign of life/);
    // What it asked for is 500 MiB. The pause comes after one reply too many.
    assert.ok(server.peakOutputBytes <= 8 << 20, `${server.peakOutputBytes} bytes waited`);
  });
});

test('1,000 connections that say nothing are let go', async (t) => {
  await scenario(t, async (server) => {
    const sockets: Socket[] = [];
    for (let batch = 0; batch < 10; batch += 1) {
      sockets.push(...(await Promise.all(Array.from({ length: 100 }, () => raw(t, server)))));
    }
    await Promise.all(sockets.map(closedByServer));
    await server.whenLost(1000);
  });
});

test('an old protocol version is refused with both versions named', async (t) => {
  await scenario(t, async (server) => {
    const socket = await raw(t, server);
    const connect = encode(Connect.request, {
      uuid: '6f1c9ab6-6a2f-4c6d-9f3e-0d1c2b3a4f5e' as ClientUuid,
      name: 'old',
      protocolMin: 0,
      protocolMax: 0,
      features: 0,
      softwareVersion: '0.0.1',
      connCount: 1,
      role: 'client',
    });
    socket.write(requestBytes(Connect.opcode, connect, { version: 0 }));
    assert.deepEqual(await replies(socket, 1), [
      '71 client 0.0.1 speaks protocol 0, server 0.1.0 speaks 1; upgrade the client',
    ]);
  });
});

test('unknown opcodes, wrong types and stray replies are answered or ignored, and the connection goes on', async (t) => {
  await scenario(t, async (server) => {
    const socket = await raw(t, server);
    const body = encode(Lookup.request, { parent: 1 as Fid, name: 'x' as never, want: 0 });
    socket.write(
      Buffer.concat([
        requestBytes(9999, body),
        requestBytes(Ping.opcode, body, { kind: KIND.reply, xid: 777 as Xid }),
        requestBytes(9999, body, { kind: KIND.notice }),
        requestBytes(Lookup.opcode, Buffer.from([0x93, 0xa1, 0x31, 0xa1, 0x78, 0])),
        requestBytes(Lookup.opcode, Buffer.from([0x81, 0xa1, 0x61, 1])),
        requestBytes(Lookup.opcode, noise(300)),
        requestBytes(Lookup.opcode, Buffer.alloc(0)),
        requestBytes(Lookup.opcode, Buffer.alloc(100_000, 0x91)),
        requestBytes(Lookup.opcode, body),
      ]),
    );
    const got = await replies(socket, 7);
    assert.deepEqual(got, [
      '95 unknown opcode 9999',
      '71 LookupRequest.parent: not a fid',
      '71 LookupRequest: value of kind 0x81 in a message',
      '71 LookupRequest: 299 bytes behind the message',
      '71 LookupRequest: the message ends early',
      '71 LookupRequest: nested deeper than 8',
      'ok',
    ]);
    assert.equal(server.lost.length, 0);
  });
});
