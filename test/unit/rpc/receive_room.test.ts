import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ByteBudget } from '../../../src/base/budget.js';
import type { Transno, Xid } from '../../../src/base/ids.js';
import type { Frame, HandlerOutcome } from '../../../src/rpc/api.js';
import { FrameLink, type LinkOptions, STRANGER_BODY_BYTES } from '../../../src/rpc/link.js';
import { PartyBudgets } from '../../../src/rpc/party_budgets.js';
import { PATIENCE_MS, ReceiveRoom } from '../../../src/rpc/receive_room.js';
import { Service } from '../../../src/rpc/service.js';
import type { Connection } from '../../../src/runtime/ports.js';
import { Write } from '../../../src/wire/data.js';
import { encodeHeader, type Header, KIND } from '../../../src/wire/header.js';
import { encode } from '../../../src/wire/schema.js';
import { memoryPair } from '../../fixtures/memory_connection.js';
import { ManualTime } from '../../worlds/dlm_world.js';

const MIB = 1 << 20;

/** What a peer sends, byte for byte, and what a link with these options makes of it. */
class Peer {
  readonly frames: Frame[] = [];
  error: Error | undefined;
  closed = false;
  readonly link: FrameLink;
  readonly #connection: Connection;

  constructor(options: LinkOptions, take?: (link: FrameLink, frame: Frame) => void) {
    const pair = memoryPair(
      (connection) => {
        this.#raw = connection;
        return { data: () => undefined, drain: () => undefined, closed: () => undefined };
      },
      (connection) =>
        new FrameLink(connection, options, (link) => ({
          frame: (frame) => {
            this.frames.push(frame);
            take?.(link, frame);
          },
          closed: (error) => {
            this.closed = true;
            this.error = error;
          },
        })),
    );
    this.link = pair.b;
    this.#connection = this.#raw as Connection;
  }
  #raw: Connection | undefined;

  send(...bytes: readonly Uint8Array[]): void {
    this.#connection.write(bytes);
  }
}

function header(bodyLength: number, bulkLength: number): Buffer {
  const fields: Header = {
    version: 1,
    kind: KIND.request,
    opcode: Write.opcode,
    flags: 0,
    errno: 0,
    xid: 1 as Xid,
    ackXidOrCommitted: 0,
    transno: 0 as Transno,
    connCount: 0,
    bodyLength,
    bulkLength,
  };
  return encodeHeader(fields);
}

const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

function roomOf(limitBytes: number): { readonly time: ManualTime; readonly room: ReceiveRoom } {
  const time = new ManualTime();
  return { time, room: new ReceiveRoom(time, limitBytes) };
}

test('a frame is received when there is room for it, and the next one waits for it, unread', async () => {
  const { room, time } = roomOf(MIB);
  const [first, second] = [new Peer({ room }), new Peer({ room })];
  first.send(header(0, MIB), Buffer.alloc(1000));
  await turn();
  second.send(header(0, MIB), Buffer.alloc(MIB));
  await turn();
  assert.deepEqual([first.frames.length, second.frames.length, room.usedBytes], [0, 0, MIB]);
  first.send(Buffer.alloc(MIB - 1000));
  await turn();
  assert.deepEqual([first.frames.length, second.frames.length, room.usedBytes], [1, 1, 0]);
  assert.equal(second.frames[0]?.bulk.length, MIB);
  time.advance(PATIENCE_MS);
  assert.deepEqual([first.closed, second.closed, time.pending], [false, false, 0]);
});

test('who waits is served in order, a large frame before the small ones behind it', async () => {
  const { room } = roomOf(MIB);
  const [first, large, small] = [new Peer({ room }), new Peer({ room }), new Peer({ room })];
  first.send(header(0, MIB / 2), Buffer.alloc(1));
  await turn();
  large.send(header(0, MIB), Buffer.alloc(MIB));
  await turn();
  small.send(header(MIB / 4, 0), Buffer.alloc(MIB / 4));
  await turn();
  assert.deepEqual([large.frames.length, small.frames.length], [0, 0]);
  first.send(Buffer.alloc(MIB / 2 - 1));
  await turn();
  assert.deepEqual([large.frames.length, small.frames.length, room.usedBytes], [1, 1, 0]);
});

