import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { FsError } from '../../../src/base/errno.js';
import type { Transno, Xid } from '../../../src/base/ids.js';
import { SLAB_BYTES, SlabPool } from '../../../src/base/slab_pool.js';
import type { Frame, LinkEvents } from '../../../src/rpc/api.js';
import { FrameReader } from '../../../src/rpc/frame_reader.js';
import { FrameLink, type LinkOptions } from '../../../src/rpc/link.js';
import { startPinger } from '../../../src/rpc/pinger.js';
import type { Timer } from '../../../src/runtime/ports.js';
import { encodeHeader, HEADER_SIZE, type Header, KIND } from '../../../src/wire/header.js';
import { type MemoryPairOptions, memoryPair } from '../../fixtures/memory_connection.js';

const base: Header = {
  version: 1,
  kind: KIND.request,
  opcode: 3,
  flags: 0,
  errno: 0,
  xid: 1 as Xid,
  ackXidOrCommitted: 0,
  transno: 0 as Transno,
  connCount: 0,
  bodyLength: 0,
  bulkLength: 0,
};

function frameBytes(xid: number, body: Uint8Array, bulk: Uint8Array): Buffer {
  const header = { ...base, xid: xid as Xid, bodyLength: body.length, bulkLength: bulk.length };
  return Buffer.concat([encodeHeader(header), body, bulk]);
}

interface End {
  readonly link: FrameLink;
  readonly frames: Frame[];
  readonly closed: Promise<Error | undefined>;
  onFrame: (frame: Frame) => void;
}

function end(options: LinkOptions): {
  open: (connection: ConstructorParameters<typeof FrameLink>[0]) => FrameLink;
  end: () => End;
} {
  let made: End | undefined;
  return {
    open: (connection) =>
      new FrameLink(connection, options, (link): LinkEvents => {
        let close: (error?: Error) => void = () => {};
        const closed = new Promise<Error | undefined>((resolve) => {
          close = resolve;
        });
        const self: End = { link, frames: [], closed, onFrame: () => {} };
        made = self;
        return {
          frame: (frame) => {
            self.frames.push(frame);
            self.onFrame(frame);
          },
          closed: close,
        };
      }),
    end: () => {
      if (made === undefined) throw new Error('not opened');
      return made;
    },
  };
}

function links(options: MemoryPairOptions & { readonly a?: LinkOptions; readonly b?: LinkOptions } = {}) {
  const a = end(options.a ?? {});
  const b = end(options.b ?? {});
  const pair = memoryPair(a.open, b.open, options);
  return { a: a.end(), b: b.end(), aConnection: pair.aConnection, bConnection: pair.bConnection };
}

function send(from: FrameLink, xid: number, body: Uint8Array, bulk?: readonly Uint8Array[]): void {
  from.send({ kind: KIND.request, opcode: 3, xid: xid as Xid, ackXidOrCommitted: 0 }, body, bulk);
}

/** Lets everything that is under way arrive. */
const settled = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

test('frames come out whole however the bytes are cut', () => {
  const part = fc.uint8Array({ maxLength: 3000 });
  fc.assert(
    fc.property(
      fc.array(fc.tuple(part, part), { minLength: 1, maxLength: 6 }),
      fc.array(fc.integer({ min: 1, max: 4000 }), { minLength: 1, maxLength: 8 }),
      (parts, cuts) => {
        const stream = Buffer.concat(parts.map(([body, bulk], xid) => frameBytes(xid, body, bulk)));
        const reader = new FrameReader();
        const frames: Frame[] = [];
        for (let at = 0, turn = 0; at < stream.length; turn += 1) {
          const length = cuts[turn % cuts.length] ?? 1;
          reader.push(Buffer.from(stream.subarray(at, at + length)));
          at += length;
          for (let frame = reader.next(); frame !== undefined; frame = reader.next()) frames.push(frame);
        }
        assert.equal(reader.busy, false);
        assert.deepEqual(
          frames.map(({ header, body, bulk }) => [header.xid, body.toString('hex'), bulk.toString('hex')]),
          parts.map(([body, bulk], xid) => [
            xid,
            Buffer.from(body).toString('hex'),
            Buffer.from(bulk).toString('hex'),
          ]),
        );
      },
    ),
  );
});