test('small frames wait for nobody: a client that flushes little gets through, and so does what keeps a connection', async () => {
  const { room } = roomOf(MIB);
  const [slow, other] = [new Peer({ room }), new Peer({ room })];
  slow.send(header(0, MIB), Buffer.alloc(1));
  await turn();
  other.send(header(100, 4096), Buffer.alloc(4196));
  await turn();
  assert.equal(other.frames.length, 1);
});

test('a peer that does not send the rest holds up others for a limited time, and nobody when nobody waits', async () => {
  const { room, time } = roomOf(MIB);
  const [slow, other] = [new Peer({ room }), new Peer({ room })];
  slow.send(header(0, MIB), Buffer.alloc(1));
  await turn();
  time.advance(10 * PATIENCE_MS);
  assert.equal(slow.closed, false);
  other.send(header(0, MIB), Buffer.alloc(MIB));
  await turn();
  // It trickles, which is not enough.
  slow.send(Buffer.alloc(1));
  time.advance(1);
  await turn();
  assert.deepEqual([slow.closed, other.frames.length, room.usedBytes], [true, 1, 0]);
  assert.match(slow.error?.message ?? '', /did not arrive in time/);
});

test('a connection that closes while it waits, or while it receives, leaves nothing behind', async () => {
  const { room, time } = roomOf(MIB);
  const [receiving, waiting, last] = [new Peer({ room }), new Peer({ room }), new Peer({ room })];
  receiving.send(header(0, MIB), Buffer.alloc(1));
  await turn();
  waiting.send(header(0, MIB), Buffer.alloc(1));
  last.send(header(0, MIB), Buffer.alloc(MIB));
  await turn();
  waiting.link.destroy();
  receiving.link.destroy();
  await turn();
  assert.deepEqual([last.frames.length, room.usedBytes], [1, 0]);
  time.advance(2 * PATIENCE_MS);
  assert.equal(time.pending, 0);
});

test('a bulk that waits for those that are being written keeps its room', async () => {
  const { room } = roomOf(2 * MIB);
  const bulkBudget = new PartyBudgets(new ByteBudget('bulks', MIB), 1);
  const service = new Service<undefined>({ bulkBudget });
  const answers: ((outcome: HandlerOutcome<{ blocks: number; grantBytes: number }>) => void)[] = [];
  service.on(Write, () => new Promise((resolve) => answers.push(resolve)));
  const dispatch = (link: FrameLink, frame: Frame): void =>
    service.dispatch(undefined, link, frame, { lastCommitted: () => 0 as Transno });
  const body = encode(Write.request, {
    fid: 20 as never,
    offset: 0,
    mtime: { sec: 0, nsec: 0 },
    grantUsed: 0,
  });
  const peers = [1, 2, 3].map(() => new Peer({ room }, dispatch));
  for (const peer of peers) {
    peer.send(header(body.length, MIB), body, Buffer.alloc(MIB));
    await turn();
  }
  // One is written; one is here and waits; for the third there is no room.
  assert.deepEqual(
    [peers.map((peer) => peer.frames.length), answers.length, room.usedBytes],
    [[1, 1, 0], 1, MIB + body.length],
  );
  for (let done = 0; done < 3; done += 1) {
    answers[done]?.({ reply: { blocks: 8, grantBytes: 0 } });
    await turn();
    await turn();
  }
  assert.deepEqual([peers.map((peer) => peer.frames.length), room.usedBytes], [[1, 1, 1], 0]);
  assert.equal(bulkBudget.shared.usedBytes, 0);
});

test('before it is known a peer may send no bulk and no large body', async () => {
  const withBulk = new Peer({ stranger: true });
  withBulk.send(header(0, 1));
  const withBody = new Peer({ stranger: true });
  withBody.send(header(STRANGER_BODY_BYTES + 1, 0));
  const modest = new Peer({ stranger: true }, (link) => link.welcome());
  // In one piece: what follows the frame that makes it known is judged by what is known then.
  modest.send(Buffer.concat([header(100, 0), Buffer.alloc(100), header(20_000, 4096), Buffer.alloc(24_096)]));
  await turn();
  assert.deepEqual([withBulk.closed, withBody.closed, modest.closed], [true, true, false]);
  assert.deepEqual([withBulk.frames.length, modest.frames.length], [0, 2]);
  assert.match(withBulk.error?.message ?? '', /not known yet/);
});