test('a wrong magic is refused before a whole header is there, however its bytes are cut', () => {
  const beginning = Buffer.from('GET / HTTP/1.1');
  for (const size of [1, 2, 3, 4, beginning.length]) {
    const reader = new FrameReader();
    let pushed = 0;
    assert.throws(
      () => {
        for (; pushed < beginning.length; pushed += size) {
          reader.push(Buffer.from(beginning.subarray(pushed, pushed + size)));
          assert.equal(reader.next(), undefined);
        }
      },
      { code: 'EPROTO', message: /magic 0x20544547/ },
      `chunks of ${size} bytes`,
    );
    assert.ok(pushed < 4, `chunks of ${size} bytes: refused with the fourth byte`);
  }
});

test('bytes read into space() make the same frames, and bulks of a stream arrive in slabs', () => {
  const slabs = new SlabPool(4);
  const reader = new FrameReader({ slabs });
  const bulks = [0, SLAB_BYTES, 300_000, 10, SLAB_BYTES].map((length, index) =>
    Buffer.alloc(length, index + 1),
  );
  const stream = Buffer.concat(bulks.map((bulk, xid) => frameBytes(xid, Buffer.alloc(20, xid), bulk)));
  const frames: Frame[] = [];
  for (let at = 0; at < stream.length; ) {
    const space = reader.space();
    assert.ok(space.length > 0);
    const read = stream.copy(space, 0, at, Math.min(stream.length, at + space.length, at + 100_000));
    reader.push(space.subarray(0, read));
    at += read;
    for (let frame = reader.next(); frame !== undefined; frame = reader.next()) frames.push(frame);
  }
  assert.equal(reader.busy, false);
  assert.deepEqual(
    frames.map(({ header, body, bulk }) => [
      header.xid,
      body.equals(Buffer.alloc(20, header.xid)),
      bulk.equals(bulks[header.xid] ?? body),
    ]),
    bulks.map((_bulk, xid) => [xid, true, true]),
  );
  for (const { bulk } of frames) slabs.give(bulk);
  assert.equal(slabs.free, 2);
});

test('a bulk keeps at most twice its size alive, and a bulk of most of a chunk is not copied', () => {
  const read = (
    bulkBytes: number,
    chunkBytes: number,
  ): { readonly aliveBytes: number; readonly view: boolean } => {
    const chunk = Buffer.alloc(chunkBytes);
    frameBytes(1, Buffer.alloc(10), Buffer.alloc(bulkBytes, 7)).copy(chunk);
    const reader = new FrameReader();
    reader.push(chunk);
    const frame = reader.next();
    assert.equal(frame?.bulk.length, bulkBytes);
    return {
      aliveBytes: frame?.bulk.buffer.byteLength ?? 0,
      view: frame?.bulk.buffer === chunk.buffer,
    };
  };
  assert.deepEqual(
    [read(4096, 65536), read(40_000, 65536)],
    [
      { aliveBytes: 4096, view: false },
      { aliveBytes: 65536, view: true },
    ],
  );
});

test('frames sent in one turn leave in one write, with bodies and bulks of any size', async () => {
  const { a, b, aConnection } = links({ chunkBytes: 1000 });
  const large = Buffer.alloc(100_000, 'b');
  send(a.link, 1, Buffer.from('one'));
  send(a.link, 2, Buffer.from('two'), [Buffer.from('x'), Buffer.alloc(0), Buffer.from('yz')]);
  send(a.link, 3, large);
  assert.equal(aConnection.writes, 0);
  assert.equal(a.link.bufferedBytes, 3 * HEADER_SIZE + 6 + 3 + large.length);
  await settled();
  assert.equal(aConnection.writes, 1);
  assert.deepEqual(
    b.frames.map((frame) => [frame.header.xid, frame.body.length, frame.bulk.toString()]),
    [
      [1, 3, ''],
      [2, 3, 'xyz'],
      [3, large.length, ''],
    ],
  );
});

test('a malformed frame closes its connection and nothing behind it is looked at', async () => {
  const { a, b, aConnection } = links();
  const good = frameBytes(1, Buffer.from('x'), Buffer.alloc(0));
  aConnection.write([good, Buffer.alloc(HEADER_SIZE, 0xee), good]);
  const error = await b.closed;
  assert.ok(error instanceof FsError && error.code === 'EPROTO');
  assert.deepEqual([b.frames.length, b.link.isClosed, await a.closed], [1, true, undefined]);
  send(b.link, 2, Buffer.from('nobody sees this'));
});

test('after negotiation a frame of another protocol version is malformed', async () => {
  const { a, b } = links();
  send(a.link, 1, Buffer.from('x'));
  await settled();
  b.link.protocol = 2;
  a.link.protocol = 2;
  send(a.link, 2, Buffer.from('x'));
  await settled();
  a.link.protocol = 1;
  send(a.link, 3, Buffer.from('x'));
  assert.match(String(await b.closed), /frame of protocol 1, not 2/);
  assert.deepEqual(
    b.frames.map((frame) => frame.header.version),
    [1, 2],
  );
});

test('a paused link hands out nothing, not even what has arrived; as many resumes as pauses', async () => {
  const { a, b } = links();
  b.onFrame = (frame) => {
    if (frame.header.xid !== 1) return;
    b.link.pause();
    b.link.pause();
  };
  for (let xid = 1; xid <= 4; xid += 1) send(a.link, xid, Buffer.from('x'));
  await settled();
  const seen = [b.frames.length];
  b.link.resume();
  await settled();
  seen.push(b.frames.length);
  b.link.resume();
  // Not from within resume(): its caller may be in the middle of something.
  seen.push(b.frames.length);
  await settled();
  seen.push(b.frames.length);
  assert.deepEqual(seen, [1, 1, 1, 4]);
});

test('a peer that does not read is closed when too much waits for it', async () => {
  const { a, b, aConnection } = links({ a: { outputLimitBytes: 1 << 20 } });
  aConnection.behindBytes = 64 << 10;
  b.link.pause();
  for (let i = 0; i < 30 && !a.link.isClosed; i += 1) {
    send(a.link, i, Buffer.alloc(0), [Buffer.alloc(100_000)]);
    await settled();
  }
  const error = await a.closed;
  assert.ok(error instanceof FsError && error.code === 'ETIMEDOUT');
  assert.match(error.message, /the peer does not read: 1\d{6} bytes wait for it/);
});

test('a side may stop reading while its peer does not take what it sends', async () => {
  const { a, b, aConnection } = links({ a: { outputPauseBytes: 200_000 } });
  aConnection.behindBytes = 100_000;
  b.link.pause();
  for (let i = 0; i < 3; i += 1) send(a.link, i, Buffer.alloc(0), [Buffer.alloc(100_000)]);
  await settled();
  send(b.link, 9, Buffer.from('not read yet'));
  await settled();
  const before = a.frames.length;
  const silent = a.link.lifeSigns;
  b.link.resume();
  await settled();
  assert.deepEqual([before, a.link.paused, a.frames.length, b.frames.length], [0, false, 1, 3]);
  assert.notEqual(a.link.lifeSigns, silent);
});

test('end sends what is queued, destroy does not', async () => {
  const one = links();
  send(one.a.link, 1, Buffer.from('last'));
  one.a.link.end();
  assert.deepEqual([await one.b.closed, one.b.frames.length], [undefined, 1]);
  const two = links();
  send(two.a.link, 1, Buffer.from('lost'));
  two.a.link.destroy();
  assert.deepEqual([await two.b.closed, two.b.frames.length], [undefined, 0]);
});

test('a silent peer is pinged, and dead after three looks; a paused or talking one is not', () => {
  const due: (() => void)[] = [];
  const timers = {
    after: (_ms: number, fn: () => void): Timer => {
      due.push(fn);
      return {
        cancel: () => {
          const at = due.indexOf(fn);
          if (at >= 0) due.splice(at, 1);
        },
      };
    },
    soon: () => {},
  };
  const link = { lifeSigns: 0, paused: false };
  const seen: string[] = [];
  const look = (): void => due.shift()?.();
  const pinger = startPinger(
    { timers },
    { link, intervalMs: 100, ping: () => seen.push('ping'), dead: () => seen.push('dead') },
  );
  look();
  look();
  link.lifeSigns = 56;
  look();
  seen.push('|');
  link.paused = true;
  for (let i = 0; i < 5; i += 1) look();
  link.paused = false;
  seen.push('|');
  for (let i = 0; i < 5; i += 1) look();
  pinger.stop();
  assert.deepEqual([seen.join(' '), due.length], ['ping ping | | ping ping dead', 0]);
});
